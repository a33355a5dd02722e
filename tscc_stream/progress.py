"""Progress bars of long work: on standard error, and only where that is a terminal.

Colours as the terminal has them; none where NO_COLOR is set (https://no-color.org).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Update = Callable[[float, float], None]
"""Told how much is done, of how much in all."""


@contextmanager
def bar(text: str) -> Iterator[Update]:
    """A bar that shows what it is told; nothing where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console  # noqa: PLC0415  # loaded where it is needed
    from rich.progress import Progress  # noqa: PLC0415  # loaded where it is needed

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def silent(_done: float, _total: float) -> None:
    """An Update that nobody sees."""
