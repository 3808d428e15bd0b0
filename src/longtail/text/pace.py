"""How fast a server may be asked: what its headers say of waiting, and a rate that halves when it says 'too many'."""

from __future__ import annotations

import math
import re
import threading
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

WINDOW = 64  # starts that the rate is measured over
SHORTEST = 0.5  # seconds that a rate is measured in
SLOWEST = 1 / 60  # requests a second
GROWTH = 0.1  # requests a second that an answer adds: a tenth of any rate in a second
CALM = 1.0  # seconds after halving in which refusals are of the requests before
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")


class Pace:
    """When the next request may start. Times are seconds of one clock; every method may be called by any thread.

    The rate is unlimited until a server refuses: then it is half of what was asked for in the last seconds, and each
    answer raises it by GROWTH (additive increase, multiplicative decrease, as TCP does). Refusals within CALM seconds,
    and those of requests that started before the rate was halved, do not halve it again.
    """

    def __init__(self) -> None:
        self.rate = math.inf
        self._lock = threading.Lock()
        self._next, self._held, self._halved = 0.0, 0.0, -math.inf
        self._starts: deque[float] = deque(maxlen=WINDOW)

    def reserve(self, now: float) -> float:
        """The time at which the request that asks may start; the one after it starts later."""
        with self._lock:
            start = max(now, self._next, self._held)
            self._next = start + 1 / self.rate
            self._starts.append(start)
            return start

    def hold(self, until: float) -> None:
        """No request starts before."""
        with self._lock:
            self._held = max(self._held, until)

    def refused(self, started: float, now: float) -> None:
        """A request that started then got 'too many requests' now."""
        with self._lock:
            if started <= self._halved or now < self._halved + CALM:
                return
            asked = len(self._starts) / max(SHORTEST, now - self._starts[0]) if self._starts else 1.0
            self.rate = max(SLOWEST, min(self.rate, asked) / 2)
            self._halved = now
            self._next = max(self._next, now + 1 / self.rate)

    def answered(self) -> None:
        """A request was answered."""
        with self._lock:
            self.rate += GROWTH


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait, of Retry-After (seconds or a date) or the headers that stand in for it; None if none says.

    >>> retry_after({"retry-after": "7"}), retry_after({"retry-after-ms": "250"})
    (7.0, 0.25)
    >>> retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:09 GMT"}, datetime(2015, 10, 21, 7, 28, tzinfo=UTC))
    9.0
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "").strip()
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        waits = [duration(headers.get(f"x-ratelimit-reset-{kind}", "")) for kind in ("requests", "tokens")]
        empty = [headers.get(f"x-ratelimit-remaining-{kind}") == "0" for kind in ("requests", "tokens")]
        return max((wait for wait, none in zip(waits, empty, strict=True) if wait is not None and none), default=None)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def until_enough(headers: Mapping[str, str], tokens: int) -> float:
    """Seconds until the server has room for another request of that many tokens, by its x-ratelimit-* headers.

    >>> until_enough({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m3s"}, 10)
    63.0
    >>> left = {"x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "200"}
    >>> until_enough({**left, "x-ratelimit-reset-tokens": "8s"}, 300)  # 100 are missing, 100 come a second
    1.0
    """
    wait = 0.0
    for kind, needed in (("requests", 1), ("tokens", tokens)):
        left, limit = (_number(headers.get(f"x-ratelimit-{name}-{kind}")) for name in ("remaining", "limit"))
        reset = duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
        if left is None or reset is None or left >= needed:
            continue
        missing = 1.0 if limit is None or limit <= left else min(1.0, (needed - left) / (limit - left))
        wait = max(wait, reset * missing)
    return wait


def duration(text: str) -> float | None:
    """Seconds of '1s', '6m0s', '20ms' or '30'; None if it is not so written.

    >>> duration("6m0.5s"), duration("20ms"), duration("soon")
    (360.5, 0.02, None)
    """
    parts = DURATION.findall(text.strip())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return math.fsum(float(number) * UNITS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
