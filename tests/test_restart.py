"""A daemon that starts again: where it left off, or warm where that does not fit, or from the beginning."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path

import pytest
from made_site import BURSTS_S, CHANNELS, SECONDS, Running, make_archive, serving, settings, write_settings
from test_daemon import _metrics_once, daemon, get, listen, take

from tscc_stream.edges.sqlite import JournalReader

DETECTIONS = len(BURSTS_S) * len(CHANNELS)
ALL_SAMPLES = f'tscc_samples_total{{sid="FDSN:XX_A__H_H_Z"}} {SECONDS * 100:.1f}'


@pytest.fixture
def ran(tmp_path: Path) -> tuple[Path, Path]:
    """A configuration and an archive, which a daemon has read to its end once and was stopped."""
    archive = make_archive(tmp_path / "archive")
    server, address = serving(archive, "--speed", "max")
    path = write_settings(tmp_path, address)
    with server, daemon(path) as (running, where):
        with listen(where, "detection.") as detections:
            take(detections, DETECTIONS)
        _wait_for_all(where)
        assert running.stop() == 0
    return path, archive


def _wait_for_all(where: dict[str, str]) -> None:
    with listen(where) as everything:
        _metrics_once(where, ALL_SAMPLES, everything)


def stored(folder: Path) -> list[tuple[str, int]]:
    reader = JournalReader(folder / "state" / "journal.sqlite")
    found = [(m.message.uid, m.message.onset_ns) for m in reader.since(0, "detection.", 10_000).messages]
    reader.close()
    return found


def restarted(path: Path, archive: Path, says: str, *, reads: bool, **over: object) -> None:
    """The daemon once more, at the same server, which has everything; reads: whether that comes again."""
    address = json.loads(path.read_text())["seedlink"][0]["server"]
    path.write_text(json.dumps(settings(path.parent, address, **over)))
    server = Running("serve", archive, "--bind", address, "--speed", "max")
    server.wait_for("listening on")
    with server, daemon(path) as (running, where):
        running.wait_for(says)
        running.wait_for("connected to")
        if reads:
            _wait_for_all(where)
        else:
            text = get(where, "/metrics")
            assert "tscc_samples_total{" not in text
            assert text.count("tscc_last_sample_timestamp_seconds{") == len(CHANNELS), "what does not come is missed"
        assert running.stop(signal.SIGTERM) == 0


def test_another_trigger_warms_up_and_publishes_nothing_a_second_time(ran: tuple[Path, Path]) -> None:
    path, archive = ran
    before = stored(path.parent)
    says = "made with another trigger and is refused: reading"
    other = {"trigger_on": 5.0, "sta_seconds": 0.3}
    restarted(path, archive, says, reads=True, trigger=other)
    assert stored(path.parent) == before
    restarted(path, archive, "going on from the snapshot", reads=False, trigger=other)
    assert stored(path.parent) == before


def test_a_damaged_snapshot_is_told_and_the_journal_refuses_repeats(ran: tuple[Path, Path]) -> None:
    path, archive = ran
    before = stored(path.parent)
    db = sqlite3.connect(path.parent / "state" / "journal.sqlite")
    with db:
        db.execute("UPDATE snapshot SET state = substr(state, 1, 100)")
    db.close()
    restarted(path, archive, "the snapshot is damaged: starting where the configuration says", reads=True)
    assert stored(path.parent) == before
