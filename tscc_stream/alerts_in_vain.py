"""What of section `alerts` could never be told, though each key is good: as mistakes where the file shows it, as doubts
where that depends on what the file does not know, or where less is told than it seems.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, get_args

from tscc_stream.config_alerts import AlertsConfig, Day, Place, WatchConfig, When
from tscc_stream.config_people import minutes_of

UNKNOWN: Final = "unknown"
_DAY: Final = 24 * 60
_WEEK: Final = 7 * _DAY
_DAYS: Final[tuple[str, ...]] = get_args(Day)


def in_vain(alerts: AlertsConfig, shifts: Mapping[str, str], *, network: bool) -> Iterator[tuple[Place, str]]:
    """Mistakes: (place within the file, sentence). network: whether the file has that section."""
    for number, rule in enumerate(alerts.rules):
        if rule.kind == "network" and not network and not alerts.sources:
            yield (
                ("alerts", "rules", number),
                "kind network (the default): without the section network no network event is ever made; expected that "
                "section (`network: {}` has its defaults), or kind: detection",
            )
    for number, planned in enumerate(alerts.suppression):
        if UNKNOWN in planned.clusters:
            sentence = "unknown: expected names of clusters, since an unknown event is never suppressed"
            yield ("alerts", "suppression", number, "clusters"), sentence
    for number, watch in enumerate(alerts.watches):
        if watch.kind == "triggers" and not _ever_lasts(watch, shifts):
            yield (
                ("alerts", "watches", number),
                f"after_seconds {watch.seconds:g}: its hours, shifts and days never hold both now and so long ago, so "
                "that it would never be told; expected a shorter time or longer hours",
            )


def _ever_lasts(watch: WatchConfig, shifts: Mapping[str, str]) -> bool:
    """Whether some silence of a watch's length begins and ends within its hours, by clocks that are never changed."""
    if not set(watch.shifts) <= set(shifts):
        return True  # told elsewhere
    held = _minutes(watch, shifts)
    whole, rest = divmod(watch.seconds, 60.0)
    lasts = {int(whole), int(whole) + (rest > 0)}
    return any((minute - last) % _WEEK in held for minute in held for last in lasts)


def _minutes(when: When, shifts: Mapping[str, str]) -> set[int]:
    """Of the week, from Monday 00:00 on."""
    days = [_DAYS.index(day) for day in when.days or _DAYS]
    spans = [minutes_of(span) for span in (*when.hours, *(shifts[name] for name in when.shifts))] or [(0, _DAY)]
    return {
        (_DAY * day + minute) % _WEEK
        for day in days
        for begin, end in spans
        for minute in range(begin, end if begin < end else end + _DAY)
    }


def doubts(alerts: AlertsConfig) -> Iterator[str]:
    """What a person should know, one sentence each."""
    yield from _of_sources(alerts)
    for one in (*alerts.rules, *alerts.watches):
        told = set(one.actions or alerts.actions)
        if one.escalate_to and set(one.escalate_to) <= told:
            yield f"{one.name}: escalate_to changes nothing, since its actions (none named: all) are told at once"
    data = [watch for watch in alerts.watches if watch.kind == "data"]
    if data and all(watch.channels for watch in data):
        yield (
            f"{data[0].name}: with channels a watch of kind data tells of streams, not of a server that is away or "
            "silent as a whole; another one without channels does"
        )


def _of_sources(alerts: AlertsConfig) -> Iterator[str]:
    if not alerts.sources:
        return
    names = [rule.name for rule in alerts.rules if rule.kind == "network"]
    if names:
        yield (
            f"{', '.join(names)}: network events come only from a source that is `coincide`, or whose own file has the "
            "section network; this file cannot tell whether one is"
        )
    unasked = [source.name for source in alerts.sources if source.metrics is None]
    for watch in alerts.watches:
        if watch.kind == "journal" and unasked:
            yield f"{watch.name}: tells nothing of {', '.join(unasked)}, since a source without metrics does not say it"
