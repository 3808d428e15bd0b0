"""longtail: LLM-enhanced sequential recommendation for users with short histories and rarely bought items."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtail.data.dataset import Dataset
    from longtail.data.groups import GroupsConfig
    from longtail.data.split import Split, SplitConfig
    from longtail.errors import ConfigError, DataError, EmbeddingError, LongtailError, RunError
    from longtail.evaluation.protocol import ProtocolConfig
    from longtail.evaluation.report import Report, evaluate
    from longtail.neighbors import similar_users
    from longtail.recommender import Recommender, load
    from longtail.text.embed import embed_items, embed_users
    from longtail.text.embeddings import Embeddings

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "errors",
    "DataError": "errors",
    "Dataset": "data.dataset",
    "EmbeddingError": "errors",
    "Embeddings": "text.embeddings",
    "GroupsConfig": "data.groups",
    "LongtailError": "errors",
    "ProtocolConfig": "evaluation.protocol",
    "Recommender": "recommender",
    "Report": "evaluation.report",
    "RunError": "errors",
    "Split": "data.split",
    "SplitConfig": "data.split",
    "embed_items": "text.embed",
    "embed_users": "text.embed",
    "evaluate": "evaluation.report",
    "load": "recommender",
    "similar_users": "neighbors",
}
__all__ = [
    "ConfigError",
    "DataError",
    "Dataset",
    "EmbeddingError",
    "Embeddings",
    "GroupsConfig",
    "LongtailError",
    "ProtocolConfig",
    "Recommender",
    "Report",
    "RunError",
    "Split",
    "SplitConfig",
    "embed_items",
    "embed_users",
    "evaluate",
    "load",
    "similar_users",
]


def __getattr__(name: str) -> object:
    """Public names are imported when they are first used, so that `import longtail` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'longtail' has no attribute {name!r}")
    return getattr(importlib.import_module(f"longtail.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
