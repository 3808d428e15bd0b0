"""Limits that stand before every request: concurrency, key, body. Plain ASGI, because each costs on every request."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException

from longtail.serve.metrics import Metrics
from longtail.serve.settings import ServeConfig

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
WATCHED = {"/health", "/ready", "/metrics"}  # answered however busy the server is
CLOSE = {"connection": "close"}
OPEN = {"/health", "/ready", "/"}  # answered without a key; so are the files of the page


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: App, config: ServeConfig, metrics: Metrics, key: str | None) -> None:
        self.app, self.config, self.metrics = app, config, metrics
        self.key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, metrics = time.perf_counter(), 500, self.metrics

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.active += 1
        try:
            await self._admitted(scope, receive, told)
        finally:
            metrics.active -= 1
            route = getattr(scope.get("route"), "path", "other")
            metrics.answered(scope["method"], route, status, time.perf_counter() - begun)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, limit = scope["path"], self.config.concurrency
        if self.metrics.active > limit and path not in WATCHED:
            await _refuse(send, 429, f"{limit} requests are in progress, the most there may be; try again", close=True)
            return
        headers = dict(scope["headers"])
        if self.key is not None and path not in OPEN and not path.startswith("/page/"):
            given = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not hmac.compare_digest(given, self.key):
                await _refuse(send, 401, "no key, or a wrong one; send it as the header X-API-Key")
                return
        size = headers.get(b"content-length", b"0")
        if not size.isdigit() or int(size) > self.config.body:
            await _refuse(send, 413, self._too_large(), close=True)
            return
        if scope["method"] in {"GET", "HEAD"}:
            await self.app(scope, receive, send)
            return
        await self._limited(scope, receive, send)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """With a body that may not grow beyond its limit, nor take for ever."""
        whole, size, deadline = False, 0, time.monotonic() + self.config.patience

        async def read() -> Message:
            nonlocal whole, size
            if whole:  # then this waits for the client to leave
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(deadline - time.monotonic(), 0.001))
            except TimeoutError:
                late = f"the body did not come within {self.config.patience:g} s; send it sooner"
                raise HTTPException(408, late, CLOSE) from None
            size, whole = size + len(message.get("body", b"")), not message.get("more_body", False)
            if size > self.config.body:
                raise HTTPException(413, self._too_large(), CLOSE)
            return message

        await self.app(scope, read, send)

    def _too_large(self) -> str:
        return f"a body of more than {self.config.body:,} bytes; send less at once"


async def _refuse(send: Send, status: int, detail: str, close: bool = False) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if close else []
    headers += [(b"retry-after", b"1")] if status == 429 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
