"""`longtail serve`: bundles over HTTP. Imported without the other commands, because they import torch."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from longtail.config import Value, build
from longtail.errors import BundleError, LongtailError
from longtail.serve.settings import ServeConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
INSTALL = "pip install 'longtail[serve]'"
KEY = "LONGTAIL_API_KEY"
BACKLOG = 2048  # connections that wait to be accepted
USUAL = ServeConfig()


@app.command()
def serve(
    bundles: Annotated[list[Path], typer.Argument(help="Folders that `longtail export` wrote, the default one first.")],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for every address.")] = USUAL.host,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = USUAL.port,
    state: Annotated[
        Path | None, typer.Option(help="Folder of added items and events; SERVED.state beside the first bundle.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in progress; more get 429.")] = USUAL.concurrency,
    body: Annotated[int, typer.Option(min=1, help="Bytes of a request's body.")] = USUAL.body,
    patience: Annotated[float, typer.Option(help="Seconds that a body may take to come.")] = USUAL.patience,
    batch: Annotated[int, typer.Option(min=1, help="Requests that are scored at once.")] = USUAL.batch,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
) -> None:
    """Answer over HTTP from bundles; the page is at /, the key, if there is to be one, in LONGTAIL_API_KEY."""
    given: dict[str, Value] = {"host": host, "port": port, "concurrency": concurrency, "body": body, "batch": batch}
    given |= {"patience": patience}
    if log_level.upper() not in logging.getLevelNamesMapping():
        raise typer.BadParameter(f"log level {log_level!r} is none of debug, info, warning, error")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run(bundles, state, build(ServeConfig, given), os.environ.get(KEY) or None)


def run(bundles: list[Path], state: Path | None, config: ServeConfig, key: str | None) -> None:
    """Serve until told to stop."""
    try:
        import uvicorn

        from longtail.serve.app import Hosts, create_app
    except ImportError as error:
        raise BundleError(f"serving needs a package that is not there ({error}); {INSTALL}") from None
    first = bundles[0].absolute()
    hosts = Hosts([path.absolute() for path in bundles], state or first.with_name(f"{first.name}.state"), config)
    _allow_connections()
    sys.setswitchinterval(0.0005)  # a request waits for the thread that scores no longer than this
    settings = uvicorn.Config(
        create_app(hosts, config, key), log_level="warning", access_log=False, server_header=False, backlog=BACKLOG,
        timeout_graceful_shutdown=10,
    )  # fmt: skip
    listening = _listen(config)
    address = listening.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    print(f"serving {', '.join(hosts.hosts)} at http://{shown}:{address[1]}/", flush=True)
    if key is None and config.host not in {"127.0.0.1", "localhost", "::1"}:
        logging.getLogger(__name__).warning("anybody who reaches %s may ask and add items; set %s", config.host, KEY)
    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:  # uvloop, where it is installed
        runner.run(uvicorn.Server(settings).serve([listening]))


def _allow_connections() -> None:
    """As many open files as the system lets this process have: a connection is one."""
    try:
        import resource  # there is none on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = 65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        raise BundleError(
            f"cannot listen at {config.host}:{config.port} ({error}); choose another --host or --port"
        ) from None
    listening.listen(BACKLOG)
    return listening


def main() -> None:
    """Run `longtail serve`; a user's mistake is one clear message and exit code 2."""
    try:
        app(sys.argv[2:], prog_name="longtail serve")
    except LongtailError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
