"""An alert as actions get it: a document, and its words for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from tscc_stream.apps.alert_times import local
from tscc_stream.apps.alert_told import Alert
from tscc_stream.config_alerts import Told
from tscc_stream.edges.alert_journal import NewAlert
from tscc_stream.stages.publish import iso_time

REHEARSAL = "REHEARSAL, nothing has happened"
SHOWN_CHANNELS = 30


def stored(alert: Alert, site: str, zone: ZoneInfo, health: Mapping[str, Any], actions: Sequence[str]) -> NewAlert:
    """What the journal keeps of an alert, and actions get."""
    title = "".join(letter if letter.isprintable() else "?" for letter in f"{alert.told.name}: {alert.title}")
    if alert.kind == "rehearsal":
        title = f"{REHEARSAL}: {title}"
    onset_ns = alert.cause.get("onset_ns")
    cause = dict(alert.cause)
    if onset_ns is not None:
        cause["onset"], cause["onset_local"] = iso_time(onset_ns), clock(onset_ns, zone)
    document = {
        "id": alert.id,
        "site": site,
        "rule": alert.told.name,
        "kind": alert.kind,
        "severity": alert.told.severity,
        "rehearsal": alert.kind == "rehearsal",
        "at": iso_time(alert.at_ns),
        "at_local": clock(alert.at_ns, zone),
        "title": title,
        "advice": alert.told.advice,
        "cause": cause,
        "sensor_health": dict(health),
    }
    return NewAlert(alert.id, alert.at_ns, alert.told.name, alert.kind, alert.told.severity, title, document, actions)


def actions_of(told: Told, every: Sequence[str], *, escalated: bool = False) -> tuple[str, ...]:
    """Whom an alert of a rule or watch goes to; escalated: from its first repetition on."""
    named = told.actions or tuple(every)
    return tuple(dict.fromkeys((*named, *told.escalate_to))) if escalated else named


def clock(moment_ns: int, zone: ZoneInfo) -> str:
    """As clocks at the site show it, with the zone: 2026-11-27 16:20:11 SAST."""
    return f"{local(moment_ns, zone):%Y-%m-%d %H:%M:%S %Z}"


def subject(document: Mapping[str, Any], round_: int = 0) -> str:
    """One line: what an operator reads first."""
    again = f" (repetition {round_}, not acknowledged)" if round_ else ""
    return f"[{document['site']}] {document['severity'].upper()}: {document['title']}{again}"


def text(document: Mapping[str, Any], round_: int = 0) -> str:
    """The whole alert as plain text."""
    cause = document["cause"]
    lines = [subject(document, round_), ""]
    if document["advice"]:
        lines += [f"What to do: {document['advice']}", ""]
    if "onset_local" in cause:
        lines.append(f"Onset:    {cause['onset_local']} ({cause['onset']})")
    lines.append(f"Alert:    {document['at_local']} ({document['at']})")
    lines.append(f"Sensors:  {_sensors(document['sensor_health'])}")
    if source := cause.get("source"):
        lines.append(f"Source:   {source}")
    if channels := cause.get("channels"):
        more = f" and {len(channels) - SHOWN_CHANNELS} more" if len(channels) > SHOWN_CHANNELS else ""
        lines.append(f"Channels: {', '.join(channels[:SHOWN_CHANNELS])}{more}")
    lines += [f"- {sentence}" for sentence in cause.get("sentences", ())]
    if cause.get("held_before"):
        lines.append(f"{cause['held_before']} more were held back since the alert before this one.")
    lines += ["", f'Answer:   tscc-stream alert ack {document["id"]} --note "..."', f"Alert id: {document['id']}", ""]
    return "\n".join(lines)


def _sensors(health: Mapping[str, Any]) -> str:
    named = [
        f"{why}: {', '.join(health[why])}" for why in ("silent", "flat", "clipped", "quarantined") if health.get(why)
    ]
    return "; ".join([str(health.get("text", "not known")), *named])
