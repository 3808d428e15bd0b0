"""The rate halves when a server refuses, recovers slowly, and waits as the headers say."""

from __future__ import annotations

import math

import pytest

from longtail.text.pace import Pace, duration, retry_after, until_enough


def test_the_rate_is_halved_once_for_requests_that_ran_together_and_grows_back_slowly() -> None:
    pace = Pace()
    starts = [pace.reserve(moment / 10) for moment in range(40)]  # ten a second
    assert starts[-1] == 3.9 and pace.rate == math.inf
    pace.refused(3.8, 4.0)
    assert pace.rate == pytest.approx(5.0)
    pace.refused(3.9, 4.1)  # in flight already when the rate was halved
    assert pace.rate == pytest.approx(5.0)
    pace.refused(4.05, 4.2)  # the server has not calmed down yet
    assert pace.rate == pytest.approx(5.0)
    spaced = [pace.reserve(5.0) for _ in range(3)]
    assert spaced == pytest.approx([5.0, 5.2, 5.4])
    for _ in range(20):
        pace.answered()
    assert pace.rate == pytest.approx(7.0)
    pace.refused(5.0, 6.0)
    assert pace.rate <= 3.5


def test_the_rate_never_falls_to_nothing() -> None:
    pace = Pace()
    for moment in range(100):
        pace.refused(float(moment), moment + 0.5)
    assert pace.rate == pytest.approx(1 / 60)


def test_holding_delays_all_requests() -> None:
    pace = Pace()
    pace.hold(7.0)
    pace.hold(3.0)
    assert [pace.reserve(1.0), pace.reserve(8.0)] == [7.0, 8.0]


def test_waits_are_read_from_headers_and_nonsense_is_not() -> None:
    assert retry_after({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m"}) == 60
    assert retry_after({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m"}) is None
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0  # long past
    for text in ("soon", "", "-3", "nan", "inf"):
        assert retry_after({"retry-after": text}) is None
    assert duration("1h2m3s4ms") == pytest.approx(3723.004) and duration("1x") is None and duration("") is None
    assert until_enough({}, 100) == 0
    assert until_enough({"x-ratelimit-remaining-tokens": "100", "x-ratelimit-reset-tokens": "9s"}, 100) == 0
