"""A real server in a process of its own, for tests that kill it or crowd it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(bundle: Path, state: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`longtail serve` and its port, once it listens; killed at the end."""
    command = [sys.executable, "-m", "longtail", "serve", str(bundle), "--port", "0", "--state", str(state), *options]
    environment = {key: value for key, value in os.environ.items() if key != "LONGTAIL_API_KEY"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving"), line
        yield process, int(line.rstrip("/\n").rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
