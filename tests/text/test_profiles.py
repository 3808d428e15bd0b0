"""Profiles that a chat model writes, from a real server through the cache to vectors and tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from longtail.errors import ConfigError, EmbeddingError
from longtail.text.chat import Chat, ChatConfig
from longtail.text.embed import embed_users, made_so
from longtail.text.endpoints import HttpConfig
from longtail.text.profiles import ProfileConfig, Writer

from .server import Served, serving
from .test_cache import Hashing
from .test_embed import dataset

TITLES: dict[str, str | None] = {"a": "apple", "b": "bowl", "c": "cup", "d": "dish", "z": None}


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as made:
        yield made


def writer(served: Served, cache: Path, budget: float | None = None, **settings: object) -> Writer:
    http = HttpConfig.model_validate({"backoff": 0.01, "timeout": 20.0, **settings})
    return Writer(Chat(f"{served.url}#tiny-chat", http), "item-profile", cache, budget)


def test_items_get_a_column_of_profiles_written_once(served: Served, tmp_path: Path) -> None:
    served.faults.extend(["500", "truncated"])
    data = dataset(TITLES)
    made = writer(served, tmp_path / "c").items(data)
    prompt = "This is an item of a catalogue: apple. In at most three sentences"
    asked = next(text for text in served.paid if text.startswith(prompt))
    assert made.text["profile"].to_list()[0] == f"Likes what {len(asked)} characters say."
    assert made.text["profile"].null_count() == 1 and made.hash != data.hash
    assert served.bodies[0]["max_tokens"] == 200 and served.bodies[0]["temperature"] == 0.0
    again = writer(served, tmp_path / "c").items(data)
    assert again.text.equals(made.text) and set(served.paid.values()) == {1} and len(served.paid) == 4
    with pytest.raises(ConfigError, match="have a column 'profile' already"):
        writer(served, tmp_path / "c").items(made)


def test_users_vectors_are_those_of_their_profiles_and_the_provenance_tells(served: Served, tmp_path: Path) -> None:
    data, encoder = dataset(TITLES), Hashing()
    config = ProfileConfig(model=f"{served.url}#tiny-chat")
    chat = Writer.of(config, cache=tmp_path / "c")
    assert chat is not None and Writer.of(ProfileConfig()) is None
    train = data.leave_one_out().train
    users = embed_users(train, data.text, data.users, encoder, cache=tmp_path / "c", data_hash="h", profiles=chat)
    replies = {f"Likes what {len(prompt)} characters say." for prompt in served.paid}
    assert {text for chunk in encoder.asked for text in chunk} == replies
    assert any("apple; bowl" in prompt for prompt in served.paid)
    expected = [encoder.vector(f"Likes what {len(prompt)} characters say.") for prompt in served.paid]
    assert np.isin(users.vectors[:3], np.stack(expected)).all() and users.without_text == ["u4"]
    assert users.provenance.template == f"user-profile by {served.url}#tiny-chat"
    assert made_so(users, "h", encoder, "user", "user", chat) and not made_so(users, "h", encoder, "user", "user")
    longer = Writer(Chat(str(config.model), config=ChatConfig(max_tokens=300)), "user-profile", tmp_path / "c")
    assert not made_so(users, "h", encoder, "user", "user", longer)


def test_profiles_are_estimated_and_a_budget_holds(served: Served, tmp_path: Path) -> None:
    data = dataset(TITLES)
    costly = writer(served, tmp_path / "c", budget=0.01, price=10.0, answer_price=20.0)
    estimate = costly.estimate_items(data)
    assert (
        estimate.texts == estimate.requests == 4 and 0.016 < estimate.dollars < 0.03
    )  # 4 replies of 200 tokens at $20
    with pytest.raises(EmbeddingError, match=r"profiles of items with .*more than the budget of \$0.0100"):
        costly.items(data)
    assert not served.paths
    writer(served, tmp_path / "c").items(data)
    assert costly.estimate_items(data).dollars == 0 and costly.items(data).text["profile"].null_count() == 1


def test_an_empty_reply_and_a_model_that_is_no_server_are_refused(served: Served, tmp_path: Path) -> None:
    served.faults.append("empty")
    with pytest.raises(EmbeddingError, match=r"wrote nothing for 'This is an item.*raise chat.max_tokens"):
        writer(served, tmp_path / "c", concurrency=1).items(dataset(TITLES))
    with pytest.raises(ConfigError, match="'minilm' is no chat model on a server"):
        Chat("minilm")
