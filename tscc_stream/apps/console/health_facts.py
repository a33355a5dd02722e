"""What the page Health says, gathered: from the daemon's numbers, the journal, the disk and the chosen model."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tscc_stream import activation
from tscc_stream.activation import ActivationError
from tscc_stream.apps import machine_clock
from tscc_stream.apps.console import judgement
from tscc_stream.apps.console.health_watch import WATCHED, Seen
from tscc_stream.apps.console.judgement import Part, bytes_text
from tscc_stream.apps.console.readings import Readings, quantiles, rate, rates
from tscc_stream.apps.console.sensors import NEWEST, Known, Sensor, table
from tscc_stream.apps.console.site import JOURNAL, NotThereError, Site
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.package import PackageError
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.stages.journal import GapEntry, JournalError

SCANNED = 5_000
"""Latest messages that are looked at for what the daemon said of itself, and for clipped windows."""
A_DAY_NS = 86_400 * NS_PER_SECOND
MOST_GAPS = 50_000


@dataclass(frozen=True, slots=True)
class InJournal:
    """What the journal says. unreadable: why it does not; told: the daemon's last word on itself (started, stopping),
    empty where it is not among the latest messages; written_s: when the file was last written, wall time.
    """

    unreadable: str
    head: int
    oldest: int
    bytes: int
    written_s: float | None
    told: str
    clipped: Counter[str]
    gaps: list[GapEntry]


def in_journal(site: Site, until_ns: int) -> InJournal:
    """Never raises what a page could show."""
    files = [site.state_dir / f"{JOURNAL}{end}" for end in ("", "-wal")]
    stats = list(_stats(files))
    size, written_s = sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=None)
    try:
        with site.journal() as journal:
            told, clipped = _latest(journal)
            gaps = journal.gaps(until_ns - A_DAY_NS, MOST_GAPS)
            return InJournal("", journal.head(), journal.oldest(), size, written_s, told, clipped, gaps)
    except (JournalError, NotThereError) as error:
        return InJournal(str(error), 0, 0, size, written_s, "", Counter(), [])


def _stats(files: Iterable[Path]) -> Iterator[os.stat_result]:
    """Of those that can be looked at."""
    for file in files:
        with suppress(OSError):
            yield file.stat()


def _disk(site: Site) -> tuple[int, int]:
    """Free bytes and all of them where the state is, or would be."""
    try:
        disk = shutil.disk_usage(site.state_dir)
    except OSError:
        disk = shutil.disk_usage(Path.cwd())
    return disk.free, disk.total


def _latest(journal: JournalReader) -> tuple[str, Counter[str]]:
    start = max(0, journal.head() - SCANNED)
    said = journal.since(start, "status.daemon.", 100).messages
    told = str(json.loads(said[-1].message.body)["data"].get("state", "")) if said else ""
    found = journal.since(start, "detection.", SCANNED, 8_000_000).messages
    return told, Counter(one.message.sid for one in found if b'"clipped"' in one.message.body)


def newest_sample_s(now: Readings | None) -> float | None:
    """Data time of the newest sample of all channels, s since 1970."""
    newest = now.by(NEWEST, "sid").values() if now is not None else ()
    return max(newest, default=None)


def data_now_ns(seen: Seen) -> int:
    """Where a period of data ends: at the newest sample, or now where that is not known. Never later than now: one
    recorder whose clock is ahead must not hide the gaps of all others.
    """
    now_s = time.time()
    return round(min(newest_sample_s(seen.now) or now_s, now_s) * NS_PER_SECOND)


def parts(site: Site, seen: Seen, found: InJournal, refused: str, sensors: Sequence[Sensor]) -> list[Part]:
    """refused: why the console's subscriber was, empty where it was not. sensors: as the page lists them."""
    now, health = seen.now if seen.health is not None else None, seen.health
    waiting = rates(seen.earlier, now, "tscc_seedlink_waiting_seconds_total", "server") if now else {}
    threads = health.get("threads", {}) if health else {}
    size = f"{found.head:,} messages, {bytes_text(found.bytes)}"
    running = _running(now)
    return [
        judgement.daemon(health, seen.away, _since(site, seen, found), seen.secret, found.told == "stopping"),
        *judgement.links(health),
        judgement.channels(
            health, now.value("tscc_channels_quarantined") if now else math.nan, Counter(one.word for one in sensors)
        ),
        judgement.queues(
            now.by("tscc_queue_depth", "stage") if now else {},
            now.value("tscc_spilled_windows") if now else 0.0,
            max(waiting.values(), default=0.0),
        ),
        judgement.journal((health or {}).get("reason") or "", found.unreadable, size),
        judgement.bus(refused, threads.get("bus")),
        judgement.model(_chosen(site), running, now.value("tscc_drift_score", cluster="all") if now else math.nan),
        judgement.disk(*_disk(site)),
        judgement.clock(_ahead(seen), machine_clock.is_kept()),
    ]


def _since(site: Site, seen: Seen, found: InJournal) -> str:
    """The last sign of the daemon, in words."""
    last_s = max((moment for moment in (seen.answered_s, found.written_s) if moment is not None), default=None)
    return "the beginning" if last_s is None else f"{site.local(round(last_s * NS_PER_SECOND)):%d %b %Y %H:%M:%S}"


def _ahead(seen: Seen) -> float | None:
    newest_s = newest_sample_s(seen.now)
    return None if newest_s is None or seen.health is None else newest_s - time.time()


def _running(now: Readings | None) -> str:
    told = now.series("tscc_model_info") if now is not None else []
    return told[0][0].get("sha256", "") if told else ""


def _chosen(site: Site) -> str:
    """The sha256 of the model that should run; empty where that cannot be told."""
    try:
        return site.package().sha256
    except (PackageError, ActivationError):
        return ""


def stages(seen: Seen) -> list[dict[str, Any]]:
    """Calls a second, mean, p95 of each stage over the last minute or two, and since the start."""
    now = seen.now
    if now is None:
        return []
    calls = rates(seen.earlier, now, "tscc_stage_seconds_count", "stage")
    spent = rates(seen.earlier, now, "tscc_stage_seconds_sum", "stage")
    found = []
    for stage, count in sorted(now.by("tscc_stage_seconds_count", "stage").items(), key=lambda one: _place(one[0])):
        total = now.value("tscc_stage_seconds_sum", stage=stage)
        p95 = quantiles(None, now, "tscc_stage_seconds", (0.95,), stage=stage).get(0.95, math.nan)
        found.append(
            {
                "stage": stage,
                "calls": number(calls.get(stage, math.nan)),
                "busy": number(spent.get(stage, math.nan)),
                "mean": number(total / count if count else math.nan),
                "p95": number(p95),
            }
        )
    return found


_ORDER = ("lanes", "assemble", "condition", "detect", "extract", "snapshot", "gather", "infer", "interpret", "journal")


def _place(stage: str) -> tuple[int, str]:
    return (_ORDER.index(stage) if stage in _ORDER else len(_ORDER)), stage


def latency(seen: Seen) -> dict[str, Any]:
    """Quantiles of sample-to-publish, s: of the last minute or two, and since the daemon's start."""
    name, now = "tscc_sample_to_publish_seconds", seen.now
    if now is None:
        return {"lately": {}, "all": {}, "messages": 0}
    lately = quantiles(seen.earlier, now, name, WATCHED) if seen.earlier is not None else {}
    return {
        "lately": {f"p{100 * q:g}": number(value) for q, value in lately.items()},
        "all": {f"p{100 * q:g}": number(value) for q, value in quantiles(None, now, name, WATCHED).items()},
        "messages": number(now.value(f"{name}_count")),
    }


def sensors(site: Site, seen: Seen, found: InJournal) -> list[Sensor]:
    """The worst first; empty where the daemon does not say."""
    if seen.now is None:
        return []
    known = Known(
        time.time(), time.monotonic(), site.stale_seconds, seen.moved_s, found.clipped, found.gaps, seen.health
    )
    return table(seen.earlier, seen.now, known)


def drift(site: Site, seen: Seen) -> list[dict[str, Any]]:
    """By cluster, all of them together first; score None until it is known."""
    if seen.now is None:
        return []
    try:
        name_of = site.package().name_of
    except (PackageError, ActivationError):
        name_of = "cluster {}".format
    scores = seen.now.by("tscc_drift_score", "cluster")
    order = sorted(scores, key=lambda key: (key != "all", int(key) if key.isdigit() else 0))
    return [
        {"cluster": key, "name": "all windows" if key == "all" else name_of(int(key)), "score": number(scores[key])}
        for key in order
    ]


def shadow(site: Site, seen: Seen) -> dict[str, Any] | None:
    """How often a candidate says what the live model does; None where none is tried."""
    configured = site.config.shadow
    try:
        folder = activation.shadow_folder(site.state_dir, None if configured is None else Path(configured))
    except ActivationError as error:
        return {"name": str(error), "pairs": [], "windows": 0, "agree": None, "skipped": 0}
    if folder is None or seen.now is None:
        return None
    pairs = seen.now.series("tscc_shadow_total")
    total = sum(count for _, count in pairs)
    same = sum(count for labels, count in pairs if labels["live"] == labels["shadow"])
    return {
        "name": folder.name,
        "windows": int(total),
        "agree": number(same / total if total else math.nan),
        "skipped": number(seen.now.value("tscc_shadow_skipped_total")),
        "pairs": [{**labels, "count": int(count)} for labels, count in sorted(pairs, key=lambda one: -one[1])[:40]],
    }


def retention(site: Site, found: InJournal) -> dict[str, Any]:
    """What is kept, and how much room it takes."""
    kept, (free, total) = site.config.retention, _disk(site)
    return {
        "messages": found.head - found.oldest + 1 if found.head else 0,
        "journal": bytes_text(found.bytes),
        "share": found.bytes / (kept.max_gib * 2**30),
        "days": kept.days,
        "max_gib": kept.max_gib,
        "free": bytes_text(free),
        "free_share": free / total if total else 0.0,
    }


def counters(seen: Seen) -> dict[str, Any]:
    """A few numbers of the last minute or two."""
    now = seen.now
    if now is None:
        return {}
    samples = rates(seen.earlier, now, "tscc_samples_total", "sid")
    return {
        "samples": number(sum(samples.values()) if samples else math.nan),
        "triggers": number(60 * rate(seen.earlier, now, "tscc_triggers_total")),
        "front": number(now.value("tscc_queue_depth", stage="front")),
        "back": number(now.value("tscc_queue_depth", stage="back")),
    }


def number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
