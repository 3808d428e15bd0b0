"""A training that is cut anywhere, and gone on with, ends bit for bit as one that is not."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import longtail as lt
from longtail.train import checkpoint, loop
from longtail.train.engine import Engine
from tests.conftest import Planted

CASES = {
    "plain": ("plain", "sasrec", {}),
    "gru": ("plain", "gru4rec", {"train.loss": "gbce", "train.negatives": 3}),
    "average": ("plain", "sasrec", {"train.average": 0.9, "train.loss": "sampled_softmax"}),
    "bert4rec": ("plain", "bert4rec", {}),
    "prefixes": ("plain", "sasrec", {"train.rows": "prefixes", "train.loss": "softmax"}),
    "exact": ("llmesr", "sasrec", {}),
    "bank": ("llmesr", "sasrec", {"method.teacher": "bank", "method.drop_last": True, "method.alignment": 0.1}),
    "longtail": ("longtail", "sasrec", {"method.text_neighbors": 3, "method.order_neighbors": 3}),
    "rlmrec inside": ("longtail", "sasrec", {"method.inner": {"name": "rlmrec"}, "method.choose": False}),
    "cities": ("cities", "sasrec", {}),
    "melt": ("melt", "sasrec", {}),
    "rlmrec": ("rlmrec", "sasrec", {"method.form": "generative"}),
    "delta": ("delta", "sasrec", {"method.hide": 0.3}),
}


def model(case: str, epochs: int = 3) -> lt.Recommender:
    method, backbone, given = CASES[case]
    settings: dict[str, dict[str, object]] = {
        "backbone": {"d": 8, "max_len": 6, "dropout": 0.3},
        "train": {"epochs": epochs, "batch_size": 16, "lr": 0.01, "device": "cpu", "patience": 9},
    }
    if method == "llmesr":
        settings["neighbors"] = {"k": 3}
    for key, value in given.items():
        table, field = key.split(".")
        settings.setdefault(table, {})[field] = value
    return lt.Recommender(method, backbone, settings)


def end(run: Path) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """The weights, bit for bit, and the log without what is measured in seconds."""
    weights = {name: tensor.numpy().tobytes() for name, tensor in load_file(run / "model.safetensors").items()}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return weights, [{key: value for key, value in line.items() if key not in {"seconds", "train_s"}} for line in lines]


class Cut(BaseException):
    """What a kill is to the process."""


@contextmanager
def cut_at(count: int, every: int) -> Iterator[None]:
    """Raise at the so many-th of the moments that there are: steps, validations, choices, files half written.

    A checkpoint is due after every so many steps.
    """
    left = [count]

    def cutting(real: Callable[..., object], half: bool = False) -> Callable[..., object]:
        def moment(*given: object) -> object:
            left[0] -= 1
            if not left[0]:
                if half:
                    Path(str(given[1])).write_bytes(b"half")
                raise Cut
            return real(*given)

        return moment

    steps = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Keeper, "due", lambda keeper: next(steps) % every == 0)
        patch.setattr(Engine, "step", cutting(Engine.step))
        patch.setattr(lt.Recommender, "validate", cutting(lt.Recommender.validate))
        patch.setattr(checkpoint, "save_file", cutting(save_file, half=True))
        patch.setattr("longtail.run_folder.save_file", cutting(save_file, half=True))
        patch.setattr("longtail.run_folder.write_facts", cutting(lt.recommender.run_folder.write_facts))
        yield


@pytest.mark.parametrize("case", CASES)
def test_a_training_cut_anywhere_resumes_to_the_same_end(case: str, planted: Planted, tmp_path: Path) -> None:
    def fit(run: Path, resume: bool = False) -> None:
        model(case).fit(planted.split, items=planted.items, users=planted.users, run=run, resume=resume)

    fit(tmp_path / "whole")
    chance, cuts = random.Random(case), 0
    while True:
        try:
            with cut_at(chance.randrange(5, 15 + 3 * cuts), every=chance.randrange(1, 4)):
                fit(tmp_path / "cut", resume=cuts > 0)
            break
        except Cut:
            cuts += 1
            assert cuts < 60
    assert cuts >= 2
    assert end(tmp_path / "cut") == end(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "cut" / "checkpoint").iterdir() if path.name != "lock"] == [
        "last.safetensors"
    ]


def test_an_epoch_goes_on_where_it_was_and_does_no_step_twice(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Cut), cut_at(7, every=1):  # two files, two steps with a checkpoint each, a third step
        model("plain").fit(planted.split, run=tmp_path / "run")
    steps, step = [], Engine.step
    monkeypatch.setattr(Engine, "step", lambda *given: steps.append(1) or step(*given))
    model("plain").fit(planted.split, run=tmp_path / "run", resume=True)
    assert len(steps) == 3 * 6 - 2


def test_what_is_left_of_another_epoch_or_training_is_not_gone_on_with(planted: Planted, tmp_path: Path) -> None:
    for run, kept in (("whole", False), ("cut", True)):
        with pytest.raises(Cut), cut_at(11, every=3):
            model("plain").fit(planted.split, run=tmp_path / run)
        inside, last = (tmp_path / run / "checkpoint" / f"{name}.safetensors" for name in ("within", "last"))
        assert inside.exists()
        if kept:  # a second epoch's, while the last whole one is the second now
            model("plain", epochs=2).fit(planted.split, run=tmp_path / "other")
            last.write_bytes((tmp_path / "other" / "checkpoint" / "last.safetensors").read_bytes())
            log = (tmp_path / "other" / "log.jsonl").read_bytes()
            (tmp_path / run / "log.jsonl").write_bytes(log)
        model("plain").fit(planted.split, run=tmp_path / run, resume=True)
        assert not inside.exists()
    assert end(tmp_path / "cut") == end(tmp_path / "whole")


def test_a_changed_interval_resumes_and_a_broken_checkpoint_is_named(planted: Planted, tmp_path: Path) -> None:
    with pytest.raises(Cut), cut_at(6, every=1):
        model("plain").fit(planted.split, run=tmp_path / "run")
    inside = tmp_path / "run" / "checkpoint" / "within.safetensors"
    whole = inside.read_bytes()
    inside.write_bytes(whole[:100])
    with pytest.raises(lt.RunError, match=r"within.safetensors cannot be read .* delete it"):
        model("plain").fit(planted.split, run=tmp_path / "run", resume=True)
    inside.write_bytes(whole)
    changed = model("plain")
    train = changed.config.train.model_copy(update={"checkpoint_minutes": 0.5})
    changed.config = changed.config.model_copy(update={"train": train})
    changed.fit(planted.split, run=tmp_path / "run", resume=True)
