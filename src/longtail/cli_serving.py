"""`longtail export` and `longtail recommend`: from run folders to bundles, and to lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from longtail.cli_cluster import Cluster, Workers
from longtail.cli_serve import serve
from longtail.cluster.everybody import recommend_all
from longtail.errors import DataError, RunError
from longtail.recommender import load
from longtail.rerank import Reranker, named
from longtail.serve import everybody
from longtail.serve.everybody import Search, write_all
from longtail.serve.export import export as export_run
from longtail.serve.manifest import MANIFEST
from longtail.terminal import frame_table, out, talk
from longtail.text.embedders.file import load_vectors
from longtail.text.embeddings import Embeddings

app = typer.Typer()
app.command()(serve)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder of a trained method.")],
    to: Annotated[Path | None, typer.Option("--out", help="The bundle's folder; RUN.bundle if not given.")] = None,
    name: Annotated[str | None, typer.Option(help="What requests call it; the run's name if not given.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Item vectors in a quarter of the memory.")] = False,
    users: Annotated[bool, typer.Option(help="Keep known users and their histories.")] = True,
    index: Annotated[
        bool | None, typer.Option(help="Answer from an approximate index; from a million items on if not given.")
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="A folder or file of the items' vectors; made again if not given.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of an older bundle.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a bundle, which answers without torch, and compare it with the model."""
    folder = to or run.with_name(f"{run.resolve().name}.bundle")
    items = None if embeddings is None else load_vectors(embeddings)
    assert items is None or isinstance(items, Embeddings)
    with talk.status(f"exporting {run}"):
        made = export_run(run, folder, items=items, int8=int8, users=users, index=index, name=name, replace=replace)
    if as_json:
        print(made.model_dump_json())
        return
    size = sum(facts.bytes for facts in made.files.values())
    assert made.parity is not None
    same = f"the first {made.parity.k} items are the model's for {made.parity.same:.1%} of {made.parity.users:,} users"
    if made.index is not None:
        same += f"; its index finds {made.index.recall:.1%} of the first {made.index.k} of {made.index.users:,} users"
    print(f"bundle: {folder}, {size / 1e6:.1f} MB; {same}; next: longtail serve {folder}")


@app.command()
def recommend(
    run: Annotated[Path, typer.Argument(help="A run folder; with --all, a bundle too.")],
    users: Annotated[list[str] | None, typer.Option("--user", help="A known user's id. Repeatable.")] = None,
    histories: Annotated[
        list[str] | None, typer.Option("--history", help="Item ids, oldest first, commas between. Repeatable.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    diversity: Annotated[
        float, typer.Option(min=0, max=1, help="From 0, by score alone, to 1; also of bundles, with --all.")
    ] = 0.0,
    reranker: Annotated[str, typer.Option(help="What makes lists diverse: mmr or dpp.")] = "mmr",
    all_to: Annotated[
        Path | None, typer.Option("--all", help="A Parquet file of lists for all users; with --cluster, a folder.")
    ] = None,
    search: Annotated[
        Search, typer.Option(help="With --all, of a run: exact, or by cells of items, as auto does for over 200,000.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    cluster: Cluster = None,
    workers: Workers = None,
) -> None:
    """Recommend items to known users or for bare histories, or to everybody, into a file."""
    by = named(reranker)
    if search != "auto" and all_to is None:
        raise DataError("--search is for the lists of all users: add --all FILE")
    if cluster and all_to is None:
        raise DataError("a cluster is for all users: add --all FOLDER")
    if all_to is not None:
        if users or histories:
            raise DataError("--all is for all users; leave --user and --history out")
        _everybody(run, all_to, k, diversity, by, search, cluster, workers)
        return
    if (run / MANIFEST).is_file():
        raise RunError(f"{run} is a bundle; use --all with it, 'longtail serve', or the run it was made of")
    bare = None if not histories else [[item.strip() for item in one.split(",")] for one in histories]
    found = load(run).recommend(users=users or None, histories=bare, k=k, diversity=diversity, reranker=by)
    if as_json:
        print(json.dumps(found.to_dicts(), ensure_ascii=False, default=str))
    else:
        out.print(frame_table(found))


def _everybody(
    run: Path,
    to: Path,
    k: int,
    diversity: float,
    by: Reranker,
    search: Search,
    cluster: str | None,
    workers: int | None,
) -> None:
    with Progress(console=talk, transient=True) as bar:
        task = bar.add_task("recommending", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if cluster:
            rows, kept = recommend_all(
                run, to, k, diversity=diversity, by=by, search=search, workers=workers, tell=tell
            )
        else:
            rows, kept = write_all(everybody.of(run, k, diversity, by, search).frames(tell), to), 0
    print(f"{to}: {rows:,} rows{f'; {kept} parts were there' if kept else ''}")
