"""The console's frame: its four pages in a real browser, who may use it, and what a stranger's page may not do."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from in_time import PATIENCE_S
from made_browser import browser
from made_site import Running, write_settings
from selenium.webdriver.support.ui import WebDriverWait

from tscc_stream import cli
from tscc_stream.apps.console.feed import MOST_PAGES
from tscc_stream.passwords import line_for


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Without a daemon: its address."""
    path = write_settings(tmp_path_factory.mktemp("site"), console={"bind": "127.0.0.1:0"})
    with Running("console", "--config", path) as running:
        yield running.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]


def _asked(address: str, page: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{address}/{page}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310  # the line above says what it is
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_every_page_loads_nothing_from_elsewhere_and_reports_no_error(console: str) -> None:
    with browser() as driver:
        for page in ("live", "events", "clusters", "health"):
            driver.get(f"http://{console}/{page}")
            assert driver.title.startswith(page.capitalize())
            WebDriverWait(driver, PATIENCE_S).until(lambda d: d.find_element("id", "link").text == "live")
        sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
        assert urls
        assert [url for url in urls if not url.startswith((f"http://{console}", "data:"))] == []
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_other_names_and_other_pages_are_refused(console: str) -> None:
    assert _asked(console, "live", Host="evil.example")[0] == 421
    assert _asked(console, "live", b"{}", Origin="http://evil.example")[0] == 403
    assert _asked(console, "live", b"{}")[0] == 403
    assert _asked(console, "nothing")[0] == 404


def _page(address: str, page: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """As a browser's window asks."""
    request = urllib.request.Request(
        f"http://{address}{page}", None, {"Accept": "text/html,*/*", **headers}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310  # the line above says what it is
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("page", "status", "sentence"),
    [
        ("/nonsense", 404, "There is no page at this address."),
        ("/static/nothing.js", 404, "There is no page at this address."),
        ("/events/alerts/answer", 405, "This address takes no such request"),
        ("/events/nothing", 503, "the daemon has not run here yet"),
    ],
)
def test_what_is_not_there_is_a_page_with_the_way_to_the_others(
    console: str, page: str, status: int, sentence: str
) -> None:
    found, text = _page(console, page)
    assert (found, sentence in text) == (status, True), text
    assert all(f'<a href="/{one}"' in text for one in ("live", "events", "clusters", "health"))
    assert _asked(console, page[1:])[1].startswith('{"error":')  # a program reads JSON


def test_a_mistake_of_ours_is_a_page_too(tmp_path: Path) -> None:
    path = write_settings(tmp_path, console={"bind": "127.0.0.1:0"})
    broken = "from tscc_stream.apps.console import live; live.SPANS = None"
    with Running("console", "--config", path, begin=broken) as running:
        address = running.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
        status, text = _page(address, "/live")
        assert (status, "Something in the console itself went wrong" in text, "Traceback" in text) == (500, True, False)


def test_a_password_is_asked_for_where_there_are_users(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(line_for("anna", "correct horse"))
    settings = {"bind": "127.0.0.1:0", "users_file": str(tmp_path / "users")}
    path = write_settings(tmp_path, console=settings)
    with Running("console", "--config", path) as running:
        address = running.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
        assert _asked(address, "live")[0] == 401
        status, text = _page(address, "/live")
        assert (status, "Expected a user and a password." in text, "<!doctype html>" in text) == (401, True, True)
        assert _asked(address, "live", Authorization="Basic YW5uYTp3cm9uZyBob3JzZQ==")[0] == 401
        status, text = _asked(address, "live", Authorization="Basic YW5uYTpjb3JyZWN0IGhvcnNl")
        assert (status, "anna" in text) == (200, True)


def test_a_console_that_is_stopped_ends_the_streams_of_open_pages_without_a_word(tmp_path: Path) -> None:
    with Running("console", "--config", write_settings(tmp_path, console={"bind": "127.0.0.1:0"})) as running:
        address = running.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
        with (
            urllib.request.urlopen(f"http://{address}/stream", timeout=PATIENCE_S) as of_bus,
            urllib.request.urlopen(f"http://{address}/live/stream", timeout=PATIENCE_S) as of_wall,
        ):
            assert [stream.readline() for stream in (of_bus, of_wall)] == [b"retry: 2000\n"] * 2
            assert running.stop() == 0
        assert "ERROR" not in running.text
        assert "Traceback" not in running.text


def test_a_page_that_nobody_sees_keeps_no_connection(console: str) -> None:
    become = (
        "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    with browser() as driver:
        driver.get(f"http://{console}/clusters")
        for hidden, said in ((None, "live"), (True, "paused"), (False, "live")):
            if hidden is not None:
                driver.execute_script(become, hidden)
            WebDriverWait(driver, PATIENCE_S).until(lambda d, said=said: d.find_element("id", "link").text == said)


def test_a_page_that_was_refused_is_live_again_once_there_is_room(tmp_path: Path) -> None:
    """A browser gives a source up for good that is answered 503."""
    later = "const now = performance.now.bind(performance); performance.now = () => now() + 13000"
    path = write_settings(tmp_path, console={"bind": "127.0.0.1:0"})
    with Running("console", "--config", path) as running, browser() as driver:
        address = running.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
        with ExitStack() as others:
            for _ in range(MOST_PAGES):
                for stream in ("stream", "live/stream"):
                    opened = urllib.request.urlopen(
                        f"http://{address}/{stream}", timeout=PATIENCE_S
                    )  # http, as it says
                    others.enter_context(opened)
            driver.get(f"http://{address}/live")
            WebDriverWait(driver, PATIENCE_S).until(lambda d: d.find_element("id", "link").text == "no connection")
            WebDriverWait(driver, PATIENCE_S).until(lambda d: "was refused" in d.find_element("id", "wall-said").text)
        driver.execute_script(later)
        WebDriverWait(driver, PATIENCE_S).until(lambda d: d.find_element("id", "link").text == "live")
        WebDriverWait(driver, PATIENCE_S).until(lambda d: "was refused" not in d.find_element("id", "wall-said").text)


@pytest.mark.parametrize(
    ("bind", "sentence"),
    [
        ("nonsense", "console.bind: 'nonsense': expected HOST:PORT with a port from 0 to 65535"),
        ("0.0.0.0:8899", "console: bind 0.0.0.0:8899: other machines could name clusters and answer alerts;"),
    ],
)
def test_an_address_that_cannot_be_is_refused_as_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bind: str, sentence: str
) -> None:
    assert cli.main(["console", "--config", str(write_settings(tmp_path)), "--bind", bind]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tscc-stream: {sentence}")


def test_a_supervisor_hears_that_it_is_ready_that_it_lives_and_that_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        path = write_settings(tmp_path, console={"bind": "127.0.0.1:0"})
        with Running("console", "--config", path) as running:
            heard = [supervisor.recv(4096).decode() for _ in range(3)]
            assert running.stop() == 0
        assert heard == ["READY=1\nSTATUS=serving pages", "WATCHDOG=1", "WATCHDOG=1"]
        while (last := supervisor.recv(4096)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1"


def _answer(address: str, head: bytes, body: bytes = b"") -> bytes:
    """The first line of what comes back."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), 20) as link:
        ours = f"Host: {address}\r\nOrigin: http://{address}\r\n".encode()
        link.sendall(b"POST /events/verdict HTTP/1.1\r\n" + ours + head + b"\r\n" + body)
        return link.makefile("rb").readline()


@pytest.mark.parametrize("length", [b"", b"Content-Length: 5\r\n"])
def test_a_body_of_unknown_length_is_not_gathered(console: str, length: bytes) -> None:
    assert b" 413 " in _answer(console, length + b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n")


@pytest.mark.parametrize("begun", [b"", b"GET /live HTTP/1.1\r\n", b"POST /events/verdict HTTP/1.1\r\nHost: {}\r\n"])
def test_whoever_sends_no_request_is_hung_up_on(tmp_path: Path, begun: bytes) -> None:
    """Else two hundred of them keep everybody else out."""
    path = write_settings(tmp_path, console={"bind": "127.0.0.1:0"})
    quick = "from tscc_stream.apps.console import punctual; punctual.REQUEST_SECONDS = 2.0"
    with Running("console", "--config", path, begin=quick) as running, ExitStack() as stack:
        address = running.wait_for(r"console on http://(127\.0\.0\.1:\d+)/")[1]
        host, port = address.split(":")
        links = [stack.enter_context(socket.create_connection((host, int(port)), 20)) for _ in range(200)]
        for link in links:
            link.sendall(begun)
        assert _asked(address, "live")[0] == 503
        assert {link.recv(1) for link in links} == {b""}
        assert _asked(address, "live")[0] == 200
