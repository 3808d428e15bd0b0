"""The server as a process: killed, crowded, stopped, and fed with whatever its document allows."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from pathlib import Path

import httpx
import pytest

from tests.serve.server import served

CROWD = 1000


def test_a_kill_while_items_are_added_loses_none_that_was_acknowledged(bundle: Path, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with served(bundle, tmp_path / "state") as (process, port):

        def add(worker: int) -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                for at in range(10_000):
                    item = f"new-{worker}-{at}"
                    try:
                        found = client.post("/items", json={"item": item, "vector": [worker + 1.0, at + 1.0] * 6})
                    except httpx.HTTPError:
                        return
                    assert found.status_code == 201
                    acknowledged.append(item)

        workers = [threading.Thread(target=add, args=(worker,)) for worker in range(4)]
        for worker in workers:
            worker.start()
        while len(acknowledged) < 40:
            process.poll()
            assert process.returncode is None
        process.kill()  # at whatever it is doing
        for worker in workers:
            worker.join()
    kept = list(acknowledged)
    with served(bundle, tmp_path / "state") as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        missing = [item for item in kept if client.get(f"/items/{item}").status_code != 200]
        assert not missing and len(kept) >= 40
        found = client.post("/recommend", json={"history": [kept[-1], "i00"], "k": 5})
        assert found.status_code == 200 and len(found.json()["items"]) == 5


def test_a_thousand_connections_are_answered_or_refused_and_none_hangs(bundle: Path, tmp_path: Path) -> None:
    body = json.dumps({"history": ["i00", "i02"], "k": 3}).encode()
    head = (
        f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    async def one(port: int, gate: asyncio.Barrier) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await gate.wait()  # all are connected before the first asks
        writer.write(head.encode() + body)
        status = int((await asyncio.wait_for(reader.readline(), 60)).split()[1])
        writer.close()
        return status

    async def crowd(port: int) -> list[int]:
        gate = asyncio.Barrier(CROWD)
        return await asyncio.gather(*(one(port, gate) for _ in range(CROWD)))

    with served(bundle, tmp_path / "state", "--concurrency", "100") as (process, port):
        statuses = asyncio.run(crowd(port))
        assert process.poll() is None
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    assert len(statuses) == CROWD and set(statuses) <= {200, 429} and statuses.count(200) >= 100


def test_a_slow_body_is_given_up_and_stopping_is_clean(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path / "state", "--patience", "1") as (process, port):
        assert httpx.get(f"http://127.0.0.1:{port}/ready").json() == {"status": "ok"}
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            slow.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def test_what_cannot_be_served_ends_with_a_message(bundle: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "longtail", "serve"]
    found = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "is no bundle" in found.stderr
    with served(bundle, tmp_path / "state"):
        again = subprocess.run(
            [*command, str(bundle), "--port", "0", "--state", str(tmp_path / "state")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert again.returncode == 2 and "another server holds" in again.stderr


def test_whatever_the_document_allows_is_no_server_error(bundle: Path, tmp_path: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from fastapi.testclient import TestClient  # noqa: F401  # schemathesis calls the application in-process
    from hypothesis import HealthCheck, Phase, settings
    from schemathesis.checks import not_a_server_error

    from longtail.serve.app import Hosts, create_app
    from longtail.serve.settings import ServeConfig

    config = ServeConfig()
    app = create_app(Hosts([bundle], tmp_path / "state", config), config)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=20, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @schemathesis_given(operation)
        def check(case: object) -> None:
            case.call_and_validate(checks=[not_a_server_error])  # type: ignore[attr-defined]

        check()
        tried.add(operation.label)
    assert len(tried) >= 14


def schemathesis_given(operation: object):  # type: ignore[no-untyped-def]
    """Hypothesis draws cases of the operation."""
    from hypothesis import given

    return given(case=operation.as_strategy())  # type: ignore[attr-defined]
