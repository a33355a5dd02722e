"""Windows to batches, work-conserving: whatever is queued when the encoder is free goes in together.

No window waits for company: the caller flushes as soon as nothing more is queued. At most one batch is held.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tscc_stream.messages import Batch, Window, read_only


def batch_of(windows: Sequence[Window]) -> Batch:
    """At least one window."""
    return Batch(tuple(windows), read_only(np.stack([window.normalised for window in windows])))


class Gather:
    """max_batch: most windows in one batch."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._held: list[Window] = []

    def feed(self, window: Window) -> list[Batch]:
        """A batch, once it is full."""
        self._held.append(window)
        return self.flush() if len(self._held) >= self._max_batch else []

    def flush(self) -> list[Batch]:
        """What is held, as a batch."""
        if not self._held:
            return []
        held, self._held = self._held, []
        return [batch_of(held)]
