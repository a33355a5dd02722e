"""Trigger state machine per channel, and coincidence over channels.

Both give what obspy computes offline (`trigger_onset`, `coincidence_trigger`), for any cut into blocks and any
interleaving of channels.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from tscc_stream.config import NetworkConfig, TriggerConfig
from tscc_stream.messages import Characteristic, EndOfStream, Gap, NetworkTrigger, Trigger
from tscc_stream.sampling import offset_ns, seconds_to_ns, seconds_to_samples

_RETRACTED = frozenset({"flat", "invalid"})
"""Breaks whose own edge made the trigger that is still open."""


@dataclass(slots=True)
class _State:
    """above_on: the last sample reached the on threshold. earliest: first index where a trigger may open again."""

    next_index: int = 0
    next_ns: int = 0
    above_on: bool = False
    above_off: bool = False
    open: Trigger | None = None
    announced: bool = False
    earliest: int = 0


class Detect:
    """Characteristic functions to triggers: sent when they open, again when they close.

    Opens at the first sample at or above trigger_on, closes at the last at or above trigger_off, or after max_seconds.
    """

    def __init__(self, config_of: Callable[[str], TriggerConfig]) -> None:
        self._config_of = config_of
        self._states: dict[str, _State] = {}

    def feed(self, message: Characteristic | Gap | EndOfStream) -> list[Trigger]:
        """Triggers that open or close, in order of time."""
        if isinstance(message, Characteristic):
            return self._advance(message)
        state = self._states.pop(message.sid, None)
        retract = isinstance(message, Gap) and message.cause in _RETRACTED
        if state is None or state.open is None or retract:
            return []
        return self._finish(state, state.open)

    def _finish(self, state: _State, opened: Trigger) -> list[Trigger]:
        """The data end while a trigger is open: it lasted until the last sample."""
        minimum = seconds_to_samples(self._config_of(opened.sid).min_seconds, opened.sample_rate_hz)
        last = state.next_index - 1
        if last - opened.on_index < minimum:
            return []
        closed = replace(opened, off_index=last, off_ns=state.next_ns - offset_ns(1, opened.sample_rate_hz))
        return [closed] if state.announced else [opened, closed]

    def _advance(self, message: Characteristic) -> list[Trigger]:
        block = message.block
        if block.index == 0:
            self._states[block.sid] = _State()
        state = self._states[block.sid]
        out = _Walk(message, state, self._config_of(block.sid)).run()
        state.next_index = block.index + block.samples.size
        state.next_ns = block.start_ns + offset_ns(block.samples.size, block.sample_rate_hz)
        return out


class _Walk:
    """One block's walk through the state machine, from edge to edge of the two thresholds."""

    def __init__(self, message: Characteristic, state: _State, config: TriggerConfig) -> None:
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


_Key = tuple[int, int, str]
"""(on, off, source id) of a closed trigger: obspy's order."""


@dataclass(slots=True)
class _Progress:
    """How far a channel is processed (exclusive), the trigger it has open, and when it last moved (monotonic)."""

    processed_ns: int
    moved_ns: int
    open_on_ns: int | None = None

    @property
    def certain_ns(self) -> int:
        """Every trigger with an earlier onset is known and closed."""
        return self.processed_ns if self.open_on_ns is None else min(self.processed_ns, self.open_on_ns)


@dataclass(slots=True)
class _Chain:
    off_ns: int
    members: list[tuple[str, int]] = field(default_factory=list)


class Coincidence:
    """Triggers of single channels to network triggers, by obspy's rule, as soon as no later data can change them.

    A head is settled when the watermark, before which every trigger is known, has passed its chained off time plus
    association_seconds. Channels silent for patience_seconds do not hold the watermark.
    counts: "late" triggers, which came before what was already settled.
    """

    def __init__(self, config: NetworkConfig, uid_of: Callable[[str, int], str]) -> None:
        self._uid_of = uid_of
        self._least = config.min_channels
        self._extension_ns = seconds_to_ns(config.association_seconds)
        self._patience_ns = seconds_to_ns(config.patience_seconds)
        self._channels: dict[str, _Progress] = {}
        self._closed: list[_Key] = []
        self._last_off_ns = 0
        self.settled_ns = -(1 << 62)
        self._noticed: set[tuple[str, int]] = set()
        self.counts: Counter[str] = Counter()

    def expect(self, sid: str, from_ns: int) -> None:
        """A channel whose data will begin at `from_ns` (archives know): nothing is settled without it."""
        self._channels.setdefault(sid, _Progress(from_ns, 0))

    def feed(self, trigger: Trigger) -> None:
        """A trigger that opens or closes. Settling waits for `advance`."""
        progress = self._channels.setdefault(trigger.sid, _Progress(trigger.on_ns, 0))
        if trigger.off_ns is None:
            progress.open_on_ns = trigger.on_ns
            return
        progress.open_on_ns = None
        if trigger.on_ns < self.settled_ns:
            self.counts["late"] += 1
        insort(self._closed, (trigger.on_ns, trigger.off_ns, trigger.sid))

    def advance(self, sid: str, processed_ns: int, now_ns: int) -> list[NetworkTrigger]:
        """A channel is processed up to `processed_ns`; what that settles."""
        progress = self._channels.setdefault(sid, _Progress(processed_ns, now_ns))
        progress.processed_ns, progress.moved_ns = max(processed_ns, progress.processed_ns), now_ns
        return self.poll(now_ns)

    def retract(self, sid: str) -> None:
        """The channel's open trigger came to nothing."""
        if sid in self._channels:
            self._channels[sid].open_on_ns = None

    def end(self, sid: str, now_ns: int) -> list[NetworkTrigger]:
        """No more data of this channel; what that settles."""
        self._channels.pop(sid, None)
        return self.poll(now_ns)

    def next_deadline(self) -> int | None:
        """When a silent channel stops holding the watermark (monotonic ns)."""
        if not self._closed:
            return None
        waits = (p.moved_ns + self._patience_ns for p in self._channels.values())
        return min(waits, default=None)

    def poll(self, now_ns: int) -> list[NetworkTrigger]:
        """What is settled by now, and early notices."""
        if not self._closed and sum(p.open_on_ns is not None for p in self._channels.values()) < self._least:
            return []
        watermark = self.watermark(now_ns)
        return self._settle(watermark) + self._notices(now_ns)

    def oldest_open_ns(self) -> int:
        """Onset of the oldest trigger that is not settled; far in the future where all are."""
        opens = [p.open_on_ns for p in self._channels.values() if p.open_on_ns is not None]
        return min([key[0] for key in self._closed[:1]] + opens, default=1 << 62)

    def watermark(self, now_ns: int) -> int:
        """Every trigger with an earlier onset is known and closed."""
        return min((p.certain_ns for p in self._awake(now_ns)), default=1 << 62)

    def _awake(self, now_ns: int) -> Iterable[_Progress]:
        return (p for p in self._channels.values() if now_ns - p.moved_ns < self._patience_ns)

    def _settle(self, watermark: int) -> list[NetworkTrigger]:
        out = []
        while self._closed and self._closed[0][0] < watermark:
            chain = self._chain(self._closed)
            if chain.off_ns + self._extension_ns >= watermark:
                break
            head = self._closed.pop(0)
            self.settled_ns = head[0]
            if len(chain.members) >= self._least and chain.off_ns > self._last_off_ns:
                self._last_off_ns = chain.off_ns
                out.append(self._network_trigger(chain, final=True))
        self._noticed = {member for member in self._noticed if member[1] > self.settled_ns}
        return out

    def _chain(self, triggers: list[_Key]) -> _Chain:
        """Triggers that overlap the first, directly or through others, one per channel (obspy's inner loop)."""
        on_ns, off_ns, sid = triggers[0]
        chain = _Chain(off_ns, [(sid, on_ns)])
        present = {sid}
        for other_on, other_off, other in triggers[1:]:
            if other in present:
                continue
            if other_on > chain.off_ns + self._extension_ns:
                break
            present.add(other)
            chain.members.append((other, other_on))
            chain.off_ns = max(chain.off_ns, other_off)
        return chain

    def _notices(self, now_ns: int) -> list[NetworkTrigger]:
        """Early notices: heads that already have enough channels, when no earlier head can come any more."""
        known = sorted([*self._closed, *self._still_open()])
        if len({sid for _, _, sid in known}) < self._least:
            return []
        reached = min((max(p.processed_ns, p.open_on_ns or 0) for p in self._awake(now_ns)), default=1 << 62)
        out = []
        for i, (on_ns, _, sid) in enumerate(known):
            if on_ns > reached:
                break
            if (sid, on_ns) in self._noticed:
                continue
            chain = self._chain(known[i:])
            if len(chain.members) >= self._least and chain.off_ns > self._last_off_ns:
                self._noticed.update(chain.members)
                out.append(self._network_trigger(chain, final=False))
        return out

    def _still_open(self) -> list[_Key]:
        return [
            (p.open_on_ns, max(p.processed_ns, p.open_on_ns), sid)
            for sid, p in self._channels.items()
            if p.open_on_ns is not None
        ]

    def _network_trigger(self, chain: _Chain, *, final: bool) -> NetworkTrigger:
        members = tuple((sid, on_ns, self._uid_of(sid, on_ns)) for sid, on_ns in chain.members)
        return NetworkTrigger("network-" + members[0][2], members[0][1], chain.off_ns, members, final)
