"""Progress bars: on a terminal only, without colour where NO_COLOR is set; standard output stays as it is."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from in_time import PATIENCE_S

COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
SHOW = """
from tscc_stream import progress
with progress.bar("windows") as update:
    for number in range(5):
        update(number + 1, 5)
print("done")
"""


def in_a_terminal(code: str, **environment: str) -> tuple[bytes, bytes]:
    """What a terminal on standard error shows, and standard output."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(slave)
    shown = b""
    while part := _read(master):
        shown += part
    os.close(master)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    return shown, out


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_bar_on_a_terminal() -> None:
    shown, out = in_a_terminal(SHOW)
    assert b"windows" in shown
    assert b"100%" in shown
    assert COLOUR.search(shown)
    assert out == b"done\n"


def test_no_colour_where_none_is_wanted() -> None:
    shown, _ = in_a_terminal(SHOW, NO_COLOR="1")
    assert b"100%" in shown
    codes = {int(code or 0) for found in COLOUR.findall(shown) for code in found[2:-1].split(b";")}
    assert not any(30 <= code <= 49 or 90 <= code <= 107 for code in codes)


@pytest.mark.parametrize("force", [{}, {"FORCE_COLOR": "1"}])
def test_nothing_where_there_is_no_terminal(force: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, check=True, timeout=PATIENCE_S, env={**os.environ, **force}
    )
    assert (done.stdout, done.stderr) == (b"done\n", b"")
