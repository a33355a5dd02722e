"""The journal on disk: nothing acknowledged is lost, numbers have no holes, and what fails says why."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_messages import SECOND, detection_message, mixed, network_message, status_message

from tscc_stream.edges import journal_schema, sqlite
from tscc_stream.edges.sqlite import JournalError, JournalFile, JournalReader
from tscc_stream.messages import Committed, Message

HERE = Path(__file__).parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[JournalFile]:
    with JournalFile(path) as opened:
        yield opened


@pytest.fixture
def reader(journal: JournalFile) -> Iterator[JournalReader]:
    opened = JournalReader(journal.path)
    yield opened
    opened.close()


def fields(committed: Committed) -> tuple[object, ...]:
    message = committed.message
    names = ("uid", "kind", "topic", "body", "onset_ns", "sid", "tolerance_ns", "final")
    return (committed.seq, committed.topic_seq, *(getattr(message, name) for name in names))


def seqs(committed: tuple[Committed, ...] | list[Committed]) -> list[int]:
    return [one.seq for one in committed]


def test_what_is_read_is_what_was_written(journal: JournalFile, reader: JournalReader) -> None:
    written = journal.append(mixed(range(1, 40)))
    page = reader.since(0)
    assert [fields(one) for one in page.messages] == [fields(one) for one in written]
    assert seqs(written) == list(range(1, 40))
    assert (page.oldest, page.head, page.through) == (1, 39, 39)
    assert page.heads == journal.topic_heads == reader.topic_heads()
    assert journal.head == reader.head() == sum(page.heads.values()) == 39


def test_an_empty_journal(journal: JournalFile, reader: JournalReader) -> None:
    assert (journal.head, reader.head(), reader.oldest()) == (0, 0, 1)
    assert journal.append([]) == []
    page = reader.since(0)
    assert (page.oldest, page.head, page.through, page.messages) == (1, 0, 0, ())


def test_it_goes_on_where_it_stopped(path: Path) -> None:
    with JournalFile(path) as journal:
        epoch = journal.epoch
        journal.append(mixed(range(1, 20)))
        heads = journal.topic_heads
    with JournalFile(path) as journal:
        assert (journal.epoch, journal.head, journal.topic_heads) == (epoch, 19, heads)
        assert seqs(journal.append(mixed(range(10, 25)))) == [20, 21, 22, 23, 24]
        assert journal.duplicates == 10


def test_another_journal_is_another_epoch(tmp_path: Path) -> None:
    with JournalFile(tmp_path / "a") as a, JournalFile(tmp_path / "b") as b:
        assert a.epoch != b.epoch


def test_duplicates_by_uid_and_by_onset(journal: JournalFile) -> None:
    first = detection_message(1)
    near = Message("other", "detection", first.topic, b"{}", SECOND + 2_500_000, first.sid, 2_500_000)
    far = Message("far", "detection", first.topic, b"{}", SECOND + 2_500_001, first.sid, 2_500_000)
    journal.append([first, network_message(1, final=False)])
    assert [one.message.uid for one in journal.append([first, near, far])] == ["far"]
    assert [one.message.final for one in journal.append([network_message(1)] * 2)] == [True]
    assert journal.append([network_message(1, final=False)]) == []
    assert journal.duplicates == 4
    assert journal.contains("far")
    assert journal.contains("network-1")
    assert not journal.contains("other")


def test_pages(journal: JournalFile, reader: JournalReader) -> None:
    journal.append(mixed(range(1, 101)))
    assert seqs(reader.since(10, limit=5).messages) == [11, 12, 13, 14, 15]
    assert reader.since(10, limit=5).through == 15
    assert reader.since(10, limit=90).through == 100
    assert reader.since(None).messages == ()
    assert reader.since(None).through == 100
    assert reader.since(100).messages == reader.since(2**63 - 1).messages == ()
    large = reader.since(0, max_bytes=1000)
    sizes = [len(one.message.body) for one in large.messages]
    assert sum(sizes[:-1]) < 1000 <= sum(sizes)
    assert large.through == large.messages[-1].seq
    assert len(reader.since(0, max_bytes=1).messages) == 1, "one message always fits, or nobody would get past it"


def test_topics(journal: JournalFile, reader: JournalReader) -> None:
    written = journal.append(mixed(range(1, 101)))
    for topic in ("detection.", "detection.1.", "detection.1.BW.UH2", "network.", "status.daemon.", "det", ""):
        page = reader.since(0, topic)
        assert seqs(page.messages) == [one.seq for one in written if one.message.topic.startswith(topic)]
        assert page.messages
        assert page.through == 100
        assert all(one.message.waveform is None for one in page.messages)
    assert reader.since(0, "detection.7.").messages == ()


def test_waveforms_come_with_their_topic(journal: JournalFile, reader: JournalReader) -> None:
    journal.append([detection_message(1, waveform=b"\1\2"), detection_message(2, waveform=None), status_message(1)])
    assert [one.message.waveform for one in reader.since(0, "waveform.").messages] == [b"\1\2"]
    assert [one.message.waveform for one in reader.since(0, "waveform.detection.1.").messages] == [b"\1\2"]
    assert reader.since(0, "waveform.detection.2.").messages == ()


def test_one_read_looks_at_a_bounded_stretch(
    journal: JournalFile, reader: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "SCAN", 10)
    journal.append([detection_message(n) for n in range(1, 30)])
    journal.append([status_message(1)])
    through, pages = 0, []
    while through < 30:
        page = reader.since(through, "status.")
        pages.append((page.through, seqs(page.messages)))
        through = page.through
    assert pages == [(10, []), (20, []), (30, [30])]


def test_what_retention_removed_is_said(journal: JournalFile, reader: JournalReader) -> None:
    journal.append(mixed(range(1, 21)))
    other = sqlite3.connect(journal.path)
    other.execute("DELETE FROM message WHERE seq <= 12")
    other.commit()
    page = reader.since(3, limit=2)
    assert (page.oldest, reader.oldest(), seqs(page.messages), page.through) == (13, 13, [13, 14], 14)
    other.execute("DELETE FROM message")
    other.commit()
    other.close()
    page = reader.since(3)
    assert (page.oldest, page.head, page.through, page.messages) == (21, 20, 20, ())
    assert seqs(journal.append([detection_message(1)])) == [21], "numbers are never used twice"


def test_a_reader_sees_what_is_committed_later(journal: JournalFile, reader: JournalReader) -> None:
    assert reader.head() == 0
    journal.append([status_message(1)])
    assert seqs(reader.since(0).messages) == [1]


def test_commits_are_synchronous(journal: JournalFile) -> None:
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_lookups_use_an_index(journal: JournalFile, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sqlite, "number_of", lambda _db, query, _parameters=(): asked.append(query) or 0)
    journal.has_uid("a", final=False)
    journal.has_onset("a", 0, 1)
    plans = [
        str(journal._db.execute("EXPLAIN QUERY PLAN " + query, ("a", 0, 1)[: query.count("?")]).fetchall())
        for query in asked
    ]
    assert ["message_uid" in plans[0], "message_onset" in plans[1]] == [True, True], plans


def test_a_second_daemon_is_refused_with_the_first_one_named(journal: JournalFile) -> None:
    with pytest.raises(JournalError, match=rf"process {os.getpid()} is writing it; one daemon per state_dir"):
        JournalFile(journal.path)
    journal.close()
    journal.close()
    JournalFile(journal.path).close()


def test_a_full_disk_stores_nothing_of_the_group_and_it_can_be_appended_again(
    journal: JournalFile, reader: JournalReader
) -> None:
    journal.append(mixed(range(1, 10)))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = journal.path.with_name(journal.path.name + "-wal").stat().st_size
    group = [detection_message(n, size=10_000) for n in range(10, 60)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, limit[1]))
    try:
        with pytest.raises(JournalError, match="cannot write to it"):
            journal.append(group)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (journal.head, reader.head(), journal.duplicates) == (9, 9, 0)
    assert seqs(journal.append(group)) == list(range(10, 60))
    assert reader.head() == 59


def test_a_failing_source_of_messages_stores_nothing(journal: JournalFile) -> None:
    def messages() -> Iterator[Message]:
        yield detection_message(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        journal.append(messages())
    assert journal.head == 0
    assert seqs(journal.append([detection_message(1)])) == [1]


def as_text(path: Path) -> None:
    path.write_text("this is no database, and it is longer than one hundred bytes " * 4)


def as_other_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE a (b)")
    db.close()


def as_newer_journal(path: Path) -> None:
    JournalFile(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {journal_schema.SCHEMA_VERSION + 1}")
    db.close()


def as_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (as_text, "file is not a database"),
        (as_other_database, "an SQLite database of something else"),
        (as_newer_journal, "has format 4, this program reads format 3: use the tscc-stream that wrote it"),
        (as_folder, "it is a folder|disk I/O error"),
    ],
)
def test_what_is_not_our_journal_is_refused_and_left_alone(tmp_path: Path, make: object, said: str) -> None:
    path = tmp_path / "journal.sqlite"
    make(path)  # type: ignore[operator]  # one of the forms that are tried
    before = path.read_bytes() if path.is_file() else b""
    for opener in (JournalFile, JournalReader, JournalFile):
        with pytest.raises(JournalError, match=said) as refusal:
            opener(path)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_places_where_no_journal_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot open it for writing"):
        JournalFile(tmp_path / "file" / "journal.sqlite")
    with pytest.raises(JournalError, match=r"cannot .*: there is no folder"):
        JournalReader(tmp_path / "absent" / "journal.sqlite")


def test_a_folder_that_may_not_be_written() -> None:
    nobody = 65534
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        was = os.geteuid()
        if was == 0:
            os.seteuid(nobody)  # the superuser may write everywhere
        try:
            with pytest.raises(JournalError, match="cannot open it for writing: Permission denied"):
                JournalFile(Path(folder) / "journal.sqlite")
        finally:
            os.seteuid(was)


APPENDER = """
import sys
from itertools import count
from pathlib import Path
from made_messages import mixed
from tscc_stream.edges.sqlite import JournalFile

journal, at = JournalFile(Path(sys.argv[1])), 1
for turn in count():
    size = 1 + turn * 7 % 13
    journal.append(mixed(range(at, at + size)))
    at += size
    print(journal.head, flush=True)
"""


def test_kill_9_leaves_no_hole_and_loses_nothing_acknowledged(path: Path) -> None:
    """Each round starts again from the first message, as a daemon does that lost its snapshots."""
    acknowledged = 0
    for wanted in (50, 400, 900):
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", APPENDER, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"},
        )
        assert child.stdout is not None
        with child, child.stdout:
            for line in child.stdout:
                acknowledged = int(line)
                if acknowledged >= wanted:
                    break
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                acknowledged = int(line) if line.endswith(b"\n") else acknowledged
        with JournalFile(path) as journal:
            reader = JournalReader(path)
            messages = [one for since in range(0, journal.head, 500) for one in reader.since(since).messages]
            reader.close()
            assert seqs(messages) == list(range(1, journal.head + 1))
            assert journal.head >= acknowledged >= wanted
            assert [one.message.body for one in messages] == [one.body for one in mixed(range(1, journal.head + 1))]
            assert journal.topic_heads == _counted(messages)


def _counted(messages: list[Committed]) -> dict[str, int]:
    heads: dict[str, int] = {}
    for one in messages:
        group = ".".join(one.message.topic.split(".")[:2])
        heads[group] = heads.get(group, 0) + 1
        assert one.topic_seq == heads[group]
    return heads


def test_where_a_wall_time_lies_among_the_messages(tmp_path: Path) -> None:
    """To the hour; a clock that was wrong for a while hides nothing."""
    path, hour, now = tmp_path / "journal.sqlite", 3_600_000_000_000, [0]
    with JournalFile(path, clock=lambda: now[0]) as journal:
        assert JournalReader(path).before(100 * hour) == 0
        for number, at in enumerate((10, 10, 11, 13, 0, 14)):  # hours: set back to 1970 before the fifth message
            now[0] = at * hour + 5
            journal.append([detection_message(number + 1)])
        reader = JournalReader(path)
        assert [reader.before(at * hour) for at in (9, 10, 11, 12, 13, 14, 99)] == [0, 0, 2, 3, 3, 5, 5]
        last = reader.last_word("detection-3")
        assert last is not None
        assert (last.seq, last.message.uid) == (3, "detection-3")
        assert reader.last_word("detection-99") is None
        assert reader.snapshot() is None
        reader.close()
