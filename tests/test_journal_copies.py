"""A copy in the journal's place becomes another epoch; the journal itself never does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_messages import detection_message, mixed

from tscc_stream.edges import journal_mark
from tscc_stream.edges.journal_copy import backup, compact
from tscc_stream.edges.journal_mark import OTHER_BOOT_NS, SAME_BOOT_NS, Found, Mark, why_another
from tscc_stream.edges.sqlite import JournalError, JournalFile

HOUR = 3_600_000_000_000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def path(state: Path) -> Path:
    return state / "journal.sqlite"


def life(path: Path, first: int, last: int) -> tuple[str, str]:
    """One opening in which these messages are stored; its epoch, and why it is a new one."""
    with JournalFile(path) as journal:
        journal.append(mixed(range(first, last + 1)))
        return journal.epoch, journal.renewed


def an_hour_ago(folder: Path) -> None:
    """A mark in a backup says when it was written; as if that had been an hour before it was put back."""
    mark = folder / "journal.sqlite.mark"
    known = msgspec.json.decode(mark.read_bytes(), type=Mark)
    mark.write_bytes(msgspec.json.encode(Mark(known.epoch, known.head, known.boot, known.written_ns - HOUR)))


def over_it(state: Path, old: Path) -> None:
    (state / "journal.sqlite").write_bytes((old / "journal.sqlite").read_bytes())


def in_its_place(state: Path, old: Path) -> None:
    shutil.copy2(old / "journal.sqlite", state / "new")
    (state / "new").replace(state / "journal.sqlite")


def the_folder_over_it(state: Path, old: Path) -> None:
    an_hour_ago(old)
    shutil.copytree(old, state, dirs_exist_ok=True)


def the_folder_in_its_place(state: Path, old: Path) -> None:
    an_hour_ago(old)
    shutil.rmtree(state)
    shutil.copytree(old, state)


def alone(state: Path, old: Path) -> None:
    shutil.rmtree(state)
    state.mkdir()
    shutil.copy2(old / "journal.sqlite", state)


def without_its_mark(state: Path, _old: Path) -> None:
    (state / "journal.sqlite.mark").unlink()


def with_a_mark_that_is_none(state: Path, _old: Path) -> None:
    (state / "journal.sqlite.mark").write_bytes(b"\0" * 256)


def with_a_mark_of_before(state: Path, old: Path) -> None:
    an_hour_ago(old)
    shutil.copy2(old / "journal.sqlite.mark", state)


RESTORED = [over_it, in_its_place, the_folder_over_it, the_folder_in_its_place, alone]
CHANGED = [without_its_mark, with_a_mark_that_is_none, with_a_mark_of_before]


@pytest.mark.parametrize("restore", RESTORED + CHANGED)
@pytest.mark.parametrize("same_opening", [False, True])
def test_a_copy_becomes_another_epoch_and_goes_on_after_its_own_head(
    state: Path, tmp_path: Path, restore: Callable[[Path, Path], None], same_opening: bool
) -> None:
    path, old = state / "journal.sqlite", tmp_path / "old"
    with JournalFile(path) as journal:
        journal.append(mixed(range(1, 51)))
        epoch = journal.epoch
        shutil.copytree(state, old, ignore=shutil.ignore_patterns("journal.sqlite*"))
        shutil.copy2(state / "journal.sqlite.mark", old)
        backup(path, old / "journal.sqlite", lambda *_: None)
        if same_opening:
            journal.append(mixed(range(51, 81)))
    if not same_opening:
        assert life(path, 51, 80) == (epoch, "")
    restore(state, old)
    head = 50 if restore in RESTORED else 80
    with JournalFile(path) as journal:
        assert journal.renewed
        assert journal.epoch != epoch
        assert journal.head == head
        assert journal.append(mixed(range(1, 51))) == [], "what it holds is still known"
        [new] = journal.append([detection_message(10_000)])
        assert new.seq == head + 1
        again = journal.epoch
    assert life(path, 1, 50) == (again, "")


def test_opening_it_again_and_compacting_it_change_nothing(path: Path) -> None:
    epoch, why = life(path, 1, 30)
    assert why == ""
    for last in (30, 60, 60, 90):
        assert life(path, 1, last) == (epoch, "")
    compact(path, lambda *_: None)
    assert life(path, 1, 90) == (epoch, "")
    path.parent.rename(path.parent.with_name("elsewhere"))
    assert life(path.parent.with_name("elsewhere") / path.name, 1, 90) == (epoch, "")


def test_a_new_journal_does_not_mind_the_mark_of_one_that_was_moved_away(path: Path) -> None:
    first, _ = life(path, 1, 30)
    path.unlink()
    second, why = life(path, 1, 5)
    assert (second != first, why) == (True, "")


def test_a_mark_that_cannot_be_written_any_more_does_not_end_the_work(path: Path) -> None:
    with JournalFile(path) as journal:
        journal.append(mixed(range(1, 5)))
        os.close(journal._mark._fd)
        journal._mark._fd = os.open(journal._mark.path, os.O_RDONLY)
        assert len(journal.append(mixed(range(5, 9)))) == 4
    assert life(path, 1, 8)[1] == ""


def _with_a_log(path: Path) -> Path:
    """A journal as a killed daemon leaves it; where it is."""
    with JournalFile(path) as journal:
        journal.append(mixed(range(1, 30)))
        killed = path.parent.with_name("killed")
        shutil.copytree(path.parent, killed)
    return killed / path.name


def test_the_log_of_another_file_is_never_written_into_a_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = _with_a_log(path)
    older = path.read_bytes()
    log = killed.with_name("journal.sqlite-wal").read_bytes()
    monkeypatch.setattr(journal_mark, "CHECKPOINT_NS", 0)  # as if the restore came a minute later
    _put_back(older, killed)
    with pytest.raises(JournalError, match=r"move journal.sqlite-wal and journal.sqlite-shm away, and start again"):
        JournalFile(killed)
    assert (killed.read_bytes(), killed.with_name("journal.sqlite-wal").read_bytes()) == (older, log)
    for lose in (lambda: killed.write_bytes(b""), killed.unlink):
        lose()
        with pytest.raises(JournalError, match=r"is missing or empty, and journal\.sqlite-wal, which holds its last"):
            JournalFile(killed)
        assert killed.with_name("journal.sqlite-wal").read_bytes() == log


def _put_back(content: bytes, journal: Path) -> None:
    """Later than anything else in the folder: the file system's clock goes in ticks of some milliseconds."""
    last_ns = max(path.stat().st_ctime_ns for path in journal.parent.iterdir())
    while journal.stat().st_ctime_ns <= last_ns:
        journal.write_bytes(content)


def test_a_killed_journal_goes_on_with_its_own_log(path: Path) -> None:
    killed = _with_a_log(path)
    with JournalFile(killed) as journal:
        assert journal.head == 29


marks = st.builds(
    Mark,
    epoch=st.sampled_from(["a", "b"]),
    head=st.integers(0, 5),
    boot=st.sampled_from(["", "1", "2"]),
    written_ns=st.integers(0, 2 * OTHER_BOOT_NS),
)
found = st.none() | st.builds(
    Found, mark=marks, changed_ns=st.integers(0, 2 * OTHER_BOOT_NS), boot=st.sampled_from(["", "1", "2"])
)


@given(found, st.sampled_from(["a", "b"]), st.integers(0, 5))
def test_only_a_mark_that_fits_in_everything_is_this_journals(seen: Found | None, epoch: str, head: int) -> None:
    if why_another(seen, epoch, head) == "":
        assert seen is not None
        assert (seen.mark.epoch, seen.mark.head <= head) == (epoch, True)
        apart = abs(seen.changed_ns - seen.mark.written_ns)
        assert apart <= OTHER_BOOT_NS
        assert apart <= SAME_BOOT_NS or seen.mark.boot != seen.boot or seen.mark.boot == ""


@given(st.integers(0, 100), st.integers(0, 100), st.integers(-SAME_BOOT_NS, SAME_BOOT_NS))
def test_its_own_mark_always_fits(head: int, more: int, late_ns: int) -> None:
    assert why_another(Found(Mark("a", head, "1", 10**18), 10**18 + late_ns, "1"), "a", head + more) == ""
