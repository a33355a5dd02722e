"""`bench latency`: from the last sample that a window needs to a subscriber's own code, through a real daemon.

Load generator, daemon (`tscc-stream run`) and subscriber are processes of one machine, and so share a monotonic clock.
A latency runs from the moment at which the record with the last needed sample is handed to the generator's socket until
the subscriber has the message: network, decoding, filter, trigger, window, queues, encoder, journal on the disk, bus.
How long a record takes to fill lies before it, and is the recorder's affair.

`field` is latency_field: obspy's client, everything computed anew per record, the same network eagerly, one window at a
time, nothing journalled, told by a line of text; of 10 channels, since it does not carry many more. Where it cannot run
(a blast on 100 channels) ratios are against our own undisturbed 100 channels.

The runs are in real time, one after the other: about three minutes. A server of ours alone never vouches for our
client; that is tested beside ringserver.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from tscc_stream import package
from tscc_stream.bench import latency_field, live
from tscc_stream.bench.live import Detection, Watched
from tscc_stream.bench.load import Scene
from tscc_stream.bench.measure import FIELD, Figure, Results
from tscc_stream.messages import Float64Array
from tscc_stream.windows import plan_windows

CHANNELS = (10, 100, 1000)
SECONDS = (30.0, 75.0, 45.0)
TRIGGERS_PER_SECOND = (1.0, 1.0, 5.0)
BLAST_CHANNELS = 100
RATE_HZ = 1000.0
_NEAR_NS = 100_000_000
"""A detection is of a planted event whose onset is no farther."""


class LatencyError(RuntimeError):
    """Nothing came of what was planted."""


def run(
    channels: Sequence[int] = CHANNELS,
    seconds: Sequence[float] = SECONDS,
    triggers_per_second: Sequence[float] = TRIGGERS_PER_SECOND,
    blast_channels: int = BLAST_CHANNELS,
    quiet_s: float = 14.0,
) -> Results:
    """Percentiles by number of channels, the slowest of a blast, and CPU and memory of the daemon meanwhile.

    Raises LatencyError or LiveError where something that was planted did not come, or a process failed.
    """
    scenes = [Scene(*one, quiet_s=quiet_s) for one in zip(channels, seconds, triggers_per_second, strict=True)]
    blast = Scene(blast_channels, quiet_s + 8.0, 0.0, quiet_s=quiet_s, blast_s=quiet_s + 2.0)
    field = _watch_field(scenes[0])
    ours = {f"channels_{scene.channels}": live.watch_daemon(scene) for scene in scenes}
    shaken = live.watch_daemon(blast)
    after, reach = _needed()
    times = {FIELD: latencies_ms(field, after), **{name: latencies_ms(one, reach) for name, one in ours.items()}}
    slowest = latencies_ms(shaken, reach).max()
    return {
        **{f"latency_{name}": _figures(times, share) for name, share in _PERCENTILES.items()},
        "latency_blast_slowest": _slowest(times, slowest, blast_channels),
        "cores_per_1000_channels": _per_channel({FIELD: field, **ours}),
        **{f"cores_{name}": _cores(watched) for name, watched in ours.items()},
        **{f"stages_{name}": _stages(watched) for name, watched in ours.items()},
        "waited_or_shed": {name: _pressure(one) for name, one in {**ours, "blast": shaken}.items()},
        "rss": {
            name: Figure(one.rss_mib, "MiB", field.rss_mib / one.rss_mib)
            for name, one in {FIELD: field, **ours}.items()
        },
    }


_PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}


def _needed() -> tuple[int, int]:
    """Samples after an onset that a window needs: of the field, and of ours with its anti-alias filter."""
    spec = package.load(package.find(f"models/{live.MODEL}")).spec
    after = (spec.samples - spec.onset_sample) / spec.sample_rate_hz
    return round(after * RATE_HZ), plan_windows(spec, RATE_HZ).reach


def _watch_field(scene: Scene) -> Watched:
    settings = {
        "band_hz": live.BAND_HZ,
        "sta_seconds": live.STA_SECONDS,
        "lta_seconds": live.lta_seconds(scene),
        "trigger_on": live.TRIGGER_ON,
        "trigger_off": live.TRIGGER_OFF,
        "sids": scene.sids,
    }
    folder = package.find(f"models/{live.MODEL}")
    return live.watch_field(scene, [latency_field.__name__, str(folder), json.dumps(settings)], 1)


def latencies_ms(watched: Watched, reach: int) -> Float64Array:
    """Of every planted event, in order of their onsets. Raises LatencyError where one did not come.

    reach: samples after an onset that a window needs.
    """
    scene, found = watched.scene, []
    by_channel: dict[int, list[Detection]] = {}
    for detection in watched.detections:
        by_channel.setdefault(detection.channel, []).append(detection)
    missing = 0
    for event in scene.planted:
        if scene.record_with(event.channel, event.onset + 2 * reach) >= scene.records:
            continue
        at_ns = scene.time_ns(event.channel, event.onset)
        near = [one for one in by_channel.get(event.channel, []) if abs(one.onset_ns - at_ns) < _NEAR_NS]
        missing += not near
        for one in near[:1]:
            record = scene.record_with(one.channel, scene.sample_at(one.channel, one.onset_ns) + reach)
            found.append((one.at_ns - int(watched.sent_ns[record])) / 1e6)
    if missing or not found:
        raise LatencyError(f"{missing} of {missing + len(found)} planted events were not told")
    return np.array(found)


def _figures(times: dict[str, Float64Array], percentile: float) -> dict[str, Figure]:
    values = {name: float(np.percentile(some, percentile)) for name, some in times.items()}
    return {name: Figure(value, "ms", values[FIELD] / value) for name, value in values.items()}


def _slowest(times: dict[str, Float64Array], slowest: float, channels: int) -> dict[str, Figure]:
    quiet = float(times.get(f"channels_{channels}", times[FIELD]).max())
    return {FIELD: Figure(quiet, "ms", 1.0), f"blast_on_{channels}": Figure(float(slowest), "ms", quiet / slowest)}


def _per_channel(runs: dict[str, Watched]) -> dict[str, Figure]:
    shares = {name: 1000 * sum(one.cores.values()) / one.scene.channels for name, one in runs.items()}
    return {name: Figure(share, "cores", shares[FIELD] / share) for name, share in shares.items()}


def _cores(watched: Watched) -> dict[str, Figure]:
    """By thread; `field` is all of them."""
    whole = sum(watched.cores.values())
    told = {name: cores for name, cores in watched.cores.items() if cores >= 0.001}
    return {FIELD: Figure(whole, "cores", 1.0)} | {
        name.replace(" ", "_"): Figure(cores, "cores", whole / cores) for name, cores in told.items()
    }


def _pressure(watched: Watched) -> Figure:
    """Seconds in which nothing was read for want of room, and windows that were shed, together: 0 in real time."""
    waited = sum(
        value
        for name, value in watched.counters.items()
        if name.startswith("tscc_seedlink_waiting_seconds_total") or name == "tscc_windows_dropped_total shed"
    )
    return Figure(waited, "s or windows", float(waited == 0))


def _stages(watched: Watched) -> dict[str, Figure]:
    """Milliseconds a call by stage; `field` is the daemon's own figure of receipt to publication."""
    counters, means = watched.counters, dict[str, float]()
    for key, count in counters.items():
        family, _, stage = key.partition("_count")
        if count and family in ("tscc_stage_seconds", "tscc_sample_to_publish_seconds"):
            means[stage.strip() or FIELD] = 1e3 * counters[f"{family}_sum{stage}"] / count
    return {name: Figure(mean, "ms a call", means[FIELD] / mean) for name, mean in sorted(means.items())}
