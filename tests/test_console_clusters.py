"""The page Clusters: what it shows of a journal, and in a real browser: names that reach the bus, families of unknown
windows that are named, dismissed and brought back.
"""

from __future__ import annotations

import json
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from in_time import PATIENCE_S
from made_browser import PHONE, browser, unfit_for_a_phone
from made_journal import make_journal, pipeline_messages
from made_site import Running, make_archive, serving, write_settings
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import Select, WebDriverWait
from test_daemon import daemon, listen, until

from tscc_stream import names, package, verdicts
from tscc_stream.apps.console.detections import ROW, Detections, of_period
from tscc_stream.apps.console.embeddings import Embeddings
from tscc_stream.apps.console.families import LEAST, distances, grouped, usual_distance
from tscc_stream.apps.console.gallery import border, per_hour_of_day, typical
from tscc_stream.apps.console.site import Site
from tscc_stream.apps.console.spectra import mean_spectrum
from tscc_stream.apps.console.trace_picture import picture
from tscc_stream.apps.console.unknown_families import (
    Candidate,
    FamilyBook,
    FamilyGoneError,
    dismiss,
    named_families,
    take_dismissal_back,
    take_name_back,
)
from tscc_stream.apps.console.unknown_families import name as name_family
from tscc_stream.config import load
from tscc_stream.edges.console_cache import CacheFile
from tscc_stream.edges.console_cache_embeddings import EmbeddingStore
from tscc_stream.edges.people import FILE, PeopleFile

DEMO = package.load(package.find("models/demo"))
HOUR_NS = 3_600_000_000_000
NOON_NS = 1_700_049_600 * 10**9  # 2023-11-15 12:00 UTC
ALPHA = 0.02
"""With it, of the made recordings' five bursts the first is known and the later ones are not."""


def _rows(count: int, **columns: Any) -> np.ndarray:
    rows = np.zeros(count, ROW)
    rows["seq"], rows["uid"] = np.arange(1, count + 1), [f"uid{n}".encode() for n in range(count)]
    rows["known"], rows["p_value"], rows["membership"] = True, 0.5, 0.5
    for name, values in columns.items():
        rows[name] = values
    return rows


def test_typical_members_are_near_their_centre_and_of_several_channels() -> None:
    rows = _rows(6, membership=[0.9, 0.8, 0.7, 0.6, 0.95, 0.2], p_value=[0.9, 0.9, 0.9, 0.9, 0.02, 1.0])
    rows["sid"] = [0, 0, 0, 0, 0, 1]
    assert [int(one.row["seq"]) for one in typical(rows, 3)] == [1, 2, 6]
    assert [int(one.row["seq"]) for one in typical(rows[:4], 4)] == [1, 2, 3, 4]
    assert typical(rows[:1], 1)[0].why == "membership 0.90, p-value 0.90"
    rows["p_value"] = np.nan
    assert typical(rows, 1)[0].why == "membership 0.95"
    assert typical(rows[:0]) == []


def test_members_at_the_border_are_nearly_another_clusters_or_nearly_unknown() -> None:
    rows = _rows(4, margin=[0.5, 0.001, 0.3, 0.4], p_value=[0.011, 0.9, 0.8, 0.7], runner_up=[1, 1, 0, -1])
    rows["sid"] = np.arange(4)
    told = [(int(one.row["seq"]), one.why) for one in border(rows, ["a", "blast"], 0.01, 2)]
    assert told == [(2, "0.001 ahead of blast"), (1, "p-value 0.011, unknown up to 0.01")]
    assert border(rows[:0], [], 0.01) == []


def test_hours_of_the_day_are_those_of_the_site_and_count_as_often_as_they_came() -> None:
    onsets = NOON_NS + np.array([0, 1, 30, 24 * 60, 24 * 60 + 30]) * 60 * 10**9
    rows = _rows(5, onset_ns=onsets)
    rate = per_hour_of_day(rows, rows, ZoneInfo("Africa/Johannesburg"))  # 2 hours ahead of UTC
    assert rate[14] == pytest.approx(5 / 1.75)  # an hour of the first day, three quarters of the second
    assert (rate[np.arange(24) != 14] == 0).all()
    short = per_hour_of_day(rows[:1], rows[:3], ZoneInfo("Asia/Kolkata"))  # 5 and a half hours ahead
    assert np.isfinite(short).nonzero()[0].tolist() == [17, 18]


def test_a_period_ends_at_the_newest_detection() -> None:
    rows = _rows(3, onset_ns=[NOON_NS, NOON_NS + 5 * HOUR_NS, NOON_NS + 9 * HOUR_NS])
    assert of_period(rows, 8)["seq"].tolist() == [2, 3]
    assert of_period(rows, None)["seq"].tolist() == [1, 2, 3]


def test_a_sine_has_its_amplitude_at_its_frequency() -> None:
    t = np.arange(500) / 50.0
    windows = np.stack([a * np.sin(2 * np.pi * 8 * t) for a in (10.0, 1000.0)]).astype(np.float32)
    found = mean_spectrum(windows, 50.0, (2.0, 20.0))
    assert found is not None
    peak = int(found.mean.argmax())
    assert found.hz[peak] == pytest.approx(8.0, abs=0.05)
    assert found.mean[peak] == pytest.approx(100 / 2 * 10, rel=0.01)  # geometric mean 100 counts, half of 10 s
    assert found.high[peak] / found.mean[peak] == pytest.approx(10.0, rel=0.01)
    assert mean_spectrum(windows[:0], 50.0, (2.0, 20.0)) is None


def test_a_picture_stays_within_its_frame() -> None:
    drawn = picture(np.array([0.0, 5.0, -5.0, 1.0], np.float32), 0.25, "#112233")
    ys = [float(pair.split()[1]) for pair in drawn.split('d="M')[2].split("Z")[0].split("L")]
    assert (min(ys), max(ys)) == (2.0, 54.0)
    assert "<path" not in picture(np.zeros(0, np.float32), 0.0, "#112233")


def test_families_are_as_alike_as_members_of_a_known_cluster() -> None:
    rng = np.random.default_rng(3)
    ordinary = np.concatenate([centre + rng.normal(0, 1, (60, 8)) for centre in (0.0, 40.0)]).astype(np.float32)
    threshold = usual_distance(ordinary, np.repeat([0, 1], 60))
    assert 3.5 < threshold < 4.5  # pairs within one of them: the square root of 2 times 8 is 4.0
    groups = [centre + rng.normal(0, 0.4, (size, 8)) for centre, size in ((100.0, 7), (-70.0, 12), (300.0, LEAST - 1))]
    found = grouped(np.concatenate(groups).astype(np.float32), threshold)
    assert [sorted(family.members) for family in found] == [list(range(7, 19)), list(range(7))]
    members = np.array(found[0].members)
    apart = distances(np.concatenate(groups).astype(np.float32))[np.ix_(members, members)].mean(axis=1)
    assert (np.diff(apart) >= 0).all()
    assert grouped(np.zeros((2, 8), np.float32), threshold) == []
    assert grouped(np.zeros((9, 8), np.float32), float("nan")) == []


def test_names_and_dismissals_of_a_family_can_be_taken_back(tmp_path: Path) -> None:
    people = PeopleFile(tmp_path / FILE)
    family = Candidate("uid0", _rows(4), dismissed=False)
    name_family(people, family, "orepass", "eve")
    held = verdicts.given(people)
    assert {uid: one.name for uid, one in held.items()} == dict.fromkeys(family.uids, "orepass")
    assert [(one["key"], one["name"], one["members"]) for one in named_families(held)] == [("uid0", "orepass", 4)]
    assert take_name_back(people, "uid0", "eve") == 4
    assert verdicts.given(people) == {}
    dismiss(people, family, "eve")
    assert people.latest("dismissal")["uid0"].document == {"dismissed": True, "members": family.uids}
    take_dismissal_back(
        people, Candidate("uid2", family.rows[2:], dismissed=True), "eve"
    )  # with another typical member
    assert people.latest("dismissal")["uid0"].document["dismissed"] is False
    people.close()


def test_taking_a_family_s_name_back_leaves_what_a_colleague_said_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people, colleague = PeopleFile(tmp_path / FILE), PeopleFile(tmp_path / FILE)
    name_family(people, Candidate("uid0", _rows(4), dismissed=False), "orepass", "eve")
    given = verdicts.given

    def given_and_then(file: PeopleFile) -> dict[str, verdicts.Verdict]:
        found = given(file)
        colleague.say("verdict", "uid1", {"name": "blast", "agrees": False, "cluster": None}, "mara", 1)
        return found

    monkeypatch.setattr(verdicts, "given", given_and_then)
    with pytest.raises(FamilyGoneError, match="mara said of a member of this family: 'blast'"):
        take_name_back(people, "uid0", "eve")
    held = {uid: one.name for uid, one in given(people).items()}
    assert held == {"uid0": "orepass", "uid1": "blast", "uid2": "orepass", "uid3": "orepass"}
    people.close()
    colleague.close()


def test_what_the_page_events_has_embedded_is_not_computed_again(tmp_path: Path) -> None:
    made = Site(load(write_settings(tmp_path)), tmp_path)
    make_journal(tmp_path, pipeline_messages(tmp_path))
    rows = Detections().look(made)
    wanted = {row["uid"].decode(): int(row["seq"]) for row in rows[:20]}
    uid, seq = next(iter(wanted.items()))
    marked = np.full(DEMO.spec.embedding, 7.0, np.float32)
    with made.journal() as journal:
        file = CacheFile(tmp_path / "state" / "console.sqlite", journal.epoch)
    EmbeddingStore(file, DEMO.sha256, marked.size).add(np.array([seq]), marked[None], (seq, seq), 1)
    file.close()
    embeddings, found = Embeddings(made), dict[str, Any]()
    end = time.monotonic() + PATIENCE_S
    while len(found) < len(wanted):
        assert time.monotonic() < end, "they did not come"
        time.sleep(0.05)
        found = embeddings.of(DEMO, wanted)
    assert np.array_equal(found.pop(uid), marked)
    assert all(vector is not None and not np.array_equal(vector, marked) for vector in found.values())


@dataclass
class MadeSite:
    """A daemon that classifies, again and again, what a server plays; a console beside it."""

    path: Path
    state: Path
    console: str
    where: dict[str, Any]

    def asked(self, page: str, document: Any = None, **headers: str) -> tuple[int, Any]:
        return self.posted(page, None if document is None else json.dumps(document).encode(), **headers)

    def posted(self, page: str, data: bytes | None, **headers: str) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://{self.console}{page}", data, {"Origin": f"http://{self.console}", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310  # the line above says what it is
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeSite]:
    folder = tmp_path_factory.mktemp("clusters")
    server, address = serving(make_archive(folder / "archive"), "--speed", "20", "--loop")
    path = write_settings(
        folder, address, novelty={"alpha": ALPHA}, console={"bind": "127.0.0.1:0"}, time_zone="Africa/Johannesburg"
    )
    with server, daemon(path) as (_, where), Running("console", "--config", path) as console:
        address = console.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
        with listen(where) as everything:
            for _ in range(15):
                until(everything, "detection.unknown.")
        yield MadeSite(path, folder / "state", address, where)


def _wait(driver: Chrome, script: str) -> Any:
    return WebDriverWait(driver, PATIENCE_S).until(lambda d: d.execute_script(f"return {script}"))


def test_a_name_given_in_the_browser_is_in_the_next_message_on_the_bus(site: MadeSite) -> None:
    with browser() as driver, listen(site.where) as everything:
        driver.get(f"http://{site.console}/clusters/2")
        _wait(driver, "document.body.dataset.drawn")  # Bokeh, under the page's policy
        assert _wait(driver, "document.querySelectorAll('#spectrum .bk-Figure, #hours .bk-Figure').length") == 2
        form = driver.find_element("id", "name")
        field = form.find_element("name", "name")
        field.clear()
        field.send_keys("tap test\t")  # of the site's words: colour and type come with it
        assert Select(form.find_element("name", "event_type")).first_selected_option.text == "other event"
        form.find_element("tag name", "textarea").send_keys(" tried in a test")
        form.find_element("tag name", "button").click()
        _wait(driver, "document.getElementById('said').textContent.includes('The daemon uses the name')")
        named = until(everything, "status.model.", state="named")
        assert named.body["data"]["names"]["2"] == "tap test"
        while True:
            detection = until(everything, "detection.2.")
            if detection.seq > named.seq:
                break
        assert detection.body["data"]["cluster"]["name"] == "tap test"
        driver.get(f"http://{site.console}/clusters/2")
        assert "tap test" in driver.find_element("id", "history").text
        assert "console" in driver.find_element("css selector", "#history tbody tr").text  # who said it
        severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith((f"http://{site.console}", "data:"))] == []
    assert severe == []
    people = PeopleFile(site.state / FILE)
    assert names.given(people, DEMO.sha256)[2].notes.endswith("tried in a test")
    people.close()


def test_two_who_name_one_cluster_are_told_of_one_another(site: MadeSite) -> None:
    """And whoever gives the name of another cluster is told that they vote together."""
    with browser() as driver:
        driver.get(f"http://{site.console}/clusters/4")
        assert site.asked("/clusters/5/name", {"name": "tremor", "seen": 0})[0] == 200
        assert site.asked("/clusters/4/name", {"name": "belt", "seen": 0})[0] == 200
        assert 'id="called">belt<' in site.asked("/clusters/4")[1]  # at once, however lately the page was looked at
        field, said = (
            driver.find_element("css selector", "#name [name=name]"),
            "document.getElementById('said').textContent",
        )
        field.clear()
        field.send_keys("tremor")
        driver.find_element("css selector", "#name [type=submit]").click()
        _wait(driver, f"{said}.includes('look and name again')")
        assert "console named it 'belt' at " in driver.execute_script(f"return {said}")
        driver.find_element("css selector", "#said button").click()
        _wait(driver, "document.getElementById('called').textContent === 'belt'")
        field = driver.find_element("css selector", "#name [name=name]")
        field.clear()
        field.send_keys("tremor")
        driver.find_element("css selector", "#name [type=submit]").click()
        _wait(driver, "document.getElementById('same').innerText.includes(\"cluster 5 is called 'tremor' too\")")
        assert "votes count together" in driver.find_element("id", "same").text
    people = PeopleFile(site.state / FILE)
    assert [said.document["name"] for said in names.history(people, DEMO.sha256, 4)] == ["tremor", "belt"]
    people.close()


def _families(driver: Chrome) -> list[str]:
    _wait(driver, "document.body.dataset.families")
    shown = driver.find_elements("css selector", "#families-open [data-family]")
    return [str(one.get_attribute("data-family")) for one in shown]


def _press(driver: Chrome, where: str, text: str) -> None:
    buttons = driver.find_elements("css selector", f"{where} button")
    button = next(one for one in buttons if one.text == text)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def test_a_family_of_unknown_windows_is_dismissed_brought_back_and_named(site: MadeSite) -> None:
    with browser(PHONE) as driver:
        driver.get(f"http://{site.console}/clusters?period=all")
        family, done = _families(driver)[0], "document.getElementById('families-done')"
        _press(driver, f"[data-family='{family}']", "Dismiss")
        _wait(driver, f"{done}.textContent.includes('dismissed: ')")
        driver.execute_script(f"{done}.open = true")
        _press(driver, "#families-done", "Bring back")
        _wait(driver, f"!{done}.textContent.includes('dismissed: ')")
        family = _families(driver)[0]  # more of them came meanwhile, and another one may be its most typical
        driver.find_element("css selector", f"[data-family='{family}'] input").send_keys("orepass")
        _press(driver, f"[data-family='{family}']", "Name")
        _wait(driver, f"{done}.textContent.includes('orepass: ')")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
        assert unfit_for_a_phone(driver, "bk-") == []
        driver.get(f"http://{site.console}/clusters/2?period=all")
        assert unfit_for_a_phone(driver, "bk-") == []
    people = PeopleFile(site.state / FILE)
    said = people.latest("verdict")
    people.close()
    assert said[family].document == {"name": "orepass", "agrees": False, "cluster": None, "family": family}
    assert len([one for one in said.values() if one.document.get("family") == family]) >= LEAST


def test_the_gallery_says_how_many_and_how_well(site: MadeSite) -> None:
    rows = Detections().look(Site(load(site.path), site.path.parent))
    member = next(row for row in rows if row["known"] and row["cluster"] == 2)
    people = PeopleFile(site.state / FILE)
    verdict = {"name": "tap test", "agrees": True, "cluster": 2}
    people.say("verdict", member["uid"].decode(), verdict, "eve", time.time_ns())
    people.close()
    status, text = site.asked("/clusters?period=all")
    assert (status, "1 of 1 judged are right: 100 % (21 to 100 %)" in text) == (200, True)
    status, text = site.asked("/clusters/2?period=all")
    assert (status, f"/events/{member['uid'].decode()}" in text) == (200, True)
    status, text = site.asked(f"/clusters/wave/{member['seq']}.svg?colour=d1495b")
    assert (status, text.count("#d1495b")) == (200, 2)


@pytest.mark.parametrize(
    ("page", "document", "status", "text"),
    [
        ("/clusters/2/name", {"name": "", "colour": "#112233"}, 400, "name: expected at least 1 letter"),
        ("/clusters/2/name", {"name": "x" * 81}, 400, "at most 80"),
        ("/clusters/2/name", {"name": "a\nb"}, 400, "expected printable letters"),
        ("/clusters/2/name", {"name": " Unknown "}, 400, "belongs to no cluster"),
        ("/clusters/2/name", {"name": "a", "colour": "red"}, 400, "colour: "),
        ("/clusters/2/name", {"name": "a", "event_type": "party"}, 400, "expected one of QuakeML's"),
        ("/clusters/2/name", {"name": "a", "notes": "x" * 2001}, 400, "at most 2000 letters"),
        ("/clusters/2/name", {"name": "a", "more": 1}, 400, "more: "),
        ("/clusters/2/name", {"name": "a", "seen": "1"}, 400, "seen: expected the number"),
        ("/clusters/2/name", ["a"], 400, "expected an object"),
        ("/clusters/6/name", {"name": "a"}, 404, "expected 0 to 5"),
        ("/clusters/families/nobody/name", {"name": "a"}, 409, "has changed since it was shown"),
        ("/clusters/families/nobody/name", {"name": " "}, 400, "expected 1 to 80 printable letters"),
        ("/clusters/families/nobody/name", {"call": "a"}, 400, "unknown field"),
        ("/clusters/families/nobody/dismiss", {}, 409, "has changed since it was shown"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    site: MadeSite, page: str, document: Any, status: int, text: str
) -> None:
    got, said = site.asked(page, document)
    assert (got, text in said) == (status, True), said


@pytest.mark.parametrize(
    ("page", "status"),
    [("/clusters/6", 404), ("/clusters/wave/999999999.svg", 404), ("/clusters/wave/1.svg?colour=%22x", 400)],
)
def test_what_is_not_there_is_said(site: MadeSite, page: str, status: int) -> None:
    assert site.asked(page)[0] == status


def test_a_look_at_the_journal_goes_on_where_the_last_one_ended(site: MadeSite) -> None:
    known = Site(load(site.path), site.path.parent)
    detections = Detections(most=10_000)
    first = detections.look(known)
    again = detections.look(known)
    assert detections.complete
    assert again.size >= first.size >= 15
    assert (np.diff(again["seq"]) > 0).all()
    assert (again["seq"][: first.size] == first["seq"]).all()
    few = Detections(most=5).look(known)
    assert few.size <= 5


def test_a_family_is_the_one_that_was_shown() -> None:
    book = FamilyBook(None)  # type: ignore[arg-type]  # it is not asked for any
    with pytest.raises(LookupError, match="has changed since it was shown"):
        book.family("uid1")


def test_a_row_of_people_that_cannot_be_read_takes_no_page_away(tmp_path: Path) -> None:
    make_journal(tmp_path, pipeline_messages(tmp_path))
    people = PeopleFile(tmp_path / "state" / FILE)
    people.say("verdict", "odd", {"name": 3}, "eve", 1)
    people.say("name", "odd/1", {"called": "x"}, "eve", 1)
    people.close()
    with closing(sqlite3.connect(tmp_path / "state" / FILE)) as db, db:
        for kind in ("name", "verdict", "acknowledgement", "dismissal"):
            rows = [(kind, "no JSON", "{"), (kind, "a list", "[1]")]
            db.executemany("INSERT INTO said (at_ns, who, kind, subject, document) VALUES (1, 'eve', ?, ?, ?)", rows)
    path = write_settings(tmp_path, console={"bind": "127.0.0.1:0"})
    with Running("console", "--config", path) as console:
        made = MadeSite(path, tmp_path / "state", console.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1], {})
        for page in (
            "/clusters",
            "/events/rows",
            "/events/since?seq=0&people=0",
            "/clusters/families.json",
            "/events/alerts",
        ):
            status, text = made.asked(page)
            assert (page, status) == (page, 200), text
        for page in ("/clusters/2/name", "/clusters/families/nobody/name", "/events/verdict", "/events/alerts/answer"):
            status, text = made.posted(page, b"[" * 60_000)
            assert status in (400, 422), (page, status, text)
            assert json.loads(text)["error"]
