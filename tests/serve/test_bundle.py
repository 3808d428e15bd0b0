"""What is no bundle, or not the one that was written, is refused with what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from longtail.errors import BundleError
from longtail.serve.arrays import Ids, Strings, map_arrays
from longtail.serve.bundle import open_bundle
from longtail.serve.manifest import facts_of


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle to spoil."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def _edit(folder: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    facts = json.loads((folder / "manifest.json").read_text())
    change(facts)
    (folder / "manifest.json").write_text(json.dumps(facts))


def _relist(folder: Path, name: str) -> None:
    """Make the manifest agree with a changed file, so that only its contents are wrong."""
    _edit(folder, lambda facts: facts["files"].update({name: facts_of(folder / name).model_dump()}))


def _arrays(folder: Path, name: str, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    arrays = load_file(folder / name)
    change(arrays)
    save_file(arrays, folder / name)
    _relist(folder, name)


def test_a_truncated_file_is_refused(copy: Path) -> None:
    with (copy / "items.safetensors").open("r+b") as opened:
        opened.truncate(1000)
    with pytest.raises(BundleError, match=r"items.safetensors has 1,000 bytes, not .*truncated"):
        open_bundle(copy)


def test_a_changed_byte_is_refused(copy: Path) -> None:
    data = bytearray((copy / "encoder.onnx").read_bytes())
    data[100] ^= 1
    (copy / "encoder.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"encoder.onnx has SHA-256 .*changed"):
        open_bundle(copy)


def test_a_newer_format_is_refused(copy: Path) -> None:
    _edit(copy, lambda facts: facts.update(format=2, something="new"))
    with pytest.raises(BundleError, match="has format 2, this longtail reads 1; upgrade"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".hidden", "manifest.json", ""])
def test_a_name_that_leads_elsewhere_is_refused(copy: Path, name: str) -> None:
    _edit(copy, lambda facts: facts["files"].update({name: facts["files"]["encoder.onnx"]}))
    with pytest.raises(BundleError, match="no plain name"):
        open_bundle(copy)


def test_a_link_is_refused(copy: Path) -> None:
    (copy / "encoder.onnx").rename(copy.parent / "elsewhere")
    (copy / "encoder.onnx").symlink_to(copy.parent / "elsewhere")
    with pytest.raises(BundleError, match="no plain file"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda facts: facts.pop("items"), "items: Field required"),
        (lambda facts: facts.update(more=1), "more: Extra inputs"),
        (lambda facts: facts.update(name="../x"), "name: String should match"),
        (lambda facts: facts["files"].pop("items.safetensors"), "does not list items.safetensors"),
        (lambda facts: facts.update(items=7), "not int32 of|not float32 of|not int64 of"),
        (lambda facts: facts.update(semantic=[0, 999]), "semantic columns"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy: Path, change: Callable[[dict], None], told: str) -> None:  # type: ignore[type-arg]
    _edit(copy, change)
    with pytest.raises(BundleError, match=told):
        open_bundle(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": null}', "\x00\xff"])
def test_what_is_no_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError):
        open_bundle(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(copy)


def test_numbers_that_point_beyond_the_catalogue_are_refused(copy: Path) -> None:
    _arrays(copy, "users.safetensors", lambda arrays: arrays["items"].__setitem__(0, 21))
    with pytest.raises(BundleError, match=r"beyond 1..20"):
        open_bundle(copy)
    _arrays(copy, "users.safetensors", lambda arrays: arrays["items"].__setitem__(0, 1))
    _arrays(copy, "items.safetensors", lambda arrays: arrays["text.ids"].__setitem__((3, 0), -1))
    with pytest.raises(BundleError, match=r"'text.ids' of the bundle has numbers beyond 0..20"):
        open_bundle(copy)


def test_an_encoder_that_is_no_model_is_refused(copy: Path) -> None:
    from longtail.serve.runtime import Runtime

    (copy / "encoder.onnx").write_bytes(b"nothing")
    _relist(copy, "encoder.onnx")
    with pytest.raises(BundleError, match="encoder cannot be loaded"):
        Runtime(open_bundle(copy))


@pytest.mark.parametrize("length", [2**62, 0, 4])
def test_a_header_that_lies_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "x").write_bytes(length.to_bytes(8, "little") + b"{}{}")
    with pytest.raises(BundleError, match="corrupt"):
        map_arrays(tmp_path / "x")


def test_ids_are_found_by_their_text_whatever_the_order() -> None:
    names = ["b", "a", "ä", "10", "9", "", "a b"]
    ids = Ids.of(names)
    assert [ids.find(name) for name in names] == list(range(1, 8))
    assert [ids.find(name) for name in ("c", "A", "1", "é")] == [0] * 4
    assert [ids[place] for place in range(1, 8)] == names
    assert list(Strings.of(names)) == names


def test_mapped_arrays_are_those_that_were_saved(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.zeros((0, 4), np.float16), "c": np.array([True])}
    save_file(arrays, tmp_path / "x")
    found = map_arrays(tmp_path / "x")
    assert found.keys() == arrays.keys()
    assert all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in arrays.items()
    )
