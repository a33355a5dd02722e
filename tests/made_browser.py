"""A real browser for tests: Debian's chromium without a screen, driven by chromedriver; it looks nothing up outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

DESKTOP, PHONE = (1280, 720), (390, 844)
_OFFLINE = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def needs_browser() -> None:
    """Skip where there is none; `.ci/run` installs it."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("Debian's chromium and chromium-driver are not installed")


@contextmanager
def browser(size: tuple[int, int] = DESKTOP) -> Iterator[webdriver.Chrome]:
    """Every request that its pages make is in `driver.get_log("performance")`, every error in `get_log("browser")`."""
    needs_browser()
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (*_OFFLINE, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, Service(str(shutil.which("chromedriver"))))
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    try:
        yield driver
    finally:
        driver.quit()
