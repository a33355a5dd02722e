"""The page Events in a real browser, beside a real daemon: filters, one event, verdicts by key, similar ones, phone."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_time import PATIENCE_S
from made_browser import DESKTOP, PHONE, browser, unfit_for_a_phone
from made_messages import detection
from made_site import BURSTS_S, CHANNELS, RATE_HZ, START_NS, Running, make_archive, samples_of, serving, write_settings
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.ui import WebDriverWait
from test_response import sensitivity_alone, written

from tscc_stream import miniseed
from tscc_stream.edges import alert_journal
from tscc_stream.edges.alert_journal import AlertJournal, NewAlert
from tscc_stream.edges.people import FILE, PeopleFile
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.messages import Message
from tscc_stream.source_id import from_nslc
from tscc_stream.stages.publish import ModelIdentity, Publish

TWIN = "XX.T..HHZ"
IN_VELOCITY, GAIN = "XX.A..HHZ", 400.0
"""The channel that the StationXML has, and its counts per m/s."""
DETECTIONS = len(BURSTS_S) * len(CHANNELS) + 2


@dataclass
class Site:
    """A daemon that has seen everything, and its console."""

    address: str
    state_dir: Path

    def get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=PATIENCE_S) as answer:
            return json.loads(answer.read())  # type: ignore[no-any-return]  # the checker cannot know its form here

    def rows(self, **filters: str) -> list[dict[str, Any]]:
        return self.get("/events/rows?" + urllib.parse.urlencode(filters))["rows"]  # type: ignore[no-any-return]  # the checker cannot know its form here

    def post(self, path: str, document: object) -> tuple[int, dict[str, Any]]:
        headers = {"Origin": f"http://{self.address}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}{path}", json.dumps(document).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310  # the line above says what it is
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


def until(condition: Callable[[], object]) -> None:
    """Bounded in time."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def _archive(folder: Path) -> Path:
    """The bursts of made_site on four channels, and a fifth on which one minute comes twice, sample by sample."""
    make_archive(folder)
    samples = np.round(300.0 * np.random.default_rng(99).standard_normal(int(150 * RATE_HZ))).astype(np.int32)
    minute = slice(int(20 * RATE_HZ), int(70 * RATE_HZ))
    burst = samples_of(7)[int(31 * RATE_HZ) : int(41 * RATE_HZ)]
    samples[int(45 * RATE_HZ) : int(55 * RATE_HZ)] = burst
    samples[int(90 * RATE_HZ) : int(140 * RATE_HZ)] = samples[minute]
    records = miniseed.encode(from_nslc(TWIN), START_NS, RATE_HZ, samples)
    (folder / f"{TWIN}.mseed").write_bytes(b"".join(records))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    server, address = serving(_archive(tmp_path_factory.mktemp("archive")), "--speed", "max")
    responses = written(folder / "site.xml", ("HHZ", sensitivity_alone("M/S", GAIN), None, None))
    over = {"console": {"bind": "127.0.0.1:0"}, "time_zone": "Africa/Johannesburg", "stationxml": responses.name}
    path = write_settings(folder, address, **over)
    with server, Running("run", "--config", path) as daemon, Running("console", "--config", path) as console:
        daemon.wait_for(r"ready: ")
        made = Site(console.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1], folder / "state")
        until(
            lambda: len(made.rows(kind="detection")) == DETECTIONS and len(made.rows(kind="network")) == len(BURSTS_S)
        )
        yield made


@pytest.fixture(scope="module")
def driver(site: Site) -> Iterator[Chrome]:
    with browser(DESKTOP) as one:
        yield one
        assert [entry for entry in one.get_log("browser") if entry["level"] == "SEVERE"] == []


def _wait(driver: Chrome, condition: Callable[[Chrome], object]) -> None:
    WebDriverWait(driver, PATIENCE_S).until(condition)


def _shown(driver: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('#rows > li')].map(one => one.dataset.uid)"
    return driver.execute_script(script)  # type: ignore[no-any-return]  # the checker cannot know its form here


def _press(driver: Chrome, *keys: str) -> None:
    ActionChains(driver).send_keys(*keys).perform()


def _text(driver: Chrome, selector: str) -> str:
    """In one go, since the page may draw it anew at any moment; empty where it is not there."""
    return str(driver.execute_script("return document.querySelector(arguments[0])?.innerText || ''", selector))


def _a_detection(site: Site, number: int = 0) -> dict[str, Any]:
    return site.rows(kind="detection", channel="XX.B")[number]


def test_the_list_is_newest_first_and_its_filter_is_in_the_address(site: Site, driver: Chrome) -> None:
    driver.get(f"http://{site.address}/events")
    _wait(driver, lambda d: len(_shown(d)) == DETECTIONS + len(BURSTS_S))
    assert _shown(driver) == [row["uid"] for row in site.rows()]
    onsets = [int(row["time"]["ns"]) for row in site.rows()]
    assert onsets == sorted(onsets, reverse=True)

    driver.find_element("name", "channel").send_keys("XX.B")
    driver.execute_script(
        "const kind = document.forms[0].elements.kind; kind.value = 'detection';"
        "kind.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    _wait(driver, lambda d: len(_shown(d)) == len(BURSTS_S))
    assert "channel=XX.B" in driver.current_url
    assert "kind=detection" in driver.current_url
    shared = driver.current_url
    driver.get("about:blank")
    driver.get(shared)
    _wait(driver, lambda d: len(_shown(d)) == len(BURSTS_S))
    assert driver.find_element("name", "channel").get_attribute("value") == "XX.B"


def test_times_are_those_of_the_site(site: Site) -> None:
    first = site.rows()[-1]
    assert first["time"]["zone"] == "SAST"
    clock = f"{first['time']['date']}T{first['time']['clock'][:8]}"
    assert site.rows(end=clock) == []
    assert len(site.rows(begin=clock)) == DETECTIONS + len(BURSTS_S)


def test_filters_that_mean_nothing_are_refused_in_a_sentence(site: Site) -> None:
    for filters in (
        {"membership": "2"},
        {"begin": "yesterday"},
        {"kind": "both"},
        {"before": "x,1"},
        {"votes": "9" * 400},
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            site.rows(**filters)
        assert refused.value.code == 422
        assert json.loads(refused.value.read())["error"]


def test_a_network_event_shows_every_window_and_its_vote(site: Site, driver: Chrome) -> None:
    event = site.rows(kind="network")[0]
    driver.get(f"http://{site.address}/events/{event['uid']}")
    _wait(driver, lambda d: len(d.find_elements("css selector", "#traces figure")) >= len(CHANNELS) + 1)
    assert (
        driver.execute_script(
            "return [...document.querySelectorAll('#traces figcaption')].map(one => one.innerText.includes('counts'))"
        ).count(False)
        == 1
    ), "the channel of the StationXML is in m/s"
    assert "count²/Hz" in _text(driver, "#scale")
    assert len(driver.find_elements("css selector", "#voters li")) >= len(CHANNELS)
    assert "of" in _text(driver, "#votes")
    drawn = driver.execute_script(
        "const canvas = document.querySelector('#traces canvas');"
        "return new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
    )
    assert drawn > 5, "the waveform is drawn"


def test_windows_are_in_metres_per_second_where_the_stationxml_has_the_channel(site: Site) -> None:
    shown = site.get(f"/events/{site.rows(kind='network')[0]['uid']}/all")
    peaks = {one["channels"][0]: one["peak_amplitude"] for one in shown["members"]}
    found = {one["channel"]: (one["unit"], one["peak"]) for one in shown["traces"]}
    assert {channel: unit for channel, (unit, _) in found.items()} == {
        channel: "m/s" if channel == IN_VELOCITY else "counts" for channel in peaks
    }
    of_window = next(one for one in shown["traces"] if one["channel"] == IN_VELOCITY)
    assert of_window["peak"] * GAIN == pytest.approx(peaks[IN_VELOCITY], rel=0.2)


def test_a_detection_is_corrected_with_one_key_and_that_is_there_after_a_reload(site: Site, driver: Chrome) -> None:
    uid = _a_detection(site)["uid"]
    driver.get(f"http://{site.address}/events/{uid}")
    _wait(driver, lambda d: len(d.find_elements("css selector", "#traces canvas")) == 3)
    assert _text(driver, "#verdict") == "not judged"
    wanted = driver.find_element("css selector", "#legend button:nth-child(6)")
    key, name = wanted.find_element("tag name", "kbd").text, wanted.get_attribute("data-name")
    _press(driver, key)
    _wait(driver, lambda d: name in _text(d, "#verdict"))
    driver.refresh()
    _wait(driver, lambda d: name in _text(d, "#verdict"))

    people = PeopleFile(site.state_dir / FILE)
    said = people.on("verdict", uid)
    assert said is not None
    assert (said.document["name"], said.document["agrees"], said.who) == (name, False, "console")
    people.close()

    _press(driver, "z")
    _wait(driver, lambda d: _text(d, "#verdict") == "not judged")
    _press(driver, Keys.ENTER)
    _wait(driver, lambda d: "confirmed" in _text(d, "#verdict"))
    assert site.get(f"/events/{uid}/all")["history"][0]["agrees"] is True
    assert len(site.get(f"/events/{uid}/all")["history"]) == 3


def test_a_verdict_is_seen_in_the_list_of_another_console_at_once(site: Site, driver: Chrome) -> None:
    row = _a_detection(site, 1)
    driver.get(f"http://{site.address}/events")
    _wait(driver, lambda d: row["uid"] in _shown(d))
    assert site.post("/events/verdict", {"uids": [row["uid"]], "name": "drilling"})[0] == 200
    item = f"li[data-uid='{row['uid']}'] .judged"
    _wait(driver, lambda d: _text(d, item).endswith("drilling"))
    assert row["uid"] not in [one["uid"] for one in site.rows(unjudged="1")]


def test_what_somebody_else_said_meanwhile_is_shown_and_not_overwritten(site: Site) -> None:
    """Two browsers on one event, and on its row in the list; the page has not asked again yet."""
    row = _a_detection(site, 4)
    uid = row["uid"]
    with browser(DESKTOP) as driver:
        for page, name, place in (
            (f"/events/{uid}", "drilling", "#verdict"),
            ("/events", "blast", f"li[data-uid='{uid}'] .judged"),
        ):
            driver.get(f"http://{site.address}{page}")
            _wait(driver, lambda d, place=place: _text(d, place))
            driver.execute_script("for (let i = 1; i < 999; i++) clearInterval(i)")
            driver.execute_script(f"document.querySelector(\"li[data-uid='{uid}'] a\")?.focus()")
            before = len(site.get(f"/events/{uid}/all")["history"])
            assert site.post("/events/verdict", {"uids": [uid], "name": name})[0] == 200
            _press(driver, "u")
            _wait(driver, lambda d: "look and judge again" in _text(d, "#toast"))
            assert f"console said of this event: '{name}' at " in _text(driver, "#toast")
            _wait(driver, lambda d, place=place, name=name: name in _text(d, place))
            assert len(site.get(f"/events/{uid}/all")["history"]) == before + 1
            _press(driver, "u")
            _wait(driver, lambda d: "Verdict on " in _text(d, "#toast"))
            assert f"{row['time']['clock'][:8]} {row['channels'][0]}: unknown." in _text(driver, "#toast")
    status, answer = site.post("/events/verdict", {"uids": [uid], "action": "undo", "seen": {uid: "1"}})
    assert (status, answer["verdicts"][uid]["name"]) == (409, "unknown")


def test_keys_work_on_the_list(site: Site, driver: Chrome) -> None:
    driver.get(f"http://{site.address}/events?kind=network")
    _wait(driver, lambda d: len(_shown(d)) == len(BURSTS_S))
    second = _shown(driver)[1]
    _press(driver, "j", "j", "c")
    _wait(driver, lambda d: "confirmed" in _text(d, f"li[data-uid='{second}'] .judged"))
    _press(driver, "?")
    _wait(driver, lambda d: d.find_element("id", "help").is_displayed())
    _press(driver, "?")
    _press(driver, "o")
    _wait(driver, lambda d: f"/events/{second}?kind=network" in d.current_url)


def test_the_planted_twin_is_the_most_similar_and_several_get_one_verdict(site: Site, driver: Chrome) -> None:
    twins = site.rows(channel=TWIN, kind="detection")
    uid, twin = twins[0]["uid"], twins[1]["uid"]
    until(lambda: site.get(f"/events/{uid}/similar")["share"] == 1.0)
    driver.get(f"http://{site.address}/events/{uid}")
    _wait(driver, lambda d: d.find_elements("css selector", "#traces canvas"))
    driver.find_element("id", "find").click()
    _wait(driver, lambda d: len(d.find_elements("css selector", ".tile")) == DETECTIONS - 1)
    tiles = driver.find_elements("css selector", ".tile")
    assert tiles[0].get_attribute("data-uid") == twin
    for tile in tiles[:2]:
        tile.find_element("css selector", "input").click()
    driver.execute_script("document.getElementById('bulk-name').value = 'tap test'")
    driver.find_element("id", "bulk-give").click()
    _wait(driver, lambda d: all("tap test" in _text(d, f".tile:nth-child({n})") for n in (1, 2)))
    judged = {row["uid"]: row["verdict"] for row in site.rows()}
    assert judged[twin]["name"] == "tap test"


def test_what_is_no_verdict_is_refused(site: Site) -> None:
    uid = _a_detection(site, 2)["uid"]
    for document in (
        {"uids": [uid], "name": "whatever I like"},
        {"uids": ["nothing"], "name": "blast"},
        {"uids": [], "name": "blast"},
        {"uids": [uid] * 101, "name": "blast"},
        {"uids": [uid], "action": "delete"},
        [],
    ):
        status, answer = site.post("/events/verdict", document)
        assert (status, bool(answer["error"])) == (422, True)
    assert site.get(f"/events/{uid}/all")["history"] == []


def test_an_event_that_is_not_there_says_so(site: Site) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        site.get("/events/nothing/all")
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        site.get("/events/nothing")
    assert "event nothing: not in the journal" in json.loads(refused.value.read())["error"]


def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_tap_corrects(site: Site) -> None:
    uid = _a_detection(site, 3)["uid"]
    with browser(PHONE) as driver:
        driver.get(f"http://{site.address}/events")
        _wait(driver, lambda d: len(_shown(d)) == DETECTIONS + len(BURSTS_S))
        assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
        assert unfit_for_a_phone(driver) == []
        driver.find_element("id", "filter-button").click()
        assert unfit_for_a_phone(driver) == []
        driver.get(f"http://{site.address}/events/{uid}")
        _wait(driver, lambda d: d.find_elements("css selector", "#traces canvas"))
        assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
        assert unfit_for_a_phone(driver) == []
        button = driver.find_element("css selector", "#legend [data-name='blast']")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        _wait(driver, lambda d: "blast" in _text(d, "#verdict"))


def test_new_ones_come_on_top_without_losing_the_place(tmp_path: Path) -> None:
    """Without a daemon: the journal is written here."""
    publish = Publish("test", ModelIdentity("demo", "1", "0" * 64))

    def message(number: int) -> Message:
        return publish.detection(detection(uid=f"u{number}", onset_ns=number * 10**10, start_ns=number * 10**10))

    path = write_settings(tmp_path, console={"bind": "127.0.0.1:0"})
    journal = JournalFile(tmp_path / "state" / "journal.sqlite")
    try:
        journal.append([message(number) for number in range(100)])
        with Running("console", "--config", path) as console, browser() as driver:
            address = console.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
            driver.get(f"http://{address}/events")
            _wait(driver, lambda d: len(_shown(d)) == 60)
            driver.execute_script("window.scrollTo(0, 900)")
            _wait(driver, lambda d: d.execute_script("return scrollY") > 800)
            where = "return document.querySelector(\"li[data-uid='u70']\").getBoundingClientRect().top"
            before = driver.execute_script(where)
            journal.append([message(number) for number in (100, 101)])
            _wait(driver, lambda d: d.find_element("id", "newer").text == "▲ 2 new")
            assert _shown(driver)[:3] == ["u101", "u100", "u99"]
            assert abs(driver.execute_script(where) - before) <= 1
            driver.find_element("id", "newer").click()
            _wait(driver, lambda d: d.execute_script("return scrollY") == 0)
            driver.execute_script("window.scrollTo(0, document.documentElement.scrollHeight)")
            _wait(driver, lambda d: len(_shown(d)) == 102)
            assert _shown(driver)[-1] == "u0"
            _choose_while_older_ones_are_fetched(driver, address)
    finally:
        journal.close()


def _choose_while_older_ones_are_fetched(driver: Chrome, address: str) -> None:
    """Older rows of the filter that was chosen before do not join those of the new one."""
    driver.get(f"http://{address}/events")
    _wait(driver, lambda d: len(_shown(d)) == 60)
    driver.execute_script("""
      const real = window.fetch;
      window.fetch = async (address, ...rest) => {
        const answer = await real(address, ...rest);
        if (address.includes("before=")) await new Promise((go) => { window.letGo = go; });
        return answer;
      };
      scrollTo(0, document.documentElement.scrollHeight);""")
    _wait(driver, lambda d: d.execute_script("return Boolean(window.letGo)"))
    driver.execute_script("""
      const box = document.querySelector("#filter [name=unknown]");
      box.checked = true;
      box.dispatchEvent(new Event("input", { bubbles: true }));""")
    _wait(driver, lambda d: _shown(d) == [])
    driver.execute_script("letGo()")
    _wait(driver, lambda d: not d.execute_script("return document.getElementById('more').disabled"))
    assert _shown(driver) == []


def test_alerts_are_listed_and_acknowledged_with_a_click(site: Site, driver: Chrome) -> None:
    uid = _a_detection(site)["uid"]
    document = {
        "advice": "look at the raise",
        "cause": {"uids": [uid], "sentences": ["4 of 5 votes"]},
        "sensor_health": {"text": "5 of 5 sensors are well"},
    }
    with AlertJournal(site.state_dir / alert_journal.FILE) as alerts:
        alerts.commit([NewAlert("a1", START_NS, "bursts", "event", "critical", "rock burst", document, ["mail"])])
    driver.get(f"http://{site.address}/events#alerts")
    _wait(driver, lambda d: "look at the raise" in _text(d, "#alert-rows"))
    assert f"/events/{uid}" in str(driver.find_element("css selector", ".alert a").get_attribute("href"))
    driver.find_element("css selector", ".alert input").send_keys("all out")
    driver.find_element("css selector", ".acknowledge").click()
    _wait(driver, lambda d: "acknowledged by console" in _text(d, "#alert-rows"))
    people = PeopleFile(site.state_dir / FILE)
    said = people.on("acknowledgement", "a1")
    people.close()
    assert said is not None
    assert said.document == {"note": "all out"}


def test_without_alerts_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    path = write_settings(tmp_path, console={"bind": "127.0.0.1:0"})
    (tmp_path / "state").mkdir()
    with Running("console", "--config", path) as console:
        made = Site(console.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1], tmp_path / "state")
        assert "tscc-stream alert" in made.get("/events/alerts")["reason"]
        assert made.post("/events/alerts/answer", {"alert": "a"})[0] == 404
        assert "has not run here" in made.get("/events/rows")["not_there"]
