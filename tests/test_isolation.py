"""Bad input on one channel never stops or changes another: the others' output is the same, bit by bit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from made_streams import SECOND, T0, noise_with_bursts, package_spec, records, sid_of

from tscc_stream.config import Config
from tscc_stream.messages import (
    EndOfStream,
    Gap,
    NetworkTrigger,
    Quarantined,
    Record,
    Refusal,
    Released,
    Window,
    WindowDropped,
    read_only,
)
from tscc_stream.package import PackageSpec
from tscc_stream.pipeline import FORGET_NS, MOST_RATES, MOST_TURNED_AWAY, FrontHalf, FrontMessage
from tscc_stream.sampling import offset_ns

RATE = 100.0
STEP = SECOND // 100
SAMPLES = 12_000
PIECE = 100
CONFIG = {
    "condition": {"band_hz": (5.0, 20.0)},
    "trigger": {"sta_seconds": 0.2, "lta_seconds": 2.0, "trigger_on": 4.0, "max_seconds": 2.0},
    "network": {"min_channels": 2},
}
BAD = sid_of(9)
YEAR = 365 * 86_400 * SECOND


def _front(spec: PackageSpec | None = None, **changes: Any) -> FrontHalf:
    front = FrontHalf(Config.model_validate(CONFIG), spec or package_spec(), **changes)
    for number in range(2):
        front.expect(sid_of(number), T0)
    return front


def _good() -> Iterator[Record]:
    """Two channels in turn, with events on both."""
    cuts = range(PIECE, SAMPLES, PIECE)
    bursts = range(700, SAMPLES, 1500)
    channels = [
        records(noise_with_bursts(number, SAMPLES, bursts, gain=60.0), RATE, cuts, sid=sid_of(number))
        for number in range(2)
    ]
    for pair in zip(*channels, strict=True):
        yield from pair


def _record(first: int, values: Any, *, rate: float = RATE, sid: str = BAD, from_ns: int = T0) -> Record:
    return Record(sid, from_ns + offset_ns(first, RATE), rate, read_only(np.array(values)))


def _noise(i: int, samples: int = PIECE) -> np.ndarray:
    return np.random.default_rng(i).normal(0, 9, samples)


def _one_sample_gaps(i: int) -> list[Record]:
    return [_record(i * PIECE + 2 * k, [k % 7]) for k in range(PIECE // 2)]


def _broken_samples(i: int) -> list[Record]:
    values = _noise(i)
    values[::2] = np.nan
    return [_record(i * PIECE, values)]


def _two_rates(i: int) -> list[Record]:
    rate = RATE * (1 + i % 2)
    return [_record(i * PIECE, _noise(i, round(rate)), rate=rate)]


def _ever_new_rates(i: int) -> list[Record]:
    return [_record(i * PIECE, _noise(i), rate=RATE + i)]


def _refused_rates(i: int) -> list[Record]:
    return [_record(i * PIECE, _noise(i), rate=1.0 + i / 100)]


def _two_clocks(i: int) -> list[Record]:
    return [_record(i * PIECE, _noise(i), from_ns=T0 + (i % 4 // 2) * YEAR)]


def _backwards(i: int) -> list[Record]:
    return [_record((SAMPLES // PIECE - i) * PIECE, _noise(i))]


def _any_date(i: int) -> list[Record]:
    rng = np.random.default_rng(i)
    return [_record(0, _noise(i), from_ns=int(rng.integers(-(2**61), 2**62)))]


def _huge(i: int) -> list[Record]:
    return [_record(i * PIECE, np.full(PIECE, (-1.0) ** i * 1e300))]


def _ever_new_names(i: int) -> list[Record]:
    return [_record(0, _noise(i), sid=f"FDSN:XX_N{i:05}__E_H_Z"), _record(0, _noise(i), sid=f"garbage {i}")]


BADS: list[tuple[Callable[[int], list[Record]], type[Any] | None]] = [
    (_one_sample_gaps, Quarantined),
    (_broken_samples, Quarantined),
    (_two_rates, Quarantined),
    (_ever_new_rates, Quarantined),
    (_refused_rates, Quarantined),
    (_two_clocks, None),
    (_backwards, None),
    (_any_date, None),
    (_huge, None),
    (_ever_new_names, Refusal),
]


def _plain(message: FrontMessage) -> Any:
    if isinstance(message, Window):
        arrays = (message.waveform.tobytes(), message.normalised.tobytes())
        return message.uid, message.onset_ns, *arrays, message.peak_ratio, message.duration_s, message.quality
    if isinstance(message, NetworkTrigger):
        return message.uid, message.members, message.onset_ns, message.off_ns
    return repr(message)


def _of_others(found: list[FrontMessage]) -> list[Any]:
    """What the good channels gave, in order per channel; of network triggers the last words."""
    return [
        sorted(_plain(m) for m in found if isinstance(m, NetworkTrigger) and m.final),
        *([_plain(m) for m in found if getattr(m, "sid", "") == sid_of(number)] for number in range(2)),
    ]


@pytest.mark.parametrize(("bad", "expected"), BADS)
def test_others_do_not_notice(bad: Callable[[int], list[Record]], expected: type[Any] | None) -> None:
    alone, beside = _front(), _front()
    untouched: list[FrontMessage] = []
    found: list[FrontMessage] = []
    for i, record in enumerate(_good()):
        untouched += alone.feed(record)
        found += beside.feed(record)
        if i % 2:
            for other in bad(i // 2):
                found += beside.feed(other)
    untouched += alone.flush()
    found += beside.flush()
    assert sum(isinstance(message, Window) for message in untouched) == 16
    assert sum(isinstance(message, NetworkTrigger) and message.final for message in untouched) == 8
    assert _of_others(found) == _of_others(untouched)
    ours = [message for message in found if getattr(message, "sid", "") not in (sid_of(0), sid_of(1))]
    assert expected is None or any(isinstance(message, expected) for message in ours)
    assert sum(isinstance(message, Gap) for message in ours) < 130


def test_thousands_of_one_sample_gaps_cost_what_few_do() -> None:
    front = _front()
    stages: list[str] = []
    condition = front._condition.feed
    front._condition.feed = lambda block: stages.append("condition") or condition(block)  # type: ignore[method-assign,func-returns-value]  # the test listens in
    found = [message for i in range(200) for record in _one_sample_gaps(i) for message in front.feed(record)]
    (quarantined,) = [message for message in found if isinstance(message, Quarantined)]
    assert quarantined.sid == BAD
    assert len(stages) < 150
    assert front.counts["quarantined"] > 9000
    assert len(found) < 150


def test_a_quarantined_channel_starts_afresh_once_it_is_well() -> None:
    front = _front()
    found = [message for i in range(4) for record in _one_sample_gaps(i) for message in front.feed(record)]
    assert sum(isinstance(message, Quarantined) for message in found) == 1
    assert front.quarantine.held == 1
    signal = noise_with_bursts(5, SAMPLES, [9500], gain=60.0)
    well = records(signal, RATE, range(PIECE, SAMPLES, PIECE), sid=BAD, start_ns=T0 + 60 * SECOND)
    given = [front.feed(record) for record in well]
    at = next(i for i, messages in enumerate(given) if messages)
    left_out, released, window = (message for messages in given for message in messages)
    assert isinstance(left_out, Gap)
    assert isinstance(released, Released)
    assert left_out.from_ns == released.from_ns < left_out.to_ns == well[at + 1].start_ns
    assert left_out.cause == "quarantined"
    assert isinstance(window, Window)
    assert 60 <= at < 65
    assert front.quarantine.held == 0
    alone = _front()
    expected = [_plain(message) for record in well[at + 1 :] for message in alone.feed(record)]
    assert [_plain(window)] == expected


def test_a_clock_that_is_set_back_while_quarantined_leaves_a_quarantine_that_does_not_end_before_it_began() -> None:
    front = _front()
    for i in range(4):
        for record in _one_sample_gaps(i):
            front.feed(record)
    assert front.quarantine.holds(BAD)
    signal = noise_with_bursts(5, 7 * SAMPLES)
    yesterday = records(signal, RATE, range(PIECE, 7 * SAMPLES, PIECE), sid=BAD, start_ns=T0 - 86_400 * SECOND)
    out = [message for record in yesterday for message in front.feed(record)]
    (left_out,) = [m for m in out if isinstance(m, Gap) and m.cause == "quarantined"]
    assert left_out.to_ns is not None
    assert left_out.to_ns >= left_out.from_ns


def test_a_quarantine_ends_what_was_pending_and_lets_network_events_go() -> None:
    front = _front()
    front.expect(BAD, T0)
    good = list(_good())
    found = [message for record in good for message in front.feed(record)]
    assert not any(isinstance(message, NetworkTrigger) and message.final for message in found)
    signal = noise_with_bursts(3, 420, [400], gain=60.0)
    assert front.feed(_record(0, signal)) == []
    found = [message for k in range(400) for message in front.feed(_record(422 + 2 * k, [k % 7]))]
    kinds = {type(message) for message in found}
    assert {Quarantined, WindowDropped, NetworkTrigger} <= kinds
    assert sum(isinstance(message, NetworkTrigger) and message.final for message in found) == 8


def test_a_silent_channel_in_quarantine_releases_nothing() -> None:
    front = _front()
    for i in range(4):
        for record in _one_sample_gaps(i):
            front.feed(record, SECOND)
    assert front.quarantine.holds(BAD)
    front.feed(_record(9000, _noise(1)), SECOND)
    front.feed(_record(9200, _noise(2)), SECOND)
    assert front.poll(100 * SECOND) == []
    assert front.feed(EndOfStream(BAD)) == []


def test_there_are_few_rates_of_one_channel() -> None:
    front = _front()
    found = [message for i in range(100) for record in _refused_rates(i) for message in front.feed(record)]
    assert [type(message) for message in found] == [Refusal] * MOST_RATES + [Gap, Quarantined]
    assert len(front._served[BAD]) <= MOST_RATES


def _held_by(front: FrontHalf) -> dict[str, int]:
    """Sizes of every container that a front half and its stages hold."""
    stages = [front, front.assemble, front.quarantine, front._condition, front._detect, front._extract]
    stages += [front._coincidence, front._coincidence._certain, front._coincidence._processed]  # type: ignore[union-attr]  # the test has put it there
    return {
        f"{type(stage).__name__}.{name}": len(value)
        for stage in stages
        for name, value in vars(stage).items()
        if isinstance(value, dict | list | set) and name != "counts"
    }


@pytest.mark.parametrize(
    ("components", "days"), [pytest.param(("*",), 50, marks=pytest.mark.no_cover), (("Z", "N", "E"), 10)]
)
def test_ten_thousand_channels_of_one_record_hold_no_more_than_there_is_room_for(
    components: tuple[str, ...], days: int
) -> None:
    """Each day so many new ones come, and the old ones are silent; some leave something open, or held."""
    most = 200
    spec = package_spec(channels=len(components), components=components)
    front = FrontHalf(Config.model_validate(CONFIG), spec, most_channels=most)
    loud, quiet = noise_with_bursts(1, 500, [470], gain=60.0), noise_with_bursts(2, 40)
    sizes: list[int] = []
    found: list[FrontMessage] = []
    for day in range(days):
        for number in range(most):
            signal = loud if number % 20 < 3 else quiet
            sid = f"FDSN:XX_D{day:03}{number:03}__E_H_{'ZNE'[number % 3]}"
            now_ns = (day + 1) * FORGET_NS + number
            found += front.feed(_record(0, signal, sid=sid), now_ns)
            found += front.feed(_record(0, signal, sid=sid), now_ns)
            if number % 20 == 1:
                found += front.feed(_record(600, quiet, sid=sid), now_ns)
        if day % (days // 5) == 1:
            gc.collect()
            sizes.append(len(gc.get_objects()) - 10 * len(found))
    assert all(size <= 3 * most + 100 for name, size in _held_by(front).items() if name != "ExtractTogether._onsets")
    assert max(sizes[1:]) < sizes[0] + 20 * most
    assert len(front.assemble.counts) == most
    assert front.counts["turned away"] == 0


def test_no_new_channel_where_there_is_no_room() -> None:
    front = _front(most_channels=3)
    for number in range(3):
        assert front.feed(_record(0, _noise(1), sid=sid_of(number)), SECOND) == []
    found = [
        message
        for number in range(3, 500)
        for _ in range(2)
        for message in front.feed(_record(0, _noise(1), sid=sid_of(number)), FORGET_NS)
    ]
    assert len(found) == MOST_TURNED_AWAY
    assert found[0] == Refusal(sid_of(3), "3 channels are served, and none was silent for a day")
    assert front.counts["turned away"] == 2 * 497
    assert front.feed(_record(PIECE, _noise(2), sid=sid_of(1)), SECOND + FORGET_NS) == []
    assert front.feed(_record(0, _noise(2), sid=sid_of(400)), SECOND + FORGET_NS) == []
    assert set(front._heard) == {sid_of(2), sid_of(1), sid_of(400)}
