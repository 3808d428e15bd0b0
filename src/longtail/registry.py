"""Names to plug-ins: a subclass registers itself, and is found by name once, at the edge."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from longtail.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Plug-ins of one kind. All modules of `package` are imported at the first look-up: adding one is adding a file."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._imported = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: enter a class under `name`."""

        def enter(entry: T) -> T:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """The plug-in of that name, or a ConfigError naming the nearest ones."""
        self._import_all()
        if name not in self._entries:
            raise ConfigError(
                f"unknown {self.kind} {name!r}{nearest(name, self._entries)}; known: {', '.join(self.names())}"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._import_all()
        return sorted(self._entries)

    def _import_all(self) -> None:
        if self._imported:
            return
        self._imported = True
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            importlib.import_module(f"{self.package}.{module.name}")


def nearest(name: str, names: object) -> str:
    """`, did you mean 'x'?` for the closest of `names`, or nothing.

    >>> nearest("sasrek", ["sasrec", "gru4rec"])
    ", did you mean 'sasrec'?"
    """
    found = difflib.get_close_matches(name, [str(known) for known in names], n=1)  # type: ignore[attr-defined]
    return f", did you mean {found[0]!r}?" if found else ""
