"""The journal over the years: files of the first format, and what retention removes."""

from __future__ import annotations

import os
import resource
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from in_time import PATIENCE_S
from made_messages import detection_message, mixed
from made_site import BURSTS_S, CHANNELS, Running, make_archive, serving, write_settings
from test_daemon import daemon, listen, until

from tscc_stream.edges.journal_schema import APPLICATION_ID, NS_PER_HOUR, SCHEMA_VERSION
from tscc_stream.edges.sqlite import WITNESSES, JournalError, JournalFile, JournalReader
from tscc_stream.messages import Gap

EPOCH = "0e0e0e0e-0000-4000-8000-000000000001"
FORMAT_1 = (
    "CREATE TABLE journal (epoch TEXT NOT NULL) STRICT",
    """CREATE TABLE message (seq INTEGER PRIMARY KEY, topic_seq INTEGER NOT NULL, topic TEXT NOT NULL,
       kind TEXT NOT NULL, uid TEXT NOT NULL, final INTEGER NOT NULL, sid TEXT NOT NULL, onset_ns INTEGER NOT NULL,
       tolerance_ns INTEGER NOT NULL, body BLOB NOT NULL) STRICT""",
    "CREATE UNIQUE INDEX message_uid ON message (uid, final)",
    "CREATE INDEX message_onset ON message (sid, onset_ns) WHERE kind = 'detection'",
    "CREATE TABLE waveform (seq INTEGER PRIMARY KEY REFERENCES message (seq), samples BLOB NOT NULL) STRICT",
    "CREATE TABLE head (topic_group TEXT PRIMARY KEY, topic_seq INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    "PRAGMA user_version = 1",
)
"""As the first version of the program made its tables."""
FORMAT_2 = (
    *(statement for statement in FORMAT_1 if "waveform" not in statement and "PRAGMA user_version" not in statement),
    """CREATE TABLE waveform (seq INTEGER PRIMARY KEY REFERENCES message (seq), samples BLOB NOT NULL,
       band_passed BLOB) STRICT""",
    "CREATE TABLE model (sha256 TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT",
    "CREATE TABLE hour (hour INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL) STRICT",
    "PRAGMA user_version = 2",
)
"""As the second one did."""
DETECTIONS = len(BURSTS_S) * len(CHANNELS)
HOURS_A_DAY = 24
PLENTY = 1e12


class Clock:
    """Wall time of the tests."""

    def __init__(self) -> None:
        self.hours = 480_000.0

    def __call__(self) -> int:
        return int(self.hours * NS_PER_HOUR)


def _operate(journal: JournalFile, clock: Clock, days: float = 90.0, most: int = 100) -> int:
    """As many hours of operation as make something old; how many messages were removed meanwhile."""
    removed = 0
    for _ in range(WITNESSES):
        removed += journal.trim(days, PLENTY, most)
        clock.hours += 1
    return removed


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Iterator[JournalFile]:
    with JournalFile(tmp_path / "journal.sqlite", clock) as opened:
        yield opened


def _first_format(path: Path, messages: int = 30) -> None:
    db = sqlite3.connect(path)
    for statement in FORMAT_1:
        db.execute(statement)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("INSERT INTO journal VALUES (?)", (EPOCH,))
    for number in range(1, messages + 1):
        m = detection_message(number, cluster="1")
        row = (number, number, m.topic, m.kind, m.uid, 1, m.sid, m.onset_ns, m.tolerance_ns, m.body)
        db.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO waveform VALUES (?, ?)", (number, m.waveform))
    db.execute("INSERT INTO head VALUES ('detection.1', ?)", (messages,))
    db.commit()
    db.close()


def _second_format(path: Path, hour: int, messages: int = 30) -> None:
    db = sqlite3.connect(path)
    for statement in FORMAT_2:
        db.execute(statement)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("INSERT INTO journal VALUES (?)", (EPOCH,))
    db.execute("INSERT INTO model VALUES ('sha', x'7b7d')")
    db.execute("INSERT INTO hour VALUES (?, 1), (?, 21)", (hour - 100 * HOURS_A_DAY, hour))
    for number in range(1, messages + 1):
        m = detection_message(number, cluster="1")
        row = (number, number, m.topic, m.kind, m.uid, 1, m.sid, m.onset_ns, m.tolerance_ns, m.body)
        db.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO waveform VALUES (?, ?, ?)", (number, m.waveform, m.band_passed))
    db.execute("INSERT INTO head VALUES ('detection.1', ?)", (messages,))
    db.commit()
    db.close()


def test_a_file_of_the_second_format_is_copied_brought_up_to_date_and_goes_on(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "journal.sqlite"
    _second_format(path, int(clock.hours))
    with pytest.raises(JournalError, match=r"has format 2.*start the daemon on it once"):
        JournalReader(path)
    with JournalFile(path, clock) as journal:
        assert (journal.epoch, journal.head, journal.renewed) == (EPOCH, 30, "")
        assert journal.append([detection_message(7, cluster="1")]) == []
        assert _operate(journal, clock) == 20, "what it knew of ages still counts"
        [new] = journal.append([detection_message(31, cluster="1")])
        assert (new.seq, new.topic_seq) == (31, 31)
        reader = JournalReader(path)
        assert reader.models() == {"sha": b"{}"}
        assert [w.seq for w in reader.windows(0)] == list(range(21, 32))
        reader.close()
    assert (_version(path), _version(tmp_path / "journal.sqlite.format-2")) == (SCHEMA_VERSION, 2)
    db = sqlite3.connect(tmp_path / "journal.sqlite.format-2")
    assert db.execute("SELECT count(*), max(seq) FROM message").fetchone() == (30, 30)
    db.close()
    assert not (tmp_path / "journal.sqlite.format-1").exists()


@pytest.mark.parametrize("make", [_first_format, lambda path: _second_format(path, 480_000)])
def test_files_of_every_format_end_with_the_tables_of_a_new_one(
    tmp_path: Path, make: Callable[[Path], None], clock: Clock
) -> None:
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    make(old)
    for path in (old, new):
        JournalFile(path, clock).close()
    with JournalFile(old, clock) as journal:
        assert (journal.epoch, journal.renewed) == (EPOCH, "")
    assert _columns(old) == _columns(new)


def _columns(path: Path) -> list[tuple[object, ...]]:
    """Of every table: name, and its columns with their types and constraints."""
    db = sqlite3.connect(path)
    query = """SELECT t.name, c.cid, c.name, c.type, c."notnull", c.pk
               FROM pragma_table_list t JOIN pragma_table_info(t.name) c WHERE t.schema = 'main' ORDER BY 1, 2"""
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def _version(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


def test_a_file_of_the_first_format_is_copied_brought_up_to_date_and_goes_on(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "journal.sqlite"
    _first_format(path)
    with pytest.raises(JournalError, match=r"has format 1.*start the daemon on it once"):
        JournalReader(path)
    with JournalFile(path, clock) as journal:
        assert (journal.epoch, journal.head) == (EPOCH, 30)
        assert journal.append([detection_message(7, cluster="1")]) == []  # still known
        [new] = journal.append([detection_message(31, cluster="1", band_passed=b"\1" * 40)])
        assert (new.seq, new.topic_seq) == (31, 31)
        reader = JournalReader(path)
        page = reader.since(0, "waveform.detection.")
        assert [m.seq for m in page.messages] == list(range(1, 32))
        assert {m.message.waveform for m in page.messages} == {b"\0" * 40}
        assert [(w.seq, w.band_passed) for w in reader.windows(0)] == [(31, b"\1" * 40)]
        assert reader.models() == {}
        reader.close()
    assert (_version(path), _version(tmp_path / "journal.sqlite.format-1")) == (SCHEMA_VERSION, 1)
    db = sqlite3.connect(tmp_path / "journal.sqlite.format-1")
    assert db.execute("SELECT count(*), max(seq) FROM message").fetchone() == (30, 30)
    db.close()


def test_messages_of_the_first_format_grow_old_from_the_day_they_were_brought_up_to_date(
    tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "journal.sqlite"
    _first_format(path)
    with JournalFile(path, clock) as journal:
        clock.hours += 87 * HOURS_A_DAY
        assert _operate(journal, clock) == 0
        clock.hours += 2 * HOURS_A_DAY
        assert _operate(journal, clock) == 30


def test_without_room_for_the_copy_the_old_file_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    _first_format(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(JournalError, match="cannot open it for writing") as refusal:
            JournalFile(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == before
    assert not (tmp_path / "journal.sqlite.format-1").exists()
    JournalFile(path).close()
    assert _version(path) == SCHEMA_VERSION


def test_how_far_the_copy_is_is_told_and_what_a_killed_one_left_does_no_harm(tmp_path: Path, clock: Clock) -> None:
    path, told = tmp_path / "journal.sqlite", list[tuple[int, int]]()
    _second_format(path, int(clock.hours), messages=9000)
    for name in (".journal.sqlite.format-2", ".journal.sqlite.format-2-journal"):
        (tmp_path / name).write_bytes(b"left")
    with JournalFile(path, clock, copying=lambda *far: told.append(far)) as journal:
        assert journal.kept == tmp_path / "journal.sqlite.format-2"
    size = journal.kept.stat().st_size
    assert len(told) > 1
    assert told == sorted(told)
    assert (told[-1], {of for _, of in told}) == ((size, size), {size})
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    with JournalFile(path, clock) as journal:
        assert journal.kept is None


WITHOUT_ROOM = """
mount -t tmpfs -o size=8m none {folder}/disk && cp {folder}/journal.sqlite {folder}/disk/ && exec {python} -c '
import sys, pathlib
from tscc_stream.edges.sqlite import JournalError, JournalFile
try:
    JournalFile(pathlib.Path("{folder}/disk/journal.sqlite"))
except JournalError as error:
    print(type(error).__name__, error)
print(*sorted(path.name for path in pathlib.Path("{folder}/disk").iterdir()))
'
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")
def test_free_room_is_looked_at_first_and_what_is_needed_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    _second_format(path, 480_000, messages=300)
    (tmp_path / "disk").mkdir()
    told = WITHOUT_ROOM.format(folder=tmp_path, python=sys.executable)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", told], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    said, files = done.stdout.splitlines()
    size = (path.stat().st_size + (16 << 20)) / 2**20
    assert said.startswith("JournalBlockedError "), "a passing trouble"
    assert f"journal.sqlite.format-2: that needs {size:.0f} MiB, and " in said
    assert "format-2" not in files


def test_systemd_waits_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir()
    _second_format(tmp_path / "state/journal.sqlite", 480_000)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(PATIENCE_S)
        receiver.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Running("run", "--config", write_settings(tmp_path), fresh=True) as daemon:
            first, second = receiver.recv(4096), receiver.recv(4096)
            daemon.wait_for(r"it is kept as \S+journal.sqlite.format-2 \(0 MiB\): remove that once")
    assert first.startswith(b"EXTEND_TIMEOUT_USEC=300000000\nSTATUS=copying the journal"), first
    assert second.startswith(b"READY=1"), second


def _seqs(reader: JournalReader) -> list[int]:
    return [m.seq for m in reader.since(0, limit=10_000).messages]


def test_what_is_too_old_goes_in_small_steps_and_the_oldest_is_told(
    journal: JournalFile, clock: Clock, tmp_path: Path
) -> None:
    for day in range(5):
        journal.append(mixed(range(100 * day + 1, 100 * day + 101)))
        for _ in range(HOURS_A_DAY):
            clock.hours += 1
            assert journal.trim(5.5, PLENTY) == 0
    for _ in range(HOURS_A_DAY + HOURS_A_DAY // 2):
        clock.hours += 1
        assert journal.trim(5.5, PLENTY) == 0
    reader = JournalReader(journal.path)
    removed = []
    while (step := journal.trim(1.0, PLENTY, most=40)) or not removed:
        removed.append(step)
        assert _seqs(reader) == list(range(sum(removed) + 1, 501))
        assert reader.oldest() == reader.since(0).oldest == sum(removed) + 1
    assert removed == [40, 40, 40, 40, 40, 40, 40, 20]
    assert [w.seq for w in reader.windows(0)] == [
        m.seq for m in reader.since(0).messages if m.message.kind == "detection"
    ]
    assert (reader.head(), journal.head) == (500, 500)
    [next_one] = journal.append([detection_message(1000)])
    assert next_one.seq == 501
    clock.hours += 365 * HOURS_A_DAY
    assert _operate(journal, clock, most=1000) == 201
    page = reader.since(0)
    assert (page.oldest, page.head, page.messages) == (502, 501, ())
    assert journal.trim(90.0, PLENTY) == 0
    reader.close()
    with JournalFile(tmp_path / "empty.sqlite", clock) as empty:
        assert empty.trim(90.0, PLENTY) == 0


def test_old_gaps_and_quarantined_windows_go_in_small_steps(journal: JournalFile, clock: Clock) -> None:
    """A gap that still lasts stays, however long ago it was noted."""
    db = sqlite3.connect(journal.path)

    def note(count: int, name: str) -> None:
        for number in range(count):
            to_ns = None if number == 0 else number + 1
            db.execute("INSERT INTO gap VALUES (?, ?, ?, 'gap', ?)", (name, number, to_ns, clock()))
            db.execute(
                "INSERT INTO quarantine VALUES (?, ?, 0, 'crashed', x'00', ?)", (f"{name}{number}", name, clock())
            )
        db.commit()

    def left() -> tuple[list[tuple[str, int]], ...]:
        queries = (f"SELECT sid, count(*) FROM {table} GROUP BY sid ORDER BY sid" for table in ("gap", "quarantine"))  # noqa: S608  # names and numbers of ours only
        return tuple(db.execute(query).fetchall() for query in queries)

    note(25, "old")
    clock.hours += 91 * HOURS_A_DAY
    note(5, "new")
    for _ in range(WITNESSES - 1):
        journal.trim(90.0, PLENTY, most=10)
        clock.hours += 1
    seen = []
    for _ in range(4):
        assert journal.trim(90.0, PLENTY, most=10) == 0
        seen.append(left())
    assert [dict(gaps)["old"] for gaps, _ in seen] == [15, 5, 1, 1]
    assert [dict(quarantined).get("old", 0) for _, quarantined in seen] == [15, 5, 0, 0]
    assert left() == ([("new", 5), ("old", 1)], [("new", 5)])
    clock.hours += 91 * HOURS_A_DAY
    _operate(journal, clock, most=10)
    assert left() == ([("new", 1), ("old", 1)], [])
    db.close()


def test_a_clock_that_is_set_back_removes_nothing_too_early(journal: JournalFile, clock: Clock) -> None:
    journal.append(mixed(range(1, 11)))
    clock.hours -= 100
    journal.append(mixed(range(11, 21)))
    clock.hours += 150
    assert _operate(journal, clock, 100 / HOURS_A_DAY) == 0
    clock.hours += 60
    assert _operate(journal, clock, 100 / HOURS_A_DAY) == 20


def test_a_clock_that_leaps_ahead_for_some_hours_removes_nothing(tmp_path: Path, clock: Clock) -> None:
    """Whether messages come meanwhile, or the daemon starts anew, or it happens again."""
    path, written = tmp_path / "journal.sqlite", 100
    with JournalFile(path, clock) as journal:
        journal.append(mixed(range(1, 101)), [Gap("FDSN:XX_A__H_H_Z", 1, 2, "link")])
        journal.quarantine("bad", "FDSN:XX_A__H_H_Z", 0, "crashed", b"")
        _operate(journal, clock)
    for _ in range(2):
        clock.hours += 365 * HOURS_A_DAY
        with JournalFile(path, clock) as journal:
            for _ in range(WITNESSES - 1):
                written += 1
                journal.append(mixed(range(written, written + 1)))
                assert journal.trim(90.0, PLENTY) == 0
                clock.hours += 1
            clock.hours -= 365 * HOURS_A_DAY + WITNESSES - 1
            assert _operate(journal, clock) == 0
    with JournalFile(path, clock) as journal:
        assert journal.quarantined() == {"bad": "crashed"}
        reader = JournalReader(path)
        assert (reader.oldest(), reader.head(), len(reader.gaps())) == (1, written, 1)
        reader.close()


def test_after_a_long_pause_what_is_old_goes_once_the_journal_has_been_in_operation(
    journal: JournalFile, clock: Clock
) -> None:
    journal.append(mixed(range(1, 11)))
    clock.hours += 100 * HOURS_A_DAY
    for _ in range(WITNESSES - 1):
        assert journal.trim(90.0, PLENTY) == 0
        clock.hours += 1
    assert journal.trim(90.0, PLENTY) == 10


def test_the_file_stops_growing_where_it_is_large_enough(journal: JournalFile) -> None:
    most, sizes = 400_000, []
    for turn in range(60):
        numbers = range(50 * turn + 1, 50 * turn + 51)
        journal.append([detection_message(n, waveform=b"\0" * 2000, band_passed=b"\0" * 2000) for n in numbers])
        journal.trim(90.0, most, most=100)
        sizes.append(journal.used_bytes)
    assert max(sizes) < most + 400_000
    assert max(sizes[30:]) <= max(sizes[:30])
    reader = JournalReader(journal.path)
    assert 0 < reader.head() - reader.oldest() + 1 < 200
    assert _seqs(reader) == list(range(reader.oldest(), 3001))
    reader.close()


def test_models_that_were_live_are_kept_the_latest_last(journal: JournalFile) -> None:
    for sha256, document in (("a", b"1"), ("b", b"2"), ("a", b"1")):
        journal.remember_model(sha256, document)
    reader = JournalReader(journal.path)
    assert list(reader.models().items()) == [("b", b"2"), ("a", b"1")]
    reader.close()


def test_a_detection_of_500_samples_takes_less_than_seven_kilobytes(journal: JournalFile) -> None:
    before = journal.used_bytes
    count = 1000
    journal.append(
        detection_message(n, size=600, waveform=b"\1" * 2000, band_passed=b"\2" * 2000) for n in range(1, count + 1)
    )
    per_detection = (journal.used_bytes - before) / count
    assert 4000 < per_detection < 7000


def test_a_daemon_keeps_to_what_its_journal_may_hold(tmp_path: Path) -> None:
    """A tenth of a MiB: every window is classified once, and the oldest messages leave the file."""
    server, address = serving(make_archive(tmp_path / "four"), "--speed", "max", "--once")
    path = write_settings(tmp_path, address, retention={"max_gib": 0.0001})
    with server, daemon(path) as (running, where):
        with listen(where, "status.seedlink.") as links:
            until(links, "status.seedlink.", connected=False)
        assert running.stop() == 0
    reader = JournalReader(tmp_path / "state" / "journal.sqlite")
    heads, page = reader.topic_heads(), reader.since(0)
    assert sum(head for group, head in heads.items() if group.startswith("detection.")) == DETECTIONS
    assert 1 < page.oldest < page.head == sum(heads.values())
    assert [m.seq for m in page.messages] == list(range(page.oldest, page.head + 1))
    reader.close()
