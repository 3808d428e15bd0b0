"""How the texts of a run become vectors: its settings, what they make, and whether stored vectors are just that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self, TypeAlias

from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from longtail.config import Config
from longtail.data.dataset import Dataset
from longtail.data.split import Split
from longtail.text.embed import (
    embed_further,
    embed_items,
    embed_users,
    encoder_for,
    estimate_items,
    estimate_replies,
    estimate_users,
    made_so,
)
from longtail.text.embedders.base import Embedder
from longtail.text.embedders.http import configured
from longtail.text.embeddings import Embeddings
from longtail.text.endpoints import HttpConfig
from longtail.text.estimates import Estimate
from longtail.text.media import ViewConfig
from longtail.text.pooled import pool_users
from longtail.text.profiles import ProfileConfig, Writer
from longtail.text.reviews import ReviewsConfig, with_reviews
from longtail.text.transform import parse_step

Over: TypeAlias = Callable[[str | Embedder], str | Embedder]


class TextConfig(Config):
    """How texts become vectors."""

    model: str = "minilm"
    """The text encoder: minilm, lexical, m2v:NAME, st:NAME, hf:NAME, openai:NAME, http://HOST/v1#NAME, …
    (docs/embeddings.md), or file:PATH with vectors made elsewhere."""
    user_model: str | None = None
    """The encoder of users, if it is another one; with file:PATH vectors of items, give those of users here."""
    item_template: str = "generic"
    """The prompt made of an item's row."""
    user_template: str = "user"
    """The prompt made of a user's training history."""
    reviews: ReviewsConfig = ReviewsConfig()
    """What users wrote of an item in training, in its prompt."""
    users: Literal["prompts", "pooled"] = "prompts"
    """Vectors of users: of their prompts, or means of the vectors of their training items, which cost nothing."""
    pool_decay: float = Field(default=1.0, gt=0, le=1)
    """For pooled users: weight of an item for each one that came after it; 1 is the plain mean."""
    views: tuple[ViewConfig, ...] = ()
    """Further views of the items, such as images and sounds, joined with their texts for methods that read those."""

    transform: tuple[str, ...] = ()
    """Steps fitted on the items' vectors, e.g. ["center", "l2"]; users' vectors of the same model get them too."""
    http: HttpConfig = HttpConfig()
    """How a server is asked."""
    profiles: ProfileConfig = ProfileConfig()
    """A chat model that writes what the encoder reads of a user."""
    budget: NonNegativeFloat | None = 0.0
    """Dollars that a command may spend without asking on texts that the cache lacks."""

    @model_validator(mode="after")
    def _decay_is_of_pooled_users(self) -> Self:
        if self.users == "prompts" and self.pool_decay != 1.0:
            raise ValueError(f"text.pool_decay = {self.pool_decay:g} is read for text.users = 'pooled'; set both")
        return self

    @field_validator("transform")
    @classmethod
    def _known_steps(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        for step in steps:
            parse_step(step)
        return steps

    @property
    def shared(self) -> bool:
        """Whether items and users are embedded by the same model."""
        return self.user_model in {None, self.model}

    @property
    def models(self) -> tuple[str | Embedder, str | Embedder]:
        """The encoders of items and of users, those on servers with their settings."""
        return configured(self.model, self.http), configured(self.user_model or self.model, self.http)


def embed(
    data: Dataset, split: Split, config: TextConfig, users: bool = True, over: Over = lambda model: model
) -> tuple[Embeddings, Embeddings | None]:
    """Embeddings of the items' texts and, if wanted, of the users' training histories, through the cache.

    over: what is done to a text encoder before it is used, such as to spread it over a cluster.
    """
    told = with_reviews(data, split, config.reviews, config.item_template)
    model, template = over(config.models[0]), config.item_template
    items = embed_items(told, model, template, transform=config.transform, budget=config.budget)
    return items, _users(data, told, split, config, items, over) if users else None


def embed_more(
    stored: Embeddings, data: Dataset, split: Split, config: TextConfig, users: bool = True, encoder: str | None = None
) -> tuple[Embeddings, Embeddings | None]:
    """The same of data that came after the `stored` vectors of items, which stay: only new texts are embedded.

    encoder: where the one is that made them, if it was fitted to the texts of then.
    """
    fitted = stored.encoder if isinstance(stored.encoder, Embedder) else encoder
    items = embed_further(stored, data, fitted or config.models[0], config.item_template, budget=config.budget)
    return items, _users(data, data, split, config, items, fitted=fitted) if users else None


def _users(
    data: Dataset,
    told: Dataset,
    split: Split,
    config: TextConfig,
    items: Embeddings,
    over: Over = lambda model: model,
    fitted: str | Embedder | None = None,
) -> Embeddings:
    """Those of users: of their prompts, or pooled from `items`. told: `data` with what users wrote in its texts.

    fitted: the encoder of items and of users who share one, if it is not to be fitted to these texts.
    """
    trained_on = _trained_on(data, split)
    if config.users == "pooled":
        return pool_users(split.train, items, data.items, data.users, config.pool_decay, trained_on)
    return embed_users(
        split.train,
        told.text,
        data.users,
        fitted if fitted is not None and config.shared else over(config.models[1]),
        config.user_template,
        data_hash=trained_on,
        transform=items.transform if config.shared else None,
        item_template=config.item_template,
        budget=config.budget,
        profiles=Writer.of(config.profiles, config.budget),
    )


def estimates(data: Dataset, split: Split, config: TextConfig) -> list[Estimate]:
    """What `embed` would ask servers for, and what that would cost; nobody is asked."""
    told, (items, users) = with_reviews(data, split, config.reviews, config.item_template), config.models
    found = [estimate_items(told, items, config.item_template)]
    if config.users == "prompts":
        writer = Writer.of(config.profiles)
        if writer is None:
            found.append(estimate_users(split.train, told.text, users, config.user_template))
        else:
            found.append(written := writer.estimate_users(split.train, told.text))
            found.append(estimate_replies(users, written.texts, config.profiles.chat.max_tokens))
    return [one for one in found if one is not None]


def those_of(
    stored: tuple[Embeddings, Embeddings], data: Dataset, split: Split, config: TextConfig
) -> tuple[Embeddings, Embeddings] | None:
    """The stored vectors of items and users if `embed` would make just those; None if it would not."""
    items, users = stored
    told = with_reviews(data, split, config.reviews, config.item_template)
    of_items, of_users = (encoder_for(model, told.text, config.item_template) for model in config.models)
    same_steps = config.transform == (items.transform.steps if items.transform else ())
    if not same_steps or not made_so(items, told.hash, of_items, config.item_template, "item"):
        return None
    if config.users == "pooled":
        return items, _users(data, told, split, config, items)
    same_space = users.provenance.transform == (items.provenance.transform if config.shared else "")
    writer, trained_on = Writer.of(config.profiles), _trained_on(data, split)
    if same_space and made_so(users, trained_on, of_users, config.user_template, "user", writer):
        return items, users
    return None


def _trained_on(data: Dataset, split: Split) -> str:
    """For the provenance of users' vectors: vectors of another split's training histories may know the targets."""
    return f"{data.hash} {split.scheme}" if split.contexts else data.hash
