"""The page Health: what it makes of the daemon's numbers and of the ledger; a daemon that is killed; TLS and users."""

from __future__ import annotations

import json
import math
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_browser import PHONE, browser, unfit_for_a_phone
from made_certificate import make_certificate, needs_openssl
from made_journal import make_journal, name_cluster
from made_site import Running, make_archive, serving, write_settings
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from selenium.webdriver.support.ui import WebDriverWait
from test_daemon import daemon, get, listen, take, until

from tscc_stream import config
from tscc_stream.apps.console import gap_ledger, health_facts, judgement, model_card
from tscc_stream.apps.console import site as site_module
from tscc_stream.apps.console.daemon_watch import DaemonWatch
from tscc_stream.apps.console.health_watch import HealthWatch, Seen
from tscc_stream.apps.console.readings import quantiles, rate, rates, read
from tscc_stream.apps.console.sensors import Known, table
from tscc_stream.apps.console.site import Site
from tscc_stream.config import ConfigError, load
from tscc_stream.edges.daemon_view import SecretViewError, ViewError
from tscc_stream.edges.people import FILE
from tscc_stream.messages import Gap
from tscc_stream.package import Label, find
from tscc_stream.passwords import line_for
from tscc_stream.stages.journal import GapEntry

SID, OTHER = "FDSN:XX_A__H_H_Z", "FDSN:XX_B__H_H_Z"
S = 10**9


def _scrape(samples: float, latencies: tuple[float, ...] = (), newest_s: float = 1000.0) -> str:
    registry = CollectorRegistry()
    Counter("tscc_samples", "", ["sid"], registry=registry).labels(SID).inc(samples)
    Gauge("tscc_last_sample_timestamp_seconds", "", ["sid"], registry=registry).labels(SID).set(newest_s)
    taken = Histogram("tscc_sample_to_publish_seconds", "", buckets=(0.01, 0.1, 1.0), registry=registry)
    for one in latencies:
        taken.observe(one)
    return generate_latest(registry).decode()


def test_rates_and_quantiles_are_those_of_the_time_in_between() -> None:
    before, now = read(_scrape(1000, (0.005,) * 4), 10.0), read(_scrape(1500, (0.005,) * 4 + (0.05,) * 4), 15.0)
    assert rate(before, now, "tscc_samples_total", sid=SID) == 100.0
    assert rates(before, now, "tscc_samples_total", "sid") == {SID: 100.0}
    assert quantiles(None, now, "tscc_sample_to_publish_seconds", (0.5,)) == {0.5: pytest.approx(0.01)}
    assert quantiles(before, now, "tscc_sample_to_publish_seconds", (0.5,)) == {0.5: pytest.approx(0.055)}
    assert quantiles(now, now, "tscc_sample_to_publish_seconds", (0.5,)) == {}


def test_a_daemon_that_was_restarted_counts_from_zero() -> None:
    before, now = read(_scrape(1000, (0.005,) * 9), 10.0), read(_scrape(200, (0.05,)), 20.0)
    assert rate(before, now, "tscc_samples_total", sid=SID) == 20.0
    assert quantiles(before, now, "tscc_sample_to_publish_seconds", (0.5,)) == {0.5: pytest.approx(0.055)}
    assert math.isnan(rate(None, now, "tscc_samples_total", sid=SID))
    assert rates(now, now, "tscc_samples_total", "sid") == {}


@given(st.text(st.characters(codec="utf-8")), st.floats(allow_nan=False))
def test_any_label_and_value_is_read_as_it_was_written(label: str, value: float) -> None:
    registry = CollectorRegistry()
    Gauge("tscc_some", "", ["sid"], registry=registry).labels(label).set(value)
    text = generate_latest(registry).decode()
    assert read(text, 0.0).by("tscc_some", "sid") == {label: value}


class _Daemon:
    """Answers with the samples that it has, or not at all."""

    def __init__(self) -> None:
        self.samples = 0.0
        self.away: ViewError | None = None

    def health(self, _address: str) -> dict[str, Any]:
        if self.away is not None:
            raise self.away
        return {"state": "ok"}

    def metrics(self, _address: str) -> str:
        return _scrape(self.samples)


@pytest.mark.parametrize("away", [ViewError("no answer"), SecretViewError("a password")])
def test_rates_after_an_outage_are_those_since_it(tmp_path: Path, away: ViewError) -> None:
    watch, daemon_there = HealthWatch(Site(load(write_settings(tmp_path)), tmp_path)), _Daemon()
    watch._view = daemon_there  # type: ignore[assignment]  # it has what is asked for
    rates_seen = []
    for second, samples, gone in ((0, 0, False), (5, 500, False), (10, 0, True), (600, 600, False), (605, 1100, False)):
        daemon_there.samples, daemon_there.away = samples, away if gone else None
        watch.look(second, second)
        rates_seen.append(
            rates(watch.seen.earlier, watch.seen.now, "tscc_samples_total", "sid").get(SID)
            if watch.seen.earlier and watch.seen.now
            else None
        )
    assert (rates_seen[1], rates_seen[3:]) == (100.0, [None, 100.0])


def test_a_recorder_whose_clock_is_ahead_hides_no_gap_of_others(tmp_path: Path) -> None:
    now_s = time.time()
    gap = Gap(SID, round((now_s - 600) * S), round((now_s - 500) * S), "link")
    site = Site(load(write_settings(tmp_path)), tmp_path)
    make_journal(tmp_path, [], (gap,))
    seen = Seen(now=read(_scrape(1, newest_s=now_s + 30 * 86_400), 1.0))
    found = health_facts.in_journal(site, health_facts.data_now_ns(seen))
    assert [(one.sid, one.cause) for one in found.gaps] == [(SID, "link")]
    past = health_facts.data_now_ns(Seen(now=read(_scrape(1, newest_s=1000.0), 1.0)))
    assert past == 1000 * S  # a recording: its last day is what is looked at


def test_clusters_keep_their_names_while_what_people_said_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(site_module, "_LOOK_SECONDS", 0.0)
    site = Site(load(write_settings(tmp_path)), tmp_path)
    (tmp_path / "state").mkdir()
    name_cluster(tmp_path, 0, Label(name="crusher", colour="#123456"))
    assert site.package().name_of(0) == "crusher"
    for end in ("-wal", "-shm"):
        (tmp_path / "state" / f"{FILE}{end}").unlink(missing_ok=True)
    (tmp_path / "state" / FILE).write_bytes(b"no database, " * 1000)
    assert site.package().name_of(0) == "crusher"
    assert site.package().name_of(0) == "crusher"
    assert caplog.text.count("clusters keep the names that they had") == 1


def test_what_is_no_series_is_passed_over() -> None:
    found = read('# HELP a b\na 1\na{ 2\nb nonsense\n\nc{x="1"} +Inf\n', 0.0)
    assert (found.value("a"), found.value("c", x="1")) == (1.0, math.inf)
    assert math.isnan(found.value("b"))


@given(st.text(alphabet=st.sampled_from("<>&\"'`*#|- \n\tabc/=:")))
def test_no_tag_comes_out_of_a_card_but_those_that_are_ours(card: str) -> None:
    made = model_card.html_of(card)
    for tag in (
        "p",
        "ul",
        "li",
        "pre",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "b",
        "code",
        "h3",
        "h4",
        "h5",
        "h6",
    ):
        made = made.replace(f"<{tag}>", "").replace(f"</{tag}>", "")
    made = made.replace('<div class="wide">', "").replace("</div>", "")
    assert "<" not in made
    assert ">" not in made


def test_a_card_is_read() -> None:
    card = (
        "# demo\n\nTwo **bold** words\nand `code`.\n\n- one\n  goes on\n- two\n\n    a < b\n\n"
        "| x | y |\n| --- | --- |\n| 1 | 2 |\n"
    )
    assert model_card.html_of(card).splitlines() == [
        "<h3>demo</h3>",
        "<p>Two <b>bold</b> words and <code>code</code>.</p>",
        "<ul><li>one goes on</li><li>two</li></ul>",
        "<pre>a &lt; b</pre>",
        '<div class="wide"><table><thead><tr><th>x</th><th>y</th></tr></thead>'
        "<tbody><tr><td>1</td><td>2</td></tr></tbody></table></div>",
    ]
    shipped = model_card.html_of((find("models/demo") / "card.md").read_text())
    assert shipped.count("<table>") == 3


def test_the_ledger_by_channel_and_along_time() -> None:
    gaps = [
        GapEntry(SID, -50 * S, 10 * S, "link", 0),
        GapEntry(SID, 20 * S, 20 * S + 1, "link", 0),
        GapEntry(OTHER, 90 * S, None, "flat", 0),
        GapEntry(OTHER, 200 * S, 300 * S, "server", 0),
    ]
    rows = gap_ledger.summary(gaps, 0, 100 * S)
    assert [(r.channel, r.cause, r.gaps, round(r.seconds), r.lasts) for r in rows] == [
        ("XX.A..HHZ", "link", 2, 10, False),
        ("XX.B..HHZ", "flat", 1, 10, True),
    ]
    drawn = gap_ledger.timeline(gaps, 0, 100 * S)
    assert [(round(s.begin, 2), round(s.end, 2)) for s in drawn["XX.A..HHZ"]] == [(0.0, 0.1), (0.2, 0.2)]
    assert [(round(s.begin, 2), round(s.end, 2), s.cause) for s in drawn["XX.B..HHZ"]] == [(0.9, 1.0, "flat")]
    assert gap_ledger.is_lost("link")
    assert not gap_ledger.is_lost("flat")


def test_a_source_id_that_names_no_channel_is_shown_as_it_is() -> None:
    odd = "FDSN:XX_ODD__EHZ"
    (row,) = gap_ledger.summary([GapEntry(odd, 0, S, "link", 0)], 0, S)
    assert row.channel == odd
    assert list(gap_ledger.timeline([GapEntry(odd, 0, S, "link", 0)], 0, S)) == [odd]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**4)), max_size=60))
def test_what_is_drawn_of_a_channel_stays_bounded_and_in_order(gaps: list[tuple[int, int]]) -> None:
    entries = [GapEntry(SID, begin, begin + length, "link", 0) for begin, length in sorted(gaps)]
    for stretches in gap_ledger.timeline(entries, 0, 10**6).values():
        assert all(0.0 <= one.begin <= one.end <= 1.0 for one in stretches)
        assert all(b.begin >= a.begin for a, b in pairwise(stretches))


def _known(**over: Any) -> Known:
    return Known(
        **{
            "wall_s": 1010.0,
            "now_s": 500.0,
            "stale_s": 60.0,
            "moved_s": {SID: 499.0},
            "clipped": {},
            "gaps": (),
            **over,
        }
    )


@pytest.mark.parametrize(
    ("over", "word"),
    [
        ({}, "OK"),
        ({"wall_s": 1016.0}, "LAG"),
        ({"wall_s": 1100.0, "moved_s": {SID: 440.0}}, "STALE"),
        ({"wall_s": 1100.0, "moved_s": {SID: 441.0}}, "LAG"),  # late, but coming
        ({"wall_s": 9000.0, "moved_s": {SID: -100.0}}, "DEAD"),
        ({"wall_s": 9000.0, "moved_s": {}}, "DEAD"),
        ({"clipped": {SID: 3}}, "CLIPPED"),
        ({"health": {"channels": 30, "old_channels": 1, "old": {SID: 12.0}}}, "OLD"),
        ({"health": {"channels": 30, "old_channels": 30, "old": {}}}, "OLD"),
        ({"health": {"channels": 30, "old_channels": 29, "old": {}}}, "OK"),
        ({"health": {"channels": 0, "old_channels": 0}}, "OK"),
        ({"gaps": (GapEntry(SID, 900 * S, 901 * S, "flat", 0),)}, "FLAT"),
        ({"gaps": (GapEntry(SID, 100 * S, 101 * S, "flat", 0),)}, "OK"),
        ({"gaps": (GapEntry(SID, 900 * S, None, "quarantined", 0),)}, "LEFT OUT"),
    ],
)
def test_one_word_for_each_sensor(over: dict[str, Any], word: str) -> None:
    earlier, now = read(_scrape(1000), 400.0), read(_scrape(2000), 500.0)
    (row,) = table(earlier, now, _known(**over))
    assert (row.word, row.name, row.rate_hz) == (word, "XX.A..HHZ", 10.0)


HEALTHY = {
    "state": "ok", "threads": {"front": 0.1, "bus": 0.1}, "servers": {"a:1": "connected"},
    "data": {"a:1": {"state": "OK", "age_s": 0.4}}, "channels": 3, "silent_channels": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "word", "text"),
    [
        (judgement.daemon(HEALTHY, "", "", "", stopped=False), "OK", "all 2 threads turn"),
        (judgement.daemon(None, "refused", "12:00", "", stopped=False), "BAD", "since 12:00; it did not say"),
        (
            judgement.daemon(None, "h:1/healthz: refused", "12:00", "", stopped=True),
            "BAD",
            "it was told to stop. The console asked: h:1/healthz: refused",
        ),
        (judgement.daemon(None, "", "", "set console.metrics_user", stopped=False), "UNKNOWN", "not to the console"),
        (judgement.daemon({"state": "stalled", "stalled": ["back"]}, "", "", "", stopped=False), "BAD", "stuck: back"),
        (judgement.daemon({"state": "starting"}, "", "", "", stopped=False), "LOOK", "it is starting"),
        (judgement.links(HEALTHY)[0], "OK", "connected, data 0.4 s ago"),
        (judgement.links({"servers": {"a:1": "not connected"}})[0], "BAD", "not connected"),
        (
            judgement.links({**HEALTHY, "data": {"a:1": {"state": "SILENT", "age_s": 300}}})[0],
            "BAD",
            "silent for 5 min",
        ),
        (judgement.links({**HEALTHY, "data": {"a:1": {"state": "LATE", "age_s": 45}}})[0], "LOOK", "45.0 s old"),
        (judgement.links(None)[0], "UNKNOWN", "only the running daemon"),
        (judgement.channels(HEALTHY, 0.0), "OK", "all 3 send"),
        (judgement.channels({**HEALTHY, "silent_channels": 1}, 0.0), "LOOK", "1 of 3 silent"),
        (judgement.channels({**HEALTHY, "silent_channels": 2}, 0.0), "BAD", "2 of 3 silent"),
        (judgement.channels(HEALTHY, 1.0), "LOOK", "1 left out"),
        (judgement.channels(HEALTHY, 0.0, {"OK": 3}), "OK", "all 3 send"),
        (judgement.channels(HEALTHY, 0.0, {"LAG": 2, "OK": 1}), "LOOK", "all 3 send, but 2 not OK: 2 LAG"),
        (judgement.channels({**HEALTHY, "old_channels": 1}, 0.0), "LOOK", "1 of 3 send data older than"),
        (judgement.channels({**HEALTHY, "old_channels": 2}, 0.0), "BAD", "2 of 3 send data older than"),
        (
            judgement.links({**HEALTHY, "data": {"a:1": {"state": "OLD", "age_s": 40}}})[0],
            "BAD",
            "older than what was already seen, for 40.0 s",
        ),
        (judgement.channels({**HEALTHY, "channels": 0}, math.nan), "LOOK", "none has sent"),
        (judgement.journal("disk full", "", ""), "BAD", "cannot be written: disk full"),
        (judgement.journal("", "journal x: damaged", ""), "BAD", "journal x: damaged"),
        (judgement.journal("", "", "3 messages"), "OK", "3 messages"),
        (judgement.bus("the key is not in the list", 0.1), "BAD", "the key is not"),
        (judgement.bus("", 0.1), "OK", "messages go out"),
        (judgement.bus("", None), "UNKNOWN", "only the running daemon"),
        (judgement.model("b" * 64, "a" * 64, 0.1), "LOOK", "aaaaaaaaaaaa runs, bbbbbbbbbbbb is chosen"),
        (judgement.model("a" * 64, "a" * 64, 0.21), "LOOK", "drift 0.21 of at most 0.2"),
        (judgement.model("a" * 64, "a" * 64, math.nan), "OK", "no drift known yet"),
        (judgement.queues({"front": 48.0, "back": 0.0}, 0.0, 0.0), "LOOK", "front: more comes in"),
        (judgement.queues({"front": 0.0}, 0.0, 0.5), "LOOK", "reading: more comes in"),
        (judgement.queues({"front": 0.0}, 7.0, 0.0), "LOOK", "7 windows wait"),
        (judgement.queues({"front": 0.0}, 0.0, math.nan), "OK", "nothing waits"),
        (judgement.disk(50, 100), "OK", "(50 %)"),
        (judgement.disk(9, 100), "LOOK", "(9 %)"),
        (judgement.disk(1, 100), "BAD", "(1 %)"),
        (judgement.clock(3.0, True), "BAD", "3.0 s in the future"),
        (judgement.clock(-5.0, False), "LOOK", "nobody keeps"),
        (judgement.clock(None, None), "OK", "no data from the future"),
    ],
)
def test_one_word_for_each_part_and_what_to_do(part: judgement.Part, word: str, text: str) -> None:
    assert (part.word, text in part.what) == (word, True), part
    assert bool(part.do) or word in ("OK", "UNKNOWN")


def test_the_worst_part_is_the_word_of_all() -> None:
    parts = [judgement.Part("a", word, "") for word in ("OK", "LOOK", "UNKNOWN")]
    assert judgement.worst(parts) == "LOOK"  # type: ignore[arg-type]  # of literals
    assert judgement.worst([]) == "UNKNOWN"


@dataclass
class Watched:
    """A daemon and a console."""

    console: str
    running: Running
    state: Path

    def told(self, page: str = "/health/state.json") -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self.console}{page}", timeout=PATIENCE_S) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def until(self, stages: frozenset[str] = frozenset(), **words: str) -> dict[str, Any]:
        """What is told once these stages have run and each of these parts has that word."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = self.told()
            ran = {one["stage"] for one in found["stages"]}
            if words.items() <= _words(found).items() and stages <= ran:
                return found
            time.sleep(0.2)
        raise AssertionError((found["parts"], found["stages"]))


def _words(found: dict[str, Any]) -> dict[str, str]:
    return {part["name"].split()[0]: part["word"] for part in found["parts"]}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("health")
    server, address = serving(make_archive(folder / "archive"), "--speed", "10", "--loop")
    path = write_settings(folder, address, console={"bind": "127.0.0.1:0"})
    with server, daemon(path) as (running, _), Running("console", "--config", path) as console:
        address = console.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
        yield Watched(address, running, folder / "state")


def test_a_daemon_that_is_well_is_told_so(watched: Watched) -> None:
    stages = frozenset({"lanes", "infer", "journal"})
    found = watched.until(stages, daemon="OK", link="OK", queues="OK", bus="OK", journal="OK")
    assert {one["name"] for one in found["sensors"]} == {"XX.A..HHZ", "XX.B..HHZ", "XX.C..HHZ", "XX.D..HHZ"}
    assert found["drift"][0]["name"] == "all windows"
    assert found["retention"]["days"] == 90.0
    assert found["shadow"] is None
    assert watched.told("/health/gaps.json?period=7%20d")["rows"] == []


def test_on_a_phone_the_tables_stand_below_one_another(watched: Watched) -> None:
    with browser(PHONE) as driver:
        driver.get(f"http://{watched.console}/health")
        WebDriverWait(driver, PATIENCE_S).until(lambda d: d.find_elements("css selector", "#sensors tbody tr"))
        assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
        assert unfit_for_a_phone(driver) == []


def test_a_killed_daemon_is_told_at_once_with_what_to_do(watched: Watched) -> None:
    """The last of this file that needs it to run."""
    watched.until(daemon="OK")
    with browser() as driver:
        driver.get(f"http://{watched.console}/health")
        WebDriverWait(driver, PATIENCE_S).until(lambda d: d.execute_script("return document.body.dataset.word"))
        part = "[data-part='daemon']"
        assert driver.find_element("css selector", part).get_attribute("class") == "part OK"
        assert driver.find_elements("css selector", "#sensors tbody tr")
        assert watched.running.stop(signal.SIGKILL) == -signal.SIGKILL
        WebDriverWait(driver, PATIENCE_S).until(
            lambda d: d.execute_script("return document.body.dataset.word") == "BAD"
        )
        said = driver.find_element("css selector", part).text
        assert "it does not run since" in said
        assert "killed, or it failed" in said
        assert "journalctl -u tscc-stream" in said
        assert "daemon" in driver.find_element("id", "verdict").text
        assert driver.find_elements("css selector", "#sensors tbody tr")  # as of its last answer
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@needs_openssl
def test_metrics_with_tls_and_users_are_read_with_the_consoles_password(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    (tmp_path / "users").write_text(line_for("console", "correct horse"))
    (tmp_path / "password").write_text("correct horse\n")
    metrics = {
        "bind": "127.0.0.1:0", "tls_certificate": str(made.certificate), "tls_key": str(made.key),
        "users_file": str(tmp_path / "users"),
    }  # fmt: skip
    mine = {"metrics_user": "console", "metrics_password_file": str(tmp_path / "password")}
    path = write_settings(tmp_path, metrics=metrics, console=mine)
    with daemon(path) as (_, where):
        site = Site(load(path), tmp_path)
        reader, live = site.daemon(), DaemonWatch(site)
        live.look(0.0)
        assert (live.said.reason, live.said.metrics_reason) == ("", "")
        assert reader.health(where["metrics"])["state"] in ("ok", "disconnected")
        assert "tscc_build_info" in reader.metrics(where["metrics"])
        with pytest.raises(SecretViewError, match=r"set console\.metrics_user and console\.metrics_password_file"):
            Site(load(write_settings(tmp_path, metrics=metrics)), tmp_path).daemon().health(where["metrics"])
        elsewhere = {**metrics, "tls_certificate": str(tmp_path / "gone.pem")}
        with pytest.raises(SecretViewError, match=r"gone\.pem: No such file"):
            Site(load(write_settings(tmp_path, metrics=elsewhere, console=mine)), tmp_path).daemon().health(
                where["metrics"]
            )
    with pytest.raises(ViewError, match="refused"):
        reader.health(where["metrics"])


def test_the_consoles_user_and_password_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected metrics_user and metrics_password_file together"):
        config.load(write_settings(tmp_path, console={"metrics_user": "console"}))


def test_a_server_that_begins_anew_with_old_data_is_told_everywhere(tmp_path: Path) -> None:
    """By the daemon's message and /healthz, and by the pages Live and Health: it says what it holds, sends nothing yet.

    And another server in its place, which sends all again.
    """
    archive, old = make_archive(tmp_path / "archive"), "older than what was already seen"
    first, address = serving(archive, "--speed", "20")
    other, fallback = serving(archive, "--speed", "4")
    entry = {"server": address, "fallbacks": [fallback], "streams": ["XX_*:HHZ"], "stale_seconds": 2.0}
    path = write_settings(tmp_path, seedlink=[entry], console={"bind": "127.0.0.1:0"})
    soon = "from tscc_stream import data_age; data_age.OLD_NS = 10**9"
    with (
        first,
        other,
        daemon(path, begin=soon) as (_, where),
        Running("console", "--config", path) as console,
        listen(where, "detection.") as found,
        listen(where, "status.data.") as told,
        browser() as driver,
    ):
        at = console.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
        take(found, 4)
        first.stop()
        assert until(told, "status.data.", server=address, state="OLD").body["data"]["age_s"] > 0.9
        said = json.loads(get(where, "/healthz"))
        assert (said["data"][address]["state"], said["old_channels"], len(said["old"])) == ("OLD", 4, 4)
        driver.get(f"http://{at}/live")
        WebDriverWait(driver, PATIENCE_S).until(lambda d: old in d.find_element("id", "alerts").text)
        driver.get(f"http://{at}/health")
        part = "return document.querySelector('[data-part^=\"link\"]')?.textContent || ''"
        WebDriverWait(driver, PATIENCE_S).until(lambda d: old in d.execute_script(part))
        words = [one.text for one in driver.find_elements("css selector", "#sensors tbody .word")]
        assert words == ["OLD"] * 4
        assert "4 of 4 send data older" in driver.find_element("css selector", "[data-part='channels']").text
        other.stop()
        with Running("serve", archive, "--bind", address, "--speed", "0.1") as again:
            again.wait_for("listening on")
            until(told, "status.data.", server=address, state="OLD")
