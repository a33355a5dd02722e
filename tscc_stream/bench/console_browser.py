"""A real chromium for `bench console`, without a screen: opens the wall and tells when it has drawn what.

A page says (event `wall-drawn`) at the beginning of the frame after the one in which it drew, so that the time until
that frame was handed on is counted too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # benches run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1280,720",
)
_LISTEN = """
window.drawn = [];
document.addEventListener("wall-drawn", (event) => {
  const at = performance.timeOrigin + performance.now();
  for (const [name, newest] of event.detail) window.drawn.push([name, newest, at]);
});
"""
_TAKE = """
const apart = Date.now() - (performance.timeOrigin + performance.now());
return window.drawn.splice(0).map(([name, newest, at]) => [name, newest, at + apart]);
"""


class BrowserError(RuntimeError):
    """There is no chromium, or no selenium to drive it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """newest_ms: data time of the newest sample of a channel that was drawn; at_ms: wall clock. ms since 1970."""

    channel: str
    newest_ms: float
    at_ms: float


class Browser:
    """Made by `chromium`."""

    def __init__(self, driver: Any) -> None:  # noqa: ANN401  # selenium's
        self._driver = driver

    def open(self, url: str) -> None:
        self._driver.get(url)
        self._driver.execute_script(_LISTEN)

    def drawn(self) -> list[Drawn]:
        """Since the last call."""
        return [Drawn(*one) for one in self._driver.execute_script(_TAKE)]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Raises BrowserError."""
    try:
        from selenium import webdriver  # noqa: PLC0415  # of the extra `test`
        from selenium.webdriver.chrome.options import Options  # noqa: PLC0415  # loaded where it is needed
        from selenium.webdriver.chrome.service import Service  # noqa: PLC0415  # loaded where it is needed
    except ImportError as error:
        raise BrowserError("bench console drives a browser with selenium: install the extra `test`") from error
    program, driver_program = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver_program is None:
        raise BrowserError("bench console needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = Options()
    options.binary_location = program
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(driver_program))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
