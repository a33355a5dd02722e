"""Ends that take too long, and starts where there is next to nothing: bounded, said, and nothing lost by it."""

from __future__ import annotations

import json
from pathlib import Path

from made_poison import poisoned, windows_of
from made_site import make_archive, serving, write_settings
from test_daemon import daemon, get, listen, take, until

STUCK_IN_APPEND = """
import sys, threading
from tscc_stream import daemon
from tscc_stream.edges.in_flight import InFlight
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.edges.zeromq import Bus
daemon.DRAIN_SECONDS = 1.0

def told(kind, name):
    before = getattr(kind, name)
    def telling(self):
        print("calls", kind.__name__, name, file=sys.stderr, flush=True)
        before(self)
    setattr(kind, name, telling)

def append(self, messages, *rest, append=JournalFile.append):
    if any(b"stopping" in message.body for message in messages):
        threading.Event().wait()
    return append(self, messages, *rest)

JournalFile.append = append
told(JournalFile, "close")
told(InFlight, "end")
told(Bus, "stop")"""
IMPATIENT = "from tscc_stream import daemon; daemon.DRAIN_SECONDS = 1.0"


def test_an_end_that_takes_too_long_is_cut_off_said_and_made_good_by_the_next_start(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "archive")
    made = windows_of(archive)
    windows = {window.uid for window in made}
    slow = poisoned(tmp_path / "slow", "slow", made[1:], turns=2_000_000)
    server, address = serving(archive, "--speed", "max")
    with server:
        path = write_settings(tmp_path, address, model=str(slow), inference={"max_batch": 1})
        with daemon(path, IMPATIENT) as (running, where), listen(where, "detection.") as detections:
            take(detections, 1)
            assert running.stop() == 1
            running.wait_for(r"not everything could be published within 1 s: \d+ lists were left, and thread back did")
            assert "Traceback" not in running.text
        path = write_settings(tmp_path, address)
        with daemon(path) as (running, where), listen(where, "detection.") as detections:
            found = take(detections, len(windows))
            assert running.stop() == 0
    assert sorted(m.body["id"] for m in found) == sorted(windows)


def test_a_journal_is_not_closed_under_the_thread_that_writes_into_it(tmp_path: Path) -> None:
    path = write_settings(tmp_path, "nowhere.invalid:18000")
    with daemon(path, STUCK_IN_APPEND) as (running, _):
        assert running.stop() == 1
        running.wait_for("thread back did not end")
        calls = [line for line in running.text.splitlines() if line.startswith("calls ")]
    assert calls[:2] == ["calls InFlight end", "calls Bus stop"], "so that a SIGKILL meanwhile blames no window"
    assert "calls JournalFile close" not in calls
    with daemon(path) as (running, _):
        assert running.stop() == 0


def test_a_start_without_a_network_and_without_a_graphics_card_works_and_says_so(tmp_path: Path) -> None:
    path = write_settings(tmp_path, "nowhere.invalid:18000")
    no_card = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''"
    with daemon(path, no_card) as (running, where), listen(where) as everything:
        running.wait_for("model demo .* on cpu")
        running.wait_for("torch finds no CUDA device here")
        told = until(everything, "status.seedlink.", connected=False).body["data"]
        assert told["server"] == "nowhere.invalid:18000"
        said = json.loads(get(where, "/healthz"))
        assert (said["state"], said["servers"]) == ("disconnected", {"nowhere.invalid:18000": "not connected"})
        assert {"back", "bus", "front", "models", "shadow"} <= set(said["threads"])
        assert running.stop() == 0
