"""From `openai:MODEL`, `azure:DEPLOYMENT` or `http://HOST/v1#MODEL` and settings to where requests go."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from longtail.config import Config
from longtail.errors import ConfigError

PREFIXES = ("openai", "azure", "http", "https")
OPENAI = "https://api.openai.com/v1"
Header = Literal["authorization", "api-key"]
Kind = Literal["openai", "azure", "server"]


class HttpConfig(Config):
    """How a server is asked."""

    base_url: str | None = None
    """Of `openai:` and `azure:`; by OPENAI_BASE_URL and AZURE_OPENAI_ENDPOINT if not given."""
    key_env: str | None = None
    """The environment variable that holds the key; OPENAI_API_KEY of `openai:`, AZURE_OPENAI_API_KEY of `azure:`."""
    key_header: Header | None = None
    """The header that carries the key; api-key of `azure:`, else authorization."""
    api_version: str = "2024-10-21"
    """Of `azure:`."""
    identity: str | None = None
    """What vectors are cached under, instead of kind of server, model and dimensions. Set it where two servers have
    different weights under one name."""
    dimensions: PositiveInt | None = None
    """Width that the server shortens its vectors to; its own if not given."""
    window: PositiveInt | None = None
    """Tokens that the encoder reads of a text, if it is fewer than a history of titles has."""
    encoding: Literal["base64", "float"] = "base64"
    """How vectors travel; base64 is a quarter of the bytes."""
    batch_items: PositiveInt = 256
    """Texts a request."""
    batch_chars: PositiveInt = 200_000
    """Characters a request; OpenAI takes 300,000 tokens."""
    concurrency: PositiveInt = 8
    """Requests in flight."""
    timeout: PositiveFloat = 60.0
    """Seconds to wait for an answer."""
    tries: PositiveInt = 10
    """Tries of a request."""
    backoff: PositiveFloat = 0.5
    """Seconds before the second try; doubled from try to try, with jitter."""
    price: NonNegativeFloat | None = None
    """Dollars for a million tokens, where the table of prices does not know it."""
    answer_price: NonNegativeFloat | None = None
    """The same for tokens that a chat model writes."""


class Endpoint(NamedTuple):
    """A model on a server."""

    spec: str
    """As the user named it."""
    kind: Kind
    base: str
    model: str
    key_env: str | None
    key_header: Header
    query: tuple[tuple[str, str], ...] = ()


def endpoint(kind: str, rest: str, config: HttpConfig) -> Endpoint:
    """Where `kind:rest` is. A ConfigError tells a missing model or address, or one that holds a secret.

    The key of OpenAI goes to no other server than the one that `openai:` names: one's own needs `key_env`.
    """
    spec = f"{kind}:{rest}"
    if kind in {"http", "https"}:
        address, _, model = spec.partition("#")
        base = _checked(address)
        _named(spec, model, f"{kind}://HOST:PORT/v1#MODEL")
        return Endpoint(spec, "server", base, model, config.key_env, config.key_header or "authorization")
    _named(spec, rest, f"{kind}:MODEL")
    if kind == "azure":
        given = config.base_url or os.environ.get("AZURE_OPENAI_ENDPOINT", "")
        if not given:
            raise ConfigError(f"{spec} needs an address: set AZURE_OPENAI_ENDPOINT, or text.http.base_url")
        base, key = f"{_checked(given)}/openai/deployments/{rest}", config.key_env or "AZURE_OPENAI_API_KEY"
        query = (("api-version", config.api_version),)
        return Endpoint(spec, "azure", base, rest, key, config.key_header or "api-key", query)
    base = _checked(config.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)
    own: Kind = "openai" if urlsplit(base).hostname == urlsplit(OPENAI).hostname else "server"
    return Endpoint(spec, own, base, rest, config.key_env or "OPENAI_API_KEY", config.key_header or "authorization")


def _named(spec: str, model: str, form: str) -> None:
    if not model.strip():
        raise ConfigError(f"{spec!r} names no model; write it as {form}")


def _checked(base: str) -> str:
    """An address without the slash at its end."""
    try:
        parts = urlsplit(base)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{base!r} is no address of a server; write it as http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query:
        hidden = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        raise ConfigError(
            f"the address {hidden} comes with a name, a password or a query; addresses are stored with results, so put "
            "the key into an environment variable and name that in text.http.key_env"
        )
    return base.rstrip("/")
