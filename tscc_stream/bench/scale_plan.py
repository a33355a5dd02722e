"""What a load needs: cores, processes, memory, disk, network, and whether a GPU pays. Pure: costs and a load in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tscc_stream.bench.measure import Figure, Results
from tscc_stream.bench.scale_costs import BATCH, Costs
from tscc_stream.bench.scale_run import Load
from tscc_stream.pipeline import MOST_CHANNELS

MOST_OF_A_CORE = 0.5
"""How busy the busiest thread of one daemon may be: what is left takes up bursts, and backlogs after an outage."""
CORES_OF_A_DAEMON = 1.0
"""How much all its threads may take together: they share one interpreter wherever compiled code does not let go."""
SPARE = 2.0
"""Cores to have for one that is needed: twice, so that an hour's backlog is read in an hour."""
SCRAPE_EVERY_S = 15.0
DAYS = 90.0
GPU_WINDOWS_PER_SECOND = 75_000.0
"""models/rutford on one H200, float32, graphs, batches of 32, host to host: docs/performance.md, "On a GPU"."""
GPU_FROM_CORES = 2.0
"""Cores for the encoder alone from which a GPU is worth its machine."""
MOST_BEYOND = 4.0
"""`bench scale` shows that costs foretell a run so many times larger; beyond, a plan says what it is."""
OTHERS_RECORD_S = 0.5e-6
"""What a shard's reader takes for a record of another shard's station: docs/fleet.md, "What each shard reads"."""
_DAY_S, _GB, _MB = 86_400.0, 1e9, 1e6


@dataclass(frozen=True, slots=True)
class Needs:
    """days: of the journal. shards: daemons that the channels are divided among. threads: cores that each thread would
    take if one daemon had them all; each: that it takes in one of the shards. cores: of all shards, on average;
    encoder_cores: of these, the encoder. memory_bytes, journal_bytes: of all shards. written_bytes: to the disk,
    received_bytes, sent_bytes: on the network, a second; received_by_pattern_bytes: where shards ask for stations by a
    pattern, so that each gets all records; reader_by_pattern: cores of one shard's reader then. Of one shard:
    scrape_seconds, CPU time of one GET of /metrics; snapshot_every_seconds, and pause_seconds, in which its front
    thread takes one. beyond: how many times larger the
    load is than the runs measured.
    """

    load: Load
    days: float
    shards: int
    threads: dict[str, float]
    each: dict[str, float]
    cores: float
    encoder_cores: float
    memory_bytes: float
    journal_bytes: float
    journal_bytes_per_day: float
    written_bytes: float
    received_bytes: float
    received_by_pattern_bytes: float
    reader_by_pattern: float
    sent_bytes: float
    scrape_seconds: float
    snapshot_every_seconds: float
    pause_seconds: float
    beyond: float

    @property
    def gpu_pays(self) -> bool:
        return self.encoder_cores >= GPU_FROM_CORES


def needs(costs: Costs, load: Load, days: float = DAYS) -> Needs:
    """Of a load, by costs that were measured."""
    whole = threads_of(costs, load)
    shards = _shards(costs, load, whole)
    part = _share(load, shards)
    each = threads_of(costs, part)
    per_day = load.triggers_per_second * _DAY_S * (costs.journal["message"] + costs.journal["waveform"])
    sent = load.deliveries_per_second * costs.message_sent + load.subscribers * shards * costs.heartbeat_sent
    scrape_seconds, scrape_bytes = costs.scrape(part)
    return Needs(
        load,
        days,
        shards,
        whole,
        each,
        shards * sum(each.values()),
        shards * costs.thread_cores(part)["inference"],
        shards * costs.memory_bytes(part),
        shards * costs.journal_bytes(part, 0) + days * per_day,
        per_day,
        shards * costs.written_bytes_per_second(part),
        load.samples_per_second * costs.sample_received,
        shards * load.samples_per_second * costs.sample_received,
        each["seedlink"] + _others_records(costs, load, part),
        sent + shards * scrape_bytes / SCRAPE_EVERY_S,
        scrape_seconds,
        costs.snapshot_every_seconds(part),
        costs.pause_seconds(part),
        costs.beyond(load),
    )


def _shards(costs: Costs, load: Load, whole: dict[str, float]) -> int:
    """The fewest whose daemons are not too full and take all channels. whole: threads of one that has everything.

    A share takes more than its part of the whole: what a daemon costs by itself is there once more, and fewer of its
    records and windows go together.
    """
    shards = max(1, math.ceil(_fullness(whole)), math.ceil(load.channels / MOST_CHANNELS))
    while shards < load.channels and _fullness(threads_of(costs, _share(load, shards))) > 1.0:
        shards += 1
    return shards


def _fullness(threads: dict[str, float]) -> float:
    """Of a daemon; 1 where it is as full as it may be."""
    return max(max(threads.values()) / MOST_OF_A_CORE, sum(threads.values()) / CORES_OF_A_DAEMON)


def _others_records(costs: Costs, load: Load, part: Load) -> float:
    """Cores that a shard's reader takes for records of stations that are not its own, where a pattern brings all."""
    batches = costs.amounts(load)[BATCH] - costs.amounts(part)[BATCH]
    records = load.records_per_second - part.records_per_second
    return max(0.0, costs.cores["seedlink"][BATCH] * batches + OTHERS_RECORD_S * records)


def _share(load: Load, shards: int) -> Load:
    """What one of so many has of it."""
    return Load(math.ceil(load.channels / shards), load.rate_hz, load.triggers_per_second / shards, load.subscribers)


def threads_of(costs: Costs, load: Load) -> dict[str, float]:
    """With somebody who scrapes."""
    return costs.thread_cores(load) | {"http": costs.scrape(load)[0] / SCRAPE_EVERY_S}


def figures(found: Needs) -> Results:
    """As a bench among others."""
    some = {
        "daemons": (float(found.shards), "processes"),
        "cores": (float(cores_to_have(found)), "cores"),
        "work": (found.cores, "cores"),
        "gpus": (float(found.gpu_pays), "GPUs"),
        "memory": (found.memory_bytes / _GB, "GB"),
        "journal": (found.journal_bytes / _GB, "GB"),
        "written": (found.written_bytes / _MB, "MB/s"),
        "network_in": (found.received_bytes * 8 / _MB, "Mbit/s"),
        "network_in_pattern": (found.received_by_pattern_bytes * 8 / _MB, "Mbit/s"),
        "reader_pattern": (found.reader_by_pattern, "cores"),
        "network_out": (found.sent_bytes * 8 / _MB, "Mbit/s"),
        "scrape": (found.scrape_seconds, "s"),
        "snapshot_every": (found.snapshot_every_seconds, "s"),
        "snapshot_pause": (found.pause_seconds, "s"),
    }
    return {"scale_plan": {name: Figure(value, unit, 1.0) for name, (value, unit) in some.items()}}


def cores_to_have(found: Needs) -> int:
    """Whole ones, with what backlogs need."""
    return math.ceil(SPARE * found.cores)


def told(found: Needs, source: str) -> str:
    """For people, one line for each thing. source: where the costs come from."""
    load = found.load
    lines = [
        f"{load.channels:,} channels of {load.rate_hz:g} Hz, {load.triggers_per_second:g} triggers/s, "
        f"{load.subscribers} subscribers, journal of {found.days:g} days; costs: {source}",
        _line("daemons", f"{found.shards}", _why(found)),
        _line("cores", f"{cores_to_have(found)}", f"work {found.cores:.2f}, twice that for backlogs"),
        _line("GPU", "1" if found.gpu_pays else "0", _gpu(found)),
        _line("memory", f"{found.memory_bytes / _GB:.2f} GB", "resident, of all daemons"),
        _line(
            "journal",
            f"{found.journal_bytes / _GB:.1f} GB",
            f"{found.journal_bytes_per_day / _GB:.2f} GB a day",
        ),
        _line("disk writes", f"{found.written_bytes / _MB:.2f} MB/s", "messages and snapshots, log and file"),
        *_network_in(found),
        _line("network out", f"{found.sent_bytes * 8 / _MB:.2f} Mbit/s", "subscribers, /metrics every 15 s"),
        _line("scrape", f"{1000 * found.scrape_seconds:.0f} ms", "processor time of one GET of /metrics, each daemon"),
        _line(
            "snapshot",
            f"{1000 * found.pause_seconds:.0f} ms",
            f"in which records wait, every {found.snapshot_every_seconds:.0f} s: what a restart reads again",
        ),
    ]
    if found.beyond > MOST_BEYOND:
        lines.append(_line("extrapolated", f"{found.beyond:.0f} times", "larger than any run that the costs come from"))
    return "\n".join(lines)


def _line(what: str, value: str, why: str) -> str:
    return f"{what:<12}{value:>14}   {why}"


def _network_in(found: Needs) -> list[str]:
    named = f"{found.received_bytes * 8 / _MB:.2f} Mbit/s"
    if found.shards == 1:
        return [_line("network in", named, "SeedLink")]
    everything = f"{found.received_by_pattern_bytes * 8 / _MB:.2f} Mbit/s"
    why = f"where by a pattern: all records to each daemon, whose reader takes {found.reader_by_pattern:.2f} of a core"
    return [_line("network in", named, "SeedLink, where stations are named one by one"), _line("", everything, why)]


def _why(found: Needs) -> str:
    at_most = f"at most {MOST_OF_A_CORE:g} and {CORES_OF_A_DAEMON:g}"
    if found.shards == 1:
        return f"{_busy(found.each)}; {at_most}"
    channels = f"{math.ceil(found.load.channels / found.shards):,} channels of at most {MOST_CHANNELS:,}"
    return f"each: {channels}, {_busy(found.each)}; {at_most}; one alone: {_busy(found.threads)}"


def _busy(threads: dict[str, float]) -> str:
    busiest = max(threads, key=threads.__getitem__)
    return f"thread {busiest} takes {threads[busiest]:.2f} of a core, all threads {sum(threads.values()):.2f}"


def _gpu(found: Needs) -> str:
    pays = f"pays from {GPU_FROM_CORES:g} cores of encoder, for retraining and for archives"
    return f"the encoder takes {found.encoder_cores:.2f} cores; a GPU {pays}"
