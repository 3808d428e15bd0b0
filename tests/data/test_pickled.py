"""Pickled arrays are read as numpy would read them, and nothing else of a pickle is ever run."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from longtail.data.pickled import read_array
from longtail.errors import DataError

ARRAY = np.arange(6, dtype=np.float64).reshape(2, 3) / 7
KINDS = [np.dtype(code) for code in ("<f2", "<f4", "<f8", ">f8", "i1", "<i4", "<i8", ">i2", "u1", "<u8")]


def _older(data: bytes) -> bytes:
    """The pickle (protocol 4 or 5, small) as numpy before 2.0 wrote it: "numpy.core" for "numpy._core"."""
    assert data[2:3] == b"\x95"  # one frame, and its length
    for name in (b"multiarray", b"numeric"):
        new, old = (b"numpy." + part + b"." + name for part in (b"_core", b"core"))
        data = data.replace(bytes([len(new)]) + new, bytes([len(old)]) + old)
    return data[:3] + (len(data) - 11).to_bytes(8, "little") + data[11:]


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS).flatmap(lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=0, max_dims=3))),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
    st.booleans(),
)
def test_an_array_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, array, protocol: int, columns: bool
) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("pickles") / "array.pkl"
    path.write_bytes(pickle.dumps(np.asfortranarray(array) if columns and array.ndim else array, protocol))
    found = read_array(path)
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("protocol", [4, 5])
def test_both_spellings_of_numpys_names_are_read(protocol: int, tmp_path: Path) -> None:
    new = pickle.dumps(ARRAY, protocol)
    old = _older(new)
    assert b"numpy._core" in new and b"numpy._core" not in old and b"numpy.core" in old
    for name, data in (("new", new), ("old", old)):
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(read_array(tmp_path / name), ARRAY)


class _Calls:
    """Pickles as a call of `function`; any ordinary reader makes it."""

    def __init__(self, function: Callable[..., object], *given: object) -> None:
        self.call = function, given

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _state_of(array: np.ndarray, inner: object) -> tuple[object, ...]:
    rebuild, given, state = array.__reduce__()
    return rebuild, given, (*state[:-1], inner)


class _ArrayAround:
    """Pickles as an array whose bytes are made by a call."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __reduce__(self) -> tuple[object, ...]:
        return _state_of(ARRAY, self.inner)


def _harm(marker: Path) -> dict[str, tuple[object, str]]:
    """Objects that would write `marker` (or read a file) when unpickled, and what the error must name."""
    touch = f"touch '{marker}'"
    opens = f"open({str(marker)!r}, 'w').write('x')"
    return {
        "os.system": (_Calls(os.system, touch), ".system"),
        "eval": (_Calls(eval, opens), ".eval"),
        "exec": (_Calls(exec, opens), ".exec"),
        "subprocess": (_Calls(subprocess.check_call, ["touch", str(marker)]), ".check_call"),
        "getattr": (_Calls(getattr, "text", "upper"), ".getattr"),
        "in a list": ([1, {"a": _Calls(os.system, touch)}], ".system"),
        "in an array's bytes": (_ArrayAround(_Calls(os.system, touch)), ".system"),
        "argument of a call": (_Calls(np.dtype, _Calls(eval, opens)), ".eval"),
        "numpy's own": (_Calls(np.fromfile, str(marker)), "fromfile"),
        "a scalar": (np.float64(1.0), "scalar"),
        "objects": (np.array([_Calls(os.system, touch)], dtype=object), ".system"),
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", _harm(Path("marker")))
def test_a_pickle_that_calls_anything_is_refused_and_nothing_is_called(
    kind: str, protocol: int, tmp_path: Path
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "vectors.pkl"
    harmful, named = _harm(marker)[kind]
    path.write_bytes(pickle.dumps(harmful, protocol))
    with pytest.raises(DataError, match=r"nothing of it was run") as error:
        read_array(path)
    assert named in str(error.value) and str(path) in str(error.value)
    assert not marker.exists()


def test_the_harmful_pickles_are_harmful(tmp_path: Path) -> None:
    """Else the test above would show nothing: an ordinary reader does run them."""
    for kind in ("os.system", "eval", "in an array's bytes"):
        marker = tmp_path / kind.replace(" ", "_").replace("'", "")
        data = pickle.dumps(_harm(marker)[kind][0])
        with suppress(TypeError, ValueError):  # what os.system returned is no array's bytes
            pickle.loads(data)
        assert marker.exists(), kind


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x80\x02cnumpy\nndarray.tofile\n.", "numpy.ndarray.tofile"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),
        (b"c_codecs\nencode\n(Vx\nVbase64\ntR.", "encode"),
        (b"ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
        (b"cnumpy.core._core.multiarray\n_reconstruct\n.", "numpy.core._core"),
        (b"\x80\x02\x82\x01.", "damaged"),  # an extension
        (b"Pid\n.", "damaged"),  # a persistent id
        (b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.", "damaged"),  # a state for a name
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "damaged"),  # a name taken for a class
        (b"cnumpy\ndtype\n((ltR.", "a Kind, not an array"),  # dtype([])
        (b"cnumpy._core.multiarray\n_reconstruct\n(tR.", "without its numbers"),
        (b"cnumpy._core.multiarray\n_reconstruct\n(tRI5\nb.", "damaged"),
        (b"cnumpy._core.numeric\n_frombuffer\n(C\x00(l(lVC\ntR.", "not of numbers"),
        (b"", "damaged"),
        (b"PK\x03\x04", "damaged"),
        (b"\x80\x09.", "damaged"),
    ],
)
def test_hand_made_pickles_are_refused(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.pkl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=problem):
        read_array(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_file_cut_short_anywhere_is_refused(protocol: int, tmp_path: Path) -> None:
    whole, path = pickle.dumps(ARRAY, protocol), tmp_path / "vectors.pkl"
    for stop in range(len(whole)):
        path.write_bytes(whole[:stop])
        with pytest.raises(DataError, match=r"vectors\.pkl"):
            read_array(path)


@settings(max_examples=300)
@given(st.integers(0, pickle.HIGHEST_PROTOCOL), st.data())
def test_a_damaged_file_is_an_array_or_an_error_that_names_it(
    tmp_path_factory: pytest.TempPathFactory, protocol: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    broken = bytearray(pickle.dumps(ARRAY, protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(broken))
    try:
        assert isinstance(read_array(path), np.ndarray)
    except DataError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([[1.0, 2.0]], "a list, not an array"),
        ({"a": 1}, "a dict, not an array"),
        (np.dtype("f8"), "not an array"),
        (np.array([[1.0], "x"], dtype=object), "'O8', not of numbers"),
        (np.array(["a", "b"]), "'U1', not of numbers"),
        (np.array([1j]), "'c16', not of numbers"),
        (np.array([True]), "'b1', not of numbers"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "not of numbers"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(value: object, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.pkl"
    path.write_bytes(pickle.dumps(value, 4))
    with pytest.raises(DataError, match=problem):
        read_array(path)


def test_a_shape_that_the_numbers_do_not_fill_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.pkl"
    rebuild, given, (version, _, kind, columns, raw) = ARRAY.__reduce__()
    for shape in ((2, 4), (3,), (-2, -3), (2, 3.0), "23", (2**40, 2**40)):
        lie = _Calls(rebuild, *given)
        lie.__class__ = type(
            "_Lie", (_Calls,), {"__reduce__": lambda self, s=shape: (rebuild, given, (version, s, kind, columns, raw))}
        )
        path.write_bytes(pickle.dumps(lie, 4))
        with pytest.raises(DataError, match="do not fill the shape"):
            read_array(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*gone\.pkl"):
        read_array(tmp_path / "gone.pkl")
    with pytest.raises(DataError, match="cannot read"):
        read_array(tmp_path)
