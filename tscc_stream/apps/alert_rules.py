"""Rules over events: state in, events and the time in, alerts out. Pure.

An event that a rule matches becomes an alert unless, in this order: it was told already (an early notice and its last
word are one event); it is too old (a digest tells it); a blast explains it; the rule asks for more of them within its
sliding window; or the rule's cool-down holds it back (one alert tells how many, afterwards). Whatever is not told is
given as `Withheld`.

A blast window hides only what is known not to matter: an event of a known cluster, whose amplitude is known and small.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from tscc_stream.apps.alert_cooldown import Cooldown
from tscc_stream.apps.alert_events import Event
from tscc_stream.apps.alert_times import Announced, BlastWindows, Hours
from tscc_stream.apps.alert_told import Alert, Repetition, Withheld, alert_id
from tscc_stream.config_alerts import AlertsConfig, RateConfig, RuleConfig
from tscc_stream.sampling import NS_PER_SECOND, seconds_to_ns

MOST_MATCHED = 500
"""Events of one rule whose early notice and last word are known to be one."""
DIGEST_QUIET_NS = 5 * NS_PER_SECOND
DIGEST_LONGEST_NS = 60 * NS_PER_SECOND
Outcome = Alert | Withheld


class Rate:
    """The latest events of a rule (onset ns, uid), and whether so many lie within its window."""

    def __init__(self, config: RateConfig, latest: Iterable[tuple[int, str]] = ()) -> None:
        self._count = config.count
        self._span_ns = seconds_to_ns(config.seconds)
        self.latest = list(latest)  # in the order in which they came

    def add(self, onset_ns: int, uid: str) -> list[str]:
        """Events of a window that holds this one and enough others; empty: there is none.

        A window is less than `seconds` long, from its first onset to its last.
        """
        self.latest = [*self.latest, (onset_ns, uid)][-4 * self._count :]
        near = sorted(one for one in self.latest if abs(one[0] - onset_ns) < self._span_ns)
        at = near.index((onset_ns, uid))
        for first in range(max(0, at - self._count + 1), min(at, len(near) - self._count) + 1):
            window = near[first : first + self._count]
            if window[-1][0] - window[0][0] < self._span_ns:
                return [one for _, one in window]
        return []


class _Late:
    """Events that came too late to be told one by one."""

    def __init__(self) -> None:
        self.count, self.first_ns, self.last_ns, self.since_ns, self.latest_ns, self.uid = 0, 0, 0, 0, 0, ""

    def add(self, event: Event, now_ns: int) -> None:
        self.first_ns = min(event.onset_ns, self.first_ns) if self.count else event.onset_ns
        self.last_ns = max(event.onset_ns, self.last_ns) if self.count else event.onset_ns
        self.since_ns = self.since_ns if self.count else now_ns
        self.count, self.latest_ns, self.uid = self.count + 1, now_ns, event.uid

    def due(self, now_ns: int) -> bool:
        """Whether no more come for a while, or they have come for long."""
        if self.count == 0:
            return False
        quiet = not self.latest_ns <= now_ns < self.latest_ns + DIGEST_QUIET_NS
        return quiet or now_ns - self.since_ns >= DIGEST_LONGEST_NS


class _Rule:
    """One rule and what it remembers."""

    def __init__(self, config: RuleConfig, hours: Hours, state: bytes | None) -> None:
        self.config, self.hours = config, hours
        self.matched: OrderedDict[str, None] = OrderedDict()
        self.hidden: OrderedDict[str, None] = OrderedDict()
        self.cooldown, self.late, latest = Cooldown(), _Late(), list[tuple[int, str]]()
        if state is not None:
            document = json.loads(state)
            self.matched = OrderedDict.fromkeys(document["matched"])
            self.cooldown = Cooldown.from_dict(document["cooldown"])
            self.late.__dict__.update(document["late"])
            latest = [(onset_ns, uid) for onset_ns, uid in document["latest"]]
        self.rate = None if config.rate is None else Rate(config.rate, latest)
        self.dirty = False

    def snapshot(self) -> bytes:
        return json.dumps(
            {
                "matched": list(self.matched),
                "cooldown": self.cooldown.as_dict(),
                "late": self.late.__dict__,
                "latest": self.rate.latest if self.rate else [],
            }
        ).encode()

    def matches(self, event: Event) -> bool:
        """Whether everything that the rule asks of one event holds."""
        rule = self.config
        return (
            event.kind == rule.kind
            and (event.final or (event.voted and not rule.wait_for_final))
            and (not rule.clusters or event.cluster in rule.clusters)
            and self._strong_enough(event)
            and (not rule.channels or any(fnmatchcase(c, p) for c in event.channels for p in rule.channels))
            and self.hours.hold(event.onset_ns)
        )

    def _strong_enough(self, event: Event) -> bool:
        """An amplitude or membership that is not known is taken as large enough: rather told than missed."""
        rule = self.config
        return (
            (event.membership is None or event.membership >= rule.least_membership)
            and (event.amplitude is None or event.amplitude >= rule.least_amplitude)
            and (event.kind == "detection" or len(event.channels) >= rule.least_channels)
            and (event.kind == "detection" or event.votes >= rule.least_votes)
        )


class Rules:
    """All rules of a site. states: what `changes` gave in the process before, by rule."""

    def __init__(
        self, alerts: AlertsConfig, shifts: Mapping[str, str], zone: ZoneInfo, states: Mapping[str, bytes] | None = None
    ) -> None:
        states = states or {}
        self._rules = [_Rule(rule, Hours.of(rule, shifts, zone), states.get(_key(rule.name))) for rule in alerts.rules]
        self._windows = BlastWindows(alerts.suppression, zone)
        self._suppress_below = alerts.suppress_below_amplitude
        stale = alerts.stale_after_seconds
        self._stale_ns = None if stale is None else seconds_to_ns(stale)

    def announce(self, windows: Iterable[Announced]) -> None:
        """Blast windows that people announced; they take the place of those before."""
        self._windows.announced = tuple(windows)

    def acknowledge(self, alert: str) -> None:
        """Somebody answered an alert."""
        for rule in self._rules:
            rule.dirty |= rule.cooldown.acknowledge(alert)

    def feed(self, event: Event, now_ns: int) -> list[Outcome]:
        """What becomes of an event. now_ns: wall time."""
        return [outcome for rule in self._rules if rule.matches(event) for outcome in self._match(rule, event, now_ns)]

    def poll(self, now_ns: int) -> list[Alert | Repetition]:
        """What time alone brings: ends of cool-downs, repetitions, digests."""
        return [told for rule in self._rules for told in _poll(rule, now_ns)]

    def next_more_ns(self) -> int | None:
        """When the next cool-down ends that holds something back; None: none does."""
        ends = (rule.cooldown.ends_ns(rule.config) for rule in self._rules)
        return min((end for end in ends if end is not None), default=None)

    def changes(self) -> dict[str, bytes]:
        """What rules remember now, of those where that changed since the last call."""
        changed = {_key(rule.config.name): rule.snapshot() for rule in self._rules if rule.dirty}
        for rule in self._rules:
            rule.dirty = False
        return changed

    def _match(self, rule: _Rule, event: Event, now_ns: int) -> list[Outcome]:
        if event.uid in rule.matched:
            return []
        if self._stale_ns is not None and now_ns - event.onset_ns > self._stale_ns:
            _remember(rule, event.uid)
            rule.late.add(event, now_ns)
            return [_withheld(rule, event, now_ns, "late", f"{(now_ns - event.onset_ns) / NS_PER_SECOND:.0f} s old")]
        if (reason := self._hidden_by(rule, event)) is not None:
            return _hide(rule, event, now_ns, reason)
        _remember(rule, event.uid)
        uids = [event.uid] if rule.rate is None else rule.rate.add(event.onset_ns, event.uid)
        if not uids:
            return []
        if rule.cooldown.active(rule.config, now_ns):
            rule.cooldown.hold(event.uid)
            return [_withheld(rule, event, now_ns, "cooldown", f"after alert {rule.cooldown.alert}")]
        return [_alert(rule, event, uids, now_ns)]

    def _hidden_by(self, rule: _Rule, event: Event) -> str | None:
        """The reason of a blast window that explains an event; never of one that may matter."""
        small = event.amplitude is not None and event.amplitude < self._suppress_below
        if rule.config.always or event.unknown or not small:
            return None
        return self._windows.reason(event.onset_ns, event.cluster)


def _key(rule: str) -> str:
    return f"rule {rule}"


def _remember(rule: _Rule, uid: str) -> None:
    rule.dirty = True
    rule.matched[uid] = None
    if len(rule.matched) > MOST_MATCHED:
        rule.matched.popitem(last=False)


def _hide(rule: _Rule, event: Event, now_ns: int, reason: str) -> list[Outcome]:
    """Once per event; its last word is looked at again, which may be larger or unknown."""
    if event.uid in rule.hidden:
        return []
    rule.hidden[event.uid] = None
    if len(rule.hidden) > MOST_MATCHED:
        rule.hidden.popitem(last=False)
    return [_withheld(rule, event, now_ns, "suppressed", reason)]


def _withheld(rule: _Rule, event: Event, now_ns: int, why: str, reason: str) -> Withheld:
    return Withheld(rule.config.name, event.uid, event.onset_ns, now_ns, why, reason)  # type: ignore[arg-type]  # one of three


def _alert(rule: _Rule, event: Event, uids: Sequence[str], now_ns: int) -> Alert:
    config = rule.config
    identity = alert_id(config.name, "event", event.uid)
    held = rule.cooldown.tell(config, identity, now_ns)
    where = f"{len(event.channels)} channels" if event.kind == "network" else event.channels[0]
    title = f"{event.cluster}, {where}"
    if config.rate is not None:
        title = f"{config.rate.count} or more within {config.rate.seconds:g} s, the latest: {title}"
    cause = {
        "uids": [event.uid, *(uid for uid in uids if uid != event.uid)],
        "kind": event.kind,
        "onset_ns": event.onset_ns,
        "cluster": event.cluster,
        "channels": list(event.channels),
        "amplitude": event.amplitude,
        "membership": event.membership,
        "votes": event.votes,
        "final": event.final,
        "held_before": held,
        **({"source": event.source} if event.source else {}),
    }
    return Alert(identity, config, "event", now_ns, title, cause)


def _poll(rule: _Rule, now_ns: int) -> list[Alert | Repetition]:
    told: list[Alert | Repetition] = []
    config, cooldown = rule.config, rule.cooldown
    if cooldown.has_more(config, now_ns):
        uid, before = cooldown.held_uid, cooldown.alert
        identity = alert_id(config.name, "more", uid)
        held = cooldown.tell(config, identity, now_ns)
        cause = {"uids": [uid], "held_before": held, "after_alert": before}
        told.append(Alert(identity, config, "more", now_ns, f"{held} more since the last alert", cause))
    elif round_ := cooldown.repeat(config, now_ns):
        told.append(Repetition(cooldown.alert, config, round_))
    if rule.late.due(now_ns):
        told.append(_digest(rule, now_ns))
    rule.dirty |= bool(told)
    return told


def _lasting(seconds: int) -> str:
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.0f} days"


def _digest(rule: _Rule, now_ns: int) -> Alert:
    late, rule.late = rule.late, _Late()
    age = _lasting((now_ns - late.last_ns) // NS_PER_SECOND)
    count = "1 event" if late.count == 1 else f"{late.count} events"
    cause = {"uids": [late.uid], "count": late.count, "first_onset_ns": late.first_ns, "last_onset_ns": late.last_ns}
    return Alert(
        alert_id(rule.config.name, "digest", late.uid),
        rule.config,
        "digest",
        now_ns,
        f"{count} came too late to be told at once; the latest is {age} old",
        cause,
    )
