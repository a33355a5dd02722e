"""The journal of alerts: one transaction, a bounded queue, failures to be told, old entries, other files."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream import writable
from tscc_stream.apps.alert_book import Book
from tscc_stream.apps.alert_metrics import AlertMetrics
from tscc_stream.edges import alert_journal
from tscc_stream.edges.alert_journal import FILE, AlertJournal, NewAlert, NewRound, NewWithheld, Place
from tscc_stream.edges.alert_journal_file import AlertJournalError, AlertJournalHeldError


def new(number: int, *actions: str, at_ns: int = 0) -> NewAlert:
    return NewAlert(f"id-{number}", at_ns, "rule", "event", "warning", f"title {number}", {"n": number}, actions)


def test_everything_goes_in_together_and_an_alert_only_once(tmp_path: Path) -> None:
    with AlertJournal(tmp_path / FILE) as journal:
        withheld = NewWithheld(5, 4, "rule", "uid", "suppressed", "blast")
        journal.commit([new(1, "a", "b", "a")], [withheld], states={"rule": b"x"}, place=Place("e", 7))
        journal.commit([new(1, "c")], rounds=[NewRound("id-1", 1, 9, ("a",))], states={"rule": b"y"})
        (stored,) = journal.recent()
        assert [(one.action, one.round) for one in stored.deliveries] == [("a", 0), ("b", 0), ("a", 1)]
        assert (journal.states(), journal.place()) == ({"rule": b"y"}, Place("e", 7))
        assert (journal.withheld(), journal.withheld_counts()) == ([withheld], {"suppressed": 1})
        with pytest.raises(AlertJournalError, match="cannot write"):
            journal.commit([new(2, "a"), NewAlert("x", 0, "r", "e", "s", "t", {"bad": float("nan")}, ())])
        assert [one.id for one in journal.recent()] == ["id-1"], "nothing of a group that fails"
    with AlertJournal(tmp_path / FILE, read_only=True) as reader:
        assert reader.get("id-1") == stored
        with pytest.raises(AlertJournalError, match="readonly"):
            reader.commit([new(3)])


def test_what_is_due_is_what_was_tried_least_then_the_oldest(tmp_path: Path) -> None:
    with AlertJournal(tmp_path / FILE) as journal:
        journal.commit([new(1, "a"), new(2, "a"), new(3, "b")])
        first = journal.due("a", 10, 100)
        assert first is not None
        assert first.alert == "id-1"
        journal.tried(first, "waiting", "refused" * 1000, 10, next_ns=50)
        second = journal.due("a", 60, 100)
        assert second is not None
        assert second.alert == "id-2"
        journal.tried(second, "delivered", "ok", 60)
        assert journal.due("a", 49, 100) is None
        again = journal.due("a", 50, 100)
        assert again is not None
        assert (again.attempts, len(again.outcome)) == (1, alert_journal.MOST_LETTERS)
        set_back = journal.due("a", -1000, 100)
        assert set_back is not None, "a clock that was set back holds up nothing"
        journal.hasten("a")
        assert journal.due("a", 0, 100) is not None
        assert [one.outcome for one in journal.attempts(second.number)] == ["ok"]
        assert journal.waiting() == {"a": 1, "b": 1}


def test_a_queue_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_journal, "MOST_WAITING", 3)
    with AlertJournal(tmp_path / FILE) as journal:
        journal.commit([new(number, "a", "b" if number == 0 else "a") for number in range(5)])
        failed = journal.untold_failures()
        assert [(one.alert, one.outcome) for one in failed] == [
            ("id-3", "3 deliveries wait already"),
            ("id-4", "3 deliveries wait already"),
        ]
        journal.tell_failures(failed, [new(9, "b")])
        assert journal.untold_failures() == []
        assert journal.waiting() == {"a": 3, "b": 2}
        assert journal.give_up_on(["b"]) == 3
        assert {one.outcome for one in journal.untold_failures()} == {"the configuration has this action no longer"}


@given(st.lists(st.sampled_from(["commit", "close"]), max_size=12))
def test_pages_show_every_alert_once_newest_first(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    path = tmp_path_factory.mktemp("pages") / FILE
    journal, count = AlertJournal(path), 0
    for step in steps:
        if step == "close":
            journal.close()
            journal = AlertJournal(path)
        else:
            journal.commit([new(count, at_ns=count)])
            count += 1
    seen, before = list[str](), None
    while page := journal.recent(3, before):
        seen += [one.id for one in page]
        before = page[-1].number
    journal.close()
    assert seen == [f"id-{number}" for number in reversed(range(count))]


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    now_ns = 2 * alert_journal.KEPT_NS
    with AlertJournal(tmp_path / FILE) as journal:
        journal.commit([new(1, "a", at_ns=1), new(2, "a", at_ns=now_ns)], [NewWithheld(1, 1, "r", "u", "late", "x")])
        first = journal.due("a", now_ns, 1)
        assert first is not None
        journal.tried(first, "waiting", "refused", 1)
        journal.trim(now_ns)
        assert ([one.id for one in journal.recent()], journal.withheld()) == (["id-2"], [])
        assert journal.attempts(first.number) == []
        assert journal.beginning_with("id-") == ["id-2"]


def test_what_was_not_told_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_journal, "MOST_WITHHELD", 10)
    with AlertJournal(tmp_path / FILE) as journal:
        journal.commit(withheld=[NewWithheld(n, n, "r", f"u{n}", "cooldown", "x") for n in range(25)])
        journal.trim(25)
        assert [one.uid for one in journal.withheld()] == [f"u{n}" for n in range(24, 14, -1)]


def test_another_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be one" * 40)
    with pytest.raises(AlertJournalError, match="cannot open: file is not a database"):
        AlertJournal(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    with pytest.raises(AlertJournalError, match="is a database of something else"):
        AlertJournal(tmp_path / "other")
    with pytest.raises(AlertJournalError, match=r"cannot open: there is no folder .*none"):
        AlertJournal(tmp_path / "none" / FILE, read_only=True)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with AlertJournal(tmp_path / FILE) as first:
        first.hold()
        with AlertJournal(tmp_path / FILE) as second, pytest.raises(AlertJournalError, match="another"):
            second.hold()
    with AlertJournal(tmp_path / FILE) as third:
        third.hold()


def sound(path: Path) -> None:
    with AlertJournal(path) as journal:
        journal.commit([new(number, "a") for number in range(200)], place=Place("e", 7))


def overwrite(path: Path, at: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * size)


@pytest.mark.parametrize(("at", "size"), [(0, 100), (0, 4096), (60, 16), (3 * 4096, 4096), (100, 3000)])
def test_a_damaged_file_is_put_aside_and_a_new_one_begun(tmp_path: Path, at: int, size: int) -> None:
    path = tmp_path / FILE
    sound(path)
    overwrite(path, at, size)
    (tmp_path / f"{FILE}-wal").write_bytes(b"a log")
    damaged = path.read_bytes()
    journal, told = AlertJournal.of_the_process(path, 1_700_000_000 * 10**9)
    with journal:
        aside = f"{FILE}.damaged-20231114T221320.000000Z"
        assert told.endswith(f"; it is kept as {aside}"), told
        assert (tmp_path / aside).read_bytes() == damaged
        assert (tmp_path / f"{aside}-wal").read_bytes() == b"a log"
        assert (journal.place(), journal.recent(), list(journal.states())) == (None, [], [alert_journal.STARTED])
        with pytest.raises(AlertJournalError, match="another"):
            AlertJournal.of_the_process(path, 0)
    again, told = AlertJournal.of_the_process(path, 0)
    again.close()
    assert told == ""


def test_what_is_well_stays_and_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    sound(path)
    journal, told = AlertJournal.of_the_process(path, 0)
    with journal:
        assert (told, journal.place()) == ("", Place("e", 7))
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 9")
    newer.close()
    overwrite(path, 3 * 4096, 4096)
    with pytest.raises(AlertJournalError, match="has format 9, expected 1"):
        AlertJournal.of_the_process(path, 0)
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(AlertJournalError, match="is a database of something else"):
        AlertJournal.of_the_process(path, 0)
    assert sorted(one.name for one in tmp_path.iterdir() if "damaged" in one.name) == []


def test_what_no_file_can_keep_is_left_out_and_holds_up_nothing(tmp_path: Path) -> None:
    with AlertJournal(tmp_path / FILE) as journal:
        metrics = AlertMetrics()
        book = Book(journal, {}, metrics, lambda: {"rule": b"x"})
        health = {"sensor_health": {}}
        for alert in (new(1), replace(new(2), title="\ud800"), new(3)):
            book.alert(replace(alert, document=health))
        book.alert(replace(new(4), document={**health, "amplitude": float("nan")}))
        book.withhold(NewWithheld(0, 2**63, "r", "too late", "late", "x"))
        book.withhold(NewWithheld(0, 1, "r", "kept", "late", "x"))
        book.move(Place("e", 9))
        assert book.keep()
        assert sorted(one.id for one in journal.recent()) == ["id-1", "id-3"]
        assert [one.uid for one in journal.withheld()] == ["kept"]
        assert (journal.place(), journal.states(), book.size) == (Place("e", 9), {"rule": b"x"}, 0)
        assert metrics.registry.get_sample_value("tscc_alert_messages_unreadable_total") == 3.0


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_in_memory_while_the_disk_is_full_then_in_the_file(tmp_path: Path) -> None:
    """With a delivery that is under way meanwhile, whose thread goes on with the number that it has."""
    path = tmp_path / FILE
    with AlertJournal(path) as before:
        before.commit([new(1, "a"), new(2, "a")], states={"rule": b"x"}, place=Place("e", 7))
    with full_disk():
        with pytest.raises(AlertJournalError, match=f"cannot (open|write): the disk of {tmp_path} is full"):
            AlertJournal.of_the_process(path, 1)
        journal, unread = AlertJournal.in_memory(path, 1_700_000_000 * 10**9)
        assert (unread, journal.place(), journal.waiting()) == ("", Place("e", 7), {"a": 2})
        thread = journal.for_thread()
        journal.commit([new(3, "b")], [NewWithheld(5, 4, "rule", "u", "late", "")], place=Place("e", 9))
        old, fresh = thread.due("a", 10, 100), thread.due("b", 10, 100)
        assert old is not None
        assert fresh is not None
        thread.tried(old, "delivered", "ok", 10)
        with pytest.raises(AlertJournalError, match="full"):
            journal.make_lasting(2)
        assert not journal.lasting
        with pytest.raises(AlertJournalHeldError):
            AlertJournal.of_the_process(path, 1)
    assert journal.make_lasting(2) == ""
    assert journal.lasting
    thread.tried(fresh, "delivered", "ok", 11)
    journal.close()
    thread.commit([new(4, "b")])
    thread.close()
    with AlertJournal(path) as after:
        states = {one.id: [(each.action, each.state) for each in one.deliveries] for one in after.recent()}
        assert states == {
            "id-1": [("a", "delivered")],
            "id-2": [("a", "waiting")],
            "id-3": [("b", "delivered")],
            "id-4": [("b", "waiting")],
        }
        assert (after.place(), after.states()["rule"]) == (Place("e", 9), b"x")
        assert [after.attempts(one.number) != [] for one in (old, fresh)] == [True, True]
        assert [one.uid for one in after.withheld()] == ["u"]


def test_in_memory_beside_a_damaged_file_that_cannot_be_moved(tmp_path: Path) -> None:
    path = tmp_path / FILE
    sound(path)
    overwrite(path, 0, 4096)
    journal, unread = AlertJournal.in_memory(path, 5)
    with journal:
        assert (unread, journal.place()) == ("file is not a database", None)
        journal.commit([new(1, "a")])
        assert "it is kept as alerts.sqlite.damaged-" in journal.make_lasting(6)
        assert [one.id for one in journal.recent()] == ["id-1"]


def test_in_memory_nothing_is_taken_over_in_part(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with AlertJournal(path) as before:
        before.commit([new(1, "a")], place=Place("e", 7))
        before._db.execute("UPDATE alert SET title = CAST(x'ff' AS TEXT)")
    journal, unread = AlertJournal.in_memory(path, 5)
    with journal:
        assert "UTF-8" in unread
        assert (journal.place(), journal.waiting()) == (None, {})


@pytest.mark.parametrize("document", ["{", "[1]", "null", "[" * 100_000, '{"sensor_health": 5}'])
def test_an_alert_that_cannot_be_read_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, document: str
) -> None:
    with AlertJournal(tmp_path / FILE) as journal:
        journal.commit([new(number, "a") for number in (1, 2, 3)])
        journal._db.execute("UPDATE alert SET document = ? WHERE id = 'id-2'", (document,))
        for _ in range(2):
            assert [one.id for one in journal.recent()] == ["id-3", "id-1"]
            assert journal.get("id-2") is None
    assert [one.partition(" cannot")[0] for one in caplog.messages] == [f"{tmp_path / FILE}: alert 2"]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EROFS, "/x is mounted read-only"),
        (errno.ENOSPC, "the disk of /x is full"),
        (errno.EACCES, "has no right to write to /x"),
        (errno.EIO, "/x cannot be written to: Input/output error"),
    ],
)
def test_why_a_folder_cannot_be_written_to(number: int, sentence: str) -> None:
    assert sentence in writable._said(OSError(number, os.strerror(number)), Path("/x"))


def test_a_folder_that_can_be_written_to_and_others(tmp_path: Path) -> None:
    assert writable.why_not(tmp_path) == ""
    assert writable.why_not(tmp_path / "none") == f"there is no folder {tmp_path / 'none'}"
    assert list(tmp_path.iterdir()) == []
    with full_disk():
        assert writable.why_not(tmp_path) == f"the disk of {tmp_path} is full"
