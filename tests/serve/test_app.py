"""The HTTP interface: what it answers, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import longtail as lt
from longtail.serve.app import Hosts, create_app
from longtail.serve.export import export
from longtail.serve.settings import ServeConfig
from tests.conftest import Planted
from tests.serve.conftest import fitted

VECTOR = [0.1 * at for at in range(12)]


@pytest.fixture
def client(bundle: Path, tmp_path: Path) -> Iterator[TestClient]:
    """A server of the small bundle."""
    config = ServeConfig(body=20_000, watch=0.1)
    with TestClient(create_app(Hosts([bundle], tmp_path / "state", config), config)) as made:
        yield made


def test_it_recommends_what_the_model_does(client: TestClient, trained: lt.Recommender) -> None:
    found = client.post("/recommend", json={"user": "u007", "k": 4}).json()
    expected = trained.recommend(users=["u007"], k=4)
    assert [row["item"] for row in found["items"]] == expected["item"].to_list()
    assert [row["rank"] for row in found["items"]] == [1, 2, 3, 4]
    assert found["user"] == "u007" and found["known_user"] and found["bundle"] == "small" and found["took_ms"] > 0
    assert found["items"][0].keys() == {"item", "rank", "title", "score", "tail", "count"}
    assert found["items"][0]["title"].startswith("Thing ")


def test_a_batch_is_answered_in_order_with_errors_in_their_places(client: TestClient) -> None:
    asked = [{"user": "u001"}, {"user": "nobody"}, {"history": ["i00", "i02"], "k": 2, "explain": True}]
    one, two, three = client.post("/recommend/batch", json={"requests": asked}).json()["results"]
    assert len(one["items"]) == 10 and "unknown user 'nobody'" in two["detail"]
    assert three["items"][0]["reasons"]["total"] == pytest.approx(three["items"][0]["score"], abs=1e-4)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"user": "u001", "history": ["i00"]}, 422, "exactly one"),
        ({}, 422, "exactly one"),
        ({"history": []}, 422, "at least 1"),
        ({"history": ["nope"]}, 422, "unknown item 'nope'"),
        ({"user": "nobody"}, 404, "unknown user 'nobody'"),
        ({"user": "u001", "k": 0}, 422, "k: "),
        ({"user": "u001", "k": 10**9}, 422, "k: "),
        ({"user": "u001", "kk": 1}, 422, "kk: "),
        ({"user": "u001", "diversity": 2}, 422, "diversity: "),
        ({"user": "u001", "bundle": "other"}, 404, "no bundle 'other'"),
        ({"user": "u001", "where": {"colour": "red"}}, 422, "no column 'colour'"),
        ({"user": "u001", "diversity": 0.5, "exploration": {"policy": "ucb"}}, 422, "one of them"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    client: TestClient, body: dict[str, object], status: int, told: str
) -> None:
    found = client.post("/recommend", json=body)
    assert found.status_code == status and told in found.json()["detail"]


def test_bodies_that_are_no_json_or_too_large_are_refused(client: TestClient) -> None:
    assert client.post("/recommend", content=b"{").status_code == 422
    found = client.post("/recommend", json={"history": ["i00"] * 1900, "exclude": ["x" * 200] * 200})
    assert found.status_code == 413 and "20,000 bytes" in found.json()["detail"]

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    assert client.post("/recommend", content=endless()).status_code == 413


def test_items_and_users_can_be_looked_up(client: TestClient) -> None:
    assert client.get("/items", params={"search": "thing 13"}).json()["items"][0]["item"] == "i13"
    assert client.get("/items", params={"search": "i07"}).json()["items"][0]["item"] == "i07"
    assert client.get("/items", params={"search": "", "k": 3}).json() == {"items": []}
    assert client.get("/items/i03").json()["title"] == "Thing 3"
    assert client.get("/items/none").status_code == 404
    similar = client.get("/items/i03/similar", params={"k": 5}).json()["items"]
    assert len(similar) == 5 and all(-1.001 <= row["similarity"] <= 1.001 for row in similar)
    assert "i03" not in {row["item"] for row in similar}
    history = client.get("/users/u003").json()["history"]
    assert len(history) >= 4 and history[0]["title"].startswith("Thing")
    users = client.get("/users/u003/similar", params={"k": 4}).json()["users"]
    assert len(users) == 4 and "u003" not in {row["user"] for row in users}
    assert client.get("/users/none/similar").status_code == 404


def test_a_new_item_is_recommendable_at_once_and_a_retry_is_no_error(client: TestClient) -> None:
    asked = {"item": "new", "title": "A new thing", "vector": VECTOR}
    for _ in range(2):
        found = client.post("/items", json=asked)
        assert found.status_code == 201 and found.json() == {"item": "new", "recommendable": True}
    assert client.post("/items", json={**asked, "vector": VECTOR[::-1]}).status_code == 409
    assert client.post("/items", json={"item": "i00", "vector": VECTOR}).status_code == 409
    assert client.post("/items", json={"item": "n2", "vector": [1.0]}).status_code == 422
    assert "give a vector" in client.post("/items", json={"item": "n3", "text": "words"}).json()["detail"]
    assert client.get("/items/new").json()["tail"] is True
    listed = client.post("/recommend", json={"history": ["i00"], "k": 50}).json()["items"]
    assert "new" in {row["item"] for row in listed}
    assert client.post("/recommend", json={"history": ["new"]}).status_code == 200
    assert client.get("/items", params={"search": "new"}).json()["items"][0]["item"] == "new"
    assert client.get("/bundles").json()["bundles"][0]["added"] == 1


def test_events_make_a_history_that_is_recommended_from(client: TestClient) -> None:
    assert client.post("/events", json={"user": "stranger", "items": ["i00", "i02"]}).json()["length"] == 2
    found = client.post("/recommend", json={"user": "stranger", "k": 3}).json()
    bare = client.post("/recommend", json={"history": ["i00", "i02"], "k": 3}).json()
    assert found["items"] == bare["items"] and found["known_user"]
    length = len(client.get("/users/u001").json()["history"])
    assert client.post("/events", json={"user": "u001", "items": ["i00"]}).json()["length"] == length + 1
    assert client.post("/events", json={"user": "u001", "items": ["nope"]}).status_code == 422


def test_one_item_is_explained_by_post_and_get(client: TestClient) -> None:
    posted = client.post("/explain", json={"history": ["i00", "i02"], "item": "i04"}).json()
    got = client.get("/explain", params={"history": ["i00", "i02"], "item": "i04"}).json()
    assert posted == got and posted["carried"] and posted["collaborative"] + posted["semantic"] == posted["total"]
    assert client.get("/explain", params={"item": "i04"}).status_code == 422
    assert client.get("/explain", params={"user": "u001", "item": "none"}).status_code == 404


def test_exploration_is_logged_with_its_propensities(client: TestClient, tmp_path: Path) -> None:
    asked = {"user": "u001", "k": 3, "exploration": {"policy": "epsilon", "strength": 0.3, "seed": 1}}
    found = client.post("/recommend", json=asked).json()
    (line,) = (tmp_path / "state" / "small.exposures.jsonl").read_text().splitlines()
    assert str(found["items"][0]["item"]) in line and '"propensities"' in line


def test_metrics_count_requests_by_route(client: TestClient) -> None:
    client.get("/items/i03")
    client.get("/items/i04")
    client.get("/nowhere")
    found = client.get("/metrics").text
    assert 'longtail_requests_total{method="GET",route="/items/{item}",status="200"} 2' in found
    assert 'route="other",status="404"} 1' in found and 'longtail_items{bundle="small"} 20' in found


def test_more_requests_than_allowed_are_refused(bundle: Path, tmp_path: Path) -> None:
    config = ServeConfig(concurrency=1)
    hosts = Hosts([bundle], tmp_path / "state", config)
    with TestClient(create_app(hosts, config)) as client:
        hosts.metrics.active = 1
        found = client.post("/recommend", json={"user": "u001"})
        assert found.status_code == 429 and found.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        hosts.metrics.active = 0
        assert client.post("/recommend", json={"user": "u001"}).status_code == 200


def test_a_key_is_asked_of_all_but_health_and_the_page(bundle: Path, tmp_path: Path) -> None:
    config = ServeConfig()
    with TestClient(create_app(Hosts([bundle], tmp_path / "state", config), config, key="sesame")) as client:
        assert client.get("/health").status_code == 200
        for path in ("/bundles", "/metrics", "/openapi.json", "/items/i00"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"X-API-Key": "wrong"}).status_code == 401
            assert client.get(path, headers={"X-API-Key": "sesame"}).status_code == 200
            assert client.get(path, headers={"Authorization": "Bearer sesame"}).status_code == 200


def test_two_bundles_answer_by_name_and_a_method_without_a_dial_refuses_one(
    bundle: Path, planted: Planted, tmp_path: Path
) -> None:
    fitted(planted, "llmesr", "gru4rec").save(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "other", items=planted.items, name="other")
    config = ServeConfig()
    with TestClient(create_app(Hosts([bundle, tmp_path / "other"], tmp_path / "state", config), config)) as client:
        listed = client.get("/bundles").json()["bundles"]
        assert [(one["name"], one["dial"]) for one in listed] == [("small", True), ("other", False)]
        assert client.post("/recommend", json={"user": "u001", "bundle": "other"}).json()["bundle"] == "other"
        found = client.post("/recommend", json={"user": "u001", "bundle": "other", "tail": 0.5})
        assert found.status_code == 422 and "no tail dial" in found.json()["detail"]


def test_a_replaced_bundle_answers_and_a_malformed_one_does_not(
    bundle: Path, run: Path, planted: Planted, tmp_path: Path
) -> None:
    import time

    served = tmp_path / "served"
    shutil.copytree(bundle, served)
    config = ServeConfig(watch=0.05)
    hosts = Hosts([served], tmp_path / "state", config)
    with TestClient(create_app(hosts, config)) as client:
        assert client.post("/items", json={"item": "new", "vector": VECTOR}).status_code == 201
        before = next(iter(hosts.hosts.values())).live
        export(run, served, items=planted.items, users=False, name="small", replace=True)
        deadline = time.monotonic() + 20
        while hosts.hosts["small"].live is before and time.monotonic() < deadline:
            assert client.post("/recommend", json={"history": ["i00"]}).status_code == 200
        assert client.get("/bundles").json()["bundles"][0]["users"] == 0
        assert client.get("/items/new").status_code == 200
        (served / "manifest.json").write_text("{}")
        while "bundle_refusals" not in client.get("/metrics").text and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.post("/recommend", json={"history": ["i00"]}).status_code == 200
        assert "longtail_bundle_refusals_total 1" in client.get("/metrics").text
