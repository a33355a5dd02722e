"""`bench memory`: resident memory per channel, of what turns records into windows.

Each figure is of a fresh process, by how much it grows with its channels. `field` keeps the last lta + window seconds
of each channel in an obspy RtTrace, which is what filter, STA/LTA and a window are computed from per packet; it keeps
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from tscc_stream import package
from tscc_stream.bench import live, memory_process
from tscc_stream.bench.measure import FIELD, Figure, Results
from tscc_stream.config import TriggerConfig

CHANNELS = (100, 1000)
RATE_HZ = 1000.0
OURS = "ours"
_PATIENCE_S = 600.0


def run(channels: Sequence[int] = CHANNELS, rate_hz: float = RATE_HZ) -> Results:
    """MiB a channel, by number of channels."""
    spec = package.load(package.find(f"models/{live.MODEL}")).spec
    seconds = TriggerConfig().lta_seconds + spec.warmup_seconds + spec.samples / spec.sample_rate_hz
    return {f"memory_{count}": _figures(count, seconds, rate_hz) for count in channels}


def _figures(channels: int, seconds: float, rate_hz: float) -> dict[str, Figure]:
    mib = {name: _mib(name, channels, seconds, rate_hz) / channels for name in (FIELD, OURS)}
    return {name: Figure(value, "MiB a channel", mib[FIELD] / value) for name, value in mib.items()}


def _mib(variant: str, channels: int, seconds: float, rate_hz: float) -> float:
    arguments = variant, str(channels), str(seconds), str(rate_hz)
    with live.child(memory_process.__name__, *arguments) as process:
        return max(float(process.line(_PATIENCE_S)), 1e-3)
