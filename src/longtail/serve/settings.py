"""How a server is run."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from longtail.config import Config


class ServeConfig(Config):
    """Limits and addresses."""

    host: str = "127.0.0.1"
    """Where it listens; the machine itself alone, unless told otherwise."""
    port: NonNegativeInt = 8000
    """0 takes a free one."""
    concurrency: PositiveInt = 256
    """Requests in progress; more are refused with 429."""
    body: PositiveInt = 1 << 20
    """Bytes of a request's body."""
    patience: PositiveFloat = 10.0
    """Seconds that a body may take to come."""
    batch: PositiveInt = 32
    """Requests that are scored at once."""
    watch: PositiveFloat = 1.0
    """Seconds between looks at whether a bundle was replaced."""
