"""The lowest priority, for a thread whose work may wait: it never takes the processor from the daemon."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

_LOWEST = 19
"""Of nice(2)."""


def lower_this_thread() -> None:
    """To the lowest, for good."""
    with suppress(OSError):  # a hardened unit may forbid it; then it shares the processor like any other thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
