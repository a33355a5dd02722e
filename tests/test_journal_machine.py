"""The journal under any order of appending, trimming, killing, backing up and restoring.

What must hold whatever happens: what was committed under an epoch and a seq is never anything else; seqs have no hole;
no message is there twice; a reader sees what is committed, all of it and nothing else.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from made_messages import detection_message, mixed

from tscc_stream.edges import journal_mark
from tscc_stream.edges.journal_check import Numbering
from tscc_stream.edges.journal_copy import backup, compact
from tscc_stream.edges.journal_mark import Mark
from tscc_stream.edges.journal_salvage import connect_read_only
from tscc_stream.edges.sqlite import WITNESSES, JournalFile, JournalReader
from tscc_stream.messages import Message

QUICK = Path("/dev/shm")  # noqa: S108  # memory: what is tried here is order, not the disk
HOUR = 3_600_000_000_000
NUMBERS = st.lists(st.integers(1, 60), max_size=12)
LIVE = ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite.mark")
"""What a killed process leaves; it does not leave the shared memory's contents as anything to rely on."""


@dataclass
class Known:
    """What a journal must hold: (seq, uid) from the oldest on; head; topic heads."""

    epoch: str
    stored: list[tuple[int, str]] = field(default_factory=list)
    head: int = 0


class Ended(Exception):  # noqa: N818  # no error: the power is gone
    pass


class JournalMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=QUICK if QUICK.is_dir() else None))
        self.path = self.folder / "state" / "journal.sqlite"
        self.hours = 480_000
        self.ever: dict[tuple[str, int], str] = {}
        self.backups: list[tuple[Path, Known]] = []
        self.journal = JournalFile(self.path, self.clock)
        self.known = Known(self.journal.epoch)

    def clock(self) -> int:
        return self.hours * HOUR

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            shutil.rmtree(self.folder)

    def open(self, *, renewed: bool) -> None:
        self.journal = JournalFile(self.path, self.clock)
        assert bool(self.journal.renewed) == renewed, self.journal.renewed
        assert (self.journal.epoch != self.known.epoch) == renewed
        self.known.epoch = self.journal.epoch

    @rule(numbers=NUMBERS)
    def append(self, numbers: list[int]) -> None:
        there = {uid for _, uid in self.known.stored}
        new = [m for m in dict.fromkeys(uid_of(n) for n in numbers) if m not in there]
        committed = self.journal.append([message(n) for n in numbers])
        assert [one.message.uid for one in committed] == new
        assert [one.seq for one in committed] == list(range(self.known.head + 1, self.known.head + 1 + len(new)))
        for one in committed:
            assert self.ever.setdefault((self.journal.epoch, one.seq), one.message.uid) == one.message.uid
            self.known.stored.append((one.seq, one.message.uid))
        self.known.head += len(new)

    @rule(most=st.integers(1, 10))
    def trim(self, most: int) -> None:
        removed = self.journal.trim(90.0, 1.0, most)
        assert removed <= most
        del self.known.stored[:removed]

    @rule(hours=st.integers(0, 100 * 24), operating=st.sampled_from([1, 1, WITNESSES]))
    def grow_old(self, hours: int, operating: int) -> None:
        self.hours += hours
        for _ in range(operating):
            removed = self.journal.trim(90.0, 1e12, 5)
            del self.known.stored[:removed]
            self.hours += 1

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.open(renewed=False)

    @rule()
    def kill(self) -> None:
        self._leave()
        self._end()

    @rule(numbers=NUMBERS, at=st.integers(0, 5))
    def kill_while_it_appends(self, numbers: list[int], at: int) -> None:
        """Not committed, and to be appended again by whoever wants it stored."""

        def messages() -> Iterator[Message]:
            for count, number in enumerate(numbers):
                if count == at:
                    break
                yield message(number)
            self._leave()
            raise Ended

        with pytest.raises(Ended):
            self.journal.append(messages())
        self._end()

    def _leave(self) -> None:
        """The files as they are at this moment."""
        left = self.folder / "left"
        left.mkdir()
        for name in LIVE:
            shutil.copy2(self.path.with_name(name), left / name)

    def _end(self) -> None:
        self.journal.close()
        for file in (self.folder / "left").iterdir():
            file.replace(self.path.with_name(file.name))
        (self.folder / "left").rmdir()
        self.open(renewed=False)

    @rule()
    def compact(self) -> None:
        self.journal.close()
        compact(self.path, lambda *_: None)
        self.open(renewed=False)

    @precondition(lambda self: len(self.backups) < 4)
    @rule()
    def back_up(self) -> None:
        """The journal, and the mark of that moment beside it."""
        made = self.folder / f"backup-{len(self.backups)}"
        made.mkdir()
        backup(self.path, made / "journal.sqlite", lambda *_: None)
        mark = msgspec.json.decode(self.path.with_name("journal.sqlite.mark").read_bytes(), type=Mark)
        old = Mark(mark.epoch, mark.head, mark.boot, mark.written_ns - 100 * HOUR)
        (made / "journal.sqlite.mark").write_bytes(msgspec.json.encode(old))
        self.backups.append((made, copy.deepcopy(self.known)))

    @precondition(lambda self: self.backups)
    @rule(data=st.data(), over=st.booleans(), with_mark=st.booleans())
    def restore(self, data: st.DataObject, over: bool, with_mark: bool) -> None:
        """Over the file that is there, or in its place; alone, or with its mark."""
        made, then = data.draw(st.sampled_from(self.backups))
        self.journal.close()
        is_the_same = not with_mark and (then.epoch, then.head) == (self.known.epoch, self.known.head)
        for name in ("journal.sqlite", "journal.sqlite.mark")[: 1 + with_mark]:
            place = self.path.with_name(name)
            if over:
                place.write_bytes((made / name).read_bytes())
            else:
                shutil.copy2(made / name, self.folder / "new")
                (self.folder / "new").replace(place)
        self.known = copy.deepcopy(then)
        self.open(renewed=not is_the_same)

    @invariant()
    def a_reader_sees_what_is_committed(self) -> None:
        if not hasattr(self, "journal"):
            return
        reader = JournalReader(self.path)
        page = reader.since(0, limit=1_000)
        reader.close()
        assert [(one.seq, one.message.uid) for one in page.messages] == self.known.stored
        assert (reader.epoch, page.head) == (self.known.epoch, self.known.head)
        seqs = [seq for seq, _ in self.known.stored]
        assert seqs == list(range(self.known.head - len(seqs) + 1, self.known.head + 1))
        assert len({uid for _, uid in self.known.stored}) == len(seqs)

    @invariant()
    def the_check_finds_nothing(self) -> None:
        if hasattr(self, "journal"):
            db = connect_read_only(self.path)
            numbering = Numbering(db)
            numbering.walk(lambda *_: None)
            db.close()
            assert numbering.findings == []


def message(number: int) -> Message:
    return mixed(range(number, number + 1))[0] if number % 7 else detection_message(number, size=20_000)


def uid_of(number: int) -> str:
    return message(number).uid


@pytest.fixture(autouse=True)
def patient_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is no copy: backups here are a hundred hours old."""
    monkeypatch.setattr(journal_mark, "SAME_BOOT_NS", HOUR)


def test_the_journal_in_any_order_of_events(patient_marks: None) -> None:
    run_state_machine_as_test(
        JournalMachine,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
