"""One server that speaks OpenAI's HTTP interface: where it is, its key, patience with it, requests side by side."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

from longtail.errors import EmbeddingError
from longtail.text.endpoints import Endpoint, HttpConfig
from longtail.text.pace import Pace, retry_after, until_enough

if TYPE_CHECKING:
    import httpx

LONGEST_BACKOFF = 60.0  # seconds between two tries where the server does not say
LONGEST_WAIT = 300.0  # seconds that a server may ask for
BROKEN_TRIES = 3  # of answers that do not parse: each may have been paid
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
TOO_LARGE = re.compile(
    r"context.?length|too long|too large|too many (inputs|tokens)|maximum (allowed )?batch|max(imum)?[ _]batch|"
    r"must have less than|above_max_length|maximum.{0,30}tokens|exceeds? the.{0,30}(limit|maximum|length)",
    re.IGNORECASE,
)
SECRET = re.compile(r"\b(sk|key|Bearer)[-_ ][\w*.-]{6,}", re.IGNORECASE)
logger = logging.getLogger(__name__)
J = TypeVar("J")
A = TypeVar("A")


class TooLargeError(Exception):
    """The server says that a request, or a text in it, is too long."""


class StoppedError(Exception):
    """Another request failed, and this one was not sent."""


class _PassingError(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, wait: float | None = None, *, too_many: bool = False, broken: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.too_many, self.broken = wait, too_many, broken


class Client:
    """Asks one server, from any thread. `stop` ends waiting between tries; what is in flight is still answered.

    pace: one that it shares with others that ask the same server; its own if not given.
    """

    def __init__(self, endpoint: Endpoint, config: HttpConfig, pace: Pace | None = None) -> None:
        self.endpoint, self.config = endpoint, config
        self.pace, self.stop = pace or Pace(), threading.Event()
        self._random = random.Random()
        self._key = os.environ.get(endpoint.key_env, "").strip() if endpoint.key_env else ""
        if endpoint.key_env and not self._key and endpoint.kind != "server":
            raise EmbeddingError(f"{endpoint.spec} needs a key: set the environment variable {endpoint.key_env}")
        self._http = self._connect()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def post(self, path: str, body: Mapping[str, object], tokens: int) -> Mapping[str, object]:
        """The JSON object that the server answers, with as many tries as it takes.

        tokens: what the request is about, for the server's limits. An EmbeddingError says what the server refused or
        what failed the last time; a TooLargeError is for a request that may be split.
        """
        broken, reason, spec = 0, "", self.endpoint.spec
        for attempt in range(self.config.tries):
            started = self._start()
            try:
                answer = self._send(path, body, tokens)
            except _PassingError as error:
                broken, reason = broken + error.broken, str(error)
                if broken == BROKEN_TRIES:
                    raise EmbeddingError(f"{spec} {reason}, {broken} times; check the server") from None
                self._wait(error, attempt, started)
                continue
            self.pace.answered()
            return answer
        raise EmbeddingError(
            f"{spec} gave no answer in {self.config.tries} tries; the last time: {reason}; what was answered is kept, "
            "run again to go on"
        )

    def _connect(self) -> httpx.Client:
        try:
            import httpx
        except ImportError as error:
            raise EmbeddingError(
                f"{self.endpoint.spec} needs a package that is not there ({error}); pip install 'longtail[embed]'"
            ) from error
        bearer = self.endpoint.key_header == "authorization"
        headers: dict[str, str] = {}
        if self._key:
            headers[self.endpoint.key_header] = f"Bearer {self._key}" if bearer else self._key
        return httpx.Client(
            headers=headers,
            params=dict(self.endpoint.query),
            verify=self.endpoint.base.startswith("https:"),  # plain HTTP need not load certificates
            timeout=httpx.Timeout(self.config.timeout, connect=min(10.0, self.config.timeout), pool=None),
            limits=httpx.Limits(max_connections=self.config.concurrency),
        )

    def _start(self) -> float:
        now = time.monotonic()
        start = self.pace.reserve(now)
        if self.stop.wait(max(0.0, start - now)):
            raise StoppedError
        return start

    def _wait(self, error: _PassingError, attempt: int, started: float) -> None:
        now = time.monotonic()
        delay = min(LONGEST_BACKOFF, self.config.backoff * 2**attempt) * self._random.uniform(0.5, 1.0)
        if error.wait is not None:
            if error.wait > LONGEST_WAIT:
                raise EmbeddingError(
                    f"{self.endpoint.spec} asks to wait {error.wait:,.0f} seconds ({error}); what was answered is "
                    "kept, run again then"
                )
            delay = error.wait + self._random.uniform(0.0, self.config.backoff / 2)  # not all at the same moment
            self.pace.hold(now + error.wait)
        if error.too_many:
            self.pace.refused(started, now)
        logger.info("%s: %s; trying again in %.1f s", self.endpoint.spec, error, delay)
        if self.stop.wait(delay):
            raise StoppedError

    def _send(self, path: str, body: Mapping[str, object], tokens: int) -> Mapping[str, object]:
        import httpx

        try:
            response = self._http.post(self.endpoint.base + path, json=body)
        except httpx.TransportError as error:
            raise _PassingError(self._clean(f"{type(error).__name__}: {error}")) from None
        except httpx.InvalidURL as error:
            raise EmbeddingError(f"{self.endpoint.spec} has no usable address ({error}); check it") from None
        if not response.is_success:
            raise self._refusal(response)
        wait = until_enough(response.headers, tokens)
        if wait:
            self.pace.hold(time.monotonic() + min(wait, LONGEST_BACKOFF))
        try:
            answer = json.loads(response.content)
        except ValueError as error:
            kind = response.headers.get("content-type", "").partition(";")[0]
            if "html" in kind or response.content.lstrip()[:1] == b"<":
                raise EmbeddingError(
                    f"{self.endpoint.spec} answers {kind or 'a page'}, not JSON; check its address, which often ends "
                    f"in /v1: {self._clean(response.text)}"
                ) from None
            raise _PassingError(f"sent JSON that does not parse ({error})", broken=True) from None
        if not isinstance(answer, dict):
            raise EmbeddingError(
                f"{self.endpoint.spec} answers a {type(answer).__name__}, not an object; check the server"
            )
        return answer

    def _refusal(self, response: httpx.Response) -> Exception:
        """What a status other than success comes to."""
        status, said = response.status_code, self._clean(response.text)
        spec, told = self.endpoint.spec, f"{status} {response.reason_phrase}: {said}"
        if "insufficient_quota" in response.text:
            return EmbeddingError(f"{spec}: the account has no credit left ({told}); what was answered is kept")
        if status == 413 or (TOO_LARGE.search(response.text) and status not in {401, 403, 404}):
            return TooLargeError(told)
        if status in PASSING:
            return _PassingError(told, retry_after(response.headers), too_many=status == 429)
        name = self.endpoint.key_env or "text.http.key_env"
        causes = {
            401: f"refuses the key ({told}); check {name}",
            403: f"refuses this to the key ({told}); check {name} and what it may do",
            404: f"is not there ({told}); check the model's name and the address",
        }
        if response.is_redirect:
            told += f" to {self._clean(response.headers.get('location', ''))}"
        return EmbeddingError(f"{spec} {causes.get(status, f'refuses the request ({told})')}")

    def _clean(self, text: str) -> str:
        """What a server said, in a line, without anything that looks like a key."""
        known = text.replace(self._key, "***") if self._key else text
        line = SECRET.sub("***", " ".join(known.split()))
        return line[:300] + ("…" if len(line) > 300 else "")


def gather(
    jobs: Iterator[J], ask: Callable[[J], A], smaller: Callable[[J, TooLargeError], list[J]], client: Client
) -> Iterator[tuple[J, A]]:
    """Jobs and their answers as they come; as many are in flight or unread as the client's `concurrency`.

    `jobs` is drawn on in this thread, `ask` is called in others, and `smaller` splits what is too large. After a
    failure no job is started, those in flight are still answered, and then it is raised.
    """
    width, failure = client.config.concurrency, None
    waiting: deque[J] = deque()
    running: dict[Future[A], J] = {}
    with ThreadPoolExecutor(width) as pool:
        try:
            while failure is None or running:
                try:
                    while failure is None and len(running) < width and (job := _next(waiting, jobs)) is not None:
                        running[pool.submit(ask, job)] = job
                    if not running:
                        break
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        job = running.pop(future)
                        try:
                            answer = future.result()
                        except TooLargeError as error:
                            waiting.extendleft(reversed(smaller(job, error)))
                        except StoppedError:
                            pass
                        else:
                            yield job, answer
                except (EmbeddingError, KeyboardInterrupt) as error:
                    failure = failure or error
                    client.stop.set()
        finally:
            client.stop.set()
    if failure is not None:
        raise failure


def _next(waiting: deque[J], jobs: Iterator[J]) -> J | None:
    return waiting.popleft() if waiting else next(jobs, None)
