"""The fields that docs/fidelity.md calls `released` are those of the released run, and none of them is a default."""

from __future__ import annotations

import re
from pathlib import Path

from longtail.cases import read_cases
from longtail.config import flat, override
from longtail.pipeline import resolve

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
RUN = ROOT / "runs" / "released-yelp.toml"
TESTS = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))


def _documented() -> dict[str, object]:
    """Field to released value, from the sentence that lists them."""
    (listed,) = re.findall(r"^`released` is the .*?\n\n", PAGE, flags=re.MULTILINE | re.DOTALL)
    fields = re.findall(r"`([a-z_]+\.[a-z_]+ = [^`]+)`", " ".join(listed.split()).partition(". Each")[0])
    return flat(override({}, [field.replace(" = ", "=") for field in fields]))


def test_the_released_run_has_the_documented_fields_and_ours_has_their_defaults() -> None:
    plan, documented = read_cases(RUN), _documented()
    released, corrected = (flat(resolve(plan, RUN, case=case).model_dump(mode="json")) for case in plan.cases)
    defaults = flat(
        resolve(plan._replace(base={"data": plan.base["data"]}), RUN, preset="llmesr").model_dump(mode="json")
    )
    differing = {field for field in released if released[field] != corrected[field]}
    assert len(documented) == 6 and differing == documented.keys() - {"groups.counted"}
    for field, value in documented.items():
        assert released[field] == value != defaults[field]
    for field in differing:
        assert corrected[field] == defaults[field]


def test_every_row_of_the_page_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "test" in line]
    assert len(rows) >= 15
    for name in {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}:
        assert f"def {name}(" in TESTS, name
    for path in {path for row in rows for path in re.findall(r"`(tests/[\w/]+\.py)`", row)}:
        assert (ROOT / path).exists(), path
