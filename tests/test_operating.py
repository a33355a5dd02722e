"""What docs/operating.md has root type while the daemon is stopped leaves a journal that the daemon's user can open.

Commands of systemd are left out, and the folder is one of this test, owned by somebody without a name, as the user of a
stopped service is.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest
from in_time import PATIENCE_S
from made_messages import detection_message
from test_journal_upkeep import _second_format

from tscc_stream.edges.journal_schema import SCHEMA_VERSION
from tscc_stream.edges.sqlite import JournalFile

TEXT = (Path(__file__).parent.parent / "docs/operating.md").read_text(encoding="utf-8")
NOBODY = (4242, 4243)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def typed(after: str, folder: Path) -> None:
    """The first block of commands after those words, line by line until one fails."""
    block = re.search(r"\n\n((?:    .*\n)+)", TEXT[TEXT.index(after) :])
    assert block is not None
    lines = [line.strip() for line in block[1].splitlines() if "systemctl" not in line]
    script = "\n".join(lines).replace("/var/lib/tscc-stream", f"{folder}/state").replace("/backup", f"{folder}/backup")
    subprocess.run(["sh", "-eux", "-c", script], check=True, timeout=PATIENCE_S)


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Brought up to date, and killed: what was written last is in the log beside it."""
    state = tmp_path / "state"
    state.mkdir()
    path = state / "journal.sqlite"
    _second_format(path, 480_000)
    with JournalFile(path) as opened:
        opened.append([detection_message(31, cluster="1")])
        log = path.with_name("journal.sqlite-wal").read_bytes()
    path.with_name("journal.sqlite-wal").write_bytes(log)
    for one in (state, *state.iterdir()):
        os.chown(one, *NOBODY)
    return path


def test_a_roll_back_puts_the_kept_journal_in_its_place(journal: Path, tmp_path: Path) -> None:
    typed("**Roll back**", tmp_path)
    assert version(journal) == 2
    assert (journal.stat().st_uid, journal.stat().st_gid) == NOBODY
    assert version(tmp_path / "state/newer/journal.sqlite") == SCHEMA_VERSION
    assert sorted(path.name for path in journal.parent.glob("journal.sqlite*")) == [
        "journal.sqlite",
        "journal.sqlite.lock",
        "journal.sqlite.mark",
    ]


def test_a_backup_that_is_restored_belongs_to_the_daemon(journal: Path, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    _second_format(tmp_path / "backup/journal.sqlite", 480_000, messages=7)
    typed("To restore", tmp_path)
    assert (journal.stat().st_uid, journal.stat().st_gid) == NOBODY
    assert not journal.with_name("journal.sqlite-wal").exists(), "another journal's log"
    assert journal.with_name("journal.sqlite.format-2").exists()
    with JournalFile(journal) as opened:
        assert opened.head == 7
