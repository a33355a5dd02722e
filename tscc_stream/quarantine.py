"""Channels that break again and again are left out until they have been well.

Every break is a fresh start after which a trigger is blind for its LTA length; a channel that breaks every second is
blind for good, and costs work with each break. Pure: time is the duration of a channel's own samples. A healthy
channel keeps no state here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tscc_stream.config import QuarantineConfig
from tscc_stream.messages import Block, Gap, Quarantined, Released
from tscc_stream.sampling import offset_ns, seconds_to_ns

WEIGHTS = {"gap": 1, "invalid": 1, "rate": 10, "clock": 10}
"""Recorders lose records every day, but seldom change their rate or clock. A sensor that goes flat is not the
channel's fault, and makes few breaks."""


@dataclass(slots=True)
class _Trouble:
    """level_ns: what breaks cost, less the samples since. well_ns: duration of the samples since the last break.

    from_ns: data time from which on it is held.
    """

    level_ns: int = 0
    held: bool = False
    well_ns: int = 0
    from_ns: int = 0


QuarantineState = dict[str, _Trouble]
"""By source id."""


class Quarantine:
    """Judges a channel by what its records gave. A break costs within_seconds / breaks, samples pay that back."""

    def __init__(self, config: QuarantineConfig) -> None:
        self._config = config
        self._within_ns = seconds_to_ns(config.within_seconds)
        self._release_ns = seconds_to_ns(config.release_seconds)
        self._troubles: dict[str, _Trouble] = {}
        self.held = 0

    def holds(self, sid: str) -> bool:
        """Whether a channel is quarantined."""
        trouble = self._troubles.get(sid)
        return trouble is not None and trouble.held

    def troubled(self, sid: str) -> bool:
        """Whether there is anything to judge of a channel that goes on without a break."""
        return sid in self._troubles

    def judge(self, sid: str, parts: Sequence[Block | Gap]) -> Quarantined | Released | None:
        """What changes for a channel with the next blocks and gaps that came of it."""
        breaks = sum(WEIGHTS.get(p.cause, 0) for p in parts if isinstance(p, Gap) and p.to_ns is not None)
        trouble = self._troubles.get(sid)
        if trouble is None:
            if not breaks:
                return None
            trouble = self._troubles[sid] = _Trouble()
        blocks = [p for p in parts if isinstance(p, Block)]
        if trouble.held:
            return self._watch(sid, trouble, breaks, _duration_ns([p for p in blocks if p.index]))
        trouble.level_ns = (
            max(0, trouble.level_ns - _duration_ns(blocks)) + breaks * self._within_ns // self._config.breaks
        )
        if trouble.level_ns > self._within_ns:
            why = f"more than {self._config.breaks} breaks in {self._config.within_seconds:g} s"
            return self.put(sid, why, min(_begin_ns(part) for part in parts))
        if not trouble.level_ns:
            del self._troubles[sid]
        return None

    def put(self, sid: str, why: str, from_ns: int) -> Quarantined:
        """A channel is left out from a data time on."""
        self.forget(sid)
        self._troubles[sid] = _Trouble(held=True, from_ns=from_ns)
        self.held += 1
        release = f"{self._config.release_seconds:g} s of it came without a break"
        return Quarantined(sid, f"{why}; left out until {release}", from_ns)

    def snapshot(self) -> QuarantineState:
        """Every troubled channel's state, to be written down before the next `judge`."""
        return self._troubles

    def restore(self, state: QuarantineState) -> None:
        """Go on from a snapshot."""
        self._troubles = state
        self.held = sum(trouble.held for trouble in state.values())

    def forget(self, sid: str) -> None:
        """Nothing of a channel is kept."""
        trouble = self._troubles.pop(sid, None)
        self.held -= trouble is not None and trouble.held

    def _watch(self, sid: str, trouble: _Trouble, breaks: int, lasts_ns: int) -> Released | None:
        """lasts_ns: of the samples that continued what came before."""
        trouble.well_ns = 0 if breaks else trouble.well_ns + lasts_ns
        if trouble.well_ns < self._release_ns:
            return None
        self.forget(sid)
        return Released(sid, f"{self._config.release_seconds:g} s of it came without a break", trouble.from_ns)


def _begin_ns(part: Block | Gap) -> int:
    return part.from_ns if isinstance(part, Gap) else part.start_ns


def _duration_ns(blocks: Sequence[Block]) -> int:
    return sum(offset_ns(block.samples.size, block.sample_rate_hz) for block in blocks)
