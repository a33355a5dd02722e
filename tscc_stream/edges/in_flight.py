"""The windows that are in the encoder just now, in a small file that a dead process leaves behind.

One pwrite before each batch and one after it, without waiting for the disk: what a process wrote outlives the process,
whatever ends it, though not the machine. A record that was torn is no record: the process died while writing, not in
the encoder.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tscc_stream.suspects import after_death, condemned

_log = logging.getLogger(__name__)
_CHECKSUM_BYTES = 4


class InFlightError(RuntimeError):
    """The file cannot be made, and why."""


class _Record(msgspec.Struct, frozen=True):
    """suspects: uid -> points."""

    suspects: dict[str, int]
    in_flight: list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class InFlight:
    """Used by one thread. crashed: the process before this one left a crash report. Raises InFlightError."""

    def __init__(self, path: Path, crashed: bool = False) -> None:
        before = _read(path)
        self.suspects = after_death(before.suspects, before.in_flight, crashed)
        if before.in_flight:
            _log.warning("the process before this one died with %d window(s) in the encoder: they go alone now",
                         len(before.in_flight))  # fmt: skip
        fresh = path.with_name(f".{path.name}.new")
        self._ended = False
        try:
            self._fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            self._write(())
            fresh.replace(path)  # in one step, so that no death is counted twice
        except OSError as error:
            raise InFlightError(f"{path}: cannot be written: {error.strerror}") from error

    def is_suspect(self, uid: str) -> bool:
        return uid in self.suspects

    def is_condemned(self, uid: str) -> bool:
        """Whether it took the process with it too often."""
        return condemned(self.suspects.get(uid, 0))

    def forget(self, uid: str) -> None:
        """It is dealt with in another way from now on."""
        if self.suspects.pop(uid, None) is not None:
            self._write(())

    @contextmanager
    def holding(self, uids: Sequence[str]) -> Iterator[None]:
        """They are in the encoder. Whoever comes back out of it, with a result or an error, is no suspect any more."""
        self._write(uids)
        try:
            yield
        finally:
            for uid in uids:
                self.suspects.pop(uid, None)
            self._write(())

    def _write(self, uids: Sequence[str]) -> None:
        if self._ended:
            return
        payload = _encode(_Record(self.suspects, list(uids)))
        header = len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(_CHECKSUM_BYTES, "little")
        try:
            os.pwrite(self._fd, header + payload, 0)
        except OSError as error:  # a full disk must not stop the encoder; only a death is then not accounted for
            _log.warning("windows in flight cannot be noted: %s", error.strerror)

    def end(self) -> None:
        """The process ends by itself: whatever is in the encoder is no suspect for that. Safe beside `holding`."""
        self._write(())
        self._ended = True


def _read(path: Path) -> _Record:
    """What the process before left; nothing where there is no whole record."""
    try:
        raw = path.read_bytes()
    except OSError:
        return _Record({}, [])
    length, checksum = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")
    payload = raw[8 : 8 + length]
    if len(payload) != length or zlib.crc32(payload) != checksum:
        return _Record({}, [])
    try:
        return _decode(payload)
    except msgspec.DecodeError:
        return _Record({}, [])
