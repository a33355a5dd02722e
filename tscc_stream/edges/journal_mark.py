"""The mark beside the journal, by which a copy that was put in the journal's place is told from the journal itself.

A copy would give out numbers a second time, with other contents: it must become another epoch. The mark says which
journal stood here and how far it had come, and it is written again after every commit, so that a journal that is behind
it, or of another epoch, is a copy. It also says when it was written, which is when the file system saw its last change
(ctime, which no program can set): where the two differ, the mark itself was copied, and the journal with it.

Whoever changes the mark's owner or mode makes it look like a copy; a volume or a virtual machine that is set back as a
whole does not (docs/decisions/0014).
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tscc_stream.edges.journal_schema import flush
from tscc_stream.stages.journal import JournalError

_BYTES = 256  # less than a sector: a write of it is whole or not there
_NS = 1_000_000_000
SAME_BOOT_NS = 2 * _NS  # between a look at the clock and the write
OTHER_BOOT_NS = 300 * _NS  # after a loss of power, content and time of change may be of different flushes to the disk
CHECKPOINT_NS = 60 * _NS  # the journal is written that much later than its log, at most
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Mark(msgspec.Struct, frozen=True):
    """epoch, head: of the journal, whose head was at least that. boot: of the machine; written_ns: wall time."""

    epoch: str
    head: int
    boot: str
    written_ns: int


@dataclass(frozen=True, slots=True)
class Found:
    """A mark as it stands on the disk. changed_ns: when the file system saw its last change; boot: of this moment."""

    mark: Mark
    changed_ns: int
    boot: str


def why_another(found: Found | None, epoch: str, head: int) -> str:
    """Why a journal of this epoch and head is not the one that the mark is of; empty: it is."""
    if found is None:
        return "its mark is missing or cannot be read"
    mark = found.mark
    if mark.epoch != epoch:
        return f"its mark is of epoch {mark.epoch}"
    if mark.head > head:
        return f"it ends at seq {head}, and its mark says that it had reached {mark.head}"
    tolerance_ns = SAME_BOOT_NS if mark.boot and mark.boot == found.boot else OTHER_BOOT_NS
    if abs(found.changed_ns - mark.written_ns) > tolerance_ns:
        return "its mark was copied, or changed from outside"
    return ""


class MarkFile:
    """`look`, then `begin`, then `note` after every commit, then `close`."""

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(f"{journal.name}.mark")
        self._fd = -1
        self._epoch = ""
        self._boot = _boot()

    def look(self) -> Found | None:
        """The mark that is there, if one is, and is one. Raises OSError where it is there and cannot be read."""
        try:
            content, changed_ns = self.path.read_bytes(), self.path.stat().st_ctime_ns
            return Found(msgspec.json.decode(content, type=Mark), changed_ns, self._boot)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def begin(self, epoch: str, head: int) -> None:
        """Put a mark in the place of the one that was there; it is on the disk on return. Raises OSError."""
        self.close()
        self._epoch = epoch
        fresh = self.path.with_name(f".{self.path.name}")
        self._fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.pwrite(self._fd, self._content(head), 0)
        os.fsync(self._fd)
        fresh.replace(self.path)
        self._write(head)  # renaming changed its ctime
        os.fsync(self._fd)
        flush(self.path.parent)

    def note(self, head: int) -> None:
        """The journal has come so far. A mark that lags is good for less, and no reason to stop: no error."""
        with suppress(OSError):
            self._write(head)

    def _write(self, head: int) -> None:
        os.pwrite(self._fd, self._content(head), 0)

    def _content(self, head: int) -> bytes:
        mark = Mark(self._epoch, head, self._boot, time.time_ns())
        return msgspec.json.encode(mark).ljust(_BYTES - 1) + b"\n"

    def close(self) -> None:
        """Any number of times."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # as in `note`
                os.fsync(fd)
            os.close(fd)


def check_log(journal: Path) -> None:
    """Refuse a journal that was put in the place of one whose write-ahead log is still there. Raises JournalError.

    SQLite would write the pages of that log into it. A journal is never written much later than its log and its mark.
    """
    log = journal.with_name(f"{journal.name}-wal")
    mark = journal.with_name(f"{journal.name}.mark")
    if not (log.exists() and log.stat().st_size):
        return
    if not (journal.exists() and journal.stat().st_size):  # SQLite would remove the log
        raise JournalError(
            f"journal {journal}: is missing or empty, and {log.name}, which holds its last messages, is there: "
            "put the journal back, or move that file away as well"
        )
    last_ns = max(path.stat().st_ctime_ns for path in (log, mark) if path.exists())
    if journal.stat().st_ctime_ns > last_ns + CHECKPOINT_NS:
        raise JournalError(
            f"journal {journal}: was put here after {log.name} was last written, which seems to belong to the file "
            f"before it: move {log.name} and {journal.name}-shm away, and start again"
        )


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""
