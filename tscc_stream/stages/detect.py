"""Trigger state machine per channel: what obspy computes offline (`trigger_onset`), for any cut into blocks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tscc_stream.config import TriggerConfig
from tscc_stream.messages import Characteristic, EndOfStream, Gap, Trigger
from tscc_stream.sampling import offset_ns, seconds_to_samples

_RETRACTED = frozenset({"flat", "invalid"})
"""Breaks whose own edge made the trigger that is still open."""


@dataclass(slots=True)
class TriggerState:
    """last_*: the latest sample. above_on: it reached the on threshold. earliest: where a trigger may open again."""

    last_index: int = -1
    last_ns: int = 0
    above_on: bool = False
    above_off: bool = False
    open: Trigger | None = None
    announced: bool = False
    earliest: int = 0


DetectState = dict[str, TriggerState]
"""By source id."""


class Detect:
    """Characteristic functions to triggers: sent when they open, again when they close.

    Opens at the first sample at or above trigger_on, closes at the last at or above trigger_off, or after max_seconds.
    """

    def __init__(self, config_of: Callable[[str], TriggerConfig]) -> None:
        self._config_of = config_of
        self._states: dict[str, TriggerState] = {}

    def feed(self, message: Characteristic | Gap | EndOfStream) -> list[Trigger]:
        """Triggers that open or close, in order of time."""
        if isinstance(message, Characteristic):
            return self._advance(message)
        state = self._states.pop(message.sid, None)
        retract = isinstance(message, Gap) and message.cause in _RETRACTED
        if state is None or state.open is None or not state.announced or retract:
            return []
        return [replace(state.open, off_index=state.last_index, off_ns=state.last_ns)]

    def snapshot(self) -> DetectState:
        """Every channel's state, to be written down before the next `feed`."""
        return self._states

    def restore(self, state: DetectState) -> None:
        """Go on from a snapshot."""
        self._states = state

    def state(self, sid: str) -> TriggerState:
        """One channel's, amid a segment; whoever takes its samples over moves it on."""
        return self._states[sid]

    def _advance(self, message: Characteristic) -> list[Trigger]:
        block = message.block
        if block.index == 0:
            self._states[block.sid] = TriggerState()
        state = self._states[block.sid]
        out = _Walk(message, state, self._config_of(block.sid)).run()
        state.last_index = block.index + block.samples.size - 1
        state.last_ns = block.start_ns + offset_ns(block.samples.size - 1, block.sample_rate_hz)
        return out


class _Walk:
    """One block's walk through the state machine, from edge to edge of the two thresholds."""

    def __init__(self, message: Characteristic, state: TriggerState, config: TriggerConfig) -> None:
        self._block = message.block
        self._state = state
        rate = message.block.sample_rate_hz
        self._minimum = seconds_to_samples(config.min_seconds, rate)
        self._longest = int(config.max_seconds * rate + 0.5)
        self._dead = seconds_to_samples(config.dead_seconds, rate)
        on, off = message.values >= config.trigger_on, message.values >= config.trigger_off
        before_on = np.concatenate(([state.above_on], on[:-1]))
        before_off = np.concatenate(([state.above_off], off[:-1]))
        self._rises = (np.flatnonzero(on & ~before_on) + message.block.index).tolist()
        self._falls = (np.flatnonzero(~off & before_off) + message.block.index).tolist()
        self._end = message.block.index + message.block.samples.size
        state.above_on, state.above_off = bool(on[-1]), bool(off[-1])

    def run(self) -> list[Trigger]:
        """Triggers that open or close within the block."""
        out: list[Trigger] = []
        while (opened := self._state.open or self._open_next()) is not None:
            fall = _first_from(self._falls, opened.on_index + 1, self._end)
            forced = opened.on_index + self._longest + 1
            last = min(fall, forced) - 1
            if not self._state.announced and last - opened.on_index >= self._minimum:
                self._state.announced = True
                out.append(opened)
            if min(fall, forced) >= self._end:
                break
            out += self._close(opened, last)
        return out

    def _open_next(self) -> Trigger | None:
        state = self._state
        rise = _first_from(self._rises, state.earliest, self._end)
        if rise < self._end:
            state.open = Trigger(self._block.sid, self._block.sample_rate_hz, rise, self._time(rise))
            state.announced = False
        return state.open

    def _close(self, opened: Trigger, last: int) -> list[Trigger]:
        """The trigger ends; one too short to have been announced leaves no trace and no dead time."""
        state = self._state
        state.open = None
        state.earliest = last + 1 + (self._dead if state.announced else 0)
        closed = replace(opened, off_index=last, off_ns=self._time(last))
        return [closed] if state.announced else []

    def _time(self, index: int) -> int:
        return self._block.start_ns + offset_ns(index - self._block.index, self._block.sample_rate_hz)


def _first_from(indices: list[int], earliest: int, otherwise: int) -> int:
    """The first of the ascending indices that is not before `earliest`."""
    place = bisect_left(indices, earliest)
    return indices[place] if place < len(indices) else otherwise
