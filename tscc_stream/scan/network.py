"""Network events out of the settled triggers of all chains, by the live path's own coincidence and vote.

What `classify` waits for is all there: triggers come in order of onset, each with what became of its window. So a
network event has its last word as soon as no trigger that is still to come can belong to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tscc_stream.config import NetworkConfig
from tscc_stream.messages import Assignment, Detection, NetworkEvent, NetworkTrigger, Trigger, Window, WindowDropped
from tscc_stream.scan.triggers import Ballot, Settled
from tscc_stream.stages.detect_network import Coincidence
from tscc_stream.stages.interpret import NetworkVote
from tscc_stream.windows import uid_of

_NONE = np.empty((0, 0), np.float32)


class Network:
    """Triggers of any number of channels, stretch of time after stretch of time, to network events."""

    def __init__(self, config: NetworkConfig) -> None:
        self._coincidence = Coincidence(config, uid_of)
        self._ballots: dict[str, tuple[int, Ballot | None]] = {}
        self._channels: set[str] = set()

    def feed(self, triggers: Sequence[Settled], until_ns: int) -> list[NetworkEvent]:
        """All triggers with onsets before `until_ns` that were not given before; what they settle."""
        for settled in sorted(triggers, key=lambda one: (one.on_ns, one.off_ns, one.sid)):
            self._channels.add(settled.sid)
            self._ballots[settled.window] = settled.on_ns, settled.ballot
            trigger = Trigger(settled.sid, 1.0, 0, settled.on_ns, 0, settled.off_ns)
            self._coincidence.feed(trigger, settled.window)
        found = self._coincidence.advance_all([(sid, until_ns) for sid in sorted(self._channels)], 0)
        events = self._events(found)
        open_ns = self.unsettled_ns()
        self._ballots = {uid: held for uid, held in self._ballots.items() if held[0] >= open_ns}
        return events

    def unsettled_ns(self) -> int:
        """No network event that is still to come out of the triggers given has an earlier onset."""
        return self._coincidence.oldest_open_ns()

    def end(self) -> list[NetworkEvent]:
        """There are no more."""
        return self._events(self._coincidence.flush())

    def _events(self, found: list[NetworkTrigger]) -> list[NetworkEvent]:
        return [event for trigger in found if trigger.final for event in self._voted(trigger)]

    def _voted(self, trigger: NetworkTrigger) -> list[NetworkEvent]:
        vote = NetworkVote()
        for sid, onset_ns, uid in trigger.members:
            _, ballot = self._ballots.get(uid, (0, None))
            vote.feed(WindowDropped(uid, sid, onset_ns, "dropped") if ballot is None else _detection(uid, sid, ballot))
        return vote.feed(trigger)


def _detection(uid: str, sid: str, ballot: Ballot) -> Detection:
    """As much of one as a vote looks at."""
    cluster = ballot.cluster or 0
    membership = np.zeros(cluster + 1, np.float32)
    membership[cluster] = ballot.membership
    window = Window(uid, sid, 0, 0, 0.0, 0.0, _NONE, _NONE, 0.0, 0.0, 0.0)
    assignment = Assignment(window, _NONE, membership, cluster, _NONE)
    return Detection(assignment, ballot.name, ballot.cluster is not None, None)
