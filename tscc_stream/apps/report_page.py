"""A shift report as one HTML page that needs nothing else: to be read on a screen or a phone, and printed on A4.

Everything that people wrote is escaped here, at the one place where text becomes HTML (`_text`); the page forbids
itself any request and any script.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

import numpy as np

from tscc_stream.apps import report_figures
from tscc_stream.apps.report_alerts import Alerts, ToldAlert
from tscc_stream.apps.report_facts import DAYS, MOST_UNKNOWN, Facts, Seen, Thumbnail, largest
from tscc_stream.apps.report_health import SILENT, UNKNOWN, UNUSABLE, WELL, Break, ChannelHealth
from tscc_stream.apps.shifts import HOUR_NS, local, whole_hours
from tscc_stream.drift import ALARM
from tscc_stream.gap_causes import LOST

MOST_CHANNELS = 60
"""Channels with trouble that are listed, the worst first."""
_SPARE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c6d31", "#393b79")
_FIXED = "&nbsp;"
"""Between a number and its unit: no line ends there."""
_ALIKE = 45.0  # of 442 between black and white: colours as near are taken for one another
_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)


def page(facts: Facts) -> str:
    """The whole page."""
    span = _span(facts)
    title = f"{facts.span.name} shift, {facts.site}" if facts.span.name else f"Report, {facts.site}"
    sections = (
        _at_a_glance,
        _clusters,
        _to_name,
        _network_events,
        _largest,
        _sensors,
        _alerts,
        _model,
    )
    body = "".join(section(facts) for section in sections)
    return (
        f"{_HEAD}<title>{_text(title)} {_text(span)}</title><style>{_style()}</style></head><body>"
        f'<h1>{_text(title[:1].upper() + title[1:])}</h1><p class="soft">{_text(span)}{_so_far(facts)}</p>'
        f"{_not_held(facts)}{body}"
        f"<footer>Times are those of {_text(facts.span.zone.key)}. {_text(_legend_of_amplitudes(facts))}</footer>"
        "</body></html>\n"
    )


def _style() -> str:
    return resources.files("tscc_stream.apps").joinpath("report.css").read_text(encoding="utf-8")


def _text(text: object) -> str:
    """Text as HTML. What cannot be printed is replaced, since it could turn the line around."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in str(text)))


def _name(name: str, colour: str) -> str:
    return f'<span class="chip" style="background:{_text(colour)}"></span><bdi>{_text(name)}</bdi>'


def _span(facts: Facts) -> str:
    begin, end = (local(at, facts.span.zone) for at in facts.span.ns)
    same = begin.date() == end.date()
    offsets = f"{begin:%Z}" if begin.utcoffset() == end.utcoffset() else f"{begin:%Z}, then {end:%Z}"
    return f"{begin:%a %d %b %Y %H:%M} to {end:%H:%M}" + ("" if same else f" on {end:%a %d %b %Y}") + f" ({offsets})"


def _not_held(facts: Facts) -> str:
    """What of the span the journal does not hold, so that nothing is taken for quiet or well."""
    begin, (from_ns, to_ns) = facts.begin_ns, facts.span_ns
    if not facts.begun:
        return _missing("This time has not begun yet.")
    if begin is None:
        return _missing("The journal is empty: nothing is known of this time.")
    if begin <= from_ns:
        return ""
    since = f"The journal begins later, at {_date(facts, begin)}: nothing is known of"
    return _missing(f"{since} {'this time' if begin >= to_ns else 'what was before'}.")


def _so_far(facts: Facts) -> str:
    if not facts.begun:
        return ""
    if facts.come_to_ns >= facts.span.ns[1]:
        return ""
    return f"; it still goes on, this is up to {local(facts.come_to_ns, facts.span.zone):%H:%M}"


def _date(facts: Facts, at_ns: int) -> str:
    return f"{local(at_ns, facts.span.zone):%a %d %b %Y %H:%M}"


def _clock(facts: Facts, at_ns: int) -> str:
    at = local(at_ns, facts.span.zone)
    long = facts.span.ns[1] - facts.span.ns[0] > 24 * HOUR_NS
    return at.strftime("%d %b %H:%M:%S" if long else "%H:%M:%S")


def colours(facts: Facts) -> dict[str, str]:
    """Name -> colour in every section, the most frequent first. One that looks like another's gives way to a spare."""
    every: Counter[str] = Counter(facts.counts)
    for day in facts.compared:
        every.update(dict.fromkeys(day, 0))
    every.update(dict.fromkeys(facts.labels, 0))
    given: dict[str, str] = {}
    for name, _ in every.most_common():
        colour = facts.labels[name].colour
        if _apart(colour, given.values()) < _ALIKE:
            colour = max((colour, *_SPARE), key=lambda one: _apart(one, given.values()))
        given[name] = colour
    return given


def _apart(colour: str, others: Iterable[str]) -> float:
    """Distance to the nearest of some colours, 0 to 442."""
    at = np.array([list(bytes.fromhex(one[1:])) for one in (colour, *others)], float)
    return float(np.linalg.norm(at[1:] - at[0], axis=1).min(initial=np.inf))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """heads: plain text; cells: HTML; classes: of each column."""
    kinds = [f' class="{one}"' if one else "" for one in (*classes, *[""] * len(heads))][: len(heads)]
    head = "".join(f"<th{kind}>{_text(one)}</th>" for one, kind in zip(heads, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def amplitude(one: Seen) -> str:
    """In m/s with a prefix, or in counts; what was cut off by the recorder is at least so large."""
    least = "≥ " if "clipped" in one.quality else ""
    if one.velocity is not None:
        for factor, unit in ((1.0, "m/s"), (1e3, "mm/s"), (1e6, "µm/s"), (1e9, "nm/s")):
            if one.velocity * factor >= 1.0 or unit == "nm/s":
                return f"{least}{one.velocity * factor:.3g} {unit}"
    return "" if one.counts is None else f"{least}{one.counts:,.0f} counts"


def _legend_of_amplitudes(facts: Facts) -> str:
    text = "Amplitudes are the largest excursion in the model's band, clipped ones at least as large as stated."
    if facts.in_counts:
        return f"{text} In counts, since the StationXML has no usable response: {', '.join(sorted(facts.in_counts))}."
    return text


def _card(number: str, text: str, kind: str = "") -> str:
    return f'<div class="card"><b class="{kind}">{_text(number)}</b>{_text(text)}</div>'


def _ill(facts: Facts) -> list[ChannelHealth]:
    """What is known to be ill, then what is not known, then what had breaks; the worst first."""
    return sorted(
        (one for one in facts.health if one.usable < WELL or one.breaks), key=lambda one: (not one.ill, one.usable)
    )


def _at_a_glance(facts: Facts) -> str:
    unwell = [one for one in facts.health if one.ill]
    many = len(facts.health)
    unknown = sum(one.unknown for one in facts.health)
    share = f"{100 * sum(one.usable for one in facts.health) / many:.1f} %" if unknown < many else "?"
    of_sensors = (
        [_card(f"{100 * unknown / many:.1f} %", "of the time nothing is known of sensors", "bad")] if unknown else []
    )
    cards = [
        _card(str(len(facts.detections)), "detections"),
        _card(str(len(facts.events)), "network events"),
        _card(str(len(facts.to_name)), "unknown windows to name", "bad" if facts.to_name else ""),
        _card(share, "of the time with usable data", "" if not unwell else "bad"),
        *of_sensors,
        _card(f"{len(unwell)} of {many}", "channels not well", "bad" if unwell else ""),
    ]
    if facts.alerts is not None and not facts.alerts.unreadable:
        unanswered, total = facts.alerts.unanswered, facts.alerts.total
        cards.append(_card(f"{unanswered} of {total}", "alerts without an answer", "bad" if unanswered else ""))
    return f'<div class="cards">{"".join(cards)}</div>'


def _missing(why: str) -> str:
    return f'<p class="bad">{_text(why)}</p>' if why else ""


def _without_people(facts: Facts) -> str:
    """Where their file cannot be read, a section that needs it says so."""
    why = facts.people_unreadable
    return _missing(f"Without names and verdicts given here, which cannot be read: {why}") if why else ""


def _clusters(facts: Facts) -> str:
    if not facts.detections and not any(facts.compared):
        return "<h2>Clusters</h2><p>No detection.</p>"
    there = facts.counts.keys() | {name for day in facts.compared for name in day}
    shades = {name: colour for name, colour in colours(facts).items() if name in there}
    legend = "".join(f"<li>{_name(name, colour)}</li>" for name, colour in shades.items())
    onsets = {
        name: np.array([one.onset_ns for one in facts.detections if one.name == name], np.int64) for name in shades
    }
    hours = _by_hour(facts, shades)
    compared = f" Diamonds: last {len(facts.compared)} days, middle and range." if facts.compared else ""
    if not facts.detections:
        usual = "<p>No detection in this time.</p>"
        return f"<h2>Clusters</h2>{_without_people(facts)}{usual}{_counts_table(facts, shades)}"
    return (
        f'<h2>Clusters</h2>{_without_people(facts)}<ul class="legend">{legend}</ul><div class="pair">'
        f"<figure><figcaption>Detections over time.</figcaption>"
        f"{report_figures.over_time(onsets, shades, facts.span)}</figure>"
        f"<figure><figcaption>By hour, site's clock.{compared}</figcaption>{hours}</figure></div>"
        f"{_counts_table(facts, shades)}"
    )


def _by_hour(facts: Facts, shades: dict[str, str]) -> str:
    """By each hour of the span; of spans longer than a day, by hour of the day."""
    zone, span_ns = facts.span.zone, facts.span.ns
    starts = whole_hours(span_ns, zone)
    if len(starts) > 25:
        labels = [f"{hour:02d}" for hour in range(24)]
        places = {one.uid: local(one.onset_ns, zone).hour for one in facts.detections}
    else:
        labels = [local(start, zone).strftime("%H") for start in starts]
        places = {one.uid: (one.onset_ns - starts[0]) // HOUR_NS for one in facts.detections}
    counts = {name: np.zeros(len(labels)) for name in shades}
    for one in facts.detections:
        counts[one.name][places[one.uid]] += 1
    earlier = [np.array([day.get(int(label), 0) for label in labels]) for day in facts.compared_hours]
    return report_figures.by_hour(counts, shades, labels, earlier)


def _counts_table(facts: Facts, shades: dict[str, str]) -> str:
    rows = []
    for name, colour in shades.items():
        days = sorted(day[name] for day in facts.compared)
        middle = f"{np.median(days):g}" if days else ""
        spread = f"{days[0]} to {days[-1]}" if days else ""
        event_type = facts.labels[name].event_type
        rows.append((_name(name, colour), _text(event_type), str(facts.counts[name]), middle, spread))
    total = [sum(day.values()) for day in facts.compared]
    middle, spread = (f"{np.median(total):g}", f"{min(total)} to {max(total)}") if total else ("", "")
    rows.append(("<b>all</b>", "", f"<b>{len(facts.detections)}</b>", middle, spread))
    count = "so far" if facts.come_to_ns < facts.span.ns[1] else "number"
    heads = ("what", "QuakeML type", count, "usual", "range")[: 5 if facts.compared else 3]
    shown = [row[: len(heads)] for row in rows]
    return _table(heads, shown, ("", "narrow-hides", "n", "n", "n")) + _comparison(facts)


def _comparison(facts: Facts) -> str:
    if facts.compared:
        few = "" if len(facts.compared) == DAYS else f" The journal goes back to {len(facts.compared)} of {DAYS}."
        text = f"Usual: the middle of the same hours of the last {DAYS} days, with their range.{few}"
    elif facts.span_ns[1] - facts.span_ns[0] > 24 * HOUR_NS:
        text = "Only spans of a day or less are compared with earlier days."
    else:
        text = "The journal does not go back to the same hours of an earlier day."
    return f'<p class="soft">{text}</p>'


def _to_name(facts: Facts) -> str:
    if not facts.to_name:
        return "<h2>Unknown, to name</h2><p>None.</p>"
    shown = "".join(_thumb(facts, one) for one in facts.thumbnails)
    more = len(facts.to_name) - len(facts.thumbnails)
    rest = f'<p class="soft">{more} more; shown are the {MOST_UNKNOWN} clearest.</p>' if more > 0 else ""
    return (
        f"<h2>Unknown, to name</h2>{_without_people(facts)}"
        "<p>Unlike anything the model was trained on. Say in the console what they are.</p>"
        f'<div class="thumbs">{shown}</div>{rest}'
    )


def _thumb(facts: Facts, one: Thumbnail) -> str:
    return (
        f'<div class="thumb">{report_figures.waveform(one.samples)}'
        f"<b>{_clock(facts, one.seen.onset_ns)}</b> {_text(one.seen.channel)}<br>"
        f'<span class="soft">{_text(amplitude(one.seen))}, {one.seconds:g} s</span>'
        "</div>"
    )


def _network_events(facts: Facts) -> str:
    if not facts.events:
        return "<h2>Network events</h2><p>None.</p>"
    names, shades = Counter(one.name for one in facts.events), colours(facts)
    rows = [(_name(name, shades[name]), str(count)) for name, count in names.most_common()]
    return f"<h2>Network events</h2>{_table(('what', 'number'), rows, ('', 'n'))}"


def _largest(facts: Facts) -> str:
    found = largest(facts)
    if not found:
        return ""
    shades = colours(facts)
    rows = [
        (
            _clock(facts, one.onset_ns),
            _name(one.name, shades[one.name]),
            _text(amplitude(one)),
            _text(one.channel or f"{len(one.channels)} channels"),
            _text(_said(one)),
        )
        for one in found
    ]
    heads = ("time", "what", "amplitude", "where", "a person said")
    kinds = ("t", "", "n", "narrow-hides", "narrow-hides")
    return f"<h2>Largest events</h2>{_table(heads, rows, kinds)}"


def _said(one: Seen) -> str:
    if one.verdict is None:
        return ""
    return f"{one.verdict.who}: {'right' if one.verdict.agrees else one.verdict.name}"


def _sensors(facts: Facts) -> str:
    if not facts.health:
        return "<h2>Sensors</h2><p>The journal tells of no channel.</p>"
    ill, clipped = _ill(facts), facts.clipped
    without = [one for one in facts.health if one.channel in clipped and one not in ill]
    rows = [_sensor(facts, one, clipped[one.channel]) for one in (*ill, *without)[:MOST_CHANNELS]]
    well = len(facts.health) - len(ill) - len(without)
    more = max(0, len(ill) + len(without) - MOST_CHANNELS)
    text = f"{well} of {len(facts.health)} channels had no gap and no clipped window."
    unknown = sum(one.unknown > 0 for one in facts.health)
    if unknown:
        text += (
            f" Of {unknown} it is not known for the whole time: a channel is known from its first gap or detection on."
        )
    listed = f" {more} more channels with trouble are not listed." if more else ""
    heads = ("channel", "with data", "usable", "over the span", "why", "clipped")
    if not rows:
        return f"<h2>Sensors</h2><p>{text}</p>"
    table = _table(heads, rows, ("t", "n narrow-hides", "n", "strips narrow-hides", "why", "n"))
    return (
        f'<h2>Sensors</h2><p>{text}{listed}</p>{table}<p class="soft">Red: no data. Orange: data that cannot be used '
        "(flat, invalid). Grey: not known. Clipped: detections at the recorder's limit.</p>"
    )


def _sensor(facts: Facts, one: ChannelHealth, clipped: int) -> tuple[str, ...]:
    causes = Counter(found.cause for found in one.breaks)
    why = "; ".join(_cause(one, cause, count) for cause, count in causes.most_common())
    kind = ' class="bad"' if one.ill else ""
    to_come = (Break(facts.come_to_ns, facts.span.ns[1], UNKNOWN),) if facts.come_to_ns < facts.span.ns[1] else ()
    return (
        _text(one.channel),
        f"{100 * one.with_data:.1f} %",
        f"<span{kind}>{100 * one.usable:.1f} %</span>",
        report_figures.strip((*one.breaks, *to_come), facts.span.ns),
        why,
        str(clipped or ""),
    )


def _cause(one: ChannelHealth, cause: str, count: int) -> str:
    words = {
        "server": "the server had no data",
        "ring overrun": "lost while disconnected (ring overrun)",
        "link": "lost while disconnected",
        SILENT: "silent to the end",
        "clock": "clock set back",
        "conflict": "other data for the same time",
        "rate": "sampling rate changed",
    }
    lasted = one.seconds(cause)
    times = f", {count} times" if count > 1 else ""
    timed = f" {_duration(lasted)}" if cause in LOST or cause in UNUSABLE or cause in (SILENT, UNKNOWN) else ""
    return f"{_text(words.get(cause, cause))}{timed}{times}"


def _duration(seconds: float) -> str:
    """As HTML."""
    if seconds < 120:
        return f"{seconds:.3g}{_FIXED}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    whole = [f"{hours}{_FIXED}h"] if hours else []
    return " ".join([*whole, f"{minutes}{_FIXED}min"] if minutes else whole)


def _alerts(facts: Facts) -> str:
    if facts.alerts is None:
        return "<h2>Alerts</h2><p>No alerts are set up, or <code>alert run</code> has never run.</p>"
    missing = "".join(map(_missing, facts.alerts.unreadable)) + _before_alerts(facts, facts.alerts)
    not_told = missing + "".join(
        f"<p>{count} not told by themselves: {_text(why)}.</p>" for why, count in facts.alerts.withheld.items()
    )
    if not facts.alerts.total:
        return f"<h2>Alerts</h2>{'' if missing else '<p>None in this time.</p>'}{not_told}"
    rows = [
        (
            _clock(facts, one.at_ns),
            _text(one.severity),
            _text(f"rehearsal: {one.title}" if one.kind == "rehearsal" else one.title),
            _text("; ".join(f"{action} {state}" for action, state in one.deliveries) or "nowhere"),
            _answer(facts, one),
        )
        for one in facts.alerts.told
    ]
    table = _table(("time", "severity", "what", "sent", "answer"), rows, ("t", "", "", "narrow-hides", ""))
    return f"<h2>Alerts</h2>{table}{_more_alerts(facts.alerts)}{not_told}"


def _before_alerts(facts: Facts, alerts: Alerts) -> str:
    if alerts.begin_ns is None or alerts.begin_ns <= facts.span_ns[0]:
        return ""
    since = "" if alerts.total or alerts.begin_ns >= facts.span_ns[1] else " Since then there was none."
    return _missing(f"The journal of alerts tells nothing of what was before {_date(facts, alerts.begin_ns)}.{since}")


def _more_alerts(alerts: Alerts) -> str:
    more = alerts.total - len(alerts.told) - alerts.damaged
    listed = f"{more} more; listed are those that are critical or that nobody has answered, then the newest."
    return _missing(f"{alerts.damaged} more cannot be read." if alerts.damaged else "") + (
        f'<p class="soft">{listed}</p>' if more > 0 else ""
    )


def _answer(facts: Facts, one: ToldAlert) -> str:
    if one.answer is None and facts.people_unreadable:
        return '<span class="soft">not known</span>'
    if one.answer is None:
        return '<span class="bad">nobody answered</span>'
    note = one.answer.document.get("note") or ""
    return _text(f"{one.answer.who} at {_clock(facts, one.answer.at_ns)}{': ' if note else ''}{note}")


def _model(facts: Facts) -> str:
    used = Counter(one.sha256 for one in facts.detections)
    lines = [
        f"<p>{_text(facts.models.get(sha256, 'a model'))} ({_text(sha256[:12])}): {count} detections.</p>"
        for sha256, count in used.most_common()
    ]
    score = facts.drift()
    if score is None:
        lines.append('<p class="soft">Drift: too few calibrated detections in this time to tell.</p>')
    else:
        kind = "bad" if score >= ALARM else "good"
        lines.append(
            f'<p>Drift: <span class="{kind}">{score:.2f}</span> (0: as when it was calibrated; from {ALARM:g} on it '
            "is time to look, and perhaps to train again).</p>"
        )
    return f"<h2>Model</h2>{''.join(lines)}{_precision(facts)}"


def _precision(facts: Facts) -> str:
    if facts.people_unreadable:
        return _without_people(facts)
    found = facts.precision()
    if not found:
        return '<p class="soft">Nobody has confirmed or corrected a detection of this time.</p>'
    shades = colours(facts)
    rows = [
        (
            _name(name, shades[name]) if name in shades else _text(name),
            f"{one.agreed} of {one.judged}",
            f"{100 * one.low:.0f} to {100 * one.high:.0f} %",
        )
        for name, one in found.items()
    ]
    return _table(("cluster", "people agreed", "95 % interval"), rows, ("", "n", "n"))
