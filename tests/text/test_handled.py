"""The authors' folder `handled/`: ids, order and rows as their code takes them, and what does not fit is named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longtail.config import build
from longtail.data.dataset import Dataset
from longtail.errors import DataError, EmbeddingError, LongtailError
from longtail.pipeline import DataConfig, RunConfig, knowledge, open_data, prepare
from longtail.text.embeddings import Embeddings
from longtail.text.handled import is_handled, read_interactions, read_vectors

# user item, in time order inside a user; user 7 comes first and 2 is missing, item 4 occurs nowhere
LINES = ["7 3", "7 1", "7 5", "7 3", "1 2", "1 3", "1 5", "3 1", "3 2", "3 6"]
ORDER = [7, 1, 3]  # of first appearance
ITEMS = np.arange(6 * 4, dtype=np.float64).reshape(6, 4) / 3  # row k is item k + 1
USERS = -np.arange(3 * 5, dtype=np.float64).reshape(3, 5) - 1.0


def write(folder: Path, **files: object) -> Path:
    """A folder as the authors have it; files: name to lines, arrays or anything to pickle, None for no such file."""
    contents: dict[str, object] = {"inter": LINES, "itm_emb_np": ITEMS, "usr_emb_np": USERS, **files}
    folder.mkdir(parents=True)
    for name, value in contents.items():
        if name == "inter":
            assert isinstance(value, list)
            (folder / "inter.txt").write_text("".join(f"{line}\n" for line in value))
        elif value is not None:
            (folder / f"{name}.pkl").write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, 4))
    return folder


def test_histories_are_the_lines_in_their_order_and_ids_the_authors(tmp_path: Path) -> None:
    folder = write(tmp_path / "yelp" / "handled")
    assert is_handled(folder) and not is_handled(tmp_path)
    data = read_interactions(folder)
    assert data.name == "yelp" and data.users.ids.to_list() == [1, 3, 7] and data.items.ids.to_list() == [1, 2, 3, 5, 6]
    for user, name in enumerate([1, 3, 7], start=1):
        wanted = [int(line.split()[1]) for line in LINES if line.split()[0] == str(name)]
        assert data.items.external(data.histories().of(user)).to_list() == wanted


def test_rows_of_items_follow_ids_and_rows_of_users_their_first_appearance(tmp_path: Path) -> None:
    folder = write(tmp_path / "handled")
    data = read_interactions(folder)
    items, users = read_vectors(folder, data)
    assert items.ids.equals(data.items.ids) and users.ids.equals(data.users.ids)
    for row, item in enumerate(items.ids.to_list()):
        np.testing.assert_array_equal(items.vectors[row], ITEMS[item - 1].astype(np.float32))
    for row, user in enumerate(users.ids.to_list()):
        np.testing.assert_array_equal(users.vectors[row], USERS[ORDER.index(user)].astype(np.float32))


def test_the_folder_is_prepared_and_its_vectors_serve_a_fit(tmp_path: Path) -> None:
    folder, out = write(tmp_path / "handled"), tmp_path / "prepared"
    made = prepare(DataConfig(interactions=str(folder)), out)
    assert any("text.user_model" in note for note in made.notes)
    assert Dataset.load(out).hash == made.hash == open_data(DataConfig(interactions=str(folder))).hash
    settings = {
        "data": {"interactions": str(out)},
        "method": {"name": "llmesr"},
        "text": {"model": f"file:{out / 'embeddings' / 'items'}", "user_model": f"file:{out / 'embeddings' / 'users'}"},
    }
    items, users = knowledge(build(RunConfig, settings), made, made.leave_one_out())
    for found, wanted in zip((items, users), read_vectors(folder, made), strict=True):
        np.testing.assert_array_equal(found.vectors, wanted.vectors)
        assert found.provenance.identity == wanted.provenance.identity


def test_a_filter_takes_vectors_along_by_id(tmp_path: Path) -> None:
    folder, out = write(tmp_path / "handled"), tmp_path / "prepared"
    made = prepare(DataConfig(interactions=str(folder), min_user=4), out)
    assert made.users.ids.to_list() == [7]
    kept = Embeddings.load(out / "embeddings" / "users")
    assert kept.ids.to_list() == [7]
    np.testing.assert_array_equal(kept.vectors[0], USERS[0].astype(np.float32))


@pytest.mark.parametrize(
    "line", ["7", "7 3 9", "7,3", "seven 3", "7 0", "0 3", "-7 3", "7 3.0", "7 99999999999999999999"]
)
def test_a_line_that_is_no_pair_of_ids_is_shown_with_its_number(line: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "handled", inter=["1 2", "", line, "1 1"])
    with pytest.raises(DataError, match=r"inter\.txt: line 3 is ") as error:
        read_interactions(folder)
    assert repr(line) in str(error.value)


def test_an_empty_file_of_interactions_is_refused_and_blank_lines_are_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is empty"):
        read_interactions(write(tmp_path / "none", inter=["", " "]))
    assert read_interactions(write(tmp_path / "some", inter=["", "1\t2", " 1 1 ", ""])).interactions.height == 2
    (tmp_path / "some" / "inter.txt").write_bytes(b"1 2\n\xff\xfe 3\n")
    with pytest.raises(DataError, match="cannot read"):
        read_interactions(tmp_path / "some")


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"itm_emb_np": ITEMS[:5]}, r"itm_emb_np\.pkl has 5 rows.*: none for 6 of inter"),
        ({"usr_emb_np": USERS[:2]}, r"usr_emb_np\.pkl has 2 rows and inter\.txt 3 users"),
        ({"usr_emb_np": np.concatenate([USERS, USERS])}, r"usr_emb_np\.pkl has 6 rows"),
        ({"itm_emb_np": ITEMS[:, 0]}, r"float64 of shape \(6,\)"),
        ({"itm_emb_np": ITEMS[None]}, r"float64 of shape \(1, 6, 4\)"),
        ({"itm_emb_np": ITEMS[:, :0]}, r"float64 of shape \(6, 0\)"),
        ({"usr_emb_np": np.ones((3, 5), np.int64)}, r"int64 of shape \(3, 5\); it must be floating-point"),
        ({"usr_emb_np": np.where(USERS < -14, np.nan, USERS)}, "NaN or infinity: 3"),
        ({"itm_emb_np": ITEMS * 1e300}, "NaN or infinity: 1, 2, 3, 5, 6"),
        ({"itm_emb_np": None}, r"no file .*itm_emb_np\.pkl"),
        ({"usr_emb_np": pickle.dumps(USERS, 4)[:-9]}, r"usr_emb_np\.pkl is damaged"),
        ({"usr_emb_np": USERS.tolist()}, "a list, not an array"),
    ],
)
def test_files_that_do_not_belong_together_are_refused_and_nothing_is_written(
    files: dict[str, object], problem: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "handled", **files)
    with pytest.raises(LongtailError, match=problem) as error:
        prepare(DataConfig(interactions=str(folder)), tmp_path / "prepared")
    assert isinstance(error.value, (DataError, EmbeddingError))
    assert not (tmp_path / "prepared").exists()


class _Harm:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.marker}'",)


def test_a_harmful_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "handled", itm_emb_np=_Harm(tmp_path / "marker"))
    with pytest.raises(DataError, match=r"itm_emb_np\.pkl names \w+\.system"):
        prepare(DataConfig(interactions=str(folder)), tmp_path / "prepared")
    assert not (tmp_path / "marker").exists() and not (tmp_path / "prepared").exists()


def test_columns_are_refused_beside_the_folder(tmp_path: Path) -> None:
    folder, table = write(tmp_path / "handled"), tmp_path / "items.csv"
    pl.DataFrame({"item_id": [1]}).write_csv(table)
    with pytest.raises(DataError, match="leave user out"):
        open_data(DataConfig(interactions=str(folder), items=str(table), user="u"))
    with pytest.raises(DataError, match="choose another folder"):
        prepare(DataConfig(interactions=str(folder)), folder)
