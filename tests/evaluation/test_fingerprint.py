"""Protocols that differ are told apart, field by field; the seed of training is no part of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from longtail.data.groups import GroupsConfig, groups
from longtail.data.histories import from_lists
from longtail.data.split import Split, leave_one_out
from longtail.errors import RunError
from longtail.evaluation.fingerprint import Fact, fingerprint, same_protocol, stored_rows, terms_of
from longtail.evaluation.protocol import ProtocolConfig, drawn_candidates, rank

SPLIT = leave_one_out(from_lists([[1, 2, 3, 4], [5, 6, 7], [2, 1, 8]]), 9)


class Figures(NamedTuple):
    """As much of a report as is compared."""

    terms: dict[str, Fact]

    @property
    def fingerprint(self) -> str:
        """Their hash."""
        return fingerprint(self.terms)


def _judged(
    split: Split = SPLIT, name: str = "test", data: str = "abc", by: GroupsConfig | None = None, **protocol: object
) -> Figures:
    config, by = ProtocolConfig(**{"sampled": 2, **protocol}), by or GroupsConfig()

    def score(users, histories):  # type: ignore[no-untyped-def]
        import torch

        yield slice(0, len(users)), torch.zeros(len(users), 10)

    hashes = rank(score, split, name, config, drawn_candidates(split, name, config)).candidates
    return Figures(terms_of(data, split, name, config, by, groups(split, by), hashes))


OTHER = leave_one_out(from_lists([[1, 2, 3, 4], [5, 6, 7], [2, 1, 9]]), 9)
CASES = {
    "data": _judged(data="abd"),
    "split.name": _judged(name="valid"),
    "split.hash": _judged(OTHER),
    "seen": _judged(seen="allow"),
    "repeats": _judged(repeats="drop"),
    "ks": _judged(ks=(10,)),
    "candidates.sampled2": _judged(seed=1),
    "candidates.sampled3": _judged(sampled=3),
    "candidates.popular1": _judged(popular=1),
    "groups.percentile": _judged(by=GroupsConfig(percentile=79)),
    "groups.counted": _judged(by=GroupsConfig(counted="released")),
    "groups.user_edges": _judged(by=GroupsConfig(user_edges=(2,))),
}


@pytest.mark.parametrize("field", CASES)
def test_each_difference_is_named(field: str) -> None:
    with pytest.raises(RunError, match=rf"one and two were not .*{field}: .* against ") as caught:
        same_protocol([_judged(), CASES[field]], ["one", "two"])
    assert "evaluate both the same way" in str(caught.value)


def test_a_scheme_is_named_with_both_its_values() -> None:
    one, other = Figures(_judged().terms), Figures({**_judged().terms, "split.scheme": "time"})
    with pytest.raises(RunError, match=r": split\.scheme: leave_one_out against time; evaluate"):
        same_protocol([one, other])


def test_equal_protocols_have_one_short_fingerprint_whatever_the_order_of_ks_and_fields() -> None:
    one, other = _judged(ks=(5, 10)), _judged(ks=(10, 5))
    assert one.fingerprint == other.fingerprint == fingerprint(dict(reversed(one.terms.items())))
    assert len(one.fingerprint) == 12 and set(one.fingerprint) <= set("0123456789abcdef")
    same_protocol([one, other, one])
    assert len({one.fingerprint, *(case.fingerprint for case in CASES.values())}) == len(CASES) + 1


def test_figures_of_before_groups_could_be_counted_otherwise_still_compare() -> None:
    assert "groups.counted" not in _judged().terms
    assert CASES["groups.counted"].terms["groups.counted"] == "released"


def test_rows_are_compared_with_rows_of_their_split() -> None:
    test, valid, other = _judged(), _judged(name="valid"), _judged(seen="allow")
    rows = [
        {"case": "a", "split": split, "fingerprint": one.fingerprint, "value": 0.1}
        for split, one in (("test", test), ("valid", valid), ("test", test))
    ]
    same_protocol(rows)
    with pytest.raises(RunError, match=f"a and b were not .*: {test.fingerprint} against {other.fingerprint};"):
        same_protocol([*rows, {"case": "b", "split": "test", "fingerprint": other.fingerprint}])
    with pytest.raises(RunError, match=f"{test.fingerprint} against none kept"):
        same_protocol([*rows, {"case": "old", "split": "test"}])
    same_protocol([{"case": "old", "split": "test"}] * 2)  # of before there were fingerprints


def test_stored_rows_carry_their_terms() -> None:
    folders = {
        name: {
            "figures": [{"split": "test", "fingerprint": one.fingerprint, "metric": "hr@10"}] * 3,
            "protocols": {"test": {"fingerprint": one.fingerprint, "terms": one.terms}},
        }
        for name, one in {"a-1": _judged(), "b-1": _judged(seen="allow")}.items()
    }
    rows = [row for name, stored in folders.items() for row in stored_rows(name, stored)]
    assert len(rows) == 2
    with pytest.raises(RunError, match=r"a-1 and b-1 were not .*: seen: exclude against allow;"):
        same_protocol(rows)


def test_more_users_and_more_training_change_the_fingerprint_of_the_split() -> None:
    longer = leave_one_out(from_lists([[1, 2, 3, 4], [5, 6, 7], [2, 1, 8], [3, 4]]), 9)
    assert _judged(longer).terms["split.hash"] != _judged().terms["split.hash"]
    assert np.array_equal(longer.test[:4], SPLIT.test)
    more = leave_one_out(from_lists([[9, 1, 2, 3, 4], [5, 6, 7], [2, 1, 8]]), 9)  # the same targets after more training
    assert np.array_equal(more.test, SPLIT.test)
    assert _judged(more).terms["split.hash"] != _judged().terms["split.hash"]
