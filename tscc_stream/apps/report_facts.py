"""What a shift report tells, gathered out of the journal and what people said, before any page is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tscc_stream import drift
from tscc_stream.apps import report_alerts, report_health
from tscc_stream.apps.journal_formats import SiteJournal
from tscc_stream.apps.report_alerts import Alerts
from tscc_stream.apps.report_health import ChannelHealth
from tscc_stream.apps.shifts import HOUR_NS, Span, local
from tscc_stream.apps.stored import LONGEST_NS, Stored, events, may_have_members_in
from tscc_stream.apps.words import cluster_of
from tscc_stream.messages import Float32Array
from tscc_stream.package import Label
from tscc_stream.progress import Update
from tscc_stream.source_id import name_of, sensor_of, to_nslc
from tscc_stream.verdicts import Precision, Verdict, precision

DAYS = 7
"""Earlier days whose same shift is compared with."""
LONGEST_COMPARED_NS = 24 * HOUR_NS
MOST_UNKNOWN = 24
MOST_LARGEST = 10
_CLIPPED = "clipped"
_LEAST_P_VALUES = drift.LEAST


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A detection or a network event (channel empty) of the span. velocity: m/s, None where only counts are known."""

    uid: str
    seq: int
    onset_ns: int
    channel: str
    name: str
    known: bool
    sha256: str
    cluster: int | None
    counts: float | None
    velocity: float | None
    peak_ratio: float
    p_value: float | None
    quality: tuple[str, ...]
    channels: tuple[str, ...]
    detections: tuple[str, ...]
    verdict: Verdict | None


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnail:
    """A window to name: its samples [n] in counts, in the model's band."""

    seen: Seen
    samples: Float32Array
    seconds: float


@dataclass(slots=True, eq=False)
class Facts:
    """compared: for each earlier day with a whole journal, name -> detections. come_to_ns: the span's end, or now.

    begin_ns: data time at which the journal begins, None where it is empty; begun: whether the span has.
    of_earlier: detections of network events that began before the span.
    """

    site: str
    span: Span
    come_to_ns: int
    begin_ns: int | None = None
    begun: bool = True
    labels: dict[str, Label] = field(default_factory=dict)
    detections: list[Seen] = field(default_factory=list)
    events: list[Seen] = field(default_factory=list)
    of_earlier: set[str] = field(default_factory=set)
    compared: list[Counter[str]] = field(default_factory=list)
    compared_hours: list[Counter[int]] = field(default_factory=list)
    thumbnails: list[Thumbnail] = field(default_factory=list)
    health: list[ChannelHealth] = field(default_factory=list)
    alerts: Alerts | None = None
    models: dict[str, str] = field(default_factory=dict)
    in_counts: dict[str, str] = field(default_factory=dict)
    cluster_names: dict[tuple[str, int | None], str] = field(default_factory=dict)
    people_unreadable: str = ""

    @property
    def span_ns(self) -> tuple[int, int]:
        """Up to now at most."""
        return self.span.ns[0], self.come_to_ns

    @property
    def counts(self) -> Counter[str]:
        """Detections by name."""
        return Counter(one.name for one in self.detections)

    @property
    def to_name(self) -> list[Seen]:
        """Unknown windows of which nobody has said what they are."""
        return [one for one in self.detections if not one.known and one.verdict is None]

    @property
    def clipped(self) -> Counter[str]:
        """Detections with clipped samples, by channel."""
        return Counter(one.channel for one in self.detections if _CLIPPED in one.quality)

    def drift(self) -> float | None:
        """How far p-values are from evenly spread, which those of ordinary windows are; None: too few, or none."""
        values = np.array([one.p_value for one in self.detections if one.p_value is not None], np.float64)
        if values.size < _LEAST_P_VALUES:
            return None
        return drift.statistic(np.linspace(0.0005, 0.9995, 1000), values)

    def precision(self) -> dict[str, Precision]:
        """By the name that the model gave."""
        return precision((self._said(one), one.verdict.agrees) for one in self.detections if one.verdict is not None)

    def _said(self, one: Seen) -> str:
        return self.cluster_names.get((one.sha256, one.cluster), one.name)


def gather(site: SiteJournal, name: str, span: Span, now_ns: int, state_dir: Path, update: Update) -> Facts:
    """Everything of a span. name: the site's. Raises JournalError; PeopleError as SiteJournal does."""
    facts = Facts(name, span, min(span.ns[1], max(now_ns, span.ns[0] + 1)), site.reader.begin_ns(), now_ns > span.ns[0])
    spans = _compared(site, facts)
    first_ns = min([facts.span_ns[0] - LONGEST_NS, *(begin for begin, _ in spans)])
    facts.compared, facts.compared_hours = [Counter() for _ in spans], [Counter() for _ in spans]
    for one in events(site.reader, update, span_ns=(first_ns, facts.come_to_ns)):
        if one.onset_ns >= facts.span_ns[0]:
            _add(site, facts, one)
        elif one.sid:
            _compare(site, facts, one, spans)
        elif may_have_members_in(one, facts.span_ns):
            facts.of_earlier.update(one.body["data"]["detections"])
    _largest_of_members(site, facts)
    facts.thumbnails = _thumbnails(site, facts)
    facts.health = _health(site, facts)
    facts.alerts = report_alerts.of_span(state_dir, facts.span_ns)
    facts.in_counts = site.amplitudes.refused
    facts.people_unreadable = site.words.unreadable
    facts.models = {sha256: f"{spec.name} {spec.version}" for sha256, spec in site.specs.items()}
    return facts


def _compared(site: SiteJournal, facts: Facts) -> list[tuple[int, int]]:
    """The same span of each of the last days of which the journal still has everything, the latest first.

    What goes on still is compared as far as it has come.
    """
    begin_ns, end_ns = facts.span_ns
    if end_ns - begin_ns > LONGEST_COMPARED_NS:
        return []
    oldest_ns = facts.begin_ns
    if oldest_ns is None:
        return []
    earlier = [facts.span.days_before(days).ns for days in range(1, DAYS + 1)]
    missing_ns = facts.span.ns[1] - end_ns
    return [(begin, end - missing_ns) for begin, end in earlier if begin >= oldest_ns]


def _add(site: SiteJournal, facts: Facts, one: Stored) -> None:
    label = site.label(one)
    facts.labels.setdefault(label.name, label)
    seen = _seen(site, one, label.name)
    (facts.detections if one.sid else facts.events).append(seen)
    if seen.verdict is not None:
        cluster, said = cluster_of(one.body), one.body["data"]["cluster"]["name"]
        model_label = site.words.of_cluster(one.sha256, cluster, said)
        facts.labels.setdefault(model_label.name, model_label)
        facts.cluster_names[seen.sha256, seen.cluster] = model_label.name


def _seen(site: SiteJournal, one: Stored, name: str) -> Seen:
    data: Mapping[str, Any] = one.body["data"]
    return Seen(
        uid=one.body["id"],
        seq=one.seq,
        onset_ns=one.onset_ns,
        channel=to_nslc(one.sid) if one.sid else "",
        name=name,
        known=cluster_of(one.body) is not None,
        sha256=one.sha256,
        cluster=cluster_of(one.body),
        counts=data.get("peak_amplitude"),
        velocity=site.amplitudes.metres_per_second(one.body) if one.sid else None,
        peak_ratio=float(data.get("peak_ratio") or 0.0),
        p_value=data["cluster"].get("p_value"),
        quality=tuple(data.get("quality", ())),
        channels=tuple(data.get("channels", ())),
        detections=tuple(data.get("detections", ())),
        verdict=site.words.verdicts.get(one.body["id"]),
    )


def _compare(site: SiteJournal, facts: Facts, one: Stored, spans: list[tuple[int, int]]) -> None:
    for place, (begin, end) in enumerate(spans):
        if begin <= one.onset_ns < end:
            label = site.label(one)
            facts.labels.setdefault(label.name, label)
            facts.compared[place][label.name] += 1
            facts.compared_hours[place][local(one.onset_ns, facts.span.zone).hour] += 1


def _largest_of_members(site: SiteJournal, facts: Facts) -> None:
    """A network event is as large as the largest of its detections: in m/s where all of them are."""
    by_uid = {one.uid: one for one in facts.detections}
    sized = []
    for event in facts.events:
        members = [by_uid.get(uid) or _member(site, uid) for uid in event.detections]
        sized.append(_sized(event, [one for one in members if one is not None]))
    facts.events = sized


def _member(site: SiteJournal, uid: str) -> Seen | None:
    """A detection of an event that the span's end cut off; None where the journal has it no longer."""
    found = site.stored(uid)
    return None if found is None else _seen(site, found, "")


def _sized(event: Seen, members: list[Seen]) -> Seen:
    """What is clipped in one of them is at least so large as a whole."""
    velocities = [one.velocity for one in members if one.velocity is not None]
    counts = [one.counts for one in members if one.counts is not None]
    whole = len(velocities) == len(members)
    velocity = max(velocities) if velocities and whole else None
    quality = (_CLIPPED,) if any(_CLIPPED in one.quality for one in members) else ()
    return replace(event, velocity=velocity, counts=max(counts, default=None), quality=quality)


def largest(facts: Facts) -> list[Seen]:
    """Network events, and detections that belong to none; the largest first, those in m/s before those in counts."""
    members = {uid for event in facts.events for uid in event.detections} | facts.of_earlier
    every = [*facts.events, *(one for one in facts.detections if one.uid not in members)]
    sized = [one for one in every if one.counts is not None]
    return sorted(sized, key=lambda one: (one.velocity is None, -(one.velocity or one.counts or 0.0)))[:MOST_LARGEST]


def _thumbnails(site: SiteJournal, facts: Facts) -> list[Thumbnail]:
    """Of the clearest unknown windows."""
    chosen = sorted(facts.to_name, key=lambda one: -one.peak_ratio)[:MOST_UNKNOWN]
    made = []
    for one in chosen:
        windows = site.reader.windows(one.seq - 1, 1)
        spec = site.specs.get(one.sha256)
        if windows and windows[0].seq == one.seq and spec is not None:
            samples = np.frombuffer(windows[0].band_passed, "<f4").reshape(-1, spec.channels)[:, 0]
            made.append(Thumbnail(one, samples, len(samples) / spec.sample_rate_hz))
    return made


def _health(site: SiteJournal, facts: Facts) -> list[ChannelHealth]:
    gaps = site.reader.gaps(facts.span_ns[0])
    reached = {name_of(sid): had for sid, had in report_health.reached(site.reader).items()}
    named = [replace(gap, sid=name_of(gap.sid)) for gap in gaps]
    return report_health.channels(named, reached, _heard(site, facts, reached), facts.span_ns)


def _heard(site: SiteJournal, facts: Facts, also: Iterable[str]) -> dict[str, tuple[int, int]]:
    """From when to when the journal tells of each channel, not before it begins. also: other channels.

    A window of several components tells of all of its sensor.
    """
    if facts.begin_ns is None or not facts.begun:
        return {}
    begin_ns, end_ns = facts.begin_ns, facts.come_to_ns
    heard = {name_of(sid): times for sid, times in site.reader.heard((begin_ns, end_ns)).items()}
    if any(spec.channels > 1 for spec in site.specs.values()):
        of_sensors: dict[str, list[tuple[int, int]]] = {}
        for channel, times in heard.items():
            of_sensors.setdefault(sensor_of(channel), []).append(times)
        for channel in {*heard, *also}:
            if times_of := of_sensors.get(sensor_of(channel)):
                heard[channel] = min(first for first, _ in times_of), max(last for _, last in times_of)
    return {channel: (max(first, begin_ns), last) for channel, (first, last) in heard.items()}
