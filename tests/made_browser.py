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


TOUCH = 40
"""CSS pixels: what a finger in a glove can hit."""
_SMALL = """
  const found = [], least = arguments[0] - .5;
  for (const one of document.querySelectorAll("a, button, select, input, textarea, summary")) {
    if (!one.checkVisibility()) continue;
    const { width, height } = (one.type === "checkbox" && one.closest("label") || one).getBoundingClientRect();
    const text = one.textContent.trim().slice(0, 30);
    if (width && (height < least || width < least))
      found.push(`${one.tagName} ${one.id} ${one.className} ${text} ${width.toFixed()}x${height.toFixed()}`);
  }
  return [...new Set(found)];
"""
_CUT = """
  const wide = (one) => one.clientWidth > 1 && one.scrollWidth > one.clientWidth + 1;
  return [...document.querySelectorAll("main, main *")]
    .filter((one) => one.checkVisibility() && wide(one) && getComputedStyle(one).overflowX !== "visible")
    .map((one) => `${one.tagName} ${one.id} ${one.className} ${one.textContent.trim().slice(0, 30)}`);
"""


def unfit_for_a_phone(driver: webdriver.Chrome, *cut: str) -> list[str]:
    """What is too small to be hit, cut off or scrolled sideways. cut: words in what may be cut, since it goes on
    elsewhere.
    """
    small = [one for one in driver.execute_script(_SMALL, TOUCH) if "Bokeh" not in one]
    return small + [one for one in driver.execute_script(_CUT) if not any(word in one for word in cut)]
