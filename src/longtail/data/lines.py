"""Lines of raw files, plain, gzip or zstd, a block at a time; a line that cannot be read is told with its number."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from longtail.errors import DataError

R = TypeVar("R")
OnBad: TypeAlias = Literal["error", "skip"]
Watch: TypeAlias = Callable[[Path, int, int], None]  # a file, how many of its bytes are read, how many it has
BLOCK = 1 << 18  # bytes read at once, which gzip makes a thousand times as many at most
LONGEST = 1 << 24  # bytes of a line; what is longer is no line, and would fill the memory
ROWS = 50_000  # handed on together
SHOWN = 60  # characters of a bad line in a message
NAMED = 5  # bad lines of a file that a note names
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class LineError(Exception):
    """Why a line cannot be used."""


class Decoder(Protocol):
    """What zlib and zstandard decompress with."""

    @property
    def unused_data(self) -> bytes:
        """What came after the end of the compressed piece."""

    @property
    def eof(self) -> bool:
        """Whether the end of the piece is reached."""

    def decompress(self, data: bytes, /) -> bytes:
        """What the next compressed bytes hold."""


@dataclass
class Reader:
    """Reads the files of one data set, and remembers what it left out.

    bad_lines: whether a line that cannot be read is an error or is skipped and counted. watch: told of each block.
    """

    bad_lines: OnBad = "error"
    watch: Watch | None = None
    left_out: dict[Path, list[str]] = field(default_factory=dict)

    def rows(self, path: Path, parse: Callable[[str], R | None], encoding: str = "utf-8") -> Iterator[list[R]]:
        """What `parse` makes of the lines of a file, many at a time, without the lines of which it makes None.

        Blank lines are passed over. `parse` raises a LineError for a line that it cannot read; a DataError tells the
        first one with its number, or, with bad_lines "skip", `notes` tells how many there were.
        """
        made: list[R] = []
        number = 0
        try:
            for number, raw in enumerate(self._lines(path), start=1):
                row = self._parsed(path, number, raw, parse, encoding)
                if row is not None:
                    made.append(row)
                    if len(made) == ROWS:
                        yield made
                        made = []
        except _DamagedError as error:
            self._meet(
                path, number + 1, f"is damaged ({error}): it and what follows cannot be read; get the file again"
            )
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror}); check the file and its permissions") from None
        if made:
            yield made

    def first(self, path: Path) -> str:
        """The first line, such as a header; '' if the file is empty. A DataError if it cannot be read."""
        try:
            return next(self._lines(path), b"").decode("utf-8-sig").strip("\r\n")
        except (OSError, UnicodeDecodeError, _DamagedError) as error:
            raise DataError(f"cannot read the first line of {path} ({error}); check the file") from None

    def _parsed(self, path: Path, number: int, raw: bytes, parse: Callable[[str], R | None], encoding: str) -> R | None:
        if len(raw) > LONGEST:
            self._meet(path, number, f"is longer than {LONGEST >> 20} MB; check that the file has lines")
            return None
        try:
            line = raw.decode(encoding).strip("\r\n")
            if number == 1:
                line = line.removeprefix("\ufeff")
            return parse(line) if line.strip() else None
        except UnicodeDecodeError:
            self._meet(path, number, f"is {_shown(raw)}: cannot read it as {encoding}")
        except LineError as error:
            self._meet(path, number, f"is {_shown(raw.decode(encoding).strip())}: {error}")
        return None

    def _meet(self, path: Path, number: int, problem: str) -> None:
        if self.bad_lines == "error":
            raise DataError(f"{path}: line {number:,} {problem}; or skip such lines, with --bad-lines skip")
        self.left_out.setdefault(path, []).append(f"line {number:,} {problem}" if self._few(path) else "")

    def _few(self, path: Path) -> bool:
        return len(self.left_out.get(path, ())) < NAMED

    def notes(self) -> tuple[str, ...]:
        """How many lines were skipped in each file, and which the first ones are."""
        return tuple(
            f"{path}: {len(lines):,} {'lines' if len(lines) > 1 else 'line'} could not be read and "
            f"{'are' if len(lines) > 1 else 'is'} left out: {'; '.join(lines[:NAMED])}{'; …' if lines[NAMED:] else ''}"
            for path, lines in self.left_out.items()
        )

    def _lines(self, path: Path) -> Iterator[bytes]:
        """Each line without its end; of one that is too long so much that this can be seen."""
        rest = b""
        for block in self._blocks(path):
            first, *others = block.split(b"\n")
            if len(rest) <= LONGEST:
                rest += first
            if others:
                yield rest
                yield from others[:-1]
                rest = others[-1]
        if rest:
            yield rest

    def _blocks(self, path: Path) -> Iterator[bytes]:
        """The file's contents; how it is compressed is seen from its first bytes, not from its name."""
        total = path.stat().st_size
        with path.open("rb") as file:
            codec = _codec(path, file.read(len(ZSTD)))
            file.seek(0)
            for block in _decompressed(file, codec) if codec else iter(lambda: file.read(BLOCK), b""):
                yield block
                if self.watch is not None:
                    self.watch(path, file.tell(), total)


class _DamagedError(Exception):
    """Compressed data that is none, or that ends too early."""


class _Codec(NamedTuple):
    """How to decompress, and what is raised by data that is damaged."""

    make: Callable[[], Decoder]
    error: type[Exception]


def _shown(raw: bytes | str) -> str:
    return repr(raw) if len(raw) <= SHOWN else f"{raw[:SHOWN]!r}…"


def _codec(path: Path, start: bytes) -> _Codec | None:
    """What decompresses a file that starts so; None for a plain one."""
    if start.startswith(GZIP):
        return _Codec(lambda: zlib.decompressobj(wbits=31), zlib.error)
    if not start.startswith(ZSTD):
        return None
    try:
        import zstandard
    except ImportError:
        raise DataError(f"{path} is compressed by zstd; pip install 'longtail[zstd]', or decompress it") from None
    return _Codec(lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError)


def _decompressed(file: IO[bytes], codec: _Codec) -> Iterator[bytes]:
    """The contents of compressed pieces, one after the other, as parallel compressors write them."""
    decoder = codec.make()
    try:
        while raw := file.read(BLOCK):
            while raw:
                if decoder.eof:
                    raw = raw.lstrip(b"\0")  # gzip may pad
                    if not raw:
                        break
                    decoder = codec.make()
                yield decoder.decompress(raw)
                raw = decoder.unused_data if decoder.eof else b""
    except codec.error as error:
        raise _DamagedError(str(error)) from None
    if not decoder.eof:
        raise _DamagedError("it ends too early")
