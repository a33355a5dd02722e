"""Where a subscriber stands, in a file that survives kill -9 and loss of power.

The file holds two places of one line each. Writes go to one of them, after every message, without waiting for the disk:
that is what a killed process leaves behind. Once in SYNC_SECONDS the disk is waited for, and from then on the other
place is written to, so that one of the two is always whole on the disk. Each line has a checksum; the newest whole one
counts. A full disk changes nothing, since the file never grows after its first line.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

SYNC_SECONDS = 1.0
_PLACE_BYTES = 512
_APART = 4096
"""So that the two never lie in one block of the disk."""


class PositionError(RuntimeError):
    """A position cannot be kept, and why, in one sentence."""


class Position(msgspec.Struct, frozen=True):
    """Everything up to seq `through` of the journal `epoch` was handled."""

    epoch: str
    through: int


class _Line(msgspec.Struct):
    epoch: str
    through: int
    written: int
    """How many lines were written before: the larger one is the newer."""
    crc: int = 0

    def signed(self) -> bytes:
        self.crc = 0
        self.crc = zlib.crc32(msgspec.json.encode(self))
        return msgspec.json.encode(self)


def _line_of(data: bytes) -> _Line | None:
    """The line of one place; None where it is not whole."""
    try:
        line = msgspec.json.decode(data.strip(b" \n\0"), type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    crc = line.crc
    line.signed()
    return line if line.crc == crc else None


@dataclass(frozen=True, slots=True)
class _Found:
    handle: int
    empty: bool
    lines: tuple[_Line | None, _Line | None]


class PositionFile:
    """Open, locked against a second subscriber, and read. Raises PositionError.

    start: what the file holds; None where it is new, or damaged. damage: a sentence where it is damaged; the file as it
    was is then kept beside it as `<name>.damaged`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        found = self._open()
        self.damage = ""
        if found.lines == (None, None) and not found.empty:
            self.damage = self._set_aside(found)
            found = self._open()
        self._handle = found.handle
        self._make_durable(found.empty)
        newest = max((line for line in found.lines if line), key=lambda line: line.written, default=None)
        self.start = newest and Position(newest.epoch, newest.through)
        self._written = newest.written + 1 if newest else 0
        self._at = 1 if newest is not None and newest is found.lines[0] else 0
        self._last = self.start
        self._synced_s = float("-inf")
        self._waiting = False

    def _open(self) -> _Found:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PositionError(f"position {self._path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            places = [os.pread(handle, _PLACE_BYTES, at * _APART) for at in (0, 1)]
        except OSError as error:
            os.close(handle)
            taken = isinstance(error, BlockingIOError)
            why = "another subscriber uses it" if taken else f"cannot be read: {error.strerror}"
            raise PositionError(f"position {self._path}: {why}") from error
        return _Found(handle, not places[0], (_line_of(places[0]), _line_of(places[1])))

    def _set_aside(self, found: _Found) -> str:
        kept = self._path.with_name(f"{self._path.name}.damaged")
        try:
            self._path.replace(kept)
        except OSError as error:
            raise PositionError(
                f"position {self._path}: is damaged, and cannot be set aside: {error.strerror}"
            ) from error
        finally:
            os.close(found.handle)
        return f"position {self._path}: is damaged (kept as {kept.name}): starting as if there were none"

    def _make_durable(self, is_new: bool) -> None:
        """What a killed process left must be on the disk before the other place is overwritten."""
        try:
            os.fsync(self._handle)
            if is_new:
                folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            os.close(self._handle)
            raise PositionError(f"position {self._path}: cannot be written: {error.strerror}") from error

    def put(self, position: Position, now_s: float) -> None:
        """Keep it, if it is a new one. now_s: monotonic seconds. Raises PositionError where that cannot be done."""
        try:
            if position != self._last:
                self._write(position)
            if self._waiting and now_s - self._synced_s >= SYNC_SECONDS:
                self._sync(now_s)
        except OSError as error:
            raise PositionError(f"position {self._path}: cannot be written: {error.strerror}") from error

    def _write(self, position: Position) -> None:
        text = _Line(position.epoch, position.through, self._written).signed()
        if len(text) >= _PLACE_BYTES:
            raise PositionError(f"position {self._path}: cannot hold an epoch of {len(position.epoch)} characters")
        os.pwrite(self._handle, text.ljust(_PLACE_BYTES - 1) + b"\n", self._at * _APART)
        self._written += 1
        self._last = position
        self._waiting = True

    def _sync(self, now_s: float) -> None:
        os.fsync(self._handle)
        self._at = 1 - self._at
        self._synced_s, self._waiting = now_s, False

    def close(self) -> None:
        """Wait for the disk, and let go of the file."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise PositionError(f"position {self._path}: cannot be written: {error.strerror}") from error
        finally:
            os.close(self._handle)
