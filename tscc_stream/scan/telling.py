"""How far a scan is: a bar with throughput and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_SECONDS = 30.0
Tell = Callable[[float, float, str], None]
"""Told how much is done, of how much in all, in which unit."""


@contextmanager
def telling(text: str) -> Iterator[Tell]:
    """On standard error."""
    if sys.stderr.isatty():
        with _bar(text) as tell:
            yield tell
    else:
        yield _Lines(text).tell


@contextmanager
def _bar(text: str) -> Iterator[Tell]:
    from rich.console import Console  # noqa: PLC0415  # loaded where it is needed
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415  # slow to load

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[pace]}"))  # fmt: skip
    pace = Pace(time.monotonic)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(text, total=None, pace="")

        def tell(done: float, total: float, unit: str) -> None:
            progress.update(task, completed=done, total=total, pace=f"{pace.per_second(done):,.1f} {unit}/s")

        yield tell


class Pace:
    """How fast it goes since the first word, whatever was done before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def per_second(self, done: float) -> float:
        """On average."""
        now = self._clock()
        if self._first is None:
            self._first = now, done
        passed = now - self._first[0]
        return (done - self._first[1]) / passed if passed > 0.0 else 0.0


class _Lines:
    def __init__(self, text: str) -> None:
        self._text, self._pace = text, Pace(time.monotonic)
        self._next = time.monotonic() + EVERY_SECONDS

    def tell(self, done: float, total: float, unit: str) -> None:
        pace = self._pace.per_second(done)
        if time.monotonic() < self._next or not pace:
            return
        self._next = time.monotonic() + EVERY_SECONDS
        print(f"tscc-stream: {sentence(self._text, done, total, unit, pace)}", file=sys.stderr)  # noqa: T201 a command's own output


def sentence(text: str, done: float, total: float, unit: str, pace: float) -> str:
    """`scan: 120 of 2,400 channel-hours (5 %), 4.2 channel-hours/s, 9 min left`"""
    left = (total - done) / pace / 60.0
    share = 100.0 * done / total if total else 100.0
    minutes = f"{left:.0f} min" if left < 120.0 else f"{left / 60.0:.1f} h"
    return f"{text}: {done:,.0f} of {total:,.0f} {unit} ({share:.0f} %), {pace:,.1f} {unit}/s, {minutes} left"
