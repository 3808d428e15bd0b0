"""What requests and answers of the server are; unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from longtail.rerank import Reranker

LONGEST_ID = 256
Id = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]
Value = str | int | bool
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
MAX_HISTORY, MAX_K, MAX_BATCH, MAX_TEXT, MAX_WIDTH = 2000, 500, 64, 20_000, 16_384


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Exploration(Body):
    """Chance in a list, of which every place's propensity is told."""

    policy: Literal["epsilon", "ucb"]
    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Asking(Body):
    """A user, known or by a history."""

    user: Id | None = None
    """A known user's id."""
    history: Annotated[list[Id], Field(min_length=1, max_length=MAX_HISTORY)] | None = None
    """Item ids, oldest first."""
    bundle: Id | None = None
    """Which of the served bundles answers; the first if not given."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.user is None) == (self.history is None):
            raise ValueError("give exactly one of user and history")
        return self


class Recommend(Asking):
    """POST /recommend."""

    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    where: Annotated[dict[str, Value | list[Value]], Field(max_length=16)] = {}
    """Item columns and the value, or values, that an item must have one of."""
    exclude: Annotated[list[Id], Field(max_length=MAX_HISTORY)] = []
    """Items that are not wanted, besides those of the history."""
    diversity: Share = 0.0
    reranker: Reranker = "mmr"
    exploration: Exploration | None = None
    calibration: Share = 0.0
    """How much the list shall have head and tail items in the history's shares."""
    tail: Share | None = None
    """The tail dial, from most accurate, 0, to most exposure for the tail, 1; the bundle's own if not given."""
    explain: bool = False

    @model_validator(mode="after")
    def _at_most_one_way(self) -> Self:
        if self.diversity and self.exploration:
            raise ValueError("diversity and exploration both choose the list; give one of them")
        if any(isinstance(values, list) and not values for values in self.where.values()):
            raise ValueError("a column in 'where' has no value; leave the column out")
        return self

    @property
    def plain(self) -> bool:
        """Whether the list is by score alone."""
        return not (self.diversity or self.exploration or self.calibration)

    def values(self) -> dict[str, list[str]]:
        """`where` as text."""
        listed = {column: one if isinstance(one, list) else [one] for column, one in self.where.items()}
        return {column: [str(value) for value in values] for column, values in listed.items()}


class RecommendBatch(Body):
    """POST /recommend/batch."""

    requests: Annotated[list[Recommend], Field(min_length=1, max_length=MAX_BATCH)]


class NewItem(Body):
    """POST /items: by a vector, by a text, or by title and columns, of which the text is made as in training."""

    item: Id
    title: Annotated[str, StringConstraints(max_length=500)] = ""
    columns: Annotated[dict[Id, Annotated[str, StringConstraints(max_length=2000)]], Field(max_length=64)] = {}
    text: Annotated[str, StringConstraints(max_length=MAX_TEXT)] | None = None
    vector: Annotated[list[Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]],
                      Field(min_length=1, max_length=MAX_WIDTH)] | None = None  # fmt: skip
    bundle: Id | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.text is not None and self.vector is not None:
            raise ValueError("give text or vector, not both")
        if not (self.vector or (self.text or "").strip() or self.title.strip() or self.columns):
            raise ValueError("give a text, a vector, or a title or columns to make a text of")
        return self


class Events(Body):
    """POST /events."""

    user: Id
    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_HISTORY)]
    bundle: Id | None = None


class Explain(Asking):
    """POST /explain."""

    item: Id
    tail: Share | None = None


class CarriedBy(Body):
    """An item of the history, and its share of the score."""

    item: str
    title: str
    share: float


class Reasons(Body):
    """collaborative + semantic + content = total, the item's score."""

    collaborative: float
    semantic: float
    content: float
    total: float
    carried: list[CarriedBy]
    similar_users: list[str]
    sentence: str


class RankedItem(Body):
    """One place of a list."""

    item: str
    rank: int
    title: str
    score: float
    tail: bool
    count: int
    propensity: float | None = None
    reasons: Reasons | None = None


class Recommended(Body):
    """The answer to POST /recommend."""

    bundle: str
    user: str | None
    known_user: bool
    items: list[RankedItem]
    took_ms: float


class RecommendedBatch(Body):
    """The answers to POST /recommend/batch, in order; an error stands where one failed."""

    results: list[Recommended | Problem]


class Problem(Body):
    """What is wrong, the value, and the next step."""

    detail: str


class ItemFacts(Body):
    """An item."""

    item: str
    title: str
    count: int
    tail: bool
    columns: dict[str, str] | None = None
    similarity: float | None = None


class ItemList(Body):
    """Items found."""

    items: list[ItemFacts]


class SimilarUser(Body):
    """A user and the cosine of the user vectors."""

    user: str
    similarity: float


class UserList(Body):
    """Users found."""

    users: list[SimilarUser]


class Titled(Body):
    """An item of a history."""

    item: str
    title: str


class UserFacts(Body):
    """A user's history, oldest first."""

    user: str
    history: list[Titled]


class Accepted(Body):
    """The answer to POST /items."""

    item: str
    recommendable: bool


class Noted(Body):
    """The answer to POST /events: the user's history is so long now."""

    user: str
    length: int


class BundleFacts(Body):
    """A served bundle."""

    name: str
    items: int
    users: int
    method: str
    backbone: str
    dial: bool
    metrics: dict[str, float]
    columns: list[str]
    added: int
    text: str | None
    """The encoder that new items' texts are read by; None if new items cannot be added."""


class BundleList(Body):
    """All served bundles, the default one first."""

    bundles: list[BundleFacts]


class Health(Body):
    """GET /health and /ready."""

    status: str
