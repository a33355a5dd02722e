"""`report shift`: the page says what the journal holds, in the site's words, and asks nobody for anything."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_journal import DEMO, END_NS, make_journal, name_cluster, pipeline_messages, say, sid
from made_messages import SECOND, detection
from made_site import START_NS, settings, write_settings

from tscc_stream import cli, config
from tscc_stream.apps import report_facts, report_figures, report_health, report_page, shifts
from tscc_stream.apps.journal_formats import SiteJournal
from tscc_stream.apps.report_facts import Facts
from tscc_stream.edges.alert_journal import FILE as ALERTS
from tscc_stream.edges.alert_journal import AlertJournal, NewAlert, NewRound, NewWithheld
from tscc_stream.edges.people import FILE, PeopleFile
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.messages import Gap, Message, NetworkEvent
from tscc_stream.package import Label
from tscc_stream.stages.journal import GapEntry, Snapshot
from tscc_stream.stages.publish import ModelIdentity, Publish

DAY_NS = 86_400 * SECOND
ODD = '</script><img src="http://evil.example/x" onerror=alert(1)> $x$ \u202e'


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> list[Message]:
    return pipeline_messages(tmp_path_factory.mktemp("pipeline"))


def _unknown(number: int, onset_ns: int) -> Message:
    publish = Publish("test", ModelIdentity("demo", "1", DEMO.sha256))
    return publish.detection(
        detection(known=False, uid=f"unknown-{number}", onset_ns=onset_ns, start_ns=onset_ns - 2 * SECOND)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, messages: list[Message]) -> Path:
    """A site with four channels, of which one is flat, one was lost for a minute, and a name that means harm."""
    made = tmp_path_factory.mktemp("site")
    earlier = [_unknown(day, START_NS + 60 * SECOND - day * DAY_NS) for day in (4, 3, 1)]
    day_before = START_NS - DAY_NS
    gaps = (
        *(Gap(sid(letter), day_before, day_before + SECOND, "server") for letter in "ABCD"),
        Gap(sid("A"), START_NS + 30 * SECOND, START_NS + 90 * SECOND, "server"),
        Gap(sid("B"), START_NS + 75 * SECOND, None, "flat"),
    )
    unknown = [_unknown(10 + n, START_NS + (20 + n) * SECOND) for n in range(2)]
    make_journal(made, [*earlier, *messages, *unknown], gaps)
    write_settings(made, time_zone="Africa/Johannesburg", shifts={"all of it": "00:13-00:16"})
    name_cluster(made, 2, Label(name=ODD, colour="#123456", event_type="rock burst"))
    say(made, "unknown-10", "drilling", agrees=False, who="<mara>")
    first = next(m.uid for m in messages if m.kind == "detection")
    say(made, first, "blast", agrees=True)
    return made


@pytest.fixture(scope="module")
def facts(folder: Path) -> Facts:
    known = config.load(folder / "site.yaml")
    site = SiteJournal(folder / "state" / "journal.sqlite", known, folder)
    span = shifts.between(_iso(START_NS), _iso(END_NS), _zone(known))
    try:
        return report_facts.gather(site, "test", span, END_NS + DAY_NS, folder / "state", lambda *_: None)
    finally:
        site.close()


def _zone(known: config.Config) -> shifts.ZoneInfo:
    return shifts.ZoneInfo(known.time_zone)


def _iso(at_ns: int) -> str:
    return shifts.local(at_ns, shifts.ZoneInfo("UTC")).isoformat()


class _Tags(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_counts_are_those_of_the_journal(facts: Facts, messages: list[Message]) -> None:
    bodies = [json.loads(message.body) for message in messages]
    detections = [body for body in bodies if body["type"] == "tscc.detection.v1"]
    assert len(facts.detections) == len(detections) + 2
    assert len(facts.events) == len(bodies) - len(detections)
    assert sum(facts.counts.values()) == len(facts.detections)
    assert facts.counts["drilling"] == 1
    assert facts.counts["blast"] == 1
    unknown = {body["id"] for body in detections if not body["data"]["cluster"]["known"]} | {"unknown-11"}
    judged = {one.uid for one in facts.detections if one.verdict}
    assert {one.uid for one in facts.to_name} == unknown - judged
    assert {thumbnail.seen.uid for thumbnail in facts.thumbnails} == unknown - judged
    assert facts.thumbnails[0].seconds == 10.0


def test_earlier_days_count_where_the_journal_has_them(facts: Facts) -> None:
    assert [sum(day.values()) for day in facts.compared] == [1, 0, 1]


def test_a_network_event_is_as_large_as_its_largest_detection(facts: Facts) -> None:
    by_uid = {one.uid: one for one in facts.detections}
    for event in facts.events:
        assert event.counts == max(by_uid[uid].counts or 0.0 for uid in event.detections)
    sizes = [one.counts or 0.0 for one in report_facts.largest(facts)]
    assert sizes == sorted(sizes, reverse=True)
    assert len({uid for one in report_facts.largest(facts) for uid in (one.uid, *one.detections)}) > len(sizes)


def _gathered(folder: Path, span_ns: tuple[int, int], now_ns: int = END_NS + DAY_NS) -> Facts:
    known = config.parse(json.dumps(settings(folder)))
    site = SiteJournal(folder / "state" / "journal.sqlite", known, folder)
    try:
        span = shifts.between(_iso(span_ns[0]), _iso(span_ns[1]), _zone(known))
        return report_facts.gather(site, "test", span, now_ns, folder / "state", lambda *_: None)
    finally:
        site.close()


def _event(uid: str, onset_ns: int, members: list[Message]) -> Message:
    event = NetworkEvent(
        uid=uid,
        onset_ns=onset_ns,
        duration_s=1.0,
        channels=tuple(one.sid for one in members),
        detections=tuple(one.uid for one in members),
        votes={"blast": len(members)},
        cluster_id=1,
        cluster_name="blast",
        final=True,
    )
    return Publish("test", ModelIdentity("demo", "1", DEMO.sha256)).network_event(event)


def _member(letter: str, onset_ns: int, counts: float, quality: tuple[str, ...] = ()) -> Message:
    window = {"uid": letter, "sid": sid(letter), "onset_ns": onset_ns, "start_ns": onset_ns - 2 * SECOND}
    publish = Publish("test", ModelIdentity("demo", "1", DEMO.sha256))
    return publish.detection(detection(**window, peak_amplitude=counts, quality=quality))


def test_a_network_event_with_a_clipped_detection_is_at_least_so_large(tmp_path: Path) -> None:
    members = [_member("A", START_NS, 50.0), _member("B", START_NS, 20.0, ("clipped",)), _member("C", START_NS, 9.0)]
    make_journal(tmp_path, [*members, _event("event", START_NS, members)])
    (largest,) = report_facts.largest(_gathered(tmp_path, (START_NS, END_NS)))
    assert (largest.uid, report_page.amplitude(largest)) == ("event", "≥ 50 counts")


def test_an_event_at_a_border_belongs_whole_to_the_shift_in_which_it_began(tmp_path: Path) -> None:
    border = START_NS + 10 * SECOND
    members = [_member("A", border - 1, 5.0), _member("B", border + 1, 90.0, ("clipped",))]
    make_journal(tmp_path, [*members, _event("event", border - 1, members)])
    before, after = (_gathered(tmp_path, span) for span in ((START_NS, border), (border, END_NS)))
    assert [(one.uid, report_page.amplitude(one)) for one in report_facts.largest(before)] == [("event", "≥ 90 counts")]
    assert report_facts.largest(after) == []
    assert [one.uid for one in after.detections] == ["B"]


def test_sensors_as_the_ledger_has_them(facts: Facts) -> None:
    health = {one.channel: one for one in facts.health}
    assert set(health) == {"XX.A..HHZ", "XX.B..HHZ", "XX.C..HHZ", "XX.D..HHZ", "BW.UH1..SHZ"}
    assert health["XX.A..HHZ"].with_data == pytest.approx(0.6)
    assert (health["XX.B..HHZ"].with_data, health["XX.B..HHZ"].usable) == (1.0, pytest.approx(0.5))
    assert health["XX.C..HHZ"].usable == 1.0
    assert facts.clipped == {"BW.UH1..SHZ": 2}


def test_gaps_that_overlap_count_once_and_silence_counts() -> None:
    gaps = [
        GapEntry("a", 10, 60, "server", 0),
        GapEntry("a", 40, 80, "link", 0),
        GapEntry("a", 200, 300, "link", 0),
        GapEntry("b", 50, None, "flat", 0),
    ]
    minute = 60 * SECOND
    heard = dict.fromkeys("abxy", (0, 100))
    a, b, *_ = report_health.channels(gaps, {}, heard, (0, 100))
    assert (a.with_data, a.usable, len(a.breaks)) == (pytest.approx(0.3), pytest.approx(0.3), 2)
    assert (b.with_data, b.usable) == (1.0, 0.5)
    _, _, silent, well = report_health.channels([], {"x": 10 * minute, "y": 59 * minute}, heard, (0, 60 * minute))
    assert [one.cause for one in silent.breaks] == [report_health.SILENT]
    assert silent.with_data == pytest.approx(1 / 6)
    assert (well.with_data, well.breaks) == (1.0, ())


@pytest.mark.parametrize(
    ("heard", "reached_s", "unknown", "silent"),
    [
        ((-500, 0), 1000, 0.0, 0.0),
        ((250, 300), 1000, 0.25, 0.0),
        ((1000, 1000), 5000, 1.0, 0.0),
        (None, 5000, 1.0, 0.0),
        (None, 500, 0.5, 0.5),
        ((-500, 200), None, 0.8, 0.0),
        ((250, 900), None, 0.25, 0.0),
        ((-900, -800), None, 1.0, 0.0),
    ],
)
def test_what_the_journal_tells_nothing_of_is_not_known(
    heard: tuple[int, int] | None, reached_s: int | None, unknown: float, silent: float
) -> None:
    """Neither well nor ill: of a span of 1000 s."""
    times = {} if heard is None else {"a": (heard[0] * SECOND, heard[1] * SECOND)}
    come_to = {} if reached_s is None else {"a": reached_s * SECOND}
    (one,) = report_health.channels([], come_to, times, (0, 1000 * SECOND))
    assert (one.unknown, one.usable) == (pytest.approx(unknown), pytest.approx(1.0 - unknown - silent))
    assert one.seconds(report_health.SILENT) == pytest.approx(1000 * silent)
    assert one.ill == (silent > 0.0)


def test_gaps_within_what_is_not_known_are_known() -> None:
    gaps = [GapEntry("a", 20, 40, "server", 0), GapEntry("a", 50, 60, "flat", 0)]
    (one,) = report_health.channels(gaps, {"a": 100}, {"a": (80, 90)}, (0, 100))
    assert (one.unknown, one.with_data, one.usable) == (pytest.approx(0.5), pytest.approx(0.3), pytest.approx(0.2))


def _small_journal(folder: Path) -> None:
    """Begins 40 s into the span, at a detection of A, with a gap of A of before that retention has left; B is first
    heard of at 90 s, by a gap; both came to the end.
    """
    path = make_journal(
        folder,
        [_member("A", START_NS + 40 * SECOND, 5.0)],
        (
            Gap(sid("A"), START_NS - 2 * DAY_NS, START_NS - 2 * DAY_NS + SECOND, "server"),
            Gap(sid("B"), START_NS + 90 * SECOND, None, "flat"),
        ),
    )
    reached = json.dumps({"channels": {sid(letter): (END_NS, END_NS) for letter in "AB"}, "network_ns": 0}).encode()
    with JournalFile(path) as journal:
        journal.append([], snapshot=Snapshot(1, b"{}", b"{}", reached, b""))


def test_a_journal_that_begins_within_the_span_says_so(tmp_path: Path) -> None:
    _small_journal(tmp_path)
    facts = _gathered(tmp_path, (START_NS, END_NS))
    a, b = facts.health
    assert (a.unknown, a.usable) == (pytest.approx(40 / 150), pytest.approx(110 / 150))
    assert (b.unknown, b.usable, b.with_data) == (pytest.approx(0.6), pytest.approx(0.0), pytest.approx(0.4))
    text = report_page.page(facts)
    assert "The journal begins later, at Tue 14 Nov 2023 22:14: nothing is known of what was before." in text
    for card in (
        "36.7 %</b>of the time with usable",
        "43.3 %</b>of the time nothing is known",
        "1 of 2</b>channels not",
    ):
        assert card in text
    assert "0 of 2 channels had no gap" in text
    assert "not known 40&nbsp;s" in text


@pytest.mark.parametrize(
    ("days", "now_days", "said"),
    [
        (-1, 1, "The journal begins later, at Tue 14 Nov 2023 22:14: nothing is known of this time."),
        (9, 1, "This time has not begun yet."),
    ],
)
def test_no_sensor_is_well_in_a_time_that_the_journal_does_not_hold(
    tmp_path: Path, days: int, now_days: int, said: str
) -> None:
    _small_journal(tmp_path)
    span = START_NS + days * DAY_NS, END_NS + days * DAY_NS
    facts = _gathered(tmp_path, span, END_NS + now_days * DAY_NS)
    text = report_page.page(facts)
    assert said in text
    assert not any(one.usable for one in facts.health)
    assert "0 of 2 channels had no gap" in text


def test_what_is_known_to_be_ill_is_listed_before_what_is_not_known(
    facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "MOST_CHANNELS", 1)
    begin = facts.span.ns[0]
    unknown, ill = (report_health.Break(begin, begin + SECOND, cause) for cause in (report_health.UNKNOWN, "server"))
    health = [
        report_health.ChannelHealth("XX.A..HHZ", (unknown,), 0.0, 0.0, 1.0),
        report_health.ChannelHealth("XX.B..HHZ", (ill,), 0.9, 0.9),
    ]
    text = report_page.page(report_facts.replace(facts, health=health, detections=[]))
    assert ("XX.B..HHZ" in text, "XX.A..HHZ" in text, "1 of 2</b>channels not well" in text) == (True, False, True)


def test_an_empty_journal_is_said(tmp_path: Path) -> None:
    make_journal(tmp_path, [])
    assert "The journal is empty: nothing is known of this time." in report_page.page(
        _gathered(tmp_path, (START_NS, END_NS))
    )


def test_windows_of_three_components_tell_of_the_whole_sensor(tmp_path: Path) -> None:
    spec = DEMO.spec.model_copy(update={"channels": 3, "components": ("Z", "N", "E")})
    path = make_journal(tmp_path, [_member("A", START_NS, 5.0)])
    come_to = {sid("A")[:-1] + letter: (END_NS, END_NS) for letter in "ZNE"}
    reached = json.dumps({"channels": come_to, "network_ns": 0}).encode()
    with JournalFile(path) as journal:
        journal.remember_model("ab", spec.model_dump_json().encode())
        journal.append([], snapshot=Snapshot(1, b"{}", b"{}", reached, b""))
    health = {one.channel: one.usable for one in _gathered(tmp_path, (START_NS, END_NS)).health}
    assert health == dict.fromkeys(("XX.A..HHE", "XX.A..HHN", "XX.A..HHZ"), 1.0)


def test_precision_counts_by_what_the_model_said(facts: Facts) -> None:
    found = facts.precision()
    assert sum(one.judged for one in found.values()) == 2
    assert found["unknown"].agreed == 0
    assert "drilling" not in found


def test_the_page_needs_nothing_and_escapes_everything(facts: Facts) -> None:
    text = report_page.page(facts)
    seen = _Tags()
    seen.feed(text)
    tags = {tag for tag, _ in seen.tags}
    assert not tags & {"script", "link", "iframe", "object", "form", "a"}
    sources = [attributes.get("src") or "" for tag, attributes in seen.tags if tag == "img"]
    assert len(sources) == 2
    assert all(source.startswith("data:image/svg+xml;base64,PHN2Zy") for source in sources)  # `<svg`
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert "default-src 'none'" in text
    assert "\u202e" not in text
    said = "".join(seen.text)
    assert ODD.replace("\u202e", "?") in said
    assert "No alerts are set up, or alert run has never run." in said
    assert "unknown-11" not in said


def _failed_and_repeated(journal: AlertJournal) -> None:
    """The mail of alert `one` fails; its repetition is delivered."""
    first = journal.due("mail", END_NS, DAY_NS)
    assert first is not None
    journal.tried(first, "failed", "no route", START_NS)
    journal.commit(rounds=[NewRound("one", 1, START_NS, ["mail"])])
    again = journal.due("mail", END_NS, DAY_NS)
    assert again is not None
    journal.tried(again, "delivered", "", START_NS)


def test_alerts_and_their_answers(folder: Path, facts: Facts) -> None:
    state = folder / "state"
    with AlertJournal(state / "alerts.sqlite") as journal:
        for number, (uid, action) in enumerate({"one": "mail", "two": "hook", "late": "mail"}.items()):
            at_ns = END_NS if uid == "late" else START_NS + number * SECOND
            journal.commit([NewAlert(uid, at_ns, "r", "event", "critical", f"<{uid}>", {}, [action])])
            if uid == "one":
                _failed_and_repeated(journal)
        journal.commit(
            withheld=[NewWithheld(at_ns, at_ns, "r", f"u{at_ns}", "suppressed", "b") for at_ns in (START_NS, END_NS)]
        )
    people = PeopleFile(state / FILE)
    people.say("acknowledgement", "one", {"note": "went & looked"}, "sipho", START_NS + 5 * SECOND)
    people.close()
    alerts = report_facts.report_alerts.of_span(state, facts.span_ns)
    (state / "alerts.sqlite").unlink()
    assert alerts is not None
    assert [(one.title, one.deliveries) for one in alerts.told] == [
        ("<one>", (("mail", "delivered"),)),
        ("<two>", (("hook", "waiting"),)),
    ]
    facts.alerts = alerts
    text = report_page.page(facts)
    facts.alerts = None
    assert "&lt;one&gt;" in text
    assert "sipho at 00:13:25: went &amp; looked" in text
    assert text.count("nobody answered") == 1
    assert "1 of 2" in text
    assert "1 not told by themselves: suppressed" in text


def _many_alerts(state: Path) -> None:
    """Ten warnings, the first of which nobody has answered, and between them a critical one that somebody has."""
    with AlertJournal(state / ALERTS) as journal:
        for number in range(10):
            severity = "critical" if number == 4 else "warning"
            at_ns = START_NS + number * SECOND
            journal.commit([NewAlert(f"id-{number}", at_ns, "r", "event", severity, f"alert {number}", {}, ())])
    people = PeopleFile(state / FILE)
    for number in range(1, 10):
        people.say("acknowledgement", f"id-{number}", {"note": ""}, "sipho", END_NS)
    people.close()


def test_of_too_many_alerts_those_that_matter_are_listed_and_all_are_counted(
    facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _many_alerts(tmp_path)
    monkeypatch.setattr(report_facts.report_alerts, "MOST", 4)
    alerts = report_facts.report_alerts.of_span(tmp_path, facts.span_ns)
    text = report_page.page(report_facts.replace(facts, alerts=alerts))
    assert re.findall(r"alert \d", text) == ["alert 0", "alert 4", "alert 8", "alert 9"]
    assert "1 of 10" in text
    assert "6 more; listed are those that are critical or that nobody has answered, then the newest." in text
    assert "tells nothing of what was before" not in text


def test_alerts_that_cannot_be_read_are_counted_and_named_as_such(facts: Facts, tmp_path: Path) -> None:
    _many_alerts(tmp_path)
    with AlertJournal(tmp_path / ALERTS) as journal:
        journal._db.execute("UPDATE alert SET document = '{' WHERE id IN ('id-2', 'id-3')")
    alerts = report_facts.report_alerts.of_span(tmp_path, facts.span_ns)
    text = report_page.page(report_facts.replace(facts, alerts=alerts))
    assert len(re.findall(r"alert \d", text)) == 8
    assert ("1 of 10" in text, "2 more cannot be read." in text) == (True, True)
    assert "more; listed" not in text


@pytest.mark.parametrize(("later_s", "since"), [(60, True), (3600, False)])
def test_a_journal_of_alerts_that_begins_later_is_not_a_shift_without_alerts(
    facts: Facts, tmp_path: Path, later_s: int, since: bool
) -> None:
    begin_ns = START_NS + later_s * SECOND
    with AlertJournal.of_the_process(tmp_path / ALERTS, begin_ns)[0]:
        pass
    alerts = report_facts.report_alerts.of_span(tmp_path, facts.span_ns)
    text = report_page.page(report_facts.replace(facts, alerts=alerts))
    assert "The journal of alerts tells nothing of what was before Wed 15 Nov 2023 0" in text
    assert ("Since then there was none." in text, "None in this time." in text) == (since, False)


def test_units_of_amplitudes(facts: Facts) -> None:
    one = facts.detections[0]
    for velocity, expected in ((2.0, "2 m/s"), (0.0125, "12.5 mm/s"), (3.21e-6, "3.21 µm/s"), (4e-12, "0.004 nm/s")):
        assert report_page.amplitude(report_facts.replace(one, velocity=velocity, quality=())) == expected
    assert report_page.amplitude(report_facts.replace(one, counts=51234.4, quality=("clipped",))) == "≥ 51,234 counts"


def test_two_names_never_look_alike(facts: Facts) -> None:
    labels = {name: Label(name=name, colour="#e07a1f") for name in "abcdef"}
    fields = [report_facts.replace(facts.detections[0], name=name) for name in "abcdef"]
    made = Facts("s", facts.span, END_NS, labels=labels, detections=fields)
    given = np.array([list(bytes.fromhex(one[1:])) for one in report_page.colours(made).values()], float)
    apart = np.linalg.norm(given[:, None] - given[None], axis=2)[~np.eye(6, dtype=bool)]
    assert apart.min() > 45.0


def test_a_name_has_one_colour_in_every_section(facts: Facts) -> None:
    """Also where it gave way to a spare one, since another name has nearly the same."""
    labels = {name: Label(name=name, colour="#9a9a9a") for name in ("unknown", "drilling", "blast")}
    one = report_facts.replace(facts.detections[0], counts=5.0)
    detections = [report_facts.replace(one, name=name, uid=f"{name}{k}") for name in labels for k in range(2)]
    events = [report_facts.replace(one, name="unknown", channel="", uid="event", detections=())]
    made = Facts("s", facts.span, END_NS, labels=labels, detections=detections, events=events)
    chips = re.findall(r'background:(#\w+)"></span><bdi>unknown<', report_page.page(made))
    assert len(chips) >= 4
    assert len(set(chips)) == 1


def test_durations_as_people_say_them(facts: Facts) -> None:
    lasting = {59.4: "59.4 s", 90: "90 s", 1500: "25 min", 86_400: "24 h", 93_720: "26 h 2 min"}
    for seconds, text in lasting.items():
        gap = report_health.Break(facts.span.ns[0], facts.span.ns[0] + round(seconds * SECOND), report_health.SILENT)
        one = report_health.ChannelHealth("XX.A..HHZ", (gap,), 0.5, 0.5)
        assert f"silent to the end {text}" in "".join(report_page._sensor(facts, one, 0)).replace("&nbsp;", " ")


def test_now_is_said_of_what_still_goes_on_alone(facts: Facts) -> None:
    assert '<th class="n">number</th>' in report_page.page(facts)
    going_on = report_facts.replace(facts, come_to_ns=facts.come_to_ns - SECOND)
    assert '<th class="n">so far</th>' in report_page.page(going_on)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    arguments = ["report", "shift", "--config", str(folder / "site.yaml"), "--out", str(out)]
    assert cli.main([*arguments, "--shift", "all of it", "--date", "2023-11-15"]) == 0
    assert re.search(r"page.html: \d+ detections, 5 network events", capsys.readouterr().out)
    text = out.read_text()
    assert "Wed 15 Nov 2023 00:13 to 00:16 (SAST)" in text
    for options, sentence in (
        (["--shift", "lunch"], "expected one of the configuration's: all of it"),
        (["--from", "2026-01-01"], "expected --shift NAME, or --from TIME with --to TIME"),
        (["--shift", "all of it", "--to", "2026-01-01"], "expected --shift NAME, or --from"),
        (["--shift", "all of it", "--date", "yesterday"], "--date yesterday: expected a date"),
        (["--from", "x", "--to", "2026-01-01"], "--from x: expected a time"),
        (["--shift", "all of it", "--date", "0001-01-01"], "0001-01-01: expected a year from 1900 to 2200"),
        (["--shift", "all of it", "--date", "9999-12-31"], "9999-12-31: expected a year from 1900 to 2200"),
        (["--from", "0001-01-01T00:00+14:00", "--to", "2026-01-01"], "--from 0001-01-01T00:00+14:00: expected a year"),
        (["--from", "2026-01-01", "--to", "9999-12-31T23:59-12:00"], "--to 9999-12-31T23:59-12:00: expected a year"),
        (["--shift", "all of it", "--out", "none/a.html"], "--out none/a.html: expected a folder that is there"),
    ):
        assert cli.main([*arguments, *options]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("damaged", [ALERTS, FILE])
def test_a_damaged_file_is_told_in_its_sections_and_the_rest_is_there(
    folder: Path, tmp_path: Path, damaged: str, messages: list[Message]
) -> None:
    shutil.copytree(folder / "state", tmp_path / "state")
    write_settings(tmp_path, time_zone="Africa/Johannesburg", shifts={"all of it": "00:13-00:16"})
    alert = NewAlert("id", START_NS + SECOND, "rule", "event", "warning", "a swarm", {}, ())
    with AlertJournal(tmp_path / "state" / ALERTS) as journal:
        journal.commit([alert])
    for rest in ("", "-wal", "-shm"):
        (tmp_path / "state" / f"{damaged}{rest}").unlink(missing_ok=True)
    (tmp_path / "state" / damaged).write_bytes(b"no database any more" * 500)
    out = tmp_path / "page.html"
    shift = ["--shift", "all of it", "--date", "2023-11-15"]
    assert cli.main(["report", "shift", "--config", str(tmp_path / "site.yaml"), "--out", str(out), *shift]) == 0
    text = out.read_text()
    detections = sum(message.kind == "detection" for message in messages) + 2
    assert f'<b class="">{detections}</b>detections' in text
    if damaged == ALERTS:
        assert "Alerts cannot be read: " in text
        assert ("file is not a database" in text, "Without names and verdicts" in text) == (True, False)
    else:
        assert "Answers cannot be read: " in text
        assert text.count("Without names and verdicts given here, which cannot be read: ") == 3
        assert ("a swarm" in text, "nobody answered" in text) == (True, False)


def test_an_empty_shift_is_a_page_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    arguments = ["--from", "2030-01-01T06:00", "--to", "2030-01-03T06:00", "--out", str(out)]
    assert cli.main(["report", "shift", "--config", str(folder / "site.yaml"), *arguments]) == 0
    assert "No detection." in out.read_text()


@pytest.mark.parametrize("minutes", [1, 7, 61, 12 * 60, 47 * 60, 9 * 24 * 60, 400 * 24 * 60])
def test_every_span_has_a_few_ticks(minutes: int) -> None:
    begin = shifts.datetime(2026, 10, 24, 5, 58)
    span = shifts.Span("", begin, begin + shifts.timedelta(minutes=minutes), shifts.ZoneInfo("Europe/Berlin"))
    places = report_figures.tick_places(span)
    assert 1 <= len(places) <= 8
    assert all(span.ns[0] <= place < span.ns[1] for place in places)
    assert report_figures.over_time({"a": np.array(places)}, {"a": "#123456"}, span)
