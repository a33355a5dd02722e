"""Windows that the encoder cannot take: stored with their samples, counted, told once, and never given to it again."""

from __future__ import annotations

import logging

from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.messages import Window, WindowDropped
from tscc_stream.metrics import Metrics
from tscc_stream.notes import Note
from tscc_stream.packed_window import pack
from tscc_stream.source_id import to_nslc
from tscc_stream.stages.journal import UntilDone

_log = logging.getLogger(__name__)

QUARANTINED = "quarantined"


class WindowQuarantine:
    """Used by the back thread. cut: as packed_window has it. until_done: waits for a journal that is blocked."""

    def __init__(self, journal: JournalFile, metrics: Metrics, cut: str, until_done: UntilDone) -> None:
        self._journal, self._metrics, self._cut, self._until_done = journal, metrics, cut, until_done
        self._reasons = journal.quarantined()
        self._notes: list[Note] = []

    def holds(self, uid: str) -> bool:
        return uid in self._reasons

    def add(self, window: Window, reason: str) -> WindowDropped:
        """It is on the disk when this returns."""
        _log.error("window %s of %s is left out: %s", window.uid, to_nslc(window.sid), reason)
        packed = pack(window, self._cut)
        forgotten = self._until_done(
            lambda: self._journal.quarantine(window.uid, window.sid, window.onset_ns, reason, packed)
        )
        self._reasons[window.uid] = reason
        dropped = self.refuse(window)
        for uid in forgotten:
            self._reasons.pop(uid, None)
        return dropped

    def refuse(self, window: Window) -> WindowDropped:
        """A window that is held already, made again out of the same data."""
        self._until_done(lambda: self._journal.unspill([window.uid]))
        self._metrics.windows_dropped[QUARANTINED].inc()
        data = {
            "uid": window.uid,
            "sid": window.sid,
            "onset_ns": window.onset_ns,
            "reason": self._reasons[window.uid],
        }
        self._notes.append(Note("quarantine", data, about=window.uid))
        return WindowDropped(window.uid, window.sid, window.onset_ns, QUARANTINED)

    def take_notes(self) -> list[Note]:
        """What is to be told; about each window once, since the journal refuses it the second time."""
        notes, self._notes = self._notes, []
        return notes
