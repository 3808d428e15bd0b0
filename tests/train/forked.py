"""`python -m longtail` in child processes that the test kills: a line of arguments starts one, its pid is answered.

The children are forked, so that many of them import the packages once.
"""

from __future__ import annotations

import json
import os
import runpy
import sys

import longtail.recommender  # noqa: F401 -- imported once, here


def tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.dup2(2, 1)
            sys.argv = ["longtail", *json.loads(line)]
            runpy.run_module("longtail", run_name="__main__")
            os._exit(0)
        tell(child)
        _, status = os.waitpid(child, 0)
        tell(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
