"""Assignments to detections (name, known or not), and network triggers to network events by vote.

Unknown windows are told by conformal prediction: the nearest squared distance is compared with those of calibration
windows that served neither training nor centres. p = (1 + number of calibration scores at least as large) / (n + 1);
of ordinary windows a share of at most alpha has p <= alpha (Vovk, Gammerman and Shafer 2005, section 2.2).
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tscc_stream.messages import (
    Assignment,
    Detection,
    Float64Array,
    NetworkEvent,
    NetworkTrigger,
    WindowDropped,
    WindowSpilled,
)
from tscc_stream.sampling import NS_PER_SECOND

UNKNOWN = "unknown"
MOST_REMEMBERED = 65_536
"""Windows whose outcome is kept for network triggers that may still name them."""
MOST_WRITTEN = 4_000
"""Of these, the latest go into a snapshot, beside those that network triggers are known to name."""
MOST_WAITING = 1024
"""Network triggers that may wait for windows; beyond, the oldest goes out with the votes it has."""
MOST_OUTCOMES = 10_000
"""Outcomes of other windows for which a network trigger waits, unless it lacks a spilled one: what it lacks was
forgotten, and is not still to come."""


def calibrated(scores: Float64Array | None, alpha: float) -> bool:
    """Whether there are calibration scores enough for this alpha: at least 10 / alpha."""
    return scores is not None and scores.size >= 10.0 / alpha - 1e-9


class Interpret:
    """scores: nearest squared distances of the calibration windows, ascending; None or too few: no p-value."""

    def __init__(self, name_of: Callable[[int], str], scores: Float64Array | None, alpha: float) -> None:
        self._name_of = name_of
        self._alpha = alpha
        self._scores = scores if calibrated(scores, alpha) else None

    def feed(self, assignment: Assignment) -> list[Detection]:
        """One detection."""
        p_value = self._p_value(float(assignment.squared_distance.min()))
        known = p_value is None or p_value > self._alpha
        return [Detection(assignment, self._name_of(assignment.cluster) if known else UNKNOWN, known, p_value)]

    def _p_value(self, score: float) -> float | None:
        if self._scores is None:
            return None
        as_large = self._scores.size - int(np.searchsorted(self._scores, score, side="left"))
        return (1 + as_large) / (self._scores.size + 1)


@dataclass(frozen=True, slots=True)
class _Ballot:
    """One window's vote: its detection's uid and cluster (None: unknown), weighed by membership in a tie."""

    uid: str
    cluster: int | None
    name: str
    membership: float


@dataclass(slots=True)
class _Waiting:
    """A network trigger, the windows it lacks, and how many outcomes came since it waits."""

    trigger: NetworkTrigger
    lacks: set[str]
    outcomes: int = 0


@dataclass(frozen=True, slots=True)
class VoteState:
    """outcomes: windows and what became of them (None: dropped), those that triggers name and the latest.

    spilled: windows that are classified later.
    """

    outcomes: list[tuple[str, _Ballot | None]]
    waiting: list[_Waiting]
    spilled: list[str]


class NetworkVote:
    """Network triggers wait until every window they name is classified or dropped; then their channels vote.

    They do not wait for ever for a window whose outcome is forgotten (MOST_OUTCOMES).

    Windows that are spilled hold up the last word, so that it is right, and not the early notice, which goes out with
    the votes there are.
    """

    def __init__(self) -> None:
        self._outcomes: OrderedDict[str, _Ballot | None] = OrderedDict()
        self._waiting: OrderedDict[tuple[str, bool], _Waiting] = OrderedDict()
        self._spilled: OrderedDict[str, None] = OrderedDict()

    def feed(self, message: Detection | WindowDropped | WindowSpilled | NetworkTrigger) -> list[NetworkEvent]:
        """Network events that need wait no longer."""
        if isinstance(message, NetworkTrigger):
            return self._enqueue(message)
        if isinstance(message, WindowSpilled):
            return self._postpone(message.uid)
        if isinstance(message, WindowDropped):
            return self._resolve(message.uid, None)
        assignment = message.assignment
        best = float(assignment.membership[assignment.cluster])
        cluster = assignment.cluster if message.known else None
        uid = assignment.window.uid
        return self.cast(uid, cluster, message.name, best)

    def cast(self, uid: str, cluster: int | None, name: str, membership: float) -> list[NetworkEvent]:
        """The vote of a detection (uid) for its cluster (None: unknown); network events that need wait no longer."""
        return self._resolve(uid, _Ballot(uid, cluster, name, membership))

    def snapshot(self, named: frozenset[str] = frozenset()) -> VoteState:
        """To be written down before the next `feed`. named: windows that triggers to come may name."""
        named = named.union(uid for waiting in self._waiting.values() for _, _, uid in waiting.trigger.members)
        older = len(self._outcomes) - MOST_WRITTEN
        outcomes = [item for i, item in enumerate(self._outcomes.items()) if i >= older or item[0] in named]
        return VoteState(outcomes, list(self._waiting.values()), list(self._spilled))

    def restore(self, state: VoteState) -> None:
        """Go on from a snapshot."""
        self._outcomes, self._spilled = OrderedDict(state.outcomes), OrderedDict.fromkeys(state.spilled)
        self._waiting = OrderedDict(
            ((waiting.trigger.uid, waiting.trigger.final), waiting) for waiting in state.waiting
        )

    def oldest_waiting_ns(self) -> int:
        """Onset of the oldest network trigger that waits; far in the future where none does."""
        return min((waiting.trigger.onset_ns for waiting in self._waiting.values()), default=1 << 62)

    def flush(self) -> list[NetworkEvent]:
        """Everything that waits, with the votes there are."""
        waiting = [waiting.trigger for waiting in self._waiting.values()]
        self._waiting.clear()
        return [self._event(trigger) for trigger in waiting]

    def _enqueue(self, trigger: NetworkTrigger) -> list[NetworkEvent]:
        missing = {uid for _, _, uid in trigger.members if uid not in self._outcomes}
        if not trigger.final:
            missing -= self._spilled.keys()
        if not missing:
            return [self._event(trigger)]
        self._waiting[trigger.uid, trigger.final] = _Waiting(trigger, missing)
        if len(self._waiting) <= MOST_WAITING:
            return []
        return [self._event(self._waiting.popitem(last=False)[1].trigger)]

    def _resolve(self, uid: str, ballot: _Ballot | None) -> list[NetworkEvent]:
        self._outcomes[uid] = ballot
        self._spilled.pop(uid, None)
        if len(self._outcomes) > MOST_REMEMBERED:
            self._outcomes.popitem(last=False)
        return self._released(uid, early_only=False)

    def _postpone(self, uid: str) -> list[NetworkEvent]:
        self._spilled[uid] = None
        if len(self._spilled) > MOST_REMEMBERED:
            self._spilled.popitem(last=False)
        return self._released(uid, early_only=True)

    def _released(self, uid: str, early_only: bool) -> list[NetworkEvent]:
        """Triggers that wait for this window no longer, and for no other. early_only: last words go on waiting."""
        ready = []
        for key, waiting in list(self._waiting.items()):
            if not (early_only and waiting.trigger.final):
                waiting.lacks.discard(uid)
            waiting.outcomes += not early_only
            if self._waits_no_longer(waiting) and key in self._waiting:
                del self._waiting[key]
                ready.append(self._event(waiting.trigger))
        return ready

    def _waits_no_longer(self, waiting: _Waiting) -> bool:
        in_vain = waiting.outcomes > MOST_OUTCOMES and waiting.lacks.isdisjoint(self._spilled)
        return in_vain or not waiting.lacks

    def _event(self, trigger: NetworkTrigger) -> NetworkEvent:
        if trigger.final:
            self._waiting.pop((trigger.uid, False), None)  # nothing comes after the last word
        cast = [self._outcomes.get(uid) for _, _, uid in trigger.members]
        ballots = [ballot for ballot in cast if ballot is not None]
        votes = Counter(ballot.name for ballot in ballots)
        weight: defaultdict[str, float] = defaultdict(float)
        for ballot in ballots:
            weight[ballot.name] += ballot.membership
        winner = max(ballots, key=lambda b: (votes[b.name], weight[b.name]), default=None)
        return NetworkEvent(
            uid=trigger.uid,
            onset_ns=trigger.onset_ns,
            duration_s=(trigger.off_ns - trigger.onset_ns) / NS_PER_SECOND,
            channels=tuple(sid for sid, _, _ in trigger.members),
            detections=tuple(dict.fromkeys(ballot.uid for ballot in ballots)),
            votes=dict(votes.most_common()),
            cluster_id=winner.cluster if winner else None,
            cluster_name=winner.name if winner else UNKNOWN,
            final=trigger.final,
        )
