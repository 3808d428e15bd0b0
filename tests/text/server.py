"""A real server on the loopback that speaks the embeddings and the chat interface, and misbehaves as told."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np

WIDTH = 8


def vector(text: str, width: int = WIDTH) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """What the server answers to a text."""
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)[:width].astype(np.float32) / 7


class Served:
    """What is asked and how to answer it. `faults` are served first, one a request, each once."""

    def __init__(self) -> None:
        self.faults: deque[str] = deque()
        self.asked: list[list[str]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.bodies: list[dict[str, object]] = []
        self.paid: Counter[str] = Counter()
        self.times: list[float] = []
        self.longest, self.most, self.delay = 10**9, 10**9, 0.0
        self.floats_only, self.width, self.extra = False, WIDTH, {}
        self.limit = 0.0  # requests a second above which it says 429
        self.running = self.peak = 0
        self.lock = threading.Lock()
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        served = self.served
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with served.lock:
            served.running += 1
            served.peak = max(served.peak, served.running)
            served.paths.append(self.path)
            served.headers.append({name.lower(): value for name, value in self.headers.items()})
            served.bodies.append(body)
            fault = served.faults.popleft() if served.faults else ""
            recent = sum(moment > time.monotonic() - 1 for moment in served.times)
            if served.limit and recent >= served.limit:
                fault = "429"
            else:
                served.times.append(time.monotonic())
        try:
            time.sleep(served.delay)
            chat = urlsplit(self.path).path.endswith("/chat/completions")
            texts = [body["messages"][-1]["content"]] if chat else body["input"]
            if not (fault and self.misbehave(fault)) and not self.refuse(texts, body):
                (self.answer_chat if chat else self.answer)(texts, body, fault)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with served.lock:
                served.running -= 1

    def misbehave(self, fault: str) -> bool:
        """Serve a fault that is no answer; whether it was one."""
        kind, _, value = fault.partition(":")
        if kind == "hang":
            time.sleep(float(value))
            self.close_connection = True
        elif kind == "reset":
            self.close_connection = True
        elif kind == "html":
            self.send(200, b"<html>Please log in</html>", {"content-type": "text/html"})
        elif kind == "echo":  # as OpenAI does, but the whole key
            self.send(401, json.dumps({"error": {"message": f"bad key {self.headers['authorization']}"}}).encode())
        elif kind == "quota":
            self.send(429, b'{"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}}')
        elif kind.isdigit():
            wait = formatdate(time.time() + float(value[5:]), usegmt=True) if value.startswith("date ") else value
            self.send(int(kind), b'{"error": "as told"}', {"retry-after": wait} if wait else {})
        else:
            return False
        return True

    def refuse(self, texts: list[str], body: dict[str, object]) -> bool:
        served = self.served
        if max(map(len, texts)) > served.longest:
            message = f"This model's maximum context length is {served.longest} tokens"
            self.send(400, json.dumps({"error": {"message": message}}).encode())
        elif len(texts) > served.most:
            message = f"batch size {len(texts)} > maximum allowed batch size {served.most}"
            self.send(422, json.dumps({"error": message, "error_type": "Validation"}).encode())
        elif served.floats_only and "encoding_format" in body:
            self.send(400, b'{"error": "unknown field: encoding_format"}')
        else:
            return False
        return True

    def answer(self, texts: list[str], body: dict[str, object], fault: str) -> None:
        served = self.served
        width = int(body.get("dimensions", served.width))
        rows = []
        for index, text in enumerate(texts):
            made = vector(text, width + (fault == "wide"))
            made[0] = np.nan if fault == "nan" and index == 0 else made[0]
            coded = body.get("encoding_format") == "base64"
            row = base64.b64encode(made.tobytes()).decode() if coded else made.astype(float).tolist()
            rows.append({"object": "embedding", "index": 0 if fault == "same" else index, "embedding": row})
        np.random.default_rng(len(texts)).shuffle(rows)  # servers may
        if fault == "ragged":
            rows[0]["embedding"] = vector("", width + 1).astype(float).tolist()
        rows = rows[:-1] if fault == "short" else rows
        usage = {"prompt_tokens": sum(map(len, texts)), "total_tokens": 0}
        data = json.dumps({"object": "list", "data": rows, "usage": usage}).encode()
        if fault == "truncated":
            data = data[: len(data) // 2]
        elif not fault:
            with served.lock:
                served.asked.append(texts)
                served.paid.update(texts)
        self.send(200, data, served.extra)

    def answer_chat(self, texts: list[str], body: dict[str, object], fault: str) -> None:
        with self.served.lock:
            self.served.asked.append(texts)
            self.served.paid.update(texts)
        content = "" if fault == "empty" else f"  Likes what {len(texts[0])} characters say.\n"
        usage = {"prompt_tokens": len(texts[0]), "completion_tokens": 7}
        answer = {"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage}
        self.send(200, json.dumps(answer).encode())

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(port: int = 0) -> Iterator[Served]:
    """A server on a free port; `url` is its address."""
    served = Served()
    handler = type("Bound", (Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients may be killed
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
