"""One battery over all stages: what architecture promises of every one of them, as far as it applies.

Input is not modified. Any cut of the input and any interleaving of channels gives the same output. What is held comes
with flush. A gap, then data, is a fresh start.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_streams import SECOND, T0, FakeEncoder, noise_with_bursts, package_spec, records, sid_of

import tscc_stream.stages
from tscc_stream.config import AssembleConfig, ConditionConfig, NetworkConfig, TriggerConfig
from tscc_stream.messages import Batch, Block, Characteristic, EndOfStream, Gap, NetworkTrigger, Record, Trigger, Window
from tscc_stream.sampling import offset_ns
from tscc_stream.stages.assemble import Assemble
from tscc_stream.stages.condition import Condition
from tscc_stream.stages.detect import Detect
from tscc_stream.stages.detect_network import Coincidence
from tscc_stream.stages.extract import Extract, extract_for, uid_of
from tscc_stream.stages.gather import Gather
from tscc_stream.stages.infer import Infer
from tscc_stream.stages.interpret import Interpret, NetworkVote

RATE = 100.0
SAMPLES = 900
TRIGGER = TriggerConfig(sta_seconds=0.2, lta_seconds=2.0, trigger_on=3.0, max_seconds=2.0)


@dataclass(frozen=True)
class Edge:
    """What a coincidence is fed, as one value: a trigger, or how far a channel is processed."""

    sid: str
    trigger: Trigger | None = None
    processed_ns: int = 0


class _Network:
    """Coincidence behind the one verb that all stages share; the last words only, since early notices come early."""

    def __init__(self) -> None:
        self._stage = Coincidence(NetworkConfig(min_channels=2), uid_of)
        for number in range(3):
            self._stage.expect(sid_of(number), T0)

    def feed(self, message: Edge | Gap | EndOfStream) -> list[Any]:
        if isinstance(message, Gap):
            self._stage.retract(message.sid)
            return []
        if isinstance(message, EndOfStream):
            return [t for t in self._stage.end(message.sid, 0) if t.final]
        if message.trigger is not None:
            self._stage.feed(message.trigger, "w")
            return []
        return [t for t in self._stage.advance(message.sid, message.processed_ns, 0) if t.final]

    def flush(self) -> list[Any]:
        return list(self._stage.flush())


def _signal(number: int) -> np.ndarray:
    data = noise_with_bursts(number, SAMPLES, [400 + 7 * number, 700], offset=1e6)
    data[550 + number : 600 + number] = 3.0  # a dead sensor for half a second
    return data


def _from_records(number: int, cuts: Iterable[int]) -> list[Any]:
    sid = sid_of(number)
    first = records(_signal(number), RATE, list(cuts), sid=sid)
    later = records(_signal(number + 5), RATE, list(cuts), sid=sid, start_ns=T0 + 30 * SECOND)
    return [*first, *later, EndOfStream(sid)]


def _through(stage: Any, messages: Iterable[Any]) -> list[Any]:
    """A stage's output; what is no message of its own goes round it."""
    out: list[Any] = []
    for message in messages:
        passes = isinstance(message, Gap | EndOfStream)
        out += [*stage.feed(message), *([message] if passes else [])]
    return out


def _blocks(number: int, cuts: Iterable[int]) -> list[Any]:
    stage = Assemble(lambda _: AssembleConfig())
    return _through(stage, _from_records(number, cuts))


def _ratios(number: int, cuts: Iterable[int]) -> list[Any]:
    return _through(_MADE["condition"](), _blocks(number, cuts))


def _edges_and_ratios(number: int, cuts: Iterable[int]) -> list[Any]:
    detect, out = _MADE["detect"](), []
    for message in _ratios(number, cuts):
        out += [*detect.feed(message), message]
    return out


def _components(number: int, cuts: Iterable[int]) -> list[Any]:
    """The same three channels as components of one sensor."""
    sid = sid_of(0)[:-1] + "ZNE"[number]
    return [_of_channel(message, sid) for message in _edges_and_ratios(number, cuts)]


def _network_input(number: int, cuts: Iterable[int]) -> list[Any]:
    out: list[Any] = []
    for message in _edges_and_ratios(number, cuts):
        if isinstance(message, Trigger):
            out.append(Edge(message.sid, trigger=message))
        elif isinstance(message, Characteristic):
            block = message.block
            out.append(Edge(block.sid, processed_ns=block.start_ns + offset_ns(block.samples.size, RATE)))
        else:
            out.append(message)
    return out


def _windows(number: int, cuts: Iterable[int]) -> list[Window]:
    found = _through(_MADE["extract"](), _edges_and_ratios(number, cuts))
    return [message for message in found if isinstance(message, Window)]


def _batches(number: int, cuts: Iterable[int]) -> list[Batch]:
    gather = Gather(2)
    return [batch for window in _windows(number, cuts) for batch in gather.feed(window)] + gather.flush()


def _assignments(number: int, cuts: Iterable[int]) -> list[Any]:
    return [assignment for batch in _batches(number, cuts) for assignment in Infer(FakeEncoder()).feed(batch)]


def _votes(number: int, cuts: Iterable[int]) -> list[Any]:
    """Detections of one channel, and a network trigger that names the first window of every channel."""
    members = tuple((w.sid, w.onset_ns, w.uid) for w in (_windows(other, [])[0] for other in range(3)))
    trigger = NetworkTrigger(f"network-{number}", members[0][1], members[0][1] + SECOND, members, final=True)
    return [trigger, *_through(Interpret(str, None, 0.01), _assignments(number, cuts))]


_MADE: dict[str, Callable[[], Any]] = {
    "assemble": lambda: Assemble(lambda _: AssembleConfig()),
    "condition": lambda: Condition(lambda _: (ConditionConfig(band_hz=(5.0, 20.0)), TRIGGER)),
    "classic": lambda: Condition(lambda _: (ConditionConfig(), TRIGGER.model_copy(update={"method": "classic"}))),
    "detect": lambda: Detect(lambda _: TRIGGER),
    "coincidence": _Network,
    "extract": lambda: Extract(package_spec(), lambda _: 1e7, lambda _: 0.0),
    "together": lambda: extract_for(package_spec(channels=3, components=("Z", "N", "E")), lambda _: 1e7, lambda _: 0.0),
    "gather": lambda: Gather(3),
    "infer": lambda: Infer(FakeEncoder()),
    "interpret": lambda: Interpret(str, np.linspace(0.0, 1.0, 200), 0.1),
    "vote": NetworkVote,
}
_INPUT: dict[str, Callable[[int, Iterable[int]], list[Any]]] = {
    "assemble": _from_records,
    "condition": _blocks,
    "classic": _blocks,
    "detect": _ratios,
    "coincidence": _network_input,
    "extract": _edges_and_ratios,
    "together": _components,
    "gather": _windows,
    "infer": _batches,
    "interpret": _assignments,
    "vote": _votes,
}
STAGES = pytest.mark.parametrize("name", list(_MADE))
PER_CHANNEL = ("assemble", "condition", "classic", "detect", "extract")
ORDERS = st.randoms(use_true_random=False)
CUTS = st.lists(st.integers(1, SAMPLES - 1), max_size=15)


def _interleaved(queues: list[list[Any]], order: random.Random) -> Iterator[Any]:
    left = [list(queue) for queue in queues]
    while any(left):
        yield order.choice([queue for queue in left if queue]).pop(0)


def _run(name: str, messages: Iterable[Any]) -> list[Any]:
    stage = _MADE[name]()
    out = [result for message in messages for result in stage.feed(message)]
    return out + (stage.flush() if hasattr(stage, "flush") else [])


def _plain(value: Any) -> Any:
    """Something that compares by content, without the receipt, which is no content."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if is_dataclass(value):
        return type(value).__name__, *(_plain(getattr(value, f.name)) for f in fields(value) if f.name != "received_ns")
    return tuple(_plain(item) for item in value) if isinstance(value, tuple | list) else value


def _samples(out: list[Any]) -> Any:
    """Output per channel and sample, so that the cut of blocks does not show."""
    by_sid: dict[str, list[Any]] = {}
    for message in out:
        parts = by_sid.setdefault(message.sid if hasattr(message, "sid") else _sid_of(message), [])
        block = message.block if isinstance(message, Characteristic) else message
        if isinstance(block, Block):
            values = message.values if isinstance(message, Characteristic) else message.samples
            parts += [
                (block.index + i, block.start_ns + offset_ns(i, block.sample_rate_hz), float(v))
                for i, v in enumerate(values)
            ]
        else:
            parts.append(_plain(message))
    return by_sid


def _sid_of(message: Any) -> str:
    if isinstance(message, Characteristic):
        return message.block.sid
    return ""


def _content(name: str, out: list[Any]) -> Any:
    if name == "gather":
        return sorted(_plain(window) for batch in out for window in batch.windows)
    if name in PER_CHANNEL:
        return _samples(out)
    return sorted(map(repr, map(_plain, out)))


@STAGES
def test_there_is_something_to_compare(name: str) -> None:
    out = _run(name, _interleaved([_INPUT[name](number, []) for number in range(3)], random.Random(0)))  # noqa: S311  # made-up data, no secret
    assert len(out) >= 2


@STAGES
@given(order=ORDERS, cuts=st.lists(CUTS, min_size=3, max_size=3))
def test_any_cut_and_interleaving_gives_the_same(name: str, order: random.Random, cuts: list[list[int]]) -> None:
    whole = _run(name, [message for number in range(3) for message in _INPUT[name](number, [])])
    queues = [_INPUT[name](number, cuts[number]) for number in range(3)]
    assert _content(name, _run(name, _interleaved(queues, order))) == _content(name, whole)


def _arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _arrays(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _arrays(item)


@STAGES
def test_input_is_not_modified_and_output_cannot_be(name: str) -> None:
    messages = _INPUT[name](1, [100, 333, 401])
    before = copy.deepcopy([_plain(message) for message in messages])
    out = _run(name, messages)
    assert [_plain(message) for message in messages] == before
    for array in _arrays(out):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    for message in out:
        if is_dataclass(message) and fields(message):
            with pytest.raises((AttributeError, TypeError)):
                setattr(message, fields(message)[0].name, None)


@STAGES
def test_another_stage_of_the_same_kind_shares_nothing(name: str) -> None:
    messages = [message for number in range(3) for message in _INPUT[name](number, [123])]
    one, other = _MADE[name](), _MADE[name]()
    alone = _content(name, _run(name, messages))
    out = []
    for message in messages:
        out += one.feed(message)
        other.feed(message)
    out += one.flush() if hasattr(one, "flush") else []
    assert _content(name, out) == alone


@pytest.mark.parametrize("name", PER_CHANNEL)
@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_gap_then_data_is_a_fresh_start(name: str, at: int) -> None:
    """A gap, for assemble an end, since its gaps are its own."""
    sid = sid_of(1)
    messages, stage = _INPUT[name](1, [50, 200, 333, 401]), _MADE[name]()
    for message in messages[:at]:
        stage.feed(message)
    stage.feed(EndOfStream(sid) if name == "assemble" else Gap(sid, T0, None, "gap"))
    again = _INPUT[name](2, [77, 410])
    moved = [_of_channel(message, sid) for message in again]
    out = [result for message in moved for result in stage.feed(message)]
    assert _content(name, out) == _content(name, _run(name, moved))


def _of_channel(message: Any, sid: str) -> Any:
    if isinstance(message, Characteristic):
        return Characteristic(replace(message.block, sid=sid), message.values)
    return replace(message, sid=sid)


def test_receipt_goes_through_and_changes_nothing() -> None:
    """received_ns of the record that completes a window, whatever it is."""
    stages = [_MADE[name]() for name in ("assemble", "condition", "detect", "extract")]
    assemble, condition, detect, extract = stages
    windows = []
    for i, record in enumerate(_from_records(0, range(20, SAMPLES, 20))[:-1]):
        assert isinstance(record, Record)
        for part in assemble.feed(replace(record, received_ns=1000 + i)):
            for ratio in condition.feed(part):
                for message in [*detect.feed(ratio), ratio]:
                    windows += [(w, 1000 + i) for w in extract.feed(message) if isinstance(w, Window)]
            if isinstance(part, Gap):
                extract.feed(part)
                detect.feed(part)
    assert windows
    assert all(window.received_ns == received for window, received in windows)


def test_the_stages_sort_in_the_order_of_the_flow() -> None:
    flow = [
        "acquire",
        "assemble",
        "condition",
        "detect",
        "detect_network",
        "extract",
        "gather",
        "infer",
        "interpret",
        "journal",
        "publish",
    ]
    assert sorted(path.stem for path in Path(tscc_stream.stages.__path__[0]).glob("[a-z]*.py")) == flow == sorted(flow)
