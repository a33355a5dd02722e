"""Whether somebody keeps this machine's clock right, as the kernel knows it: adjtimex(2)."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

_UNSYNCHRONISED = 0x0040  # STA_UNSYNC of timex.h
_ROOM = 512
"""Bytes, more than struct timex has anywhere. modes (int, padded) and longs come first: the third of them is maxerror,
in microseconds; the fifth is followed by status.
"""
_LONG = ctypes.sizeof(ctypes.c_long)


class ClockError(RuntimeError):
    """The kernel does not tell, and why."""


@dataclass(frozen=True, slots=True)
class Kept:
    """synchronised: somebody keeps it (chrony, ntpd, timesyncd); error_s: by how much it may be off, if so."""

    synchronised: bool
    error_s: float


def ask() -> Kept:
    """Raises ClockError, as in a container that may not ask."""
    room = ctypes.create_string_buffer(_ROOM)
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(room) < 0:  # modes 0: it is only asked
            raise ClockError(os.strerror(ctypes.get_errno()))
    except (OSError, AttributeError) as error:
        raise ClockError(str(error)) from error
    max_error_us = ctypes.c_long.from_buffer(room, 3 * _LONG).value
    status = ctypes.c_int.from_buffer(room, 5 * _LONG).value
    return Kept(not status & _UNSYNCHRONISED, max_error_us / 1e6)


def is_kept() -> bool | None:
    """None where it cannot be asked."""
    try:
        return ask().synchronised
    except ClockError:
        return None
