"""`bench scale`: what a channel, a window and a message cost on this machine, and whether that foretells a larger run.

Each run is a real daemon, fed in real time by a load generator over a socket, with subscribers; all are processes of
this machine. What is counted is processor time of the daemon's process (user and system, all threads), start-up and the
first seconds excluded: it depends little on what else the machine does, wall time would. Calibration runs differ in one
thing each (CALIBRATION), so that costs can be told apart; a linear model is fitted to them (scale_costs), and asked
about a run of four times their channels and samples, which is then really run.

In every bench of the result `field` is what was measured in the large run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tscc_stream.bench import scale_run
from tscc_stream.bench.measure import FIELD, Figure, Results
from tscc_stream.bench.scale_costs import (
    BATCH,
    CHANNEL,
    GROUP,
    MESSAGE,
    SAMPLE,
    SNAPSHOT,
    WAVEFORM,
    WINDOW,
    Costs,
    fit,
    stored,
)
from tscc_stream.bench.scale_run import Load, Spent

TIMES = 4
CALIBRATION = (
    Load(20, 250.0, 1.0, 1),  # nearly nothing: what is fixed
    Load(250, 250.0, 2.0, 1),
    Load(1000, 250.0, 2.0, 1),  # more channels
    Load(1000, 1000.0, 2.0, 1),  # more samples, of as many channels
    Load(1000, 1000.0, 20.0, 1),  # more triggers
    Load(1000, 250.0, 60.0, 10),  # many: their windows go in groups; more subscribers
)
LARGE = Load(TIMES * 1000, 1000.0, TIMES * 20.0, 10)
SECONDS = 15.0
WINDOW_THREADS = ("front", "inference", "back", "other")
"""That cut it, classify it, journal and publish its message."""
Runner = Callable[[Load, float], Spent]


def measured(
    loads: Sequence[Load] = CALIBRATION, seconds: float = SECONDS, runner: Runner = scale_run.run
) -> list[Spent]:
    """One run after another."""
    return [runner(load, seconds) for load in loads]


def run(
    calibration: Sequence[Load] = CALIBRATION,
    large: Load = LARGE,
    seconds: float = SECONDS,
    runner: Runner = scale_run.run,
) -> tuple[Results, Costs]:
    """Figures, and the costs of the calibration runs alone. Raises LiveError where a process fails."""
    costs = fit(measured(calibration, seconds, runner))
    seen = runner(large, seconds)
    return {**compared(costs, large, seen), **each(costs), **stored(costs)}, costs


def compared(costs: Costs, large: Load, seen: Spent) -> Results:
    """What was foretold of a run beside what came. The load that was asked for counts, not what came of it."""
    return {
        "scale_cpu": _beside(costs.all_cores(large), seen.all_cores, "cores"),
        **{
            f"scale_cpu_{thread}": _beside(share, seen.cores[thread], "cores")
            for thread, share in costs.thread_cores(large).items()
        },
        "scale_memory": _beside(costs.memory_bytes(large) / 2**20, seen.rss_bytes / 2**20, "MiB"),
        "scale_journal": _beside(
            costs.journal_bytes(large, seen.stored.detections) / 2**20, seen.stored.file_bytes / 2**20, "MiB"
        ),
        "scale_written": _beside(costs.written_bytes_per_second(large) / 1e6, seen.written_bytes / 1e6, "MB/s"),
        "scale_waited": {FIELD: Figure(seen.waited_seconds, "s", 1.0)},
    }


def _beside(foretold: float, came: float, unit: str) -> dict[str, Figure]:
    """ratio: foretold by measured; error: in per cent of what was measured."""
    least = max(came, 1e-9)
    error = 100.0 * (foretold - came) / least
    return {
        FIELD: Figure(came, unit, 1.0),
        "predicted": Figure(foretold, unit, foretold / least),
        "error": Figure(error, "%", foretold / least),
    }


def each(costs: Costs) -> Results:
    """What one of each costs. `field` is the whole of it, ratios are shares."""
    cpu = {
        "sample_ns": (1e9 * _all(costs, SAMPLE), "ns"),
        "batch_us": (1e6 * _all(costs, BATCH), "us"),
        "snapshot_byte_ns": (1e9 * _all(costs, SNAPSHOT), "ns"),
        "window_alone_ms": (1e3 * (_all(costs, GROUP) + _all(costs, WINDOW)), "ms"),
        "window_in_a_group_ms": (1e3 * _all(costs, WINDOW), "ms"),
        **{f"window_alone_{thread}_ms": (1e3 * _alone(costs, thread), "ms") for thread in WINDOW_THREADS},
        "delivery_us": (1e6 * costs.cores["other"]["delivery"], "us"),
        "scrape_channel_us": (1e6 * costs.scrape_seconds[CHANNEL], "us"),
        "fixed": (sum(thread["fixed"] for thread in costs.cores.values()), "cores"),
    }
    sizes = {
        "memory_fixed": (costs.memory["fixed"] / 2**20, "MiB"),
        "memory_channel_250": ((costs.memory[CHANNEL] + 250.0 * costs.memory[SAMPLE]) / 2**10, "KiB"),
        "memory_channel_1000": ((costs.memory[CHANNEL] + 1000.0 * costs.memory[SAMPLE]) / 2**10, "KiB"),
        "snapshot_channel": (costs.state[CHANNEL] / 2**10, "KiB"),
        "journal_message": (costs.journal[MESSAGE], "bytes"),
        "journal_message_and_waveform": (costs.journal[MESSAGE] + costs.journal[WAVEFORM], "bytes"),
        "sent_message": (costs.message_sent, "bytes"),
        "sent_heartbeat": (costs.heartbeat_sent, "bytes"),
        "received_sample": (costs.sample_received, "bytes"),
        "scrape_channel": (costs.scrape_bytes[CHANNEL], "bytes"),
    }
    return {f"scale_{name}": _figures(some) for name, some in (("cpu_each", cpu), ("size_each", sizes))}


def _figures(some: dict[str, tuple[float, str]]) -> dict[str, Figure]:
    return {name: Figure(value, unit, 1.0) for name, (value, unit) in some.items()}


def _all(costs: Costs, term: str) -> float:
    return sum(thread.get(term, 0.0) for thread in costs.cores.values())


def _alone(costs: Costs, thread: str) -> float:
    """Of a window that no other one came with."""
    return costs.cores[thread].get(GROUP, 0.0) + costs.cores[thread].get(WINDOW, 0.0)
