"""Where processes of this machine listen, from Linux's tables of sockets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def children(process: int) -> set[int]:
    """The process and all that came of it and live."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    known = {process}
    while more := {one for one, above in parents.items() if above in known} - known:
        known |= more
    return known


def listening(processes: Iterable[int]) -> set[str]:
    """The addresses, as the kernel writes them."""
    files = set()
    for process in processes:
        for path in Path(f"/proc/{process}/fd").glob("*"):
            try:
                files.add(str(path.readlink()))
            except OSError:  # closed
                continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in files:
                found.add(words[1].split(":")[0])
    return found
