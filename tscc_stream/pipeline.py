"""The two halves of the pipeline: records to windows, windows to detections.

The same two objects serve the daemon, `classify`, `dataset build` and the tests. Neither knows sockets, files, threads
or clocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache

from tscc_stream.config import AssembleConfig, ConditionConfig, Config, TriggerConfig
from tscc_stream.messages import (
    Batch,
    Block,
    Detection,
    EndOfStream,
    Float64Array,
    Gap,
    NetworkEvent,
    NetworkTrigger,
    Record,
    Refusal,
    Trigger,
    Window,
    WindowDropped,
)
from tscc_stream.package import PackageSpec
from tscc_stream.sampling import seconds_to_ns
from tscc_stream.source_id import to_nslc
from tscc_stream.stages.assemble import Assemble
from tscc_stream.stages.condition import Condition
from tscc_stream.stages.detect import Coincidence, Detect
from tscc_stream.stages.extract import RatesDifferError, extract_for
from tscc_stream.stages.gather import Gather
from tscc_stream.stages.infer import Encoder, Infer
from tscc_stream.stages.interpret import Interpret, NetworkVote
from tscc_stream.windows import uid_of

_MOST_RATES = 64
"""Of one channel, remembered at once: a recorder may state another one with every record."""

FrontMessage = Window | WindowDropped | NetworkTrigger | Gap | Refusal
BackMessage = Detection | NetworkEvent
Timer = Callable[[str], AbstractContextManager[object]]
"""Given a stage's name, measures what runs within."""


def _untimed(_stage: str) -> AbstractContextManager[object]:
    return nullcontext()


class FrontHalf:
    """Records to windows and network triggers, of any number of channels in any interleaving.

    counts: "triggers", "suppressed" (inside a pending window) and "refused" (records of refused channels).
    """

    def __init__(self, config: Config, spec: PackageSpec, timer: Timer = _untimed) -> None:
        self._timer = timer

        @lru_cache(maxsize=65_536)
        def sections_of(sid: str) -> tuple[AssembleConfig, ConditionConfig, TriggerConfig]:
            return config.for_channel(to_nslc(sid))

        self._sections_of = sections_of
        self.assemble = Assemble(lambda sid: sections_of(sid)[0])
        self._condition = Condition(lambda sid: sections_of(sid)[1:])
        self._detect = Detect(lambda sid: sections_of(sid)[2])
        self._extract = extract_for(
            spec, lambda sid: sections_of(sid)[0].clip_counts, lambda sid: sections_of(sid)[2].min_seconds
        )
        self._coincidence = Coincidence(config.network, uid_of) if config.network else None
        self._served: dict[str, dict[float, bool | None]] = {}
        self.counts: Counter[str] = Counter()

    def expect(self, sid: str, from_ns: int) -> None:
        """A channel whose data will begin at `from_ns`: network events wait for it (archives know)."""
        if self._coincidence:
            self._coincidence.expect(sid, from_ns)

    def feed(self, message: Record | EndOfStream, now_ns: int = 0) -> list[FrontMessage]:
        """What a record completes. now_ns: monotonic, 0 throughout for archives."""
        if isinstance(message, EndOfStream):
            return self._end(message, now_ns)
        out = self._admit(message, now_ns)
        if not self._served[message.sid][message.sample_rate_hz]:
            self.counts["refused"] += 1
            return out
        with self._timer("assemble"):
            parts = self.assemble.feed(message)
        for part in parts:
            out += self._block(part) if isinstance(part, Block) else self._gap(part, now_ns)
        reached_ns = self.assemble.reached_ns(message.sid)
        out += self._extract.advance(message.sid, reached_ns)
        self.counts["suppressed"] = self._extract.counts["suppressed"]
        if self._coincidence:
            known_ns = reached_ns - seconds_to_ns(self._sections_of(message.sid)[2].min_seconds)
            out += self._named(self._coincidence.advance(message.sid, known_ns, now_ns))
        return out

    def poll(self, now_ns: int) -> list[FrontMessage]:
        """What time alone settles: network events that a silent channel held up."""
        return self._named(self._coincidence.poll(now_ns)) if self._coincidence else []

    def next_deadline(self) -> int | None:
        """When `poll` may have something to say (monotonic ns)."""
        return self._coincidence.next_deadline() if self._coincidence else None

    def unsettled_ns(self) -> int:
        """No window or network trigger that is still to come out of the data fed so far has an earlier onset."""
        pending = self._extract.oldest_pending_ns()
        return min(pending, self._coincidence.oldest_open_ns()) if self._coincidence else pending

    def flush(self, now_ns: int = 0) -> list[FrontMessage]:
        """The end of all data."""
        out: list[FrontMessage] = []
        for sid in self._served:
            out += self._end(EndOfStream(sid), now_ns)
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

    def _admit(self, record: Record, now_ns: int) -> list[FrontMessage]:
        """Whether a channel can be served at its rate is looked at once per rate; what a refusal ends.

        What is refused only because the rest of its sensor has another rate is looked at again with every record.
        """
        rate, rates = record.sample_rate_hz, self._served.setdefault(record.sid, {})
        if rates.get(rate) is not None:
            return []
        if len(rates) >= _MOST_RATES:
            rates.clear()
        try:
            self._condition.check(record.sid, rate)
            self._extract.check(rate, record.sid)
        except ValueError as error:  # a RateError, a ComponentError, or no source id
            told = rate in rates
            rates[rate] = None if isinstance(error, RatesDifferError) else False
            return [] if told else [*self._end(EndOfStream(record.sid), now_ns), Refusal(record.sid, str(error))]
        rates[rate] = True
        return []

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
            if self._coincidence:
                self._coincidence.feed(trigger, self._extract.covering(trigger.sid))
        return out

    def _gap(self, gap: Gap, now_ns: int) -> list[FrontMessage]:
        self._condition.feed(gap)
        out = self._triggers(self._detect.feed(gap))
        out += [*self._extract.feed(gap), gap]
        if self._coincidence:
            self._coincidence.retract(gap.sid)
            if gap.cause == "clock":
                out += self._named(self._coincidence.end(gap.sid, now_ns))
        return out

    def _end(self, end: EndOfStream, now_ns: int) -> list[FrontMessage]:
        self.assemble.feed(end)
        self._condition.feed(end)
        out = self._triggers(self._detect.feed(end))
        out += self._extract.feed(end)
        if self._coincidence:
            out += self._named(self._coincidence.end(end.sid, now_ns))
        return out


class BackHalf:
    """Windows to detections, network triggers to network events. Call `flush` whenever nothing more is queued."""

    def __init__(
        self,
        encoder: Encoder,
        name_of: Callable[[int], str],
        scores: Float64Array | None,
        config: Config,
        timer: Timer = _untimed,
    ) -> None:
        self._timer = timer
        self._alpha = config.novelty.alpha
        self._gather = Gather(config.inference.max_batch)
        self._infer = Infer(encoder)
        self._interpret = Interpret(name_of, scores, self._alpha)
        self._vote = NetworkVote()
        self.batch_sizes: list[int] = []

    def use(self, encoder: Encoder, name_of: Callable[[int], str], scores: Float64Array | None) -> list[BackMessage]:
        """Another model from now on; what the one before still held, classified by it.

        Network events that wait keep the votes that were cast: clusters vote by name.
        """
        held = self.flush()
        self._infer = Infer(encoder)
        self._interpret = Interpret(name_of, scores, self._alpha)
        return held

    def feed(self, message: Window | WindowDropped | NetworkTrigger) -> list[BackMessage]:
        """Detections and network events, in order."""
        if isinstance(message, Window):
            return self._batches(self._gather.feed(message))
        return list(self._vote.feed(message))

    def flush(self) -> list[BackMessage]:
        """What is held in a batch that is not full."""
        return self._batches(self._gather.flush())

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
                assignments = self._infer.feed(batch)
            for assignment in assignments:
                for detection in self._interpret.feed(assignment):
                    out += [detection, *self._vote.feed(detection)]
        return out
