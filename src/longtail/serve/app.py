"""The HTTP interface: routes to what is live, and errors to answers that say what to do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from longtail import __version__
from longtail.errors import BundleError, EmbeddingError, LongtailError, some
from longtail.serve import schema, views
from longtail.serve.answers import NotFoundError
from longtail.serve.guard import Guard
from longtail.serve.hosting import Host, TakenError
from longtail.serve.journal import NotKeptError
from longtail.serve.metrics import Metrics
from longtail.serve.schema import Id
from longtail.serve.settings import ServeConfig

log = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"
POLICY = {"Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.Problem} for status in (400, 401, 404, 408, 409, 413, 422, 429, 503)
}
K = Annotated[int, Query(ge=1, le=schema.MAX_K)]
Bundle = Annotated[Id | None, Query()]


class Hosts:
    """All served bundles by name, the first one the default."""

    def __init__(self, paths: Sequence[Path], state: Path, config: ServeConfig) -> None:
        self.metrics, self.thread = Metrics(), ThreadPoolExecutor(1, "scores")
        self.hosts: dict[str, Host] = {}
        for path in paths:
            host = Host(path, state, self.thread, config.batch, self.metrics)
            if host.name in self.hosts:
                raise BundleError(f"two bundles are called {host.name!r}; export one of them with another --name")
            self.hosts[host.name] = host

    def of(self, name: str | None) -> Host:
        """The bundle of that name, the first for None; a NotFoundError if there is none."""
        if name is None:
            return next(iter(self.hosts.values()))
        if name not in self.hosts:
            raise NotFoundError(f"no bundle {name!r}; served are {some(list(self.hosts))}")
        return self.hosts[name]

    async def follow(self, every: float) -> None:
        """Look for replaced bundles for ever."""
        while True:
            await asyncio.sleep(every)
            for host in self.hosts.values():
                await host.follow()

    def close(self) -> None:
        """Let go of everything."""
        for host in self.hosts.values():
            host.close()
        self.thread.shutdown(wait=False)


def create_app(hosts: Hosts, config: ServeConfig, key: str | None = None) -> Guard:
    """The application, behind its limits."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(hosts.follow(config.watch))
        yield
        watching.cancel()
        hosts.close()

    app = FastAPI(title="longtail", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    _errors(app)
    _lists(app, hosts)
    _catalogue(app, hosts)
    _changes(app, hosts)
    _state(app, hosts)
    if (PAGE / "index.html").is_file():
        app.mount("/page", StaticFiles(directory=PAGE), name="page")

        @app.get("/", include_in_schema=False)
        async def page() -> FileResponse:
            return FileResponse(PAGE / "index.html", headers=POLICY)

    return Guard(app, config, hosts.metrics, key)


def _errors(app: FastAPI) -> None:
    statuses: list[tuple[type[LongtailError], int]] = [
        (NotFoundError, 404), (TakenError, 409), (NotKeptError, 503), (BundleError, 422), (EmbeddingError, 503),
        (LongtailError, 422),
    ]  # fmt: skip  # the first that fits

    @app.exception_handler(LongtailError)
    async def mended(request: Request, error: LongtailError) -> Response:
        return _problem(next(status for kind, status in statuses if isinstance(error, kind)), str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        told = [f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}" for one in error.errors()[:5]]
        return _problem(422, "; ".join(told))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"detail": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _problem(500, "the server failed; its log says how")


def _problem(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)


def _json(value: object, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type="application/json")


async def _recommended(hosts: Hosts, asked: schema.Recommend) -> dict[str, object]:
    begun, host = time.perf_counter(), hosts.of(asked.bundle)
    found = await host.recommend(asked)
    if asked.exploration is not None:
        await host.run(lambda live: host.expose(asked, found))
    return views.recommended(host.live, asked, found, begun)


def _lists(app: FastAPI, hosts: Hosts) -> None:
    @app.post("/recommend", response_model=schema.Recommended, responses=ERRORS)
    async def recommend(asked: schema.Recommend) -> Response:
        return _json(await _recommended(hosts, asked))

    @app.post("/recommend/batch", response_model=schema.RecommendedBatch, responses=ERRORS)
    async def batch(asked: schema.RecommendBatch) -> Response:
        found = await asyncio.gather(*(_recommended(hosts, one) for one in asked.requests), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, LongtailError):
                raise one
        return _json({"results": [{"detail": str(one)} if isinstance(one, Exception) else one for one in found]})

    async def reasons(asked: schema.Explain) -> Response:
        host = hosts.of(asked.bundle)
        return _json(await host.run(lambda live: views.explained(live, asked)))

    @app.post("/explain", response_model=schema.Reasons, responses=ERRORS)
    async def explain(asked: schema.Explain) -> Response:
        return await reasons(asked)

    @app.get("/explain", response_model=schema.Reasons, responses=ERRORS)
    async def explain_known(
        item: Id, user: Id | None = None, history: Annotated[list[Id] | None, Query()] = None, bundle: Bundle = None
    ) -> Response:
        if (user is None) == (history is None):
            raise BundleError("give exactly one of user and history")
        return await reasons(schema.Explain(item=item, user=user, history=history, bundle=bundle))


def _catalogue(app: FastAPI, hosts: Hosts) -> None:
    @app.get("/items", response_model=schema.ItemList, responses=ERRORS)
    async def search(search: Annotated[str, Query(max_length=200)] = "", k: K = 20, bundle: Bundle = None) -> Response:
        return _json(await hosts.of(bundle).run(lambda live: views.found(live, search, k)))

    @app.get("/items/{item}", response_model=schema.ItemFacts, responses=ERRORS)
    async def item(item: str, bundle: Bundle = None) -> Response:
        return _json(await hosts.of(bundle).run(lambda live: views.item(live, item)))

    @app.get("/items/{item}/similar", response_model=schema.ItemList, responses=ERRORS)
    async def similar_items(item: str, k: K = 10, bundle: Bundle = None) -> Response:
        return _json(await hosts.of(bundle).run(lambda live: views.similar_items(live, item, k)))

    @app.get("/users/{user}", response_model=schema.UserFacts, responses=ERRORS)
    async def user(user: str, bundle: Bundle = None) -> Response:
        return _json(await hosts.of(bundle).run(lambda live: views.user(live, user)))

    @app.get("/users/{user}/similar", response_model=schema.UserList, responses=ERRORS)
    async def similar_users(user: str, k: K = 10, bundle: Bundle = None) -> Response:
        return _json(await hosts.of(bundle).run(lambda live: views.similar_users(live, user, k)))


def _changes(app: FastAPI, hosts: Hosts) -> None:
    @app.post("/items", status_code=201, response_model=schema.Accepted, responses=ERRORS)
    async def add(asked: schema.NewItem) -> Response:
        await hosts.of(asked.bundle).add_item(asked)
        return _json({"item": asked.item, "recommendable": True}, 201)

    @app.post("/events", response_model=schema.Noted, responses=ERRORS)
    async def note(asked: schema.Events) -> Response:
        return _json({"user": asked.user, "length": await hosts.of(asked.bundle).add_events(asked)})


def _state(app: FastAPI, hosts: Hosts) -> None:
    @app.get("/bundles", response_model=schema.BundleList, responses=ERRORS)
    async def bundles() -> Response:
        return _json({"bundles": [views.bundle(name, host.live) for name, host in hosts.hosts.items()]})

    @app.get("/health", response_model=schema.Health)
    @app.get("/ready", response_model=schema.Health)
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        each = {name: host.live for name, host in hosts.hosts.items()}
        gauges = {
            "items": {name: live.runtime.count for name, live in each.items()},
            "added_items": {name: live.runtime.additions.count for name, live in each.items()},
            "journal_bytes": {name: host.journal.size for name, host in hosts.hosts.items()},
        }
        return PlainTextResponse(hosts.metrics.text(gauges))
