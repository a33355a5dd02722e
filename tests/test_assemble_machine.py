"""Assemble, whatever records come in whatever order: written against what it promises, not against how it does it.

Every sample's value is its number in the channel's own time, so that a sample which comes out says itself where it
belongs. Only the healthy channel's times are right; the other one lies about its clock and rate.
"""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tscc_stream.config import AssembleConfig
from tscc_stream.messages import Block, EndOfStream, Gap, Record, read_only
from tscc_stream.sampling import offset_ns
from tscc_stream.stages.assemble import Assemble

T0 = 1_274_977_440_000_000_000
RATE = 100.0
STEP_NS = 10_000_000
TRUE, LIAR = "FDSN:XX_A__H_H_Z", "FDSN:XX_B__H_H_Z"
CAUSES = {"gap", "rate", "clock", "flat", "invalid"}
CONFLICT = "conflict"


class AssembleMachine(RuleBasedStateMachine):
    """`next`: number of the channel's newest sample, `sent`: numbers that were in some record, `others`: values by
    number where they are none, which come again as they were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.assemble = Assemble(lambda _: AssembleConfig(flat_seconds=1.0, clip_counts=None))
        self.next = dict.fromkeys((TRUE, LIAR), 0)
        self.sent: set[int] = set()
        self.others: dict[int, float] = {}
        self.held: list[tuple[int, int]] = []
        self.out: list[int] = []
        self.broken = dict.fromkeys((TRUE, LIAR), True)
        self.expected: dict[str, tuple[int, int, float] | None] = dict.fromkeys((TRUE, LIAR))

    @initialize()
    def begin(self) -> None:
        self.advance(10)

    # What comes

    def send(self, first: int, count: int, values: np.ndarray | None = None) -> None:
        """Samples `first` ... of the healthy channel at their true times."""
        numbers = np.arange(first, first + count)
        if values is None:
            self.sent.update(numbers.tolist())
        else:
            self.others.update(zip(numbers.tolist(), values.tolist(), strict=True))
        data = np.array([self.others.get(number, number) for number in numbers.tolist()], np.float64)
        self.feed(Record(TRUE, T0 + first * STEP_NS, RATE, read_only(data)))

    @rule(count=st.integers(1, 60))
    def advance(self, count: int) -> None:
        first = self.next[TRUE]
        self.next[TRUE] += count
        self.send(first, count)

    @rule(missing=st.integers(1, 500), count=st.integers(1, 60))
    def gap(self, missing: int, count: int) -> None:
        self.next[TRUE] += missing
        self.advance(count)

    @rule(back=st.integers(1, 200), count=st.integers(1, 250))
    def again(self, back: int, count: int) -> None:
        """A record that was there, or overlaps what was, or reaches beyond it."""
        first = max(self.next[TRUE] - back, 0)
        self.next[TRUE] = max(self.next[TRUE], first + count)
        self.send(first, count)

    @rule(count=st.integers(1, 60))
    def hold_back(self, count: int) -> None:
        self.held.append((self.next[TRUE], count))
        self.next[TRUE] += count

    @rule()
    def late(self) -> None:
        if self.held:
            self.send(*self.held.pop(0))

    @rule(count=st.integers(1, 20), value=st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
    def invalid(self, count: int, value: float) -> None:
        first = self.next[TRUE]
        self.next[TRUE] += count
        self.send(first, count, np.full(count, value))

    @rule(count=st.integers(1, 300))
    def flat(self, count: int) -> None:
        first = self.next[TRUE]
        self.next[TRUE] += count
        self.send(first, count, np.full(count, -7.0))

    @rule(nanoseconds=st.integers(-4_000_000, 4_000_000), count=st.integers(1, 60))
    def jitter(self, nanoseconds: int, count: int) -> None:
        """A start that is off by less than half a sample."""
        first = self.next[TRUE]
        self.next[TRUE] += count
        self.sent.update(range(first, first + count))
        samples = read_only(np.arange(first, first + count, dtype=np.float64))
        self.feed(Record(TRUE, T0 + first * STEP_NS + nanoseconds, RATE, samples))

    @rule(
        shift=st.integers(-4000, 4000),
        rate=st.sampled_from([50.0, 99.999, 100.0, 100.02, 200.0]),
        count=st.integers(1, 99),
    )
    def lie(self, shift: int, rate: float, count: int) -> None:
        """The other channel: any time, any rate."""
        self.next[LIAR] += count
        samples = read_only(np.arange(count, dtype=np.int32))
        self.feed(Record(LIAR, T0 + (self.next[LIAR] + shift) * STEP_NS, rate, samples))

    @rule(sid=st.sampled_from([TRUE, LIAR]))
    def end(self, sid: str) -> None:
        """What comes after the end of a channel is a channel anew; its samples may be the same."""
        self.feed(EndOfStream(sid))
        self.broken[sid] = True
        self.expected[sid] = None
        if sid == TRUE:
            self.held.clear()
            self.next[TRUE] += 100_000  # so that each sample keeps a number of its own

    # What goes out

    def feed(self, message: Record | EndOfStream) -> None:
        for part in self.assemble.feed(message):
            if isinstance(part, Gap) and part.cause == CONFLICT:
                assert part.sid == LIAR
                assert part.to_ns is not None
                assert part.to_ns > part.from_ns
            elif isinstance(part, Gap):
                assert part.cause in CAUSES
                assert part.to_ns is None or part.cause == "clock" or part.to_ns >= part.from_ns - STEP_NS // 2
                self.broken[part.sid] = True
            else:
                self.look_at(part)

    def look_at(self, block: Block) -> None:
        assert block.samples.size
        assert not block.samples.flags.writeable
        assert np.isfinite(block.samples).all()
        assert (block.index == 0) == self.broken[block.sid], "a segment begins without a gap, or goes on after one"
        self.broken[block.sid] = False
        if block.index:
            expected = self.expected[block.sid]
            assert expected is not None
            index, start_ns, rate = expected
            assert (block.index, block.sample_rate_hz) == (index, rate)
            assert abs(block.start_ns - start_ns) <= 0.51e9 / rate, "a block that does not join the one before"
        size = block.samples.size
        after_ns = block.start_ns + offset_ns(size, block.sample_rate_hz)
        self.expected[block.sid] = block.index + size, after_ns, block.sample_rate_hz
        if block.sid == TRUE:
            self.look_at_values(block)

    def look_at_values(self, block: Block) -> None:
        """The healthy channel's samples are where they say they are, in order, each once."""
        numbers = block.samples[block.samples >= 0.0]
        places = (block.start_ns - T0) / STEP_NS + np.flatnonzero(block.samples >= 0.0)
        assert (np.abs(numbers - places) <= 0.9).all(), "samples at another time than theirs"
        self.out += [int(number) for number in numbers]

    @invariant()
    def each_sample_once_in_order_as_it_came(self) -> None:
        assert all(one < two for one, two in zip(self.out, self.out[1:], strict=False))
        assert self.sent.issuperset(self.out)


TestAssembleMachine = AssembleMachine.TestCase
TestAssembleMachine.settings = settings(max_examples=60, stateful_step_count=40)
