"""What happens to windows that come faster than the encoder takes them.

wait: nothing here; the queue is full, the reader reads more slowly, and the server's ring is the buffer. spill: windows
go into the journal unclassified, and are classified, marked late, once nothing else waits. Beyond a number of them
windows are shed: dropped, counted, and noted as gaps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tscc_stream.config import Config
from tscc_stream.edges.sqlite import JournalError, JournalFile
from tscc_stream.messages import Gap, Window, WindowDropped, WindowSpilled
from tscc_stream.metrics import Metrics
from tscc_stream.notes import Note
from tscc_stream.packed_window import PackedWindowError, end_ns, identity_of, pack, unpack
from tscc_stream.stages.journal import UntilDone

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

SHED = "shed"
BEGIN_AT = 0.75
"""Share of the queue from which windows are spilled."""
END_AT = 0.25
"""Share of the queue below which windows are classified again as they come."""


@dataclass
class _Episode:
    """From the first spilled window until none waits."""

    began: float
    spilled: int = 0
    shed: int = 0


class Overload:
    """Used by the back thread.

    crowded: the share of the queue that is in use. cut: as packed_window has it. until_done: waits for a journal that
    is blocked.
    """

    def __init__(
        self,
        config: Config,
        journal: JournalFile,
        metrics: Metrics,
        cut: str,
        crowded: Callable[[], float],
        until_done: UntilDone,
    ) -> None:
        self._journal, self._metrics, self._cut, self._crowded = journal, metrics, cut, crowded
        self._until_done = until_done
        self._together = config.inference.max_batch
        self._spilling = False
        self._notes: list[Note] = []
        self.use(config)
        self._episode = _Episode(time.monotonic(), self.waiting) if self.waiting else None
        self._metrics.spilled_windows.set(self.waiting)

    def use(self, config: Config) -> None:
        """Other settings from now on. What is spilled already is classified all the same."""
        self._spill_mode, self._most = config.overload == "spill", config.overload_spill_windows

    @property
    def waiting(self) -> int:
        """Windows that are spilled and not yet classified."""
        return self._journal.spilled_count

    def look(self) -> None:
        """How full the queue is, before anything is taken out of it: what is taken is kept or classified by that."""
        share = self._crowded()
        crowded = share >= BEGIN_AT or (self._spilling and share > END_AT)
        self._spilling = self._spill_mode and crowded

    def relieve(self, items: Sequence[_Item]) -> list[_Item | WindowSpilled | WindowDropped | Gap]:
        """The same items, where there is no overload; else with windows replaced by what became of them.

        Spilled windows are on the disk when this returns. Where the disk takes none, they are left as they are.
        """
        if not self._spilling:
            return [*items]
        windows = [item for item in items if isinstance(item, Window)]
        try:
            kept, shed = self._sorted(windows)
            self._spill(kept)
        except JournalError as error:
            _log.error("windows cannot be spilled, so they wait: %s", error)
            return [*items]
        fate: dict[int, list[WindowSpilled | WindowDropped | Gap]] = {id(w): [WindowSpilled(w.uid)] for w in kept}
        fate |= {id(window): self._shed(window) for window in shed}
        return [after for item in items for after in fate.get(id(item), (item,))]

    def _sorted(self, windows: Sequence[Window]) -> tuple[list[Window], list[Window]]:
        """Which are spilled and which are shed.

        After a kill windows are made again: one that is spilled already takes no room, and one that is published
        already is neither spilled nor shed for want of it, but classified as it comes; the journal refuses it.
        """
        there = self._journal.spilled_among(window.uid for window in windows)
        fresh = [window for window in windows if window.uid not in there]
        room = max(0, self._most - self._journal.spilled_rows)
        settled = self._journal.settled_among(window.uid for window in fresh[room:])
        shed = [window for window in fresh[room:] if window.uid not in settled]
        spared = {id(window) for window in fresh[room:]}
        return [window for window in windows if id(window) not in spared], shed

    def _spill(self, windows: list[Window]) -> None:
        if not windows:
            return
        new = self._journal.spill([(window.uid, pack(window, self._cut)) for window in windows])
        self._metrics.spilled.inc(new)
        self._metrics.spilled_windows.set(self.waiting)
        self._begun().spilled += new

    def _begun(self) -> _Episode:
        if self._episode is None:
            self._episode = _Episode(time.monotonic())
            _log.warning("overload: windows come faster than the model takes them; they are kept and classified later")
            self._notes.append(Note("overload", {"state": "begin", "queue": round(self._crowded(), 3)}))
        return self._episode

    def _shed(self, window: Window) -> list[WindowSpilled | WindowDropped | Gap]:
        self._count_shed()
        return [
            WindowDropped(window.uid, window.sid, window.onset_ns, SHED),
            Gap(window.sid, window.start_ns, end_ns(window), SHED),
        ]

    def _count_shed(self) -> None:
        self._begun().shed += 1
        self._metrics.windows_dropped[SHED].inc()

    def late(self) -> list[Window | WindowDropped | Gap]:
        """Some of what was spilled, oldest first: at most one batch, and what became of those that are no window here.

        They stay in the journal until what is made of them is stored, and a snapshot after that.
        """
        out: list[Window | WindowDropped | Gap] = []
        for uid, packed in self._until_done(lambda: self._journal.spilled(self._together)):
            try:
                out.append(unpack(packed, self._cut))
            except PackedWindowError as error:
                out += self._left_out(uid, packed, error)
        return out

    def _left_out(self, uid: str, packed: bytes, error: PackedWindowError) -> list[Window | WindowDropped | Gap]:
        """A spilled window that cannot be classified here. Where it was published before a kill, nothing is lost."""
        settled = self._until_done(lambda: self._journal.settled_among([uid]))
        self._until_done(lambda: self._journal.unspill([uid]))
        if settled:
            return [WindowDropped(uid, "", 0, SHED)]
        _log.error("spilled window %s is left out: %s", uid, error)
        self._count_shed()
        try:
            known = identity_of(packed)
        except PackedWindowError:
            return [WindowDropped(uid, "", 0, SHED)]  # all that network events need; the ledger cannot name it
        return [WindowDropped(uid, known.sid, known.onset_ns, SHED), Gap(known.sid, known.start_ns, known.end_ns, SHED)]

    def take_notes(self) -> list[Note]:
        """What is to be told, once what was stored is stored."""
        self._metrics.spilled_windows.set(self.waiting)
        if self._episode is not None and not self.waiting:
            self._notes.append(self._ended(self._episode))
            self._episode = None
        notes, self._notes = self._notes, []
        return notes

    @staticmethod
    def _ended(episode: _Episode) -> Note:
        seconds = round(time.monotonic() - episode.began, 3)
        _log.info("overload is over after %g s: %d window(s) were classified late, %d shed", seconds,
                  episode.spilled, episode.shed)  # fmt: skip
        return Note("overload", {"state": "end", "spilled": episode.spilled, "shed": episode.shed, "seconds": seconds})
