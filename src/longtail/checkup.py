"""`longtail doctor`, from a run's config to findings: the data as read, the prompts, the training to come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rich.markup import escape
from rich.table import Table

from longtail.data.cost import Work
from longtail.data.doctor import examine
from longtail.data.findings import Finding, Level, Prompts
from longtail.data.opening import open_data
from longtail.methods.base import Sizes, TrainedMethod
from longtail.model import build_method
from longtail.nn.losses import NEGATIVES
from longtail.pipeline import RunConfig
from longtail.text.prompts import columns_read, item_prompts

STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}
WIDTH = 384  # E of the default text encoder; another's is not known before it has embedded


def diagnose(config: RunConfig, watch: Callable[[int, int], None] | None = None) -> list[Finding]:
    """What the doctor finds in the data of a run before its filter, and in what the run would do with it."""
    wanted = config.data
    data = open_data(wanted.model_copy(update={"min_user": 0, "min_item": 0}))
    template = config.text.item_template
    prompts = Prompts(item_prompts(data.text, template), columns_read(data.text, template))
    return examine(
        data,
        min_user=wanted.min_user,
        min_item=wanted.min_item,
        repeat=wanted.repeat,
        prompts=prompts,
        work=work(config, len(data.items)),
        watch=watch,
    )


def work(config: RunConfig, items: int) -> Work | None:
    """The training of a config over a catalogue of that many items, as its cost needs to know it; None without one.

    The weights are counted on the method itself, built without memory.
    """
    train, backbone, wants = config.train, config.backbone, config.method
    if train is None or backbone is None:
        return None
    E = WIDTH if wants.needs_embeddings else 0
    with torch.device("meta"):
        method = build_method(config, Sizes(items, E, backbone.d, backbone.max_len)).eval()
        assert isinstance(method, TrainedMethod)
        width = method.item_vectors().shape[1]
    views = max(width // backbone.d, 1)
    blocks = int(backbone.model_dump().get("blocks", 2))
    return Work(
        parameters=sum(weights.numel() for weights in method.parameters()),
        width=width,
        d=backbone.d,
        views=views,
        layers=blocks + (views > 1),  # views are fused in one more
        max_len=backbone.max_len,
        batch_size=train.batch_size,
        epochs=train.epochs * method.stages,
        negatives=train.negatives or NEGATIVES[train.loss],
        shared=train.loss == "sampled_softmax",
        embedding_width=E,
        teachers=config.neighbors.k if wants.needs_neighbors else 0,
        exact=wants.model_dump().get("teacher") != "bank",
        masked=method.backbone.masked,
    )


def table(findings: Sequence[Finding]) -> Table:
    """Findings for people, a row each, coloured by level."""
    made = Table("", "topic", "finding", show_lines=True)
    for one in findings:
        style = STYLES[one.level]
        made.add_row(f"[{style}]{one.level}[/]", one.topic, escape(one.text))
    return made
