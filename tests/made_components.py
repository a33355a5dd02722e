"""The three components of sensors as stages are fed: signals, triggers, cut streams, in any interleaving."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from made_streams import SECOND, T0, blocks, noise_with_bursts, package_spec

from tscc_stream.messages import Characteristic, Float64Array, Trigger, Window, WindowDropped, read_only
from tscc_stream.sampling import offset_ns
from tscc_stream.stages.extract import Extract, ExtractTogether, extract_for
from tscc_stream.windows import plan_windows

CODES = ("Z", "N", "E")
SPEC = package_spec(channels=3, components=CODES)
RATE = 100.0
STEP = SECOND // 100
LENGTH = 1000
AFTER = plan_windows(SPEC, RATE).after
REACH = plan_windows(SPEC, RATE).reach

Out = Window | WindowDropped


def sid_of(code: str, sensor: int = 0) -> str:
    return f"FDSN:XX_S{sensor:03}__E_H_{code}"


def stage_for(spec: Any = SPEC, clip: float | None = None, min_seconds: float = 0.0) -> ExtractTogether:
    stage = extract_for(spec, lambda _: clip, lambda _: min_seconds)
    assert isinstance(stage, ExtractTogether)
    return stage


def trigger_of(code: str, on: int, off: int | None = None, *, rate: float = RATE, start_ns: int = T0) -> Trigger:
    off_ns = None if off is None else start_ns + offset_ns(off, rate)
    return Trigger(sid_of(code), rate, on, start_ns + offset_ns(on, rate), off, off_ns)


def edges_of(code: str, triggers: Iterable[tuple[int, int]], last: int, **stream: Any) -> list[Trigger]:
    """Triggers (onset, length) as they open and close, one after the other; what would overlap is left out."""
    out: list[Trigger] = []
    free = 0
    for on, length in sorted(triggers):
        if on >= free and on <= last:
            out.append(trigger_of(code, on, **stream))
            out += [trigger_of(code, on, on + length, **stream)] if on + length < last else []
            free = on + length + 1
    return out


def signals_of(seed: int = 0, length: int = LENGTH) -> dict[str, Float64Array]:
    return {code: noise_with_bursts(seed + i, length, [400]) for i, code in enumerate(CODES)}


def stream_of(
    code: str,
    signal: Float64Array,
    triggers: Iterable[Trigger] = (),
    cuts: Sequence[int] = (),
    *,
    rate: float = RATE,
    start_ns: int = T0,
    quality: frozenset[str] = frozenset(),
) -> list[Any]:
    """One component's segment as the stage is fed: every trigger before the block that announces it."""
    out: list[Any] = []
    edges = sorted(((t.on_index if t.off_index is None else t.off_index + 1), i, t) for i, t in enumerate(triggers))
    for block in blocks(signal, rate, cuts, sid=sid_of(code), start_ns=start_ns, quality=quality):
        end = block.index + block.samples.size
        out += [trigger for at, _, trigger in edges if block.index <= at < end]
        ratios = 1.0 + np.arange(block.index, end) % 7
        out.append(Characteristic(block, read_only(ratios)))
    return out


def mixed(queues: Sequence[Sequence[Any]], order: random.Random) -> Iterator[Any]:
    left = [list(queue) for queue in queues]
    while any(left):
        yield order.choice([queue for queue in left if queue]).pop(0)


def run(stage: Extract | ExtractTogether, messages: Iterable[Any]) -> list[Out]:
    return [out for message in messages for out in stage.feed(message)]


def plain(out: Iterable[Out]) -> list[Any]:
    return [
        (m.uid, m.sid, m.onset_ns, m.reason)
        if isinstance(m, WindowDropped)
        else (m.uid, m.sid, m.onset_ns, m.start_ns, m.waveform.tobytes(), m.normalised.tobytes(), m.waveform.shape,
              m.peak_ratio, m.peak_amplitude, m.duration_s, m.quality)
        for m in out
    ]  # fmt: skip


def alone_in(code: str, signal: Float64Array, on: int) -> Window:
    """The window that a single-channel package makes of one component."""
    (window,) = run(
        Extract(package_spec(), lambda _: None, lambda _: 0.0), stream_of(code, signal, [trigger_of(code, on)])
    )
    assert isinstance(window, Window)
    return window


def three(triggers: dict[str, list[Trigger]], signals: dict[str, Float64Array] | None = None) -> list[list[Any]]:
    signals = signals or signals_of()
    return [stream_of(code, signals[code], triggers.get(code, [])) for code in CODES]
