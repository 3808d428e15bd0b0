"""The options of the command line that hand work to a cluster, and the verbs that are made for one."""

from __future__ import annotations

from typing import Annotated

import typer

from longtail.cluster.connect import wanted


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
