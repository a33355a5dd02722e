"""Watches over silence: state in, messages, facts and the time in, alerts out. Pure.

Each watch has conditions by subject (a server, a channel, the daemon). New ones become one alert, unless the watch's
cool-down holds it back until it ends; once none is left, an alert says that it is over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from tscc_stream.apps.alert_cooldown import Cooldown
from tscc_stream.apps.alert_health import Facts
from tscc_stream.apps.alert_silent import MOST_SUBJECTS, Silent
from tscc_stream.apps.alert_times import Hours
from tscc_stream.apps.alert_told import Alert, Repetition, alert_id
from tscc_stream.config_alerts import AlertsConfig, WatchConfig
from tscc_stream.sampling import NS_PER_SECOND, seconds_to_ns
from tscc_stream.source_id import name_of
from tscc_stream.stages.journal import GapEntry

MOST_GAPS: Final = 1_000
SHOWN: Final = 10
_LINK = "link"


class _Watch:
    """One watch and what it remembers.

    told: subjects that went out in alerts and last still. open: an alert has not been followed by its end yet. unsure:
    it was so when the process started, and nothing was learned since that says whether it still is. source: the
    publisher that is watched, where there are several.
    """

    def __init__(self, config: WatchConfig, hours: Hours, state: bytes | None, source: str) -> None:
        self.config, self.hours, self.source = config, hours, source
        self.cooldown, self.told, self.gaps = Cooldown(), list[str](), list[str]()
        self.open = False
        if state is not None:
            document = json.loads(state)
            self.cooldown = Cooldown.from_dict(document["cooldown"])
            self.told, self.gaps, self.open = document["told"], document["gaps"], document["open"]
        self.unsure = self.open
        self.dirty = False
        self.detected_s: float | None = None

    def snapshot(self) -> bytes:
        document = {"cooldown": self.cooldown.as_dict(), "told": self.told, "gaps": self.gaps, "open": self.open}
        return json.dumps(document).encode()

    def alert(
        self, kind: Literal["silence", "over"], key: str, title: str, cause: Mapping[str, Any], now_ns: int
    ) -> Alert:
        """About this watch's source."""
        identity = self.identity(kind, key)
        if not self.source:
            return Alert(identity, self.config, kind, now_ns, title, cause)
        return Alert(identity, self.config, kind, now_ns, f"{self.source}: {title}", {**cause, "source": self.source})

    def identity(self, kind: Literal["silence", "over"], key: str) -> str:
        """Of an alert about this watch's source."""
        return alert_id(self.config.name, kind, f"{self.source} {key}" if self.source else key)

    def concerns(self, channel: str) -> bool:
        patterns = self.config.channels
        return not patterns or any(fnmatchcase(channel, pattern) for pattern in patterns)


class Watches:
    """All watches of a site, or of one publisher of several (source). states: what `changes` gave in the process
    before; started_s: monotonic.

    What the daemon said of streams and links outlives a restart in `states`; how long it has been silent does not: that
    is counted in monotonic time from the start on.
    """

    def __init__(
        self,
        alerts: AlertsConfig,
        shifts: Mapping[str, str],
        zone: ZoneInfo,
        started_s: float,
        states: Mapping[str, bytes] | None = None,
        source: str = "",
    ) -> None:
        states = states or {}
        self._watches = [
            _Watch(one, Hours.of(one, shifts, zone), states.get(_key(one.name)), source) for one in alerts.watches
        ]
        self._started_s = started_s
        stale = alerts.stale_after_seconds
        self._stale_ns = None if stale is None else seconds_to_ns(stale)
        self._silent = Silent()
        self._links: dict[str, tuple[int, str]] = {}  # server -> wall ns since which it is away, why
        self._away_s: dict[str, float] = {}  # server that /healthz says is away -> monotonic s since which it does
        self._journal_since_s: float | None = None
        self._facts = Facts()
        self._known_s: float | None = None  # monotonic s since which /healthz was read
        self._heard_s: float | None = None  # what the first poll was given
        self._said = False
        if (state := states.get(_key(_LINK, ""))) is not None:
            document = json.loads(state)
            self._silent = Silent(document["silent"], document.get("unconfirmed", ()))
            self._links = {server: (since, why) for server, (since, why) in document["links"].items()}
        for watch in self._watches:
            if watch.config.kind == "data":  # what messages said is still known
                watch.unsure &= not self._silent.said.keys() | self._links.keys() >= set(watch.told)

    def status(self, kind: str, data: Mapping[str, Any], now_ns: int) -> None:
        """A message `status.<kind>.`. now_ns: wall time."""
        if kind == "daemon" and data.get("state") == "started":
            self._facts = Facts()
            self._silent.started()
            self._links.clear()
        elif kind == "data":
            self._data(data)
        elif kind == "seedlink":
            self._link(str(data["server"]), data, now_ns)
        else:
            return
        self._said = True

    def _data(self, data: Mapping[str, Any]) -> None:
        subject = str(data.get("sid") or data["server"])
        if data["state"] == "OK":
            self._silent.end(subject)
        else:
            said = _old_data if data["state"] == "OLD" else _no_data
            self._silent.begin(subject, said(subject, data["age_s"]))

    def _link(self, server: str, data: Mapping[str, Any], now_ns: int) -> None:
        if data["connected"]:
            self._links.pop(server, None)
        elif len(self._links) < MOST_SUBJECTS:
            self._links.setdefault(server, (now_ns, str(data.get("text", ""))))

    def detection(self, channel: str, now_s: float) -> None:
        """A window of a channel was classified. now_s: monotonic."""
        for watch in self._watches:
            if watch.config.kind == "triggers" and watch.concerns(channel):
                watch.detected_s = now_s

    def acknowledge(self, alert: str) -> None:
        """Somebody answered an alert."""
        for watch in self._watches:
            watch.dirty |= watch.cooldown.acknowledge(alert)

    def poll(self, now_ns: int, now_s: float, heard_s: float, facts: Facts) -> list[Alert | Repetition]:
        """What is silent now, or no longer. heard_s: when the daemon last said anything (monotonic).

        While /healthz cannot be read, what it said last holds: a daemon that does not answer is not well again.
        """
        if facts.state is None:
            facts = replace(self._facts, gaps=facts.gaps)
        self._facts = facts
        self._said |= self._silent.turn(heard_s)
        self._heard_s = heard_s if self._heard_s is None else self._heard_s
        if facts.state is not None and self._known_s is None:
            self._known_s = now_s
        if facts.state != "journal":
            self._journal_since_s = None
        elif self._journal_since_s is None:
            self._journal_since_s = now_s
        self._away_s = {server: self._away_s.get(server, now_s) for server in facts.away}
        told: list[Alert | Repetition] = []
        for watch in self._watches:
            if watch.config.kind == "gaps":
                told += self._lost(watch, facts.gaps, now_ns)
            else:
                conditions = self._conditions(watch, now_ns, now_s, heard_s, facts)
                watch.unsure = watch.unsure and not conditions and not self._learned(watch, now_s, heard_s)
                told += _turn(watch, None if watch.unsure else conditions, now_ns)
            if round_ := watch.cooldown.repeat(watch.config, now_ns):
                told.append(Repetition(watch.cooldown.alert, watch.config, round_))
                watch.dirty = True
        return told

    def changes(self) -> dict[str, bytes]:
        """What watches remember now, of those where that changed since the last call."""
        changed = {_key(watch.config.name): watch.snapshot() for watch in self._watches if watch.dirty}
        for watch in self._watches:
            watch.dirty = False
        if self._said:
            silent = {"silent": self._silent.said, "unconfirmed": sorted(self._silent.unconfirmed)}
            document = {**silent, "links": self._links}
            changed[_key(_LINK, "")] = json.dumps(document).encode()
            self._said = False
        return changed

    def _conditions(
        self, watch: _Watch, now_ns: int, now_s: float, heard_s: float, facts: Facts
    ) -> dict[str, str] | None:
        """Subject -> sentence; None: outside the watch's hours, when nothing begins and nothing ends."""
        if not watch.hours.hold(now_ns):
            return None
        find: dict[str, Callable[[], dict[str, str]]] = {
            "daemon": lambda: _daemon(watch.config.seconds, now_s - heard_s, facts),
            "data": lambda: self._without_data(watch, now_ns, now_s, facts),
            "triggers": lambda: self._without_triggers(watch, now_ns, now_s),
            "journal": lambda: self._journal(watch, now_s, facts),
        }
        return find[watch.config.kind]()

    def _learned(self, watch: _Watch, now_s: float, heard_s: float) -> bool:
        """Whether a watch that finds nothing has had the time since the start to find it."""
        if watch.config.kind == "daemon":
            return self._heard_s is not None and heard_s > self._heard_s
        if watch.config.kind == "triggers":
            return watch.detected_s is not None
        return self._known_s is not None and now_s - self._known_s >= watch.config.seconds

    def _without_data(self, watch: _Watch, now_ns: int, now_s: float, facts: Facts) -> dict[str, str]:
        """By what the messages said; what they said before the first start, /healthz still says."""
        said = {subject: _no_data(subject, age_s) for subject, age_s in facts.silent.items()} | self._silent.said
        if watch.config.channels:
            return {subject: text for subject, text in said.items() if watch.concerns(name_of(subject))}
        for server, since_s in self._away_s.items():
            if now_s - since_s >= watch.config.seconds:
                said[server] = f"{server}: not connected"
        for server, (since_ns, why) in self._links.items():
            away_s = (now_ns - since_ns) / NS_PER_SECOND
            if away_s >= watch.config.seconds or away_s < 0:
                said[server] = f"{server}: not connected: {why}"
        return said

    def _without_triggers(self, watch: _Watch, now_ns: int, now_s: float) -> dict[str, str]:
        since_s = self._started_s if watch.detected_s is None else watch.detected_s
        whole = watch.hours.hold(now_ns - seconds_to_ns(watch.config.seconds))
        if now_s - since_s < watch.config.seconds or not whole:
            return {}
        return {"triggers": f"no detection for {(now_s - since_s) / 60:.0f} min"}

    def _journal(self, watch: _Watch, now_s: float, facts: Facts) -> dict[str, str]:
        since_s = self._journal_since_s
        if since_s is None or now_s - since_s < watch.config.seconds:
            return {}
        return {"journal": f"the journal cannot be written: {facts.reason}"}

    def _lost(self, watch: _Watch, gaps: tuple[GapEntry, ...], now_ns: int) -> list[Alert | Repetition]:
        """Losses that are new, long enough and not too old: one alert for all, the rest held back."""
        fresh = [gap for gap in gaps if self._is_new(watch, gap, now_ns)]
        if not fresh and not watch.cooldown.has_more(watch.config, now_ns):
            return []
        watch.dirty = True
        watch.gaps = [*watch.gaps, *map(_gap_key, fresh)][-MOST_GAPS:]
        if watch.cooldown.active(watch.config, now_ns):
            for gap in fresh:
                watch.cooldown.hold(_gap_key(gap))
            return []
        keys = [_gap_key(gap) for gap in fresh] or [watch.cooldown.held_uid]
        held = watch.cooldown.tell(watch.config, watch.identity("silence", keys[-1]), now_ns)
        sentences = [_gap_sentence(gap) for gap in fresh[:SHOWN]]
        title = sentences[0] if len(fresh) == 1 and not held else f"{len(fresh) + held} losses of data"
        cause = {"uids": keys[:SHOWN], "sentences": sentences, "held_before": held}
        return [watch.alert("silence", keys[-1], title, cause, now_ns)]

    def _is_new(self, watch: _Watch, gap: GapEntry, now_ns: int) -> bool:
        return (
            gap.to_ns is not None
            and gap.to_ns - gap.from_ns >= seconds_to_ns(watch.config.seconds)
            and (self._stale_ns is None or now_ns - gap.noted_ns <= self._stale_ns)
            and watch.concerns(name_of(gap.sid))
            and _gap_key(gap) not in watch.gaps
        )


def _turn(watch: _Watch, conditions: dict[str, str] | None, now_ns: int) -> list[Alert | Repetition]:
    if conditions is None:
        return []
    untold = conditions.keys() - set(watch.told)
    lasting = [subject for subject in watch.told if subject in conditions]
    if untold and not watch.cooldown.active(watch.config, now_ns):
        watch.told, watch.open, watch.dirty = sorted(conditions), True, True
        return [_silence(watch, conditions, now_ns)]
    if watch.open and not conditions:
        watch.told, watch.open, watch.dirty = [], False, True
        watch.cooldown.over()
        cause = {"uids": [], "after_alert": watch.cooldown.alert}
        return [watch.alert("over", watch.cooldown.alert, "over", cause, now_ns)]
    if lasting != watch.told:
        watch.told, watch.dirty = lasting, True
    return []


def _silence(watch: _Watch, conditions: dict[str, str], now_ns: int) -> Alert:
    sentences = [conditions[subject] for subject in sorted(conditions)]
    title = sentences[0] if len(sentences) == 1 else f"{len(sentences)} at once: {sentences[0]}"
    key = f"{now_ns} {' '.join(sorted(conditions)[:SHOWN])}"
    watch.cooldown.tell(watch.config, watch.identity("silence", key), now_ns)
    cause = {"uids": [], "sentences": sentences[:SHOWN], "subjects": sorted(conditions)[:SHOWN]}
    return watch.alert("silence", key, title, cause, now_ns)


def _no_data(subject: str, age_s: float | None) -> str:
    if age_s is None:
        return f"{name_of(subject)}: no data since the daemon started"
    return f"{name_of(subject)}: no data for {age_s:.0f} s"


def _old_data(subject: str, age_s: float) -> str:
    return f"{name_of(subject)}: only data older than what was already seen for {age_s:.0f} s"


def _daemon(after_s: float, quiet_s: float, facts: Facts) -> dict[str, str]:
    if quiet_s >= after_s:
        return {"daemon": f"nothing heard from the daemon for {quiet_s:.0f} s"}
    if facts.stalled:
        return {"daemon": f"threads of the daemon are stuck: {', '.join(facts.stalled)}"}
    return {}


def _gap_key(gap: GapEntry) -> str:
    return f"gap {gap.sid} {gap.from_ns} {gap.cause}"


def _gap_sentence(gap: GapEntry) -> str:
    seconds = ((gap.to_ns or gap.from_ns) - gap.from_ns) / NS_PER_SECOND
    return f"{name_of(gap.sid)}: {seconds:.0f} s lost ({gap.cause})"


def _key(name: str, what: str = "watch ") -> str:
    return f"{what}{name}"
