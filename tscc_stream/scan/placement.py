"""Where the work of a scan is done: what every placement takes and gives."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tscc_stream.edges.archive import ArchiveError
from tscc_stream.package import PackageError
from tscc_stream.scan import index, part
from tscc_stream.scan.encoders import EncoderLostError, EncoderOf, encoder_of
from tscc_stream.scan.job import stored_job
from tscc_stream.scan.layout import Layout, ScanError
from tscc_stream.scan.part import Tools

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""What will go wrong for every other task as well."""


@dataclass(frozen=True, slots=True)
class Task:
    """A batch of files to be indexed (name: its digest), or a part of a chain (name: the chain's).

    Everything else that it takes is in the scan's folder, which whoever does it must see under the same path.
    """

    kind: Literal["index", "part"]
    name: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """A task that is over. error: one sentence, empty where it is done. lost: whoever did it died; it may be tried
    again. fatal: so would all others fail.
    """

    task: Task
    error: str = ""
    lost: bool = False
    fatal: bool = False


class Placement(Protocol):
    """Takes tasks, in whatever order they come, and says what became of each."""

    @property
    def room(self) -> int:
        """How many more tasks it takes now."""
        ...

    def submit(self, task: Task) -> None:
        """Begin a task. There must be room."""
        ...

    def wait(self, seconds: float) -> list[Done]:
        """Tasks that are over by now; waits for the first of them, at most so long."""
        ...

    def close(self) -> None:
        """Nothing more will be asked. What is under way may be left undone."""
        ...


class Hand:
    """What a worker does, wherever it is. folder: of the scan; encoder_of: makes the encoder, once it is needed."""

    def __init__(self, folder: Path, encoder_of: EncoderOf = encoder_of) -> None:
        self._layout, self._encoder_of = Layout(folder), encoder_of
        self._tools: Tools | None = None

    def carry_out(self, task: Task, alive: part.Alive = part.always) -> Done:
        """What became of a task. alive: called now and then; what it raises, or its ending the process, ends the
        work.
        """
        try:
            self._carried_out(task, alive)
        except EncoderLostError as error:
            return Done(task, str(error), lost=True)
        except (ScanError, PackageError) as error:
            return Done(task, str(error), fatal=True)
        except ArchiveError as error:  # of one file: others can be scanned
            return Done(task, index.printable(str(error)), fatal=task.kind == "index")
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            return Done(task, f"{place}{error.strerror or error}", fatal=error.errno in _DISK)
        except Exception as error:  # noqa: BLE001  # told to people: this chain fails, others go on
            return Done(task, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return Done(task)

    def _carried_out(self, task: Task, alive: part.Alive) -> None:
        if task.kind == "index":
            index.run(self._layout, task.name, stored_job(self._layout).part_ns)
            return
        self._tools = self._tools or Tools.of(self._layout, self._encoder_of)
        part.run(self._tools, task.name, task.number, alive)
