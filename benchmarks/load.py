"""A load generator for `benchmarks/serving.py`, in a process of its own: raw HTTP over loopback, nothing but numpy.

load.py PORT MODE RATE_OR_CONNECTIONS SECONDS, the bodies of POST /recommend one a line on stdin; prints a line of JSON.
"rate": RATE requests a second are sent at fixed times, whether answers have come or not, and a time counts from when
its request was due, so that a server that falls behind is not measured more rarely. "closed": so many connections, each
of which asks again when it has its answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import numpy as np

IDLE = 64  # connections that take turns under a rate


class Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.buffer, self.need = b"", -1
        self.answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(0)

    def ask(self, body: bytes) -> asyncio.Future[int]:
        """Send a request; its status."""
        head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(head % len(body) + body)  # type: ignore[attr-defined]
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.need < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = self.buffer[:end].lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
            self.need = end + 4 + int(length)
        if len(self.buffer) >= self.need:
            status, self.buffer, self.need = int(self.buffer[9:12]), self.buffer[self.need :], -1
            assert self.answer is not None
            self.answer.set_result(status)


async def connect(port: int) -> Line:
    """A connection."""
    return (await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", port))[1]


async def at_rate(port: int, rate: float, seconds: float, bodies: list[bytes]) -> tuple[list[float], list[int]]:
    """Times from when each request was due, and statuses."""
    lines = [await connect(port) for _ in range(IDLE)]
    times, statuses, begun = list[float](), list[int](), time.perf_counter() + 0.1

    async def one(at: int) -> None:
        due = begun + at / rate
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        line = lines.pop() if lines else await connect(port)
        statuses.append(await line.ask(bodies[at % len(bodies)]))
        times.append(time.perf_counter() - due)
        lines.append(line)

    await asyncio.gather(*(one(at) for at in range(int(rate * seconds))))
    return times, statuses


async def closed(port: int, connections: int, seconds: float, bodies: list[bytes]) -> tuple[list[float], list[int]]:
    """Times and statuses of connections that ask without a pause."""
    times, statuses, end = list[float](), list[int](), time.perf_counter() + seconds

    async def one(start: int) -> None:
        line, at = await connect(port), start
        while (begun := time.perf_counter()) < end:
            statuses.append(await line.ask(bodies[at % len(bodies)]))
            times.append(time.perf_counter() - begun)
            at += connections

    await asyncio.gather(*(one(start) for start in range(connections)))
    return times, statuses


def main() -> None:
    port, mode, number, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    bodies = [line.strip().encode() for line in sys.stdin]
    begun = time.perf_counter()
    asking = at_rate(port, number, seconds, bodies) if mode == "rate" else closed(port, int(number), seconds, bodies)
    times, statuses = asyncio.run(asking)
    took = time.perf_counter() - begun
    p50, p99 = (float(value) * 1000 for value in np.percentile(times, [50, 99]))
    found = {"p50_ms": p50, "p99_ms": p99, "worst_ms": max(times) * 1000, "a_second": len(times) / took}
    print(json.dumps({**found, "requests": len(times), "errors": sum(status != 200 for status in statuses)}))


if __name__ == "__main__":
    main()
