"""What people do with a journal: is it whole, its messages as lines, a copy, a smaller file; damaged ones as well."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_messages import detection_message, mixed
from made_site import finished, write_settings

from tscc_stream import cli
from tscc_stream.client import Received
from tscc_stream.edges import journal_check, journal_copy
from tscc_stream.edges.journal_copy import backup, compact
from tscc_stream.edges.sqlite import JournalError, JournalFile, JournalReader
from tscc_stream.journal_upkeep import check, export
from tscc_stream.messages import Gap
from tscc_stream.stages.journal import JournalDamagedError, Snapshot
from tscc_stream.tail import as_json

HERE = Path(__file__).parent
PAGE = 4096
MESSAGES = 3000
FILES = ["journal.sqlite", "journal.sqlite.lock", "journal.sqlite.mark"]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def path(state: Path) -> Path:
    return state / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[JournalFile]:
    with JournalFile(path) as opened:
        opened.append(mixed(range(1, 501)))
        yield opened


def filled(path: Path, messages: int = MESSAGES) -> None:
    with JournalFile(path) as journal:
        journal.append(mixed(range(1, messages + 1)))


def flip(path: Path, content: bytes, size: int = 100) -> None:
    """Another disk's idea of the page that holds this content first, from the page's header on."""
    data = bytearray(path.read_bytes())
    start = data.index(content) // PAGE * PAGE
    data[start : start + size] = bytes(byte ^ 0xFF for byte in data[start : start + size])
    path.write_bytes(data)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], str]:
    status = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err


def changed(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def test_a_whole_journal_is_checked_while_its_daemon_writes(
    journal: JournalFile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_progress(*_: int) -> None:
        journal.append([detection_message(journal.head + 10_000)])
        journal.trim(90.0, 1e12)

    monkeypatch.setattr(journal_check, "STRETCH", 100)
    walk = journal_check.Numbering.walk
    monkeypatch.setattr(journal_check.Numbering, "walk", lambda self, _: walk(self, on_progress))
    status, said, _ = run(capsys, "journal", "check", "--state-dir", journal.path.parent)
    assert (status, said[-1]) == (0, f"{journal.path}: whole")
    assert said[0] == "506 messages, seq 1 to 506"


def test_retention_may_remove_messages_under_the_check(
    journal: JournalFile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_check, "STRETCH", 100)
    walk = journal_check.Numbering.walk
    monkeypatch.setattr(
        journal_check.Numbering, "walk", lambda self, _: walk(self, lambda *_: journal.trim(90.0, 1.0, most=130))
    )
    status, said, _ = run(capsys, "journal", "check", "--state-dir", journal.path.parent)
    assert status == 0, said


WRONG = {
    "seq 100 to 102: missing": ["DELETE FROM message WHERE seq BETWEEN 100 AND 102"],
    "seq 100: has topic_seq 7 of status.daemon": [
        "UPDATE message SET topic_seq = 7, topic = 'status.daemon.' WHERE seq = 100"
    ],
    "seq 500: a waveform without a message|seq 499: a waveform without": ["DELETE FROM message WHERE seq >= 499"],
    "beyond the head": ["DELETE FROM head WHERE topic_group = 'network.0'"],
    "snapshot: its checksum does not hold": ["INSERT INTO snapshot VALUES (1, 1, x'', 3, x'', x'', x'', x'00')"],
    "gap: XX ends before it begins": ["INSERT INTO gap VALUES ('XX', 10, 9, 'gap', 0)"],
    "spilled: u has no window": ["INSERT INTO spilled VALUES (1, 'u', x'')"],
}


@pytest.mark.parametrize(("said", "statements"), WRONG.items())
def test_what_is_wrong_is_one_line_each(
    path: Path, capsys: pytest.CaptureFixture[str], said: str, statements: list[str]
) -> None:
    filled(path, 500)
    changed(path, *statements)
    status, lines, _ = run(capsys, "journal", "check", "--state-dir", path.parent)
    wrong = [line for line in lines if line.startswith("wrong: ")]
    assert status == 1
    assert any(re.search(said, line) for line in wrong), lines
    assert lines[-1] == f"{path}: not whole"


def test_a_uid_that_the_index_does_not_know_is_found(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a page of the index would be that was not written: the same message could be stored again."""
    filled(path, 50)
    db = sqlite3.connect(path)
    root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'message_uid'").fetchone()[0]
    db.close()
    data = bytearray(path.read_bytes())
    page = data[(root - 1) * PAGE : root * PAGE]
    assert page[0] == 10, "a leaf of an index"
    data[(root - 1) * PAGE + 3 : (root - 1) * PAGE + 5] = (49).to_bytes(2, "big")  # one cell fewer
    path.write_bytes(data)
    status, lines, _ = run(capsys, "journal", "check", "--state-dir", path.parent)
    assert status == 1
    assert any("its uid is not exactly once in the index" in line for line in lines), lines


def test_a_good_snapshot_is_no_finding(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(path, 5)
    made = Snapshot(1, b"{}", b"{}", b"{}", b"state")
    db = sqlite3.connect(path)
    row = (1, 1, made.made_of, 5, made.positions, made.reached, made.state, made.checksum(5))
    db.execute("INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    db.commit()
    db.close()
    assert run(capsys, "journal", "check", "--state-dir", path.parent)[0] == 0


def test_a_clock_that_was_set_back_is_no_finding(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with JournalFile(path) as journal:
        journal.append(mixed(range(1, 6)), [Gap("FDSN:XX_A__H_H_Z", 2_000, 1_000, "clock")])
    status, said, _ = run(capsys, "journal", "check", "--state-dir", path.parent)
    assert (status, said[-1]) == (0, f"{path}: whole")


def test_age_and_size_are_told_against_what_the_site_keeps(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(path)
    config = write_settings(tmp_path, retention={"days": 10.0, "max_gib": 0.0001})
    status, lines, _ = run(capsys, "journal", "check", "--config", config)
    assert status == 1
    assert [line for line in lines if "retention.max_gib is 0.0001" in line]
    changed(path, "UPDATE hour SET hour = hour - 24 * 30")
    config = write_settings(tmp_path, retention={"days": 10.0})
    status, lines, _ = run(capsys, "journal", "check", "--config", config)
    assert (status, lines[0][:37]) == (1, "wrong: the oldest message is 30.0 days"[:37])


def test_export_is_what_tail_prints(journal: JournalFile, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    reader = JournalReader(journal.path)
    page = reader.since(0)
    reader.close()
    expected = [
        as_json(Received(journal.epoch, m.seq, m.topic_seq, m.message.topic, json.loads(m.message.body), b""))
        for m in page.messages
    ]
    folder = journal.path.parent
    assert run(capsys, "journal", "export", "--state-dir", folder) == (0, expected, "")
    status, lines, _ = run(capsys, "journal", "export", "--state-dir", folder, "--since", 400, "--topic", "network.")
    topics = [m.message.topic for m in page.messages]
    assert (status, lines) == (
        0,
        [x for x, topic in zip(expected, topics, strict=True) if topic[:4] == "netw"][-len(lines) :],
    )
    assert all(json.loads(line)["seq"] > 400 for line in lines)
    out = tmp_path / "out.jsonl"
    assert run(capsys, "journal", "export", "--state-dir", folder, "--out", out)[0] == 0
    assert out.read_text().splitlines() == expected
    status, _, said = run(capsys, "journal", "export", "--state-dir", folder, "--out", out)
    assert (status, "is there already" in said) == (2, True)


def test_a_damaged_page_is_found_at_start_said_and_left_alone_and_the_rest_is_saved(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(path)
    flip(path, b'{"number":1501,')
    before = path.read_bytes()
    ended = finished("run", "--config", write_settings(tmp_path))
    assert ended.returncode == 1
    [sentence] = [line for line in ended.stderr.splitlines() if line.startswith("tscc-stream: ")]
    assert "journal.sqlite: is damaged: " in sentence
    assert f"`tscc-stream journal export --state-dir {path.parent} --out FILE`" in sentence
    assert path.read_bytes() == before

    status, lines, said = run(capsys, "journal", "export", "--state-dir", path.parent)
    lost = [tuple(map(int, found)) for found in re.findall(r"lost: seq (\d+) to (\d+)", said)]
    gone = {seq for first, last in lost for seq in range(first, last + 1)}
    assert status == 1
    assert 1501 in gone
    assert len(gone) < 40, "one page holds no more"
    assert [json.loads(line)["seq"] for line in lines] == [n for n in range(1, MESSAGES + 1) if n not in gone]
    assert run(capsys, "journal", "check", "--state-dir", path.parent)[0] == 1

    path.rename(path.with_name("damaged.sqlite"))
    with JournalFile(path) as journal:
        assert (journal.head, journal.renewed) == (0, "")


def test_a_message_that_is_no_json_any_more_is_lost_alone(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(path, 50)
    changed(path, "UPDATE message SET body = x'ff00' WHERE seq = 7")
    status, lines, said = run(capsys, "journal", "export", "--state-dir", path.parent)
    assert (status, len(lines), "lost: seq 7 to 7" in said) == (1, 49, True)


def test_messages_that_are_not_there_are_told_as_lost(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(path, 50)
    changed(path, "DELETE FROM message WHERE seq IN (1, 2, 7, 8, 9, 50)")  # as after retention: before 3 is none
    status, lines, said = run(capsys, "journal", "export", "--state-dir", path.parent)
    assert (status, len(lines)) == (1, 44)
    assert re.findall(r"lost: seq (\d+) to (\d+)", said) == [("7", "9"), ("50", "50")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "journal.sqlite"
    filled(path, 300)
    return path


@settings(max_examples=60, deadline=None)
@given(spots=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 5000)), min_size=1, max_size=4))
def test_whatever_bytes_are_flipped_every_message_is_exported_or_told_as_lost(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, spots: list[tuple[int, int]]
) -> None:
    """Or nothing can be found at all, which is said in one sentence. And a start never writes into such a file."""
    rotten = bytearray(whole.read_bytes())
    for start, size in spots:
        for at in range(start % len(rotten), min(start % len(rotten) + size, len(rotten))):
            rotten[at] ^= 0x5A
    path = tmp_path_factory.mktemp("rotten") / "journal.sqlite"
    path.write_bytes(rotten)
    out = io.StringIO()
    with contextlib.suppress(JournalError):
        lost = export(path, 0, "", out, lambda *_: None)
        seqs = [json.loads(line)["seq"] for line in out.getvalue().splitlines()]
        gone = [seq for stretch in lost for seq in range(stretch.first, stretch.last + 1)]
        assert seqs == sorted(set(seqs))
        assert set(range(1, 301)) <= set(seqs) | set(gone)
    with contextlib.suppress(JournalError):
        check(path, None, 60.0, lambda *_: None)
    with contextlib.suppress(JournalError), contextlib.closing(JournalReader(path)) as reader:
        reader.since(0, "waveform.", limit=1000)
        reader.since(0, limit=1000)
    opened = False
    with contextlib.suppress(JournalError):
        JournalFile(path).close()
        opened = True
    assert opened or path.read_bytes() == rotten


def test_damage_that_a_start_did_not_see_ends_the_work_with_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    flip(path, b'{"number":1501,')
    monkeypatch.setattr(journal_check, "START_SECONDS", 0.0)
    monkeypatch.setattr("tscc_stream.edges.sqlite.check_start", lambda *_: None)
    with JournalFile(path) as journal:
        assert len(journal.append([detection_message(9001)])) == 1
        with pytest.raises(JournalDamagedError, match=r"malformed; `tscc-stream journal export"):
            journal.trim(90.0, 1.0, most=MESSAGES)
        assert len(journal.append([detection_message(9004)])) == 1


def test_heads_that_do_not_fit_the_messages_are_refused_at_start(path: Path) -> None:
    filled(path, 30)
    changed(path, "UPDATE head SET topic_seq = topic_seq - 1 WHERE topic_group = 'network.0'")
    with pytest.raises(JournalDamagedError, match="its last message has seq 30, its heads add up to 29"):
        JournalFile(path)


def test_a_file_without_its_first_page_is_one_sentence(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(path, 30)
    flip(path, b"SQLite format 3")
    for action in ("check", "export", "compact"):
        status, lines, said = run(capsys, "journal", action, "--state-dir", path.parent)
        assert (status, lines, said.count("\n")) == (1, [], 1)
        assert "file is not a database" in said


def test_a_backup_is_whole_while_the_daemon_writes(
    journal: JournalFile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "copy.sqlite"
    assert run(capsys, "journal", "backup", "--state-dir", journal.path.parent, "--out", out)[0] == 0
    journal.append([detection_message(10_000)])
    reader = JournalReader(out)
    assert (reader.epoch, reader.head()) == (journal.epoch, 500)
    reader.close()
    status, _, said = run(capsys, "journal", "backup", "--state-dir", journal.path.parent, "--out", out)
    assert (status, "is there already" in said) == (1, True)
    status, _, said = run(
        capsys, "journal", "backup", "--state-dir", journal.path.parent, "--out", tmp_path / "no" / "x"
    )
    assert (status, said.count("\n")) == (1, 1)


def test_compact_gives_room_back_and_the_journal_goes_on(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with JournalFile(path) as journal:
        journal.append(mixed(range(1, MESSAGES + 1)))
        journal.trim(90.0, 300_000.0, most=MESSAGES)
        epoch, head, heads = journal.epoch, journal.head, journal.topic_heads
        status, _, said = run(capsys, "journal", "compact", "--state-dir", path.parent)
        assert (status, f"process {os.getpid()} is writing it" in said) == (1, True)
    path.chmod(0o640)
    before = path.stat().st_size
    status, lines, _ = run(capsys, "journal", "compact", "--state-dir", path.parent)
    assert status == 0
    assert re.search(r"\d\.\d MiB before, 0\.\d MiB after", lines[0])
    assert path.stat().st_size < before / 2
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in path.parent.iterdir()) == FILES
    with JournalFile(path) as journal:
        assert (journal.renewed, journal.epoch, journal.head, journal.topic_heads) == ("", epoch, head, heads)
        assert [m.seq for m in journal.append([detection_message(10_000)])] == [head + 1]


def test_compact_waits_for_no_reader(path: Path) -> None:
    filled(path, 50)
    before = path.read_bytes()
    reader = JournalReader(path)
    reader.since(0)
    with pytest.raises(JournalError, match="another program reads it; end that first"):
        compact(path, lambda *_: None)
    assert path.read_bytes() == before
    reader.close()
    compact(path, lambda *_: None)


def test_compact_without_room_leaves_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    before = path.read_bytes()
    usage = journal_copy.shutil.disk_usage(path.parent)
    monkeypatch.setattr(journal_copy.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(JournalError, match=r"1.0 MiB are free there, a copy of the journal needs \d\.\d MiB"):
        compact(path, lambda *_: None)
    assert path.read_bytes() == before


KILLED = """
import os, sys
from pathlib import Path
from tscc_stream.edges import journal_copy

def end(*_):
    os.kill(os.getpid(), 9)

steps = iter([lambda *_: None] * 20 + [end])
journal_copy._STEPS = 100
if sys.argv[2] == "replacing":
    journal_copy._belong_as = end
journal_copy.compact(Path(sys.argv[1]), lambda *_: sys.argv[2] == "copying" and next(steps)())
"""


@pytest.mark.parametrize("moment", ["copying", "replacing"])
def test_kill_9_in_the_middle_of_compacting_leaves_the_old_file_whole(path: Path, moment: str) -> None:
    filled(path)
    before = path.read_bytes()
    ended = subprocess.run([sys.executable, "-P", "-c", KILLED, str(path), moment], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert {"copying": "compact.part", "replacing": "compact"}[moment] in str(sorted(path.parent.iterdir()))
    assert path.read_bytes() == before
    compact(path, lambda *_: None)
    assert sorted(p.name for p in path.parent.iterdir()) == FILES
    with JournalFile(path) as journal:
        assert (journal.head, journal.renewed) == (MESSAGES, "")


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()])
def test_without_a_journal_every_action_says_so(
    path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(path)
    for action in (["check"], ["export"], ["compact"], ["backup", "--out", tmp_path / "out"]):
        status, _, said = run(capsys, "journal", *action, "--state-dir", path.parent)
        assert (status, "no such file; the daemon makes it when it first starts" in said) == (2, True)


def test_a_copy_in_a_folder_that_cannot_be_written_can_be_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(path, 50)
    was = os.geteuid()
    with tempfile.TemporaryDirectory() as medium:
        backup(path, Path(medium) / "journal.sqlite", lambda *_: None)
        (Path(medium) / "journal.sqlite").chmod(0o444)
        Path(medium).chmod(0o555)
        if was == 0:
            os.seteuid(65534)  # the superuser may write everywhere
        try:
            status, lines, said = run(capsys, "journal", "check", "--state-dir", medium)
        finally:
            os.seteuid(was)
    assert (status, said) == (0, ""), lines
