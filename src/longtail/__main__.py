"""The `longtail` command. `serve` is begun without the rest, which imports torch: a server needs none."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command."""
    if sys.argv[1:2] == ["serve"]:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read once, by numpy's import: cores are for requests
        os.environ.setdefault("POLARS_MAX_THREADS", "1")
        from longtail.cli_serve import main as begin
    else:
        from longtail.cli import main as begin
    begin()


if __name__ == "__main__":
    main()
