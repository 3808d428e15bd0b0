"""The errors a user can mend; each message says what is wrong, shows the value and names the next step."""

from __future__ import annotations


class LongtailError(Exception):
    """Base of every error that the user can mend. The command line prints it and exits with code 2."""


class DataError(LongtailError):
    """Tables, columns or ids that cannot be used as they are."""


class ConfigError(LongtailError):
    """An unknown key, an impossible value or a name that is not registered."""


class EmbeddingError(LongtailError):
    """Vectors that are missing, of the wrong width, or not finite; a text encoder that cannot be loaded."""


class RunError(LongtailError):
    """A run folder that is missing, corrupt, unfinished or written by a newer version."""


class BundleError(LongtailError):
    """A bundle, or what is kept beside it, that is missing, corrupt, or written by a newer version."""


class ClusterError(LongtailError):
    """A cluster that cannot be reached, or whose workers keep dying."""


def some(values: object, limit: int = 5) -> str:
    """The first few of `values` for a message: `'a', 'b', … (7 in all)`.

    >>> some(["a", "b"])
    "'a', 'b'"
    >>> some(range(7), limit=2)
    '0, 1, … (7 in all)'
    """
    listed = list(values)  # type: ignore[call-overload]
    shown = ", ".join(repr(value) for value in listed[:limit])
    return shown if len(listed) <= limit else f"{shown}, … ({len(listed):,} in all)"
