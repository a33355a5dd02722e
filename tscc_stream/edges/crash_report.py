"""What a process that crashes says last: where its threads were, in a file for the next start to read.

Python's faulthandler writes it from the signal handler of SIGSEGV, SIGABRT, SIGBUS, SIGFPE and SIGILL. A process that
is ended from outside by SIGKILL writes nothing, and by that the two are told apart.
"""

from __future__ import annotations

import faulthandler
from pathlib import Path
from typing import IO

_MOST_BYTES = 65_536
_open: list[IO[bytes]] = []  # the handler writes to the file's number: it must not be closed, and given to another


def last(path: Path) -> str:
    """What the process before this one left; empty where it did not crash."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def begin(path: Path) -> None:
    """From now on a crash is reported here; what was there is gone. Raises OSError."""
    file = path.open("wb", buffering=0)
    faulthandler.enable(file, all_threads=True)
    _open.append(file)
