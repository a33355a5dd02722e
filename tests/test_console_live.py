"""The page Live in a real browser: on a running site, without a daemon, and while a SeedLink server is away."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_time import PATIENCE_S
from made_browser import PHONE, browser, unfit_for_a_phone
from made_site import ODD_SID, Running, serving, write_settings
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from tscc_stream import miniseed
from tscc_stream.apps.console.wall import Wall
from tscc_stream.apps.console.wall_reader import Source, stream_of
from tscc_stream.config import Config, SeedLinkConfig
from tscc_stream.messages import Record
from tscc_stream.source_id import from_nslc

START_NS = 1_700_000_000 * 10**9
RATE_HZ, SECONDS = 100.0, 120
WELL = ("XX.A..HHZ", "XX.B..HHZ", "XX.C..HHZ")
FLAT, CLIPPED = "XX.F..HHZ", "XX.G..HHZ"


def _samples(name: str, number: int) -> np.ndarray:
    """Noise with a burst every five seconds, on every channel a little later; a dead sensor; one beyond its range."""
    rng = np.random.default_rng(number)
    if name == FLAT:
        return np.full(int(SECONDS * RATE_HZ), 7, np.int32)
    data = 300.0 * rng.standard_normal(int(SECONDS * RATE_HZ))
    t = np.arange(int(2 * RATE_HZ)) / RATE_HZ
    for second in range(6, SECONDS - 5, 5):
        at = int((second + 0.1 * number) * RATE_HZ)
        data[at : at + t.size] += 20_000.0 * np.exp(-3.0 * t) * np.sin(2 * np.pi * 14 * t)
    if name == CLIPPED:
        data[:: int(3 * RATE_HZ)] = 8_388_607
    return np.round(data).astype(np.int32)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number, name in enumerate((*WELL, FLAT, CLIPPED)):
        records = miniseed.encode(from_nslc(name), START_NS, RATE_HZ, _samples(name, number), record_length=256)
        (folder / f"{name}.mseed").write_bytes(b"".join(records))
    return folder


def _settings(folder: Path, server: str) -> Path:
    return write_settings(
        folder,
        server,
        trigger={"sta_seconds": 0.2, "lta_seconds": 3.0, "trigger_on": 3.0, "trigger_off": 1.0},
        console={"bind": "127.0.0.1:0"},
        time_zone="Africa/Johannesburg",
        shifts={"whole day": "00:00-23:59"},
    )


@pytest.fixture(scope="module")
def site(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A replay server, a daemon and a console: the console's address."""
    server, address = serving(archive, "--start-at", "now", "--loop")
    path = _settings(tmp_path_factory.mktemp("site"), address)
    with server, Running("run", "--config", path) as daemon, Running("console", "--config", path) as console:
        daemon.wait_for("ready: ")
        yield console.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]


@pytest.fixture(scope="module")
def driver(site: str) -> Iterator[WebDriver]:
    with browser() as driver:
        driver.get(f"http://{site}/live")
        yield driver
        told = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        elsewhere = ("/events/", "favicon")  # the page of an event, and what a browser asks for beside an error
        assert [message for message in told if not any(part in message for part in elsewhere)] == []


def _until(driver: WebDriver, condition: Any, what: str) -> Any:
    return WebDriverWait(driver, PATIENCE_S, 0.1).until(condition, what)


def _labels(driver: WebDriver) -> dict[str, str]:
    """The word of each channel, as shown."""
    script = (
        "return [...document.querySelectorAll('#labels li')]"
        ".map((one) => [one.querySelector('.name').textContent, one.querySelector('.word').textContent])"
    )
    return dict(driver.execute_script(script))


def _drawn(driver: WebDriver, row: int) -> int:
    """How many columns of a row hold something of a trace's colour."""
    script = """
      const canvas = document.getElementById("traces"), rows = document.querySelectorAll("#labels li").length;
      if (!rows) return 0;
      const high = canvas.height / rows, wide = canvas.width, seen = new Set();
      const data = canvas.getContext("2d").getImageData(0, arguments[0] * high, wide, high).data;
      for (let i = 0; i < data.length; i += 4)
        if (data[i] === 160 && data[i + 1] === 216 && data[i + 2] === 240) seen.add(i / 4 % wide);
      return seen.size;"""
    return int(driver.execute_script(script, row))


def _listed(driver: WebDriver, place: str) -> set[str]:
    """Addresses of the events that a list shows."""
    script = "return [...document.querySelectorAll(arguments[0] + ' a[href*=\"/events/\"]')].map((one) => one.pathname)"
    return set(driver.execute_script(script, place))


def test_who_comes_back_to_the_page_sees_what_came_meanwhile(site: str) -> None:
    """No page of it was open: the console had not looked at the journal either."""
    with browser() as driver:
        driver.get(f"http://{site}/live")
        _until(driver, lambda d: _listed(d, "#detections"), "detections")
        driver.get(f"http://{site}/events?kind=detection")
        before = _until(driver, lambda d: _listed(d, "main"), "detections on the other page")
        _until(driver, lambda d: len(_listed(d, "main") - before) > 2, "new ones")
        meanwhile = _listed(driver, "main") - before
        driver.get(f"http://{site}/live")
        _until(driver, lambda d: len(_listed(d, "#detections") & meanwhile) > 2, "those that came meanwhile")


def test_traces_are_drawn_and_each_channel_has_its_word(driver: WebDriver) -> None:
    expected = {**dict.fromkeys(WELL, "OK"), FLAT: "FLAT", CLIPPED: "CLIPPED"}
    _until(driver, lambda d: _labels(d) == expected, "words")
    _until(driver, lambda d: _drawn(d, 0) > 20, "samples of the first trace")
    assert driver.find_element(By.ID, "alerts").is_displayed() is False
    before = _drawn(driver, 1)
    _until(driver, lambda d: _drawn(d, 1) > before, "more samples")


def test_detections_are_listed_marked_counted_and_lead_to_their_page(driver: WebDriver, site: str) -> None:
    _until(driver, lambda d: d.find_elements(By.CSS_SELECTOR, "#detections a"), "a detection")
    _until(driver, lambda d: d.find_elements(By.CSS_SELECTOR, "#shift svg"), "the shift's counts")
    assert "whole day" in driver.find_element(By.ID, "shift-title").text
    link = driver.find_element(By.CSS_SELECTOR, "#detections a")
    assert link.get_attribute("href").startswith(f"http://{site}/events/")  # type: ignore[union-attr]  # the test has put it there
    assert "membership" in str(link.get_attribute("title"))
    mark = "return import('/static/live.js').then((page) => page.marked())"
    boxes = _until(driver, lambda d: d.execute_script(mark), "a mark")
    canvas = driver.find_element(By.ID, "traces")
    size = canvas.size
    driver.execute_script("document.getElementById('pause').click()")
    box = driver.execute_script(mark)[-1]
    x, y = (box["left"] + box["right"]) / 2 - size["width"] / 2, (box["top"] + box["bottom"]) / 2 - size["height"] / 2
    ActionChains(driver).move_to_element_with_offset(canvas, round(x), round(y)).perform()
    tip = driver.find_element(By.ID, "tip")
    assert tip.is_displayed()
    assert "XX." in tip.text
    assert boxes
    ActionChains(driver).move_to_element_with_offset(canvas, round(x), round(y)).click().perform()
    _until(driver, lambda d: "/events/" in d.current_url, "the event's page")
    driver.get(f"http://{site}/live")


def test_channels_are_chosen_by_pattern_or_by_clicking_and_remembered(driver: WebDriver, site: str) -> None:
    _until(driver, lambda d: len(_labels(d)) == 5, "five channels")
    driver.find_element(By.ID, "choose").click()
    field = driver.find_element(By.ID, "pattern")
    field.clear()
    field.send_keys("xx.c*, XX.A..HHZ")
    _until(driver, lambda d: d.find_elements(By.CSS_SELECTOR, "#known input[value='XX.A..HHZ']:checked"), "a tick")
    driver.find_element(By.CSS_SELECTOR, "#known input[value='XX.B..HHZ']").click()
    driver.find_element(By.ID, "show").click()
    _until(driver, lambda d: list(_labels(d)) == ["XX.C..HHZ", "XX.A..HHZ", "XX.B..HHZ"], "the chosen ones")
    driver.get(f"http://{site}/live")
    _until(driver, lambda d: list(_labels(d)) == ["XX.C..HHZ", "XX.A..HHZ", "XX.B..HHZ"], "the remembered ones")
    driver.find_element(By.CSS_SELECTOR, "#labels li[data-channel='XX.A..HHZ']").send_keys("x")
    _until(driver, lambda d: list(_labels(d)) == ["XX.C..HHZ", "XX.B..HHZ"], "one less")
    driver.find_element(By.ID, "choose").click()
    driver.find_element(By.ID, "pattern").send_keys(", <b>")
    assert "expected NET.STA.LOC.CHA" in driver.find_element(By.ID, "chosen").text
    assert not driver.find_element(By.ID, "show").is_enabled()
    driver.find_element(By.CSS_SELECTOR, "#channels button[value='first']").click()
    _until(driver, lambda d: len(_labels(d)) == 5, "all five")


def test_keys_change_span_and_scale_and_stop_the_picture(driver: WebDriver) -> None:
    body = driver.find_element(By.TAG_NAME, "body")
    body.send_keys("1")
    pressed = "#spans button[aria-pressed='true']"
    assert driver.find_element(By.CSS_SELECTOR, pressed).text == "10 s"
    _until(driver, lambda d: _drawn(d, 0) > 300, "ten seconds")
    counts = driver.find_element(By.CSS_SELECTOR, "#labels li:first-child .counts")
    _until(driver, lambda _: "counts" in counts.text, "a scale")
    number = lambda: float(counts.text.split()[1].replace(",", ""))  # noqa: E731  # shorter than a function, and used once
    before = number()
    driver.find_element(By.CSS_SELECTOR, "#labels li:first-child").send_keys("++++")
    _until(driver, lambda _: number() < 0.7 * before, "a larger trace")
    body.send_keys("0")
    driver.find_element(By.ID, "scale").click()
    _until(driver, lambda _: number() > 1e6, "the clipped channel's scale")
    driver.find_element(By.ID, "scale").click()
    body.send_keys(Keys.SPACE)
    assert driver.find_element(By.ID, "pause").get_attribute("aria-pressed") == "true"
    frozen = driver.execute_script("return document.getElementById('traces').toDataURL()")
    _until(
        driver,
        lambda d: d.execute_async_script(
            "document.addEventListener('wall-drawn', () => arguments[0](1), {once: true})"
        ),
        "new samples",
    )
    assert driver.execute_script("return document.getElementById('traces').toDataURL()") == frozen
    body.send_keys(Keys.SPACE)
    _until(
        driver,
        lambda d: d.execute_script("return document.getElementById('traces').toDataURL()") != frozen,
        "a picture that goes on",
    )
    body.send_keys("3")


def test_on_a_phone_nothing_is_wider_than_the_screen(site: str) -> None:
    with browser(PHONE) as phone:
        phone.get(f"http://{site}/live")
        _until(phone, lambda d: _drawn(d, 0) > 5, "samples")
        assert phone.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
        assert unfit_for_a_phone(phone, "what") == []
        _many_clusters(phone)


def test_the_shift_of_many_clusters_is_whole(driver: WebDriver) -> None:
    _many_clusters(driver)


def _many_clusters(driver: WebDriver) -> None:
    """Fourteen of them: every column is there and nothing scrolls within the card."""
    inside = driver.execute_async_script(
        """
        import("/static/live_side.js").then(({ showShift }) => {
          const one = (i) => ({ id: String(i), name: `weak onset before a larger one ${i}`, colour: "#5fd0c5",
            bins: Array(24).fill(50 * i) });
          const rows = [...Array(14)].map((_, i) => one(i)), now = Date.now();
          showShift({ name: "day", span: "06:00–18:00", begin_ms: now - 43200000, end_ms: now + 1000, rows });
          const card = document.getElementById("shift").closest(".card").getBoundingClientRect();
          const cells = [...document.querySelectorAll("#shift th, #shift td")];
          const within = (box) => box.left >= card.left && box.right <= card.right && box.bottom <= card.bottom;
          arguments[0]([document.querySelectorAll("#shift tr").length,
            cells.every((one) => within(one.getBoundingClientRect())),
            cells.filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent)]);
        });
        """
    )
    assert inside == [15, True, []]


def test_what_cannot_be_shown_is_refused(site: str) -> None:
    for query in ("columns=7", "span=9", "channels=%3Cb%3E"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{site}/live/stream?{query}", timeout=PATIENCE_S)
        assert refused.value.code == 400
        assert "expected" in json.loads(refused.value.read())["error"]


def test_without_a_daemon_and_through_an_outage_of_the_server_the_wall_goes_on(archive: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = _settings(tmp_path, f"127.0.0.1:{port}")
    with Running("console", "--config", path) as console, browser() as driver:
        driver.get(f"http://{console.wait_for('console on http://(127[^/]+)/')[1]}/live")
        alerts = lambda d: d.find_element(By.ID, "alerts").text  # noqa: E731  # shorter than a function, and used once
        _until(
            driver,
            lambda d: "daemon does not answer" in alerts(d) and f"waveforms from 127.0.0.1:{port}" in alerts(d),
            "both",
        )
        for _ in range(2):
            arguments = ("serve", archive, "--bind", f"127.0.0.1:{port}", "--start-at", "now", "--loop")
            with Running(*arguments) as server:
                server.wait_for("listening on")
                _until(driver, lambda d: _labels(d).get("XX.A..HHZ") == "OK" and _drawn(d, 0) > 5, "samples")
                _until(driver, lambda d: "waveforms from" not in alerts(d), "no sentence of the server")
                assert "daemon does not answer" in alerts(driver)
            _until(driver, lambda d: f"waveforms from 127.0.0.1:{port}" in alerts(d), "the server's sentence again")


def test_the_reader_asks_for_the_shown_channels_only_and_follows_what_is_shown(archive: Path) -> None:
    server, address = serving(archive, "--start-at", "now", "--loop")
    got: dict[str, int] = {}
    config = SeedLinkConfig(server=address, streams=("XX_*:HHZ",))
    source = Source(config, lambda record: got.update({record.sid: record.start_ns}))
    a, b = (from_nslc(name) for name in WELL[:2])
    assert stream_of(a) == "XX_A:_H_H_Z"
    assert not source.serves("FDSN:YY_A__H_H_Z")
    with server:
        source.want([a], everything=False, now_s=0.0)
        _wait(lambda: a in got)
        assert set(got) == {a}
        source.want([a, b], everything=False, now_s=1.0)
        _wait(lambda: b in got)
        assert set(got) == {a, b}
        source.want([], everything=False, now_s=2.0)
        assert source.link is not None
        source.want([], everything=False, now_s=40.0)
        assert source.link is None


def test_a_source_id_that_names_no_channel_does_not_stop_the_reader() -> None:
    wall = Wall(Config(), lambda: None, lambda _all: {})
    wall._take(Record(ODD_SID, START_NS, RATE_HZ, np.zeros(10, np.int32)))
    assert wall.heard() == [ODD_SID]


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
