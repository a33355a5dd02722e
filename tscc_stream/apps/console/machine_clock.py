"""Whether somebody keeps this machine's clock right, as the kernel knows it: adjtimex(2)."""

from __future__ import annotations

import ctypes

_UNSYNCHRONISED = 0x0040  # STA_UNSYNC of timex.h
_ROOM = 512
"""Bytes, more than struct timex has anywhere; `status` follows modes (int, padded) and four longs."""
_LONG = ctypes.sizeof(ctypes.c_long)


def is_kept() -> bool | None:
    """None where it cannot be asked."""
    room = ctypes.create_string_buffer(_ROOM)
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(room) < 0:  # modes 0: it is only asked
            return None
    except (OSError, AttributeError):
        return None
    status = ctypes.c_int.from_buffer(room, 5 * _LONG).value
    return not status & _UNSYNCHRONISED
