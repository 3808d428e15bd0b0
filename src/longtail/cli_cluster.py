"""The options of the command line that hand work to a cluster, and the verbs that are made for one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

from longtail import pipeline
from longtail.cli_experiments import Settings
from longtail.cluster.connect import wanted
from longtail.cluster.parts import Parts
from longtail.cluster.similar import over_cluster
from longtail.config import Value
from longtail.data.opening import open_data
from longtail.files import write_parquet
from longtail.neighbors import similar_users
from longtail.retrieval import retrieve
from longtail.terminal import given

PART = 65_536  # users a file
app = typer.Typer()


def _there(cluster: str | None) -> str | None:
    wanted(cluster)
    return cluster


Cluster = Annotated[
    str | None,
    typer.Option(callback=_there, help="ray: work on the cluster at RAY_ADDRESS, or on one of this machine's cores."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Workers on the cluster; one a GPU or CPU of it if not given.")
]


@app.command()
def neighbors(
    data: Annotated[str, typer.Argument(help="A prepared folder, or bundled:online_retail.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for the parts; complete ones of the same are kept.")],
    settings: Settings = None,
    cluster: Cluster = None,
    workers: Workers = None,
) -> None:
    """Find the similar users of everybody, as fit does, into Parquet parts of user, rank and neighbor.

    Set --set neighbors.k=20, text.model, split.scheme, … as for fit.
    """
    config = pipeline.run_config(
        None, [*given({"data.interactions": data, "method.name": "llmesr"}), *(settings or [])]
    )
    tables = open_data(config.data)
    split, asked = tables.split(config.split), config.neighbors
    items, users = pipeline.knowledge(config, tables, split)
    if asked.by_items:
        assert items is not None
        vectors = items.matrix(tables.items, "items")
    else:
        assert users is not None
        vectors = users.matrix(tables.users, "users")
    facts: dict[str, Value] = {"data": tables.hash, "split": split.scheme, "neighbors": asked.model_dump(mode="json")}
    facts["vectors"] = hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest()
    parts = Parts(to, len(tables.users), PART, facts)
    if lacking := parts.lacking():
        found = retrieve(asked, split.train, vectors, over_cluster(workers) if cluster else similar_users)
        for part in lacking:
            first, stop = parts.span(part)
            rows, ranks = np.nonzero(found[first + 1 : stop + 1])
            ids = tables.users.external(found[first + 1 : stop + 1][rows, ranks])
            owners = tables.users.external(rows + first + 1)
            write_parquet(parts.path(part), pl.DataFrame({"user": owners, "rank": ranks + 1, "neighbor": ids}))
    print(f"{to}: the {asked.k} most similar of each of {len(tables.users):,} users, in {parts.count} parts")
