"""The two halves of the pipeline: records to windows, windows to detections.

The same two objects serve the daemon, `classify`, `dataset build` and the tests. Neither knows sockets, files, threads
or clocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

from tscc_stream.config import AssembleConfig, ConditionConfig, Config, TriggerConfig
from tscc_stream.lanes import Lanes
from tscc_stream.messages import (
    Assignment,
    Batch,
    Block,
    Detection,
    EndOfStream,
    Float64Array,
    Gap,
    NetworkEvent,
    NetworkTrigger,
    Quarantined,
    Record,
    RecordBatch,
    Refusal,
    Released,
    Trigger,
    Window,
    WindowDropped,
    WindowSpilled,
)
from tscc_stream.package import PackageSpec
from tscc_stream.quarantine import Quarantine, QuarantineState
from tscc_stream.sampling import NS_PER_SECOND, seconds_to_ns
from tscc_stream.source_id import to_nslc
from tscc_stream.stages.assemble import CONFLICT, RATE_TOLERANCE, Assemble, AssembleState
from tscc_stream.stages.condition import Condition, ConditionState
from tscc_stream.stages.detect import Detect, DetectState
from tscc_stream.stages.detect_network import Coincidence, CoincidenceState
from tscc_stream.stages.extract import Extract, ExtractState, RatesDifferError, TogetherState, extract_for
from tscc_stream.stages.gather import Gather
from tscc_stream.stages.infer import Inferring
from tscc_stream.stages.interpret import Interpret, NetworkVote, VoteState
from tscc_stream.windows import uid_of

FrontMessage = Window | WindowDropped | NetworkTrigger | Gap | Refusal | Quarantined | Released
BackMessage = Detection | NetworkEvent
_Sections = tuple[AssembleConfig, ConditionConfig, TriggerConfig]
Timer = Callable[[str], AbstractContextManager[object]]
"""Given a stage's name, measures what runs within."""
OnTrigger = Callable[[Trigger, str], None]
"""Told of every trigger, as Coincidence is fed: when it opens, when it closes, and what to ask `window_of` for."""
Served = dict[str, dict[float, bool | None]]
"""By source id, which rates it can be served at: None where it cannot be only because of the rest of its sensor."""

MOST_CHANNELS = 50_000
"""What a server can make the front half grow to, by sending ever new channels."""
MOST_TURNED_AWAY = 100
"""Channels beyond that number which are named; the others are counted only."""
FORGET_NS = 86_400 * NS_PER_SECOND
"""A channel that was silent for as long (monotonic) makes room for a new one."""
MOST_RATES = 8
"""Sampling rates of one channel; those that differ by RATE_TOLERANCE are one."""


def _untimed(_stage: str) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class FrontState:
    """The stages of a FrontHalf as they can be written down. extract: of single channels, together: of sensors."""

    assemble: AssembleState
    quarantine: QuarantineState
    condition: ConditionState
    detect: DetectState
    extract: ExtractState | None
    together: TogetherState | None
    coincidence: CoincidenceState | None


class FrontHalf:
    """Records to windows and network triggers, of any number of channels in any interleaving.

    counts: "triggers", "suppressed" (inside a pending window), and records left out: "refused" (of refused channels),
    "quarantined" and "turned away" (of channels beyond most_channels).
    """

    def __init__(
        self,
        config: Config,
        spec: PackageSpec,
        timer: Timer = _untimed,
        most_channels: int = MOST_CHANNELS,
        on_trigger: OnTrigger | None = None,
    ) -> None:
        self._timer = timer
        self._on_trigger = on_trigger
        distinct: dict[_Sections, _Sections] = {}

        @lru_cache(maxsize=65_536)
        def sections_of(sid: str) -> _Sections:
            sections = config.for_channel(to_nslc(sid))
            return distinct.setdefault(sections, sections)

        self._sections_of = sections_of
        self.assemble = Assemble(lambda sid: sections_of(sid)[0])
        self.quarantine = Quarantine(config.quarantine)
        self._condition = Condition(lambda sid: sections_of(sid)[1:])
        self._detect = Detect(lambda sid: sections_of(sid)[2])
        self._extract = extract_for(
            spec, lambda sid: sections_of(sid)[0].clip_counts, lambda sid: sections_of(sid)[2].min_seconds
        )
        self._coincidence = Coincidence(config.network, uid_of) if config.network else None
        self._lanes = self._make_lanes()
        self._most_channels = most_channels
        self._heard: dict[str, int] = {}
        self._full_until_ns = 0
        self._turned_away: set[str] = set()
        self._served: Served = {}
        self.counts: Counter[str] = Counter()

    def _make_lanes(self) -> Lanes | None:
        """Windows across components are the stages' affair alone."""
        if not isinstance(self._extract, Extract):
            return None
        stages = self.assemble, self._condition, self._detect, self._extract
        return Lanes(*stages, self._sections_of, self._triggers)

    def expect(self, sid: str, from_ns: int) -> None:
        """A channel whose data will begin at `from_ns`: network events wait for it (archives know)."""
        if self._coincidence:
            self._coincidence.expect(sid, from_ns)

    def feed(self, message: Record | EndOfStream, now_ns: int = 0) -> list[FrontMessage]:
        """What a record completes. now_ns: monotonic, 0 throughout for archives."""
        if isinstance(message, EndOfStream):
            return self._end(message.sid, now_ns)
        sid = message.sid
        if self._lanes is not None:
            self._lanes.move_out(sid)
        out = self._make_room(sid, now_ns)
        if sid not in self._heard:
            self.counts["turned away"] += 1
            return out
        if not self.quarantine.holds(sid):
            rate_hz = self._known_rate(sid, message.sample_rate_hz)
            if rate_hz != message.sample_rate_hz:
                message = replace(message, sample_rate_hz=rate_hz)
            out += self._admit(message, now_ns)
            if not self._served[sid].get(rate_hz):
                self.counts["refused"] += 1
                return out
        with self._timer("assemble"):
            parts = self.assemble.feed(message, now_ns)
        out += self._judged(sid, parts, now_ns)
        self.counts["quarantined"] += self.quarantine.holds(sid)
        self.counts["suppressed"] = self._extract.counts["suppressed"]
        return out

    def feed_batch(self, batch: RecordBatch, now_ns: int = 0) -> list[FrontMessage]:
        """What the records of a batch complete: the same as one by one, but for the order among channels."""
        if self._lanes is None:
            return [message for place in range(len(batch)) for message in self.feed(batch.record(place), now_ns)]
        with self._timer("lanes"):
            advanced = self._lanes.advance(batch)
        out: list[FrontMessage] = list(advanced.windows)
        self._heard.update((sid, now_ns) for sid, _ in advanced.reached)
        if self._coincidence:
            out += self._named(self._coincidence.advance_all(advanced.reached, now_ns))
        out += self._by_the_stages(batch, advanced.left, now_ns)  # which may end channels
        self.counts["suppressed"] = self._extract.counts["suppressed"]
        return out

    def _by_the_stages(self, batch: RecordBatch, places: list[int], now_ns: int) -> list[FrontMessage]:
        """Records one by one; channels that are in their ordinary state after them move into the lanes."""
        out: list[FrontMessage] = []
        for place in places:
            out += self.feed(batch.record(place), now_ns)
        for sid in dict.fromkeys(batch.sids[channel] for channel in batch.channel[places].tolist()):
            if self._lanes is not None and sid in self._heard and not self.quarantine.troubled(sid):
                self._lanes.move_in(sid)
        return out

    def snapshot(self) -> FrontState:
        """Everything that decides what the next record makes, to be written down before it is fed."""
        extract = self._extract
        with nullcontext() if self._lanes is None else self._lanes.written():
            return FrontState(
                self.assemble.snapshot(),
                self.quarantine.snapshot(),
                self._condition.snapshot(),
                self._detect.snapshot(),
                extract.snapshot() if isinstance(extract, Extract) else None,
                None if isinstance(extract, Extract) else extract.snapshot(),
                self._coincidence.snapshot() if self._coincidence else None,
            )

    def served(self) -> Served:
        """Which rates were looked at so far: what a snapshot leaves out, since a restart may look again."""
        return {sid: dict(rates) for sid, rates in self._served.items()}

    def restore(self, state: FrontState, now_ns: int, served: Served | None = None) -> None:
        """Go on from a snapshot that a front half with the same configuration and package has taken.

        served: as it had been then; without it, rates are looked at, and refusals told, again.
        """
        self._lanes = self._make_lanes()
        self.assemble.restore(state.assemble, now_ns)
        self.quarantine.restore(state.quarantine)
        known = dict.fromkeys([*state.assemble, *state.quarantine])
        self._served = {sid: {} for sid in known} | (served or {})
        self._heard = dict.fromkeys([*known, *self._served], now_ns)
        self._condition.restore(state.condition)
        self._detect.restore(state.detect)
        if isinstance(self._extract, Extract):
            self._extract.restore(state.extract or {})
        elif state.together is not None:
            self._extract.restore(state.together)
        if self._coincidence and state.coincidence:
            self._coincidence.restore(state.coincidence, now_ns)

    def reached_ns(self) -> dict[str, tuple[int, int]]:
        """By source id: every window with an onset before the first time has been given out, or never will be; the
        channel's next sample is expected at the second.
        """
        pending = self._extract.oldest_pending_by_channel()
        return {
            sid: (min(self._known_ns(sid), pending.get(sid, 1 << 62)), self._reached_ns(sid))
            for sid in self.assemble.snapshot()
        }

    def _reached_ns(self, sid: str) -> int:
        in_lane = self._lanes is not None and sid in self._lanes
        return self._lanes.reached_ns(sid) if self._lanes and in_lane else self.assemble.reached_ns(sid)

    def _known_ns(self, sid: str) -> int:
        """Every trigger of a channel with an earlier onset is known."""
        return self._reached_ns(sid) - seconds_to_ns(self._sections_of(sid)[2].min_seconds)

    def poll(self, now_ns: int) -> list[FrontMessage]:
        """What time alone settles: records held of a silent channel, network events that it held up."""
        out: list[FrontMessage] = []
        parts = self.assemble.poll(now_ns)
        for sid in dict.fromkeys(part.sid for part in parts):
            out += self._judged(sid, [part for part in parts if part.sid == sid], now_ns)
        return out + (self._named(self._coincidence.poll(now_ns)) if self._coincidence else [])

    def next_deadline(self) -> int | None:
        """When `poll` may have something to say (monotonic ns)."""
        network = self._coincidence.next_deadline() if self._coincidence else None
        return min((at_ns for at_ns in (self.assemble.next_deadline(), network) if at_ns is not None), default=None)

    def unsettled_ns(self) -> int:
        """No window or network trigger that is still to come out of the data fed so far has an earlier onset."""
        pending = min(self._extract.oldest_pending_ns(), self.assemble.oldest_held_ns())
        return min(pending, self._coincidence.oldest_open_ns()) if self._coincidence else pending

    def window_of(self, uid: str) -> str:
        """The window, finished or not, that covers a trigger: its own uid where that is not known yet."""
        return self._extract.window_of(uid, binding=False)

    def unsettled_windows(self) -> frozenset[str]:
        """Windows, given out or not, that network triggers may still name."""
        unsettled = self._coincidence.open_windows() if self._coincidence else ()
        return frozenset(self._extract.window_of(uid, binding=False) for uid in unsettled)

    def flush(self, now_ns: int = 0) -> list[FrontMessage]:
        """The end of all data."""
        out: list[FrontMessage] = []
        for sid in self._served:
            if parts := self.assemble.release(sid):
                out += self._judged(sid, parts, now_ns)
        for sid in self._served:
            out += self._end(sid, now_ns)
        out += self._extract.flush()
        self.counts["suppressed"] = self._extract.counts["suppressed"]
        if self._coincidence:
            out += self._named(self._coincidence.flush())
        return out

    def _named(self, triggers: list[NetworkTrigger]) -> list[FrontMessage]:
        """Network triggers with the windows that cover their members, by now."""
        window_of = self._extract.window_of
        return [
            replace(trigger, members=tuple((sid, onset_ns, window_of(uid)) for sid, onset_ns, uid in trigger.members))
            for trigger in triggers
        ]

    def _make_room(self, sid: str, now_ns: int) -> list[FrontMessage]:
        """The channel was heard of, where there is room for it; what that ends, or the refusal."""
        out: list[FrontMessage] = []
        if sid not in self._heard and len(self._heard) >= self._most_channels:
            if now_ns < self._full_until_ns:
                return self._turn_away(sid)
            oldest = min(self._heard, key=self._heard.__getitem__)
            self._full_until_ns = self._heard[oldest] + FORGET_NS
            if now_ns < self._full_until_ns:
                return self._turn_away(sid)
            out += self._forget(oldest, now_ns)
        self._heard[sid] = now_ns
        return out

    def _turn_away(self, sid: str) -> list[FrontMessage]:
        if sid in self._turned_away or len(self._turned_away) >= MOST_TURNED_AWAY:
            return []
        self._turned_away.add(sid)
        return [Refusal(sid, f"{self._most_channels} channels are served, and none was silent for a day")]

    def _forget(self, sid: str, now_ns: int) -> list[FrontMessage]:
        """Nothing of a channel is kept."""
        out = self._end(sid, now_ns)
        out += self._extract.forget(sid)
        if self._lanes is not None:
            self._lanes.forget(sid)
        self.assemble.forget(sid)
        self.quarantine.forget(sid)
        self._served.pop(sid, None)
        del self._heard[sid]
        return out

    def _admit(self, record: Record, now_ns: int) -> list[FrontMessage]:
        """Whether a channel can be served at its rate is looked at once per rate; what a refusal ends.

        What is refused only because the rest of its sensor has another rate is looked at again with every record.
        """
        rate, rates = record.sample_rate_hz, self._served.setdefault(record.sid, {})
        if rates.get(rate) is not None:
            return []
        if rate not in rates and len(rates) >= MOST_RATES:
            verdict = self.quarantine.put(record.sid, f"more than {MOST_RATES} rates", record.start_ns)
            return self._isolate(record.sid, verdict, now_ns)
        try:
            self._condition.check(record.sid, rate)
            self._extract.check(rate, record.sid)
        except ValueError as error:  # a RateError, a ComponentError, or no source id
            told = rate in rates
            rates[rate] = None if isinstance(error, RatesDifferError) else False
            return [] if told else [*self._end(record.sid, now_ns), Refusal(record.sid, str(error))]
        rates[rate] = True
        return []

    def _known_rate(self, sid: str, rate_hz: float) -> float:
        """What is looked at, planned and counted for a rate: one that the channel had before, up to the tolerance.

        A recorder that states what it measures has another with every record. That of the segment comes first.
        """
        present = self.assemble.rate_hz(sid)
        known = [*([] if present is None else [present]), *self._served.get(sid, ())]
        return next((one for one in known if abs(rate_hz - one) <= RATE_TOLERANCE * one), rate_hz)

    def _judged(self, sid: str, parts: list[Block | Gap], now_ns: int) -> list[FrontMessage]:
        """Blocks and gaps of one channel through the other stages, unless it is quarantined."""
        held = self.quarantine.holds(sid)
        verdict = self.quarantine.judge(sid, parts)
        if verdict is not None:
            return self._isolate(sid, verdict, now_ns)
        return [] if held else self._through(sid, parts, now_ns)

    def _isolate(self, sid: str, verdict: Quarantined | Released, now_ns: int) -> list[FrontMessage]:
        """A channel is left out from now on, or starts afresh: either way what came of it last is left out."""
        until_ns = None  # a clock that was set back meanwhile does not make the quarantine shorter than nothing
        if isinstance(verdict, Released):
            until_ns = max(verdict.from_ns, self.assemble.reached_ns(sid))
        left_out = Gap(sid, verdict.from_ns, until_ns, "quarantined")
        self.assemble.feed(EndOfStream(sid))
        self._served[sid].clear()
        return [*(self._close(sid, now_ns) if isinstance(verdict, Quarantined) else []), left_out, verdict]

    def _through(self, sid: str, parts: list[Block | Gap], now_ns: int) -> list[FrontMessage]:
        out = self._parts(parts, now_ns)
        reached_ns = self.assemble.reached_ns(sid)
        out += self._extract.advance(sid, reached_ns)
        if self._coincidence:
            out += self._named(self._coincidence.advance(sid, self._known_ns(sid), now_ns))
        return out

    def _parts(self, parts: list[Block | Gap], now_ns: int) -> list[FrontMessage]:
        out: list[FrontMessage] = []
        for part in parts:
            out += self._block(part) if isinstance(part, Block) else self._gap(part, now_ns)
        return out

    def _block(self, block: Block) -> list[FrontMessage]:
        out: list[FrontMessage] = []
        with self._timer("condition"):
            characteristics = self._condition.feed(block)
        for characteristic in characteristics:
            with self._timer("detect"):
                out += self._triggers(self._detect.feed(characteristic))
            with self._timer("extract"):
                out += self._extract.feed(characteristic)
        return out

    def _triggers(self, triggers: list[Trigger]) -> list[FrontMessage]:
        out: list[FrontMessage] = []
        for trigger in triggers:
            out += self._extract.feed(trigger)
            self.counts["triggers"] += trigger.off_index is None
            if self._on_trigger:
                self._on_trigger(trigger, self._extract.covering(trigger.sid))
            if self._coincidence:
                self._coincidence.feed(trigger, self._extract.covering(trigger.sid))
        return out

    def _gap(self, gap: Gap, now_ns: int) -> list[FrontMessage]:
        if gap.cause == CONFLICT:
            return [gap]
        self._condition.feed(gap)
        out = self._triggers(self._detect.feed(gap))
        out += [*self._extract.feed(gap), gap]
        if self._coincidence:
            self._coincidence.retract(gap.sid)
            if gap.cause == "clock":
                out += self._named(self._coincidence.end(gap.sid, now_ns))
        return out

    def _end(self, sid: str, now_ns: int) -> list[FrontMessage]:
        """No more data of this channel: what is held of it, and what that ends."""
        if self._lanes is not None:
            self._lanes.move_out(sid)
        held = self.assemble.feed(EndOfStream(sid))
        out = [] if self.quarantine.holds(sid) else self._parts(held, now_ns)
        return out + self._close(sid, now_ns)

    def _close(self, sid: str, now_ns: int) -> list[FrontMessage]:
        end = EndOfStream(sid)
        self._condition.feed(end)
        out = self._triggers(self._detect.feed(end))
        out += self._extract.feed(end)
        if self._coincidence:
            out += self._named(self._coincidence.end(sid, now_ns))
        return out


class BackHalf:
    """Windows to detections, network triggers to network events. Call `flush` whenever nothing more is queued."""

    def __init__(
        self,
        infer: Inferring,
        name_of: Callable[[int], str],
        scores: Float64Array | None,
        config: Config,
        timer: Timer = _untimed,
    ) -> None:
        self._timer = timer
        self._gather = Gather(config.inference.max_batch)
        self._adopt(infer, name_of, scores, config.novelty.alpha)
        self._vote = NetworkVote()
        self.batch_sizes: list[int] = []

    def _adopt(
        self, infer: Inferring, name_of: Callable[[int], str], scores: Float64Array | None, alpha: float
    ) -> None:
        self._infer, self._name_of, self._scores, self._alpha = infer, name_of, scores, alpha
        self._interpret = Interpret(name_of, scores, alpha)

    def use(self, infer: Inferring, name_of: Callable[[int], str], scores: Float64Array | None) -> list[BackMessage]:
        """Another model from now on; what the one before still held, classified by it.

        Network events that wait keep the votes that were cast: clusters vote by name.
        """
        held = self.flush()
        self._adopt(infer, name_of, scores, self._alpha)
        return held

    def retune(self, alpha: float) -> list[BackMessage]:
        """Another share of ordinary windows that may be called unknown; what was held, with the one before."""
        held = self.flush()
        self._adopt(self._infer, self._name_of, self._scores, alpha)
        return held

    def feed(self, message: Window | WindowDropped | WindowSpilled | NetworkTrigger) -> list[BackMessage]:
        """Detections and network events, in order."""
        if isinstance(message, Window):
            return self._batches(self._gather.feed(message))
        return list(self._vote.feed(message))

    def keep_warm(self) -> None:
        """Nothing came for a while, but soon will: see Inferring."""
        self._infer.keep_warm()

    def flush(self) -> list[BackMessage]:
        """What is held in a batch that is not full."""
        return self._batches(self._gather.flush())

    def snapshot(self, named: frozenset[str] = frozenset()) -> VoteState:
        """What network events still depend on, and those that may name these windows; call it after a `flush`."""
        return self._vote.snapshot(named)

    def restore(self, state: VoteState) -> None:
        """Go on from a snapshot."""
        self._vote.restore(state)

    def unsettled_ns(self) -> int:
        """No network event that still waits for its windows has an earlier onset."""
        return self._vote.oldest_waiting_ns()

    def end(self) -> list[BackMessage]:
        """The end of all data: the last batch, and network events with the votes there are."""
        return [*self.flush(), *self._vote.flush()]

    def _batches(self, batches: list[Batch]) -> list[BackMessage]:
        out: list[BackMessage] = []
        for batch in batches:
            self.batch_sizes.append(len(batch.windows))
            with self._timer("infer"):
                results = self._infer.feed(batch)
            for result in results:
                out += self._resolved(result)
        return out

    def _resolved(self, result: Assignment | WindowDropped) -> list[BackMessage]:
        if isinstance(result, WindowDropped):
            return list(self._vote.feed(result))
        out: list[BackMessage] = []
        for detection in self._interpret.feed(result):
            out += [detection, *self._vote.feed(detection)]
        return out
