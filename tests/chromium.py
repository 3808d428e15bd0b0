"""The browser that pages are tested in: where it is, and for `make test` (`python -m tests.chromium`) how to get one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "/usr/bin/chromium")
MISSING = "no Chromium that runs: install the system's, or do `.venv/bin/playwright install --with-deps chromium`"
CONNECT, PATIENCE = 5000, 120  # milliseconds for a connection, seconds for the whole download


@cache
def executable() -> str | None:
    """The system's Chromium, else playwright's own, else None."""
    system = next(filter(None, map(shutil.which, NAMES)), None)
    if system is not None:
        return system
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() and _runs(own) else None


def _runs(path: str) -> bool:
    """Whether the system has the libraries that it needs."""
    return subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False).returncode == 0


def get() -> None:
    """Try to download playwright's own, quietly; soon over where there is no network."""
    command = [sys.executable, "-m", "playwright", "install", "--no-shell", "chromium"]
    environment = {**os.environ, "PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": str(CONNECT)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    ) as process:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started too
    executable.cache_clear()


if __name__ == "__main__":
    if executable() is None:
        get()
    if executable() is None:
        print(f"{MISSING}; until then tests of pages are skipped", file=sys.stderr)  # noqa: T201
