"""What the journal acknowledged is there again, whatever stood in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.errors import BundleError
from longtail.serve.journal import Journal, Record

RECORDS: list[Record] = [{"kind": "item", "item": f"i{at}", "title": "Stück\n" * at} for at in range(3)]


def _written(path: Path) -> bytes:
    journal = Journal(path)
    journal.append(RECORDS[:1])
    journal.append(RECORDS[1:])
    journal.close()
    return path.read_bytes()


def _read(path: Path) -> list[Record]:
    journal = Journal(path)
    journal.close()
    return journal.records


def test_records_come_back_in_order_and_more_can_follow(tmp_path: Path) -> None:
    _written(tmp_path / "x")
    assert _read(tmp_path / "x") == RECORDS
    journal = Journal(tmp_path / "x")
    journal.append([{"kind": "event"}])
    journal.close()
    assert _read(tmp_path / "x") == [*RECORDS, {"kind": "event"}]


@given(cut=st.integers(0, 400))
def test_a_torn_end_costs_only_the_record_it_is_of(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "x"
    data = _written(path)
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    assert _read(path) == RECORDS[:whole]
    journal = Journal(path)
    journal.append([{"after": 1}])
    journal.close()
    assert _read(path) == [*RECORDS[:whole], {"after": 1}]


def test_a_bad_line_in_the_middle_is_told_and_nothing_is_dropped(tmp_path: Path) -> None:
    data = bytearray(_written(tmp_path / "x"))
    data[20] ^= 1
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BundleError, match="line 1 is corrupt"):
        Journal(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == data


def test_two_servers_do_not_share_a_journal(tmp_path: Path) -> None:
    first = Journal(tmp_path / "x")
    with pytest.raises(BundleError, match="another server holds"):
        Journal(tmp_path / "x")
    first.close()
    Journal(tmp_path / "x").close()


def test_what_cannot_be_written_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "x")
    journal.append(RECORDS[:1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append([{"bad": float("nan")}])
    journal.append(RECORDS[1:])
    journal.close()
    assert _read(tmp_path / "x") == RECORDS
