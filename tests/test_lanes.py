"""Batches through compiled code: the same windows, triggers and states as record by record through the stages, to the
bit, whatever comes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_streams import SECOND, T0, noise_with_bursts, package_spec, records, sid_of

from tscc_stream import lanes
from tscc_stream.config import Config
from tscc_stream.messages import (
    EndOfStream,
    Gap,
    NetworkTrigger,
    Quarantined,
    Record,
    RecordBatch,
    Refusal,
    Released,
    Window,
    WindowDropped,
    read_only,
)
from tscc_stream.pipeline import FrontHalf, FrontMessage, FrontState
from tscc_stream.recovery import decode, encode

SAMPLES = 3000
FLAGGED = {"condition": {"band_hz": (5.0, 20.0)}, "trigger": {"sta_seconds": 0.2, "lta_seconds": 2.0}}
RATES = (100.0, 250.0, 99.99999)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    trigger = {
        "sta_seconds": 0.2,
        "lta_seconds": 2.0,
        "trigger_on": draw(st.sampled_from([2.0, 3.0, 4.0])),
        "trigger_off": draw(st.sampled_from([0.8, 1.5])),
        "min_seconds": draw(st.sampled_from([0.0, 0.0, 0.05, 0.3])),
        "max_seconds": draw(st.sampled_from([0.4, 2.0, 30.0])),
        "dead_seconds": draw(st.sampled_from([0.0, 0.0, 0.5])),
        "method": draw(st.sampled_from(["recursive", "recursive", "recursive", "classic"])),
    }
    return Config.model_validate(
        {
            "condition": {"band_hz": (5.0, 20.0), "corners": draw(st.sampled_from([1, 2, 3, 4, 4, 5]))},
            "trigger": trigger,
            "assemble": {
                "flat_seconds": draw(st.sampled_from([0.5, 5.0])),
                "clip_counts": draw(st.sampled_from([None, 2000.0])),
                "reorder_seconds": draw(st.sampled_from([0.0, 2.0])),
            },
            "network": draw(st.sampled_from([None, {"min_channels": 2}])),
        }
    )


Trouble = Callable[[Record, np.random.Generator], list[Record]]


def _on_samples(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Trouble:
    def trouble(record: Record, rng: np.random.Generator) -> list[Record]:
        return [replace(record, samples=change(record.samples.astype(np.float64), rng))]

    return trouble


def _flat(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    at = int(rng.integers(0, samples.size))
    samples[at:] = samples[at]
    return samples


def _invalid(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    samples[int(rng.integers(0, samples.size))] = rng.choice([np.nan, np.inf, 2e15])
    return samples


def _shifted(record: Record, rng: np.random.Generator) -> list[Record]:
    return [replace(record, start_ns=record.start_ns + int(rng.integers(-6_000_000, 6_000_000)))]


TROUBLES: dict[str, Trouble] = {
    "lost": lambda record, rng: [],
    "twice": lambda record, rng: [record, record],
    "contradicted": lambda record, rng: [record, *[replace(record, samples=-record.samples)] * int(rng.integers(1, 4))],
    "flat": _on_samples(_flat),
    "clipped": _on_samples(lambda samples, rng: np.clip(3.0 * samples, -2000.0, 2000.0)),
    "invalid": _on_samples(_invalid),
    "flagged": lambda record, rng: [replace(record, quality=frozenset({rng.choice(["clipped", "timing"])}))],
    "shifted": _shifted,
    "far": lambda record, rng: [replace(record, start_ns=record.start_ns + 3_000 * SECOND)],
    "nearly the rate": lambda record, rng: [replace(record, sample_rate_hz=record.sample_rate_hz * (1.0 + 1e-6))],
    "another rate": lambda record, rng: [replace(record, sample_rate_hz=200.0)],
    "refused rate": lambda record, rng: [replace(record, sample_rate_hz=20.0)],
}
"""What may come in place of a record."""


TOLD_ANEW = [name for name in sorted(TROUBLES) if name != "refused rate"]
"""A restart has forgotten what it refused, says so again, and ends the channel once more."""


@st.composite
def streams(draw: st.DrawFn, kinds: Sequence[str] = tuple(sorted(TROUBLES))) -> list[Record]:
    """Records of some channels, in any interleaving, with any trouble; mostly none, but for flags."""
    queues = []
    for number in range(draw(st.integers(1, 3))):
        rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
        bursts = sorted(rng.integers(300, SAMPLES - 50, draw(st.integers(0, 6))).tolist())
        signal = noise_with_bursts(draw(st.integers(0, 1 << 16)), SAMPLES, bursts, gain=40.0, offset=1e4 * number)
        cuts = sorted(rng.integers(1, SAMPLES, draw(st.integers(0, 40))).tolist())
        made = records(signal, draw(st.sampled_from(RATES)), cuts, sid=sid_of(number))
        troubles = draw(st.dictionaries(st.integers(0, len(made) - 1), st.sampled_from(kinds), max_size=4))
        flagged = draw(st.sampled_from([0.0, 0.0, 0.1, 0.5]))
        queue = []
        for place, plain in enumerate(made):
            record = TROUBLES["flagged"](plain, rng)[0] if rng.random() < flagged else plain
            queue += TROUBLES[troubles[place]](record, rng) if place in troubles else [record]
        queues.append(queue)
    order = draw(st.randoms(use_true_random=False))
    mixed = []
    while any(queues):
        mixed.append(order.choice([queue for queue in queues if queue]).pop(0))
    return mixed


def batches(items: Sequence[Record], cuts: Iterable[int]) -> list[RecordBatch]:
    bounds = sorted({0, len(items), *(cut for cut in cuts if cut < len(items))})
    return [RecordBatch.of(items[a:b]) for a, b in pairwise(bounds)]


def front_of(config: Config) -> FrontHalf:
    """It knows its channels: which network events there are does not depend on who came first then."""
    front = FrontHalf(config, package_spec())
    for number in range(3):
        front.expect(sid_of(number), T0)
    return front


def told(messages: Iterable[FrontMessage]) -> dict[str, list[object]]:
    """By channel, in order; network triggers by themselves, in their own."""
    found: dict[str, list[object]] = {}
    for message in messages:
        if isinstance(message, Window):
            said: tuple[object, ...] = (
                *(message.uid, message.onset_ns, message.start_ns, message.waveform.tobytes()),
                *(message.normalised.tobytes(), message.peak_ratio, message.peak_amplitude, message.duration_s),
                message.quality,
            )
            found.setdefault(message.sid, []).append(said)
        elif isinstance(message, NetworkTrigger):
            if message.final:
                found.setdefault("", []).append(message)
        else:
            assert isinstance(message, WindowDropped | Gap | Refusal | Quarantined | Released)
            found.setdefault(message.sid, []).append(message)
    found[""] = sorted(found.get("", []), key=repr)
    return found


def state_of(front: FrontHalf) -> dict[str, object]:
    """What the stages remember of each channel, but for how much history."""
    state = decode(encode(front.snapshot()), FrontState)
    return {
        "assemble": encode(state.assemble),
        "condition": encode(state.condition),
        "detect": encode(state.detect),
        "pending": encode(
            {sid: (kept.pending, kept.latest_uid, kept.latest_end) for sid, kept in state.extract.items()}
        ),
        "counts": {name: number for name, number in front.counts.items() if number},
        "left out": front.assemble.left_out,
        "reached": front.reached_ns(),
        "unsettled": front.unsettled_ns(),
        "watched": sorted(state.coincidence.channels) if state.coincidence else None,
    }


@pytest.mark.no_cover
@settings(max_examples=250, deadline=None)
@given(config=configs(), items=streams(), cuts=st.lists(st.integers(1, 200), max_size=30))
def test_a_batch_gives_what_its_records_give_one_by_one(config: Config, items: list[Record], cuts: list[int]) -> None:
    plain, fast = front_of(config), front_of(config)
    expected = [message for record in items for message in plain.feed(record)]
    got = [message for batch in batches(items, cuts) for message in fast.feed_batch(batch)]
    assert told(got) == told(expected)
    assert state_of(fast) == state_of(plain)
    assert told(fast.flush()) == told(plain.flush())


@pytest.mark.no_cover
@settings(max_examples=100, deadline=None)
@given(
    config=configs(),
    items=streams(TOLD_ANEW),
    cuts=st.lists(st.integers(1, 200), min_size=3, max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_a_snapshot_between_batches_goes_on_as_if_nothing_were(
    config: Config, items: list[Record], cuts: list[int], order: random.Random
) -> None:
    plain, fast = front_of(config), front_of(config)
    expected = [message for record in items for message in plain.feed(record)]
    got = []
    for batch in batches(items, cuts):
        got += fast.feed_batch(batch)
        if order.random() < 0.3:
            written = encode(fast.snapshot())
            if order.random() < 0.5:
                counts = fast.counts
                fast = front_of(config)
                fast.restore(decode(written, FrontState), 0)
                fast.counts = counts
    assert told(got + fast.flush()) == told(expected + plain.flush())


@pytest.mark.parametrize("together", [1, 5, 30, 60])
def test_flags_are_those_of_the_samples_however_many_records_come_at_once(together: int) -> None:
    """Two flagged records farther apart than a ring is long, a window over the first of them."""
    front = FrontHalf(Config.model_validate(FLAGGED), package_spec())
    signal = noise_with_bursts(3, 6000, [4010], gain=40.0)
    made = records(signal, 100.0, range(100, 6000, 100), sid=sid_of(1))
    for place in (40, 58):
        made[place] = replace(made[place], quality=frozenset({"timing"}))
    given = [front.feed_batch(RecordBatch.of([record])) for record in made[:30]]
    given += [front.feed_batch(batch) for batch in batches(made[30:], range(together, 30, together))]
    assert [one.quality for out in given for one in out if isinstance(one, Window)] == [("timing",)]


def test_a_clock_that_was_ahead_for_a_while_costs_no_data_in_lanes_either() -> None:
    signal = noise_with_bursts(3, 40_000, range(1010, 40_000, 2000), gain=40.0)
    made = [
        replace(record, start_ns=record.start_ns + (25 * SECOND if 100 <= place < 200 else 0))
        for place, record in enumerate(records(signal, 100.0, range(100, 40_000, 100), sid=sid_of(1)))
    ]
    plain, fast = (
        FrontHalf(Config.model_validate(FLAGGED), package_spec()),
        FrontHalf(Config.model_validate(FLAGGED), package_spec()),
    )
    expected, got = [], []
    for place in range(0, 400, 5):
        now_ns = place * SECOND + 1
        expected += [message for record in made[place : place + 5] for message in plain.feed(record, now_ns)]
        expected += plain.poll(now_ns)
        got += fast.feed_batch(RecordBatch.of(made[place : place + 5]), now_ns) + fast.poll(now_ns)
    assert told(got) == told(expected)
    marks, known = (front.snapshot().assemble[sid_of(1)] for front in (fast, plain))
    assert marks.marks_ns.tolist() == known.marks_ns.tolist()
    assert marks.marks.tolist() == known.marks.tolist()
    assert [message.cause for message in got if isinstance(message, Gap)] == ["gap", "clock"]
    assert sum(isinstance(message, Window) for message in got) == 20
    assert not fast.assemble.left_out


def test_a_recorder_that_states_what_it_measures_stays_in_its_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 Hz within a millionth, another rate with each record."""
    rng = np.random.default_rng(1)
    signal = noise_with_bursts(3, 30_000, range(1010, 30_000, 2000), gain=40.0)
    made = [
        replace(record, sample_rate_hz=100.0 * (1.0 + 1e-6 * rng.normal()))
        for record in records(signal, 100.0, range(100, 30_000, 100), sid=sid_of(1))
    ]
    plain, fast = (
        FrontHalf(Config.model_validate(FLAGGED), package_spec()),
        FrontHalf(Config.model_validate(FLAGGED), package_spec()),
    )
    expected = [message for record in made for message in plain.feed(record)]
    got = [message for record in made[:10] for message in fast.feed_batch(RecordBatch.of([record]))]
    with monkeypatch.context() as patched:
        patched.setattr(fast, "feed", None)
        got += [message for batch in batches(made[10:], range(7, 290, 7)) for message in fast.feed_batch(batch)]
    assert told(got) == told(expected)
    assert state_of(fast) == state_of(plain)
    assert [type(message) for message in got] == [Window] * 15
    assert list(fast.served()[sid_of(1)].values()) == [True]


@pytest.mark.parametrize("gain", [1.0, 40.0])
def test_integers_in_long_records_give_what_the_stages_give(gain: float) -> None:
    """Records longer than the rings, with and without triggers, some of them open at a record's end."""
    config = Config.model_validate({"condition": {"band_hz": (5.0, 20.0)}, "trigger": {"lta_seconds": 2.0}})
    onsets = [2600, 4000, 5990, 7100, 8999, 9200, 13_000]
    signal = np.rint(100.0 * noise_with_bursts(3, 15_000, onsets, gain=gain)).astype(np.int32)
    made = [
        replace(record, samples=record.samples.astype(np.int32))
        for record in records(signal, 100.0, [1500, 2000, 6000, 9000, 9100], sid=sid_of(1))
    ]
    plain, fast = FrontHalf(config, package_spec()), FrontHalf(config, package_spec())
    expected, got = [], []
    for record in made:
        batch = RecordBatch.of([record])
        expected += plain.feed(record)
        got += fast.feed_batch(replace(batch, samples=read_only(batch.samples.astype(np.int32))))
        assert state_of(fast) == state_of(plain)
    assert told(got + fast.flush()) == told(expected + plain.flush())
    assert any(isinstance(message, Window) for message in got) == (gain > 1.0)


@pytest.mark.no_cover
def test_a_ratio_that_just_reaches_the_threshold_is_not_overlooked() -> None:
    """Ratios are worked out only where STA and LTA of a stretch, here one sample, allow one that opens a trigger."""
    signal = noise_with_bursts(3, 3000, [1200, 2000], gain=4.0)
    made = records(signal, 100.0, range(1, 3000), sid=sid_of(1))
    sections = {"condition": {"band_hz": (5.0, 20.0)}}
    trigger = {"sta_seconds": 0.2, "lta_seconds": 2.0, "trigger_on": 2.0, "trigger_off": 1.5}

    def told_by(on: float, *, fast: bool) -> list[FrontMessage]:
        front = FrontHalf(Config.model_validate({**sections, "trigger": {**trigger, "trigger_on": on}}), package_spec())
        if fast:
            return [message for record in made for message in front.feed_batch(RecordBatch.of([record]))]
        return [message for record in made for message in front.feed(record)]

    peak = max(message.peak_ratio for message in told_by(2.0, fast=False) if isinstance(message, Window))
    for on, windows in ((peak, 1), (np.nextafter(peak, np.inf), 0)):
        assert told(told_by(float(on), fast=True)) == told(told_by(float(on), fast=False))
        assert sum(isinstance(message, Window) for message in told_by(float(on), fast=True)) == windows


def test_ordinary_records_never_reach_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second batch on, bursts included; after a gap, and some records more, it moves in anew."""
    front = FrontHalf(Config.model_validate({"condition": {"band_hz": (5.0, 20.0)}}), package_spec())
    signal = noise_with_bursts(1, 6000, [2000, 4000], gain=40.0)
    made = records(signal, 100.0, range(100, 6000, 100), sid=sid_of(1))
    for record in made[:10]:
        front.feed_batch(RecordBatch.of([record]))
    with monkeypatch.context() as patched:
        patched.setattr(front, "feed", None)
        windows = [item for record in made[10:30] for item in front.feed_batch(RecordBatch.of([record]))]
    assert [type(item) for item in windows] == [Window]
    for record in made[31 : 32 + lanes.STAYS_OUT]:
        front.feed_batch(RecordBatch.of([record]))
    with monkeypatch.context() as patched:
        patched.setattr(front, "feed", None)
        front.feed_batch(RecordBatch.of(made[32 + lanes.STAYS_OUT :]))
    front.feed(EndOfStream(sid_of(1)))
    assert sid_of(1) not in front.assemble.snapshot()


def test_many_channels_of_several_rates_share_arrays() -> None:
    """Arrays grow, rows are used again after a channel has gone, and results stay those of the stages."""
    sections = {"condition": {"band_hz": (5.0, 20.0)}, "network": {"min_channels": 5}}
    config = Config.model_validate({**sections, "trigger": {"lta_seconds": 2.0}})
    plain, fast = FrontHalf(config, package_spec()), FrontHalf(config, package_spec())
    expected, got = [], []
    for generation in range(2):
        made = {
            number: records(
                noise_with_bursts(number, 2500, [2200], gain=40.0), RATES[number % 3], range(50, 2500, 50),
                sid=sid_of(100 * generation + number), start_ns=T0 + generation * 100 * SECOND,
            )
            for number in range(50)
        }  # fmt: skip
        for place in range(50):
            items = [made[number][place] for number in made]
            expected += [message for record in items for message in plain.feed(record)]
            got += fast.feed_batch(RecordBatch.of(items))
        for number in made:
            end = EndOfStream(sid_of(100 * generation + number))
            expected += plain.feed(end)
            got += fast.feed(end)
    assert told(got) == told(expected)
    assert sum(isinstance(message, Window) for message in got) >= 60
