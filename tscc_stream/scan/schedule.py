"""Which task is next: of every line of tasks one at a time, the line with the most left first."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tscc_stream.scan.placement import Done, Task

ATTEMPTS = 3
"""Times that a task is given to a worker, if each dies of it."""


@dataclass(slots=True)
class _Line:
    tasks: Sequence[Task]
    next: int = 0
    attempts: int = 0

    @property
    def left(self) -> int:
        return len(self.tasks) - self.next


class Schedule:
    """Lines of tasks by name: in each, a task waits for the one before. stopped: lines that go no further, and why."""

    def __init__(self, lines: Mapping[str, Sequence[Task]]) -> None:
        self.stopped: dict[str, str] = {}
        self._lines = {name: _Line(tasks) for name, tasks in lines.items() if tasks}
        self._ready = [(-line.left, name) for name, line in self._lines.items()]
        heapq.heapify(self._ready)
        self._under_way: dict[Task, str] = {}

    @property
    def over(self) -> bool:
        """Nothing is left that can go on."""
        return not self._ready and not self._under_way

    def next(self) -> Task | None:
        """A task whose turn it is; None where all that is left waits for those under way."""
        if not self._ready:
            return None
        _, name = heapq.heappop(self._ready)
        line = self._lines[name]
        task = line.tasks[line.next]
        self._under_way[task] = name
        return task

    def hear(self, done: Done) -> None:
        """What became of a task."""
        name = self._under_way.pop(done.task)
        line = self._lines[name]
        line.attempts = line.attempts + 1 if done.lost else 0
        if not done.error:
            line.next += 1
        elif not done.lost or line.attempts >= ATTEMPTS:
            self.stopped[name] = f"{done.error}, {ATTEMPTS} times" if done.lost else done.error
            return
        if line.left:
            heapq.heappush(self._ready, (-line.left, name))
