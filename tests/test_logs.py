"""What the daemon writes: JSON lines, priorities for journald, colour on terminals alone."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_time import PATIENCE_S
from made_site import Running, command, finished, write_settings

from tscc_stream import logs

WRITES = """
import logging, os, sys
from tscc_stream import logs
logs.set_up(sys.argv[1], sys.stderr, os.environ)
log = logging.getLogger("mine")
log.info("all \\"well\\" at \\u00d8")
log.warning("two\\nlines")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("it failed")
"""


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was again afterwards."""
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)


def written(form: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", WRITES, form], capture_output=True, text=True, check=True, timeout=PATIENCE_S,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.stderr.splitlines()


def test_one_json_object_per_line_whatever_is_said() -> None:
    lines = [json.loads(line) for line in written("json")]
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "ERROR"]
    assert [line["message"] for line in lines] == ['all "well" at \u00d8', "two\nlines", "it failed"]
    assert {(line["logger"], line["thread"]) for line in lines} == {("mine", "MainThread")}
    assert "ZeroDivisionError" in lines[2]["exception"]
    assert lines[0]["time"].endswith("+00:00")


def test_text_has_times_and_no_colour_where_nobody_looks() -> None:
    lines = written("text")
    assert lines[0].endswith('INFO mine: all "well" at \u00d8')
    assert not any("\x1b" in line or line.startswith("<") for line in lines)


@pytest.mark.parametrize("form", logs.FORMS)
def test_under_journald_every_line_has_its_priority(form: str, tmp_path: Path) -> None:
    """JOURNAL_STREAM names what stderr is; inherited by one whose stderr is something else, it counts for nothing."""
    path = tmp_path / "stream"
    with path.open("wb") as stream:
        found = os.fstat(stream.fileno())
        named = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        subprocess.run([sys.executable, "-c", WRITES, form], stderr=stream, env=named, check=True, timeout=PATIENCE_S)
    lines = path.read_text().splitlines()
    assert all(line[:3] in ("<6>", "<4>", "<3>") for line in lines)
    assert lines[0][:3] == "<6>"
    assert sum(line.startswith("<4>") for line in lines) == (1 if form == "json" else 2)
    if form == "json":
        assert [json.loads(line[3:])["level"] for line in lines] == ["INFO", "WARNING", "ERROR"]
    assert not any(line.startswith("<") for line in written(form, JOURNAL_STREAM="1:1"))


def test_a_terminal_gets_colour_unless_it_wants_none(root: logging.Logger) -> None:
    for no_colour, expected in (("", True), ("1", False)):
        root.handlers[:] = []
        leader, follower = pty.openpty()
        with os.fdopen(follower, "w") as terminal, os.fdopen(leader, "rb", buffering=0) as reader:
            logs.set_up("text", terminal, {"NO_COLOR": no_colour})
            logging.getLogger("mine").error("bad")
            assert (b"\x1b[31m" in reader.read(1000)) is expected


def test_why_the_daemon_ended_is_a_json_line_too(tmp_path: Path) -> None:
    done = finished("run", "--log-format", "json", "--config", write_settings(tmp_path, novelty={"alpha": 2.0}))
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (done.returncode, line["level"]) == (2, "CRITICAL")
    assert "novelty.alpha" in line["message"]


def test_a_daemon_tells_its_life_in_json(tmp_path: Path) -> None:
    with Running("run", "--log-format", "json", "--config", write_settings(tmp_path, "127.0.0.1:1")) as running:
        running.wait_for('"message": "127.0.0.1:1: cannot connect')
        assert running.stop() == 0
    lines = [json.loads(line) for line in running.text.splitlines() if line != "(ended)"]
    assert lines[-1]["message"] == "stopped"
    assert "front" in {line["thread"] for line in lines if "cannot connect" in line["message"]}


def test_the_form_comes_from_the_option_then_the_environment(tmp_path: Path) -> None:
    assert logs.form_of(None, {}) == "text"
    assert logs.form_of(None, {"TSCC_LOG_FORMAT": "json"}) == "json"
    assert logs.form_of("text", {"TSCC_LOG_FORMAT": "json"}) == "text"
    done = subprocess.run(
        command("run", "--config", write_settings(tmp_path)),
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, "TSCC_LOG_FORMAT": "xml"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2, "tscc-stream: run: TSCC_LOG_FORMAT 'xml': expected text or json\n"
    )  # fmt: skip
