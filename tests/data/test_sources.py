"""Raw files of every source give the same canonical tables, and what cannot be used is named."""

from __future__ import annotations

import gzip
import shutil
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import zstandard

from longtail.data.dataset import Dataset
from longtail.data.leaks import counts_the_future
from longtail.data.lines import Reader
from longtail.data.opening import DataConfig, open_data
from longtail.data.sources.base import read_source, recognised, sources, split_spec
from longtail.errors import ConfigError, DataError

SAMPLES = Path(__file__).parent / "samples"
FOLDERS = {  # of the samples, and the source of each
    "amazon2014": "amazon2014",
    "amazon2018": "amazon2018",
    "amazon2023": "amazon2023",
    "yelp": "yelp",
    "yelp2013": "yelp",
    "yelp_mixed": "yelp",
    "movielens100k": "movielens",
    "movielens1m": "movielens",
    "movielens_latest": "movielens",
    "recbole": "recbole",
}


def read(folder: str, *keep: str) -> Dataset:
    """The data set of a folder of samples."""
    return read_source(FOLDERS[folder], SAMPLES / folder, keep=keep)


def copy(folder: str, to: Path) -> Path:
    """The samples of a source, to be spoilt."""
    return Path(shutil.copytree(SAMPLES / folder, to / folder))


def history(data: Dataset, user: str | int) -> list[tuple[str | int, str]]:
    """What a user did, with times."""
    (internal,) = data.users.internal([user])
    rows = data.interactions.filter(pl.col("user") == internal)
    items = data.items.external(rows["item"].to_numpy()).to_list()
    return [
        (item, f"{datetime.fromtimestamp(t, UTC):%Y-%m-%d %H:%M}")
        for item, t in zip(items, rows["timestamp"], strict=True)
    ]


def row(data: Dataset, item: str | int) -> dict[str, object]:
    """What is known of an item."""
    (internal,) = data.items.internal([item])
    found: dict[str, object] = data.text.row(int(internal) - 1, named=True)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_source_gives_users_items_times_and_titles_and_is_recognised(folder: str) -> None:
    assert recognised(SAMPLES / folder) == [FOLDERS[folder]]
    data = open_data(DataConfig(interactions=str(SAMPLES / folder)))
    assert (len(data.users), data.interactions.height) == (8, 31)
    assert data.interactions.columns == ["user", "item", "timestamp"]
    assert (
        data.interactions["timestamp"].is_between(500_000_000, 1_700_000_000).all()
    )  # seconds, whatever the source has
    assert data.text["title"].null_count() <= 1
    assert not [column for column in data.text.columns if counts_the_future(column)]
    assert any("is recognised: read as" in note for note in data.notes)


def test_amazon_2014_reads_its_literals() -> None:
    data = read("amazon2014", "rating", "text")
    assert history(data, "A1XMPL11")[0] == ("B00SMPL000", "2011-03-19 07:06")
    assert data.interactions["rating"].to_list()[:3] == [3.0, 2.0, 2.0]
    assert data.interactions["text"][0] == "Review by 0 of 0: it does what it says & smells nice."
    assert row(data, "B00SMPL000") == {
        "title": "Lavender Hand Soap, 8 oz",
        "brand": "Meadow & Co",
        "price": "4.50",
        "categories": ["Beauty", "Bath & Body", "Cleansers", "Soaps", "Gift Sets"],
        "features": None,
        "description": ['Lavender Hand Soap, 8 oz: made up for a test. It\'s "hand-made" and café-tested.'],
    }
    assert row(data, "B00SMPL004")["title"] is None and row(data, "B00SMPL001")["brand"] is None
    assert any("1 of 11 items" in note and "occur in no interaction" in note for note in data.notes)


def test_amazon_2018_loses_its_markup_and_keeps_the_first_of_repeated_rows() -> None:
    data = read("amazon2018")
    assert row(data, "B00SMPL000") == {
        "title": "Lavender Hand Soap, 8 oz",
        "brand": "Meadow & Co",
        "price": "$4.99",
        "categories": ["Beauty", "Bath & Body", "Cleansers", "Soaps"],
        "features": ["Vegan", "Made by hand"],
        "description": ["Lavender Hand Soap, 8 oz", "made up & tested twice"],
    }
    assert row(data, "B00SMPL002")["categories"] == ["Beauty", "Tools & Accessories", "Shaving"]
    assert row(data, "B00SMPL005")["brand"] == "Old Quay"
    assert row(data, "B00SMPL006")["title"] is None  # a script of the page
    assert row(data, "B00SMPL007")["price"] is None  # a style sheet
    assert row(data, "B00SMPL009")["price"] == "$3.99 - $12.50"
    assert any("1 rows of" in note and "its first row is kept" in note for note in data.notes)


def test_amazon_2023_takes_variants_as_one_and_milliseconds_as_seconds() -> None:
    data = read("amazon2023", "text")
    assert data.items.ids.to_list() == [f"B00SMPL00{n}" for n in range(8)]
    assert history(data, "AEA2XMPL22")[0][1].startswith("2020-")
    assert data.interactions["text"][0].endswith("Again!") and "<" not in data.interactions["text"][0]
    assert row(data, "B00SMPL000")["categories"] == ["All Beauty"]  # it has no other
    assert row(data, "B00SMPL001")["price"] == "6.00" and row(data, "B00SMPL006")["price"] is None


def test_yelp_of_today_and_of_2013_and_in_one_file_tell_the_same() -> None:
    today, before, mixed = (read(folder, "rating") for folder in ("yelp", "yelp2013", "yelp_mixed"))
    assert [item for item, _ in history(today, today.users.ids[0])] == [
        item for item, _ in history(before, before.users.ids[0])
    ]
    assert before.hash == mixed.hash
    found = row(today, today.items.ids[0])
    assert found["title"] == "Desert Bean Coffee" and found["categories"] == ["Coffee & Tea", "Food"]
    assert found["city"] == "Phoenix" and row(today, today.items.ids[4])["categories"] is None
    for data in (today, before):
        assert not {"stars", "review_count", "is_open", "open"} & set(data.text.columns)
    assert row(before, before.items.ids[1])["neighborhoods"] == ["Arcadia"]


def test_movielens_reads_all_three_layouts_alike() -> None:
    first, million, latest = (read(folder, "rating") for folder in ("movielens100k", "movielens1m", "movielens_latest"))
    assert history(first, 1) == history(million, 1) == history(latest, 1)
    for data in (first, million, latest):
        assert row(data, 3) == {"title": "Été à Lyon", "year": "1988", "categories": ["Drama"]}
        assert row(data, 4) == {"title": "Rocket, Away!", "year": "1999", "categories": ["Action", "Sci-Fi"]}
        assert row(data, 5) == {"title": "Silent Orchard", "year": None, "categories": None}
    assert first.text.equals(million.text)
    assert (latest.interactions["rating"] - first.interactions["rating"]).unique().to_list() == [0.5]


def test_recbole_takes_types_from_the_header() -> None:
    data = read("recbole", "rating")
    assert data.items.ids[0] == "001" and data.interactions["rating"].dtype == pl.Float64
    assert row(data, "006") == {
        "title": "Twelve Bridges", "release_year": "2004", "class": "Adventure Children Comedy", "price": 14.5,
    }  # fmt: skip
    assert row(data, "003")["price"] is None


def test_recbole_without_items_or_times_is_read_in_the_order_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\nu\tb\nu\ta\nu\tc\n")
    data = open_data(DataConfig(interactions=str(tmp_path)))
    assert data.items.external(data.histories().of(1)).to_list() == ["b", "a", "c"]
    assert any("no item table" in note for note in data.notes)
    (tmp_path / "x.inter").write_text("user_id\titem_id\nu\tb\n")
    with pytest.raises(DataError, match=r"x\.inter: line 1 is .*no header of RecBole's.*user_id:token"):
        open_data(DataConfig(interactions=f"recbole:{tmp_path}"))


def test_the_authors_folder_is_a_source() -> None:
    data = open_data(DataConfig(interactions=str(SAMPLES / "llmesr" / "handled")))
    assert data.name == "llmesr" and data.users.ids.to_list() == list(range(1, 9))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("folder", ["amazon2014", "amazon2023", "yelp", "movielens1m", "recbole"])
def test_compressed_files_are_read_as_they_are(tmp_path: Path, folder: str, ending: str) -> None:
    for path in copy(folder, tmp_path).iterdir():
        raw = path.read_bytes()
        half = len(raw) // 2  # in two pieces, as parallel compressors write them
        press = gzip.compress if ending == ".gz" else zstandard.compress
        path.with_name(path.name + ending).write_bytes(press(raw[:half]) + press(raw[half:]))
        path.unlink()
    assert read_source(FOLDERS[folder], tmp_path / folder).hash == read(folder).hash


def test_a_file_names_its_data_set_and_several_in_a_folder_are_told_apart(tmp_path: Path) -> None:
    folder = copy("amazon2014", tmp_path)
    for path in list(folder.iterdir()):
        shutil.copy(path, path.with_name(path.name.replace("Sample", "Other")))
    with pytest.raises(DataError, match=r"several data sets of amazon2014: name one of .*reviews_Other\.json"):
        open_data(DataConfig(interactions=str(folder)))
    data = open_data(DataConfig(interactions=f"amazon2014:{folder / 'reviews_Other.json'}"))
    assert data.name == "Other" and data.hash == read("amazon2014").hash


@pytest.mark.parametrize(
    ("folder", "companion", "page"),
    [
        ("amazon2014", "meta_Sample.json", "cseweb"),
        ("amazon2018", "meta_Sample.json", "amazon_v2"),
        ("amazon2023", "meta_Sample.jsonl", "amazon-reviews-2023"),
        ("yelp", "yelp_academic_dataset_business.json", "yelp.com"),
        ("movielens1m", "movies.dat", "grouplens"),
    ],
)
def test_a_missing_companion_is_told_with_its_name_and_what_to_do(
    tmp_path: Path, folder: str, companion: str, page: str
) -> None:
    place = copy(folder, tmp_path)
    (place / companion).unlink()
    spec = f"{FOLDERS[folder]}:{place}"
    with pytest.raises(DataError, match=rf"{companion} is not there.*{page}.*--items none"):
        open_data(DataConfig(interactions=spec))
    bare = open_data(DataConfig(interactions=spec, items="none"))
    assert bare.text.width == 0 and bare.interactions.equals(read(folder).interactions)
    titles = pl.DataFrame({"id": bare.items.ids, "title": "own"})
    titles.write_csv(tmp_path / "own.csv")
    assert open_data(DataConfig(interactions=spec, items=str(tmp_path / "own.csv"))).text[
        "title"
    ].unique().to_list() == ["own"]


def test_what_does_not_fit_a_source_is_refused(tmp_path: Path) -> None:
    cases = {
        "yelp:nowhere": "nowhere does not exist",
        f"yelp:{SAMPLES / 'recbole'}": "holds no yelp data: yelp_academic_dataset_review",
        str(SAMPLES): "neither a folder that 'longtail prepare' wrote .* nor complete raw data",
    }
    for spec, message in cases.items():
        with pytest.raises(DataError, match=message):
            open_data(DataConfig(interactions=spec))
    with pytest.raises(DataError, match="leave timestamp, user out"):
        open_data(DataConfig(interactions=f"yelp:{SAMPLES / 'yelp'}", user="u", timestamp="t"))
    with pytest.raises(DataError, match="keep: a source has no 'stars'; it may have 'rating', 'text'"):
        read("yelp", "stars")
    with pytest.raises(DataError, match="has no 'text'; leave it out"):
        read("movielens1m", "text")
    with pytest.raises(ConfigError, match="did you mean 'yelp'"):
        sources.get("yelpp")
    with pytest.raises(DataError, match="is a table, which is read whole"):
        open_data(DataConfig(interactions=str(SAMPLES / "movielens_latest" / "ratings.csv"), bad_lines="skip"))
    both = tmp_path / "both"
    for folder in ("yelp", "movielens1m"):
        shutil.copytree(SAMPLES / folder, both, dirs_exist_ok=True)
    with pytest.raises(DataError, match="could be movielens or yelp; say which, as in movielens:"):
        open_data(DataConfig(interactions=str(both)))
    (both / "yelp_academic_dataset_business.json").write_text('{"business_id": "x", "name": "y"}\n')
    with pytest.raises(DataError, match="has none of the items of the interactions"):
        read_source("yelp", both)


def test_a_table_can_keep_columns_of_its_interactions(tmp_path: Path) -> None:
    log = pl.DataFrame(
        {
            "user": ["b", "a", "a"],
            "item": ["x", "y", "x"],
            "timestamp": [1, 9, 2],
            "stars": [3, 5, 1],
            "why": list("pqr"),
        }
    )
    log.write_csv(tmp_path / "log.csv")
    data = open_data(DataConfig(interactions=str(tmp_path / "log.csv"), keep=("stars", "why")))
    assert data.interactions["stars"].to_list() == [1, 5, 3] and data.interactions["why"].to_list() == list("rqp")
    data.save(tmp_path / "saved")
    assert Dataset.load(tmp_path / "saved").interactions.equals(data.interactions)
    assert data.filter(min_user=2).interactions["why"].to_list() == ["r", "q"]
    with pytest.raises(DataError, match=r"has no column 'star', did you mean 'stars'\?"):
        Dataset.read(log, keep=("star",))


def test_progress_is_told_by_bytes(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    read_source(
        "yelp", SAMPLES / "yelp", reader=Reader(watch=lambda path, done, total: told.append((path.name, done, total)))
    )
    assert {name for name, _, _ in told} == {path.name for path in (SAMPLES / "yelp").iterdir()}
    assert all(done == total == (SAMPLES / "yelp" / name).stat().st_size for name, done, total in told)


def test_a_path_with_a_colon_is_no_source() -> None:
    assert split_spec("C:/raw") == (None, "C:/raw") and split_spec("yelp:raw") == ("yelp", "raw")
