"""The triggers of one chain with what became of the window that covers each: what network events are made of later.

A trigger is told of when it opens and when it closes. Which window covers it may be known only then, and what that
window was found to be later still, so what is not known yet goes on to the next part.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from tscc_stream.messages import Detection, Trigger, WindowDropped

MOST_KEPT = 64
"""Outcomes of a chain's latest windows that are kept for triggers to come. A channel's latest window alone can cover
one, and a sensor's windows are decided in their order."""


class Ballot(msgspec.Struct, frozen=True):
    """What a detection says where channels vote: cluster (None: unknown), its name, the membership in it."""

    cluster: int | None
    name: str
    membership: float


class Told(msgspec.Struct, frozen=True):
    """A trigger. window: what to ask for the window that covers it. off_ns: None while it is open."""

    sid: str
    on_ns: int
    window: str
    off_ns: int | None = None


class Settled(msgspec.Struct, frozen=True):
    """A closed trigger. window: uid of the one that covers it; ballot: None where that one was dropped."""

    sid: str
    on_ns: int
    off_ns: int
    window: str
    ballot: Ballot | None


class TriggersState(msgspec.Struct, frozen=True):
    """As it can be written down."""

    open: list[Told]
    closed: list[Told]
    outcomes: list[tuple[str, Ballot | None]]


class Triggers:
    """Collects one chain's triggers. `tell` is what a front half calls."""

    def __init__(self, state: TriggersState | None = None) -> None:
        self._open = {told.sid: told for told in state.open} if state else {}
        self._closed = list(state.closed) if state else []
        self._outcomes: OrderedDict[str, Ballot | None] = OrderedDict(state.outcomes if state else ())

    def tell(self, trigger: Trigger, window: str) -> None:
        """A trigger opens, in place of one that came to nothing, or closes."""
        if trigger.off_ns is None:
            self._open[trigger.sid] = Told(trigger.sid, trigger.on_ns, window)
            return
        told = self._open.pop(trigger.sid, None) or Told(trigger.sid, trigger.on_ns, window)
        self._closed.append(msgspec.structs.replace(told, off_ns=trigger.off_ns))

    def hear(self, outcome: Detection | WindowDropped) -> None:
        """What became of a window."""
        if isinstance(outcome, WindowDropped):
            self._outcomes[outcome.uid] = None
            return
        found = outcome.assignment
        best = float(found.membership[found.cluster])
        self._outcomes[found.window.uid] = Ballot(found.cluster if outcome.known else None, outcome.name, best)

    def settled(self, window_of: Callable[[str], str], *, at_end: bool = False) -> list[Settled]:
        """Triggers of which everything is known by now; at the end all that have closed."""
        out, waiting = [], []
        for told in self._closed:
            uid = window_of(told.window)
            if told.off_ns is not None and (uid in self._outcomes or at_end):
                out.append(Settled(told.sid, told.on_ns, told.off_ns, uid, self._outcomes.get(uid)))
            else:
                waiting.append(told)
        self._closed = waiting
        self._forget(window_of)
        return out

    def _forget(self, window_of: Callable[[str], str]) -> None:
        wanted = {window_of(told.window) for told in (*self._open.values(), *self._closed)}
        older = len(self._outcomes) - MOST_KEPT
        for uid in [uid for place, uid in enumerate(self._outcomes) if place < older and uid not in wanted]:
            del self._outcomes[uid]

    def snapshot(self) -> TriggersState:
        """What a later part goes on from."""
        return TriggersState(list(self._open.values()), list(self._closed), list(self._outcomes.items()))
