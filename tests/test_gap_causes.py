"""Why samples are missing, and the ledger that says so."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_site import finished
from made_streams import SECOND, T0, batch_of, sid_of

from tscc_stream import gap_causes
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.gap_causes import LOST, GapCauses
from tscc_stream.messages import Gap, Record, read_only
from tscc_stream.stages.journal import GapEntry

SID = sid_of(0)
STATION = "XX_S000"


def record_at(second: int, sid: str = SID) -> Record:
    return Record(sid, T0 + second * SECOND, 100.0, read_only(np.arange(100)))


def gap(first: int, last: int | None, cause: str = "gap", sid: str = SID) -> Gap:
    return Gap(sid, T0 + first * SECOND, None if last is None else T0 + last * SECOND, cause)


@pytest.fixture
def causes() -> GapCauses:
    made = GapCauses()
    made.linked("a", resumed=True)
    made.record("a", STATION, record_at(0))
    return made


def test_what_one_connection_brought_with_a_hole_the_server_did_not_have(causes: GapCauses) -> None:
    causes.record("a", STATION, record_at(5))
    assert causes.named(gap(1, 5)) == "server"


@pytest.mark.parametrize(("resumed", "cause"), [(True, "ring overrun"), (False, "link")])
def test_a_hole_across_connections_is_the_rings_where_the_rest_was_asked_for(
    causes: GapCauses, resumed: bool, cause: str
) -> None:
    causes.linked("a", resumed=resumed)
    causes.record("a", STATION, record_at(5))
    causes.record("a", STATION, record_at(8))
    assert causes.named(gap(6, 8)) == "server"
    assert causes.named(gap(1, 5)) == cause  # told late, as by a stage that waits for stragglers


def test_after_a_restart_the_first_hole_is_the_rings() -> None:
    causes = GapCauses()
    causes.linked("a", resumed=True)
    causes.record("a", STATION, record_at(5))
    assert causes.named(gap(-3, 5)) == "ring overrun"


def test_a_dropped_record_makes_the_hole_of_its_own_station_only(causes: GapCauses) -> None:
    other = sid_of(1)
    causes.record("a", "XX_S001", record_at(0, other))
    causes.rejected("a", STATION)
    causes.record("a", STATION, record_at(2))
    causes.record("a", "XX_S001", record_at(2, other))
    assert causes.named(gap(1, 2)) == "bad record"
    assert causes.named(gap(1, 2, sid=other)) == "server"
    causes.rejected("a", "")
    causes.record("a", "XX_S001", record_at(4, other))
    assert causes.named(gap(3, 4, sid=other)) == "bad record"


def test_other_breaks_keep_their_names(causes: GapCauses) -> None:
    assert [causes.named(gap(1, last, cause)) for last, cause in ((2, "flat"), (None, "gap"), (2, "rate"))] == [
        "flat",
        "gap",
        "rate",
    ]
    assert causes.named(gap(1, 2, sid=sid_of(9))) == "server"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_batch_is_the_same_as_its_records_one_by_one(data: st.DataObject) -> None:
    """Among connections and dropped records, whatever stations the channels come under, and beyond the limit."""
    one_by_one, batches = GapCauses(), GapCauses()
    steps = st.lists(st.sampled_from(["records", "records", "rejected", "linked"]), min_size=1, max_size=12)
    names = st.sampled_from(["XX_A", "XX_B", ""])
    some = st.lists(
        st.tuples(names, st.integers(0, 4), st.integers(0, 9), st.sampled_from([50.0, 100.0])), min_size=1, max_size=8
    )
    with patch.object(gap_causes, "MOST_CHANNELS", data.draw(st.sampled_from([3, 100]))):
        for step in data.draw(steps):
            server = data.draw(st.sampled_from(["a", "b"]))
            if step == "records":
                came = data.draw(some)
                records = [Record(sid_of(n), T0 + s * SECOND, rate, read_only(np.arange(3))) for _, n, s, rate in came]
                stations = [name for name, *_ in came]
                for station, record in zip(stations, records, strict=True):
                    one_by_one.record(server, station, record)
                batches.batch(server, batch_of(records, stations))
            elif step == "rejected":
                name = data.draw(names)
                one_by_one.rejected(server, name)
                batches.rejected(server, name)
            else:
                resumed = data.draw(st.booleans())
                one_by_one.linked(server, resumed=resumed)
                batches.linked(server, resumed=resumed)
            assert batches._channels == one_by_one._channels


def test_the_ledger_keeps_the_first_cause_and_closes_what_was_open(tmp_path: Path) -> None:
    with JournalFile(tmp_path / "journal.sqlite", lambda: 77) as journal:
        journal.append([], [gap(1, None, "flat"), gap(10, 12, "link")])
        journal.append([], [gap(1, 4, "flat"), gap(10, 12, "ring overrun"), gap(10, 12, "flat"), gap(1, 9, "flat")])
    reader = JournalReader(tmp_path / "journal.sqlite")
    found = [((e.from_ns - T0) // SECOND, (e.to_ns or 0) - T0, e.cause, e.noted_ns) for e in reader.gaps()]
    assert sorted(found) == [(1, 4 * SECOND, "flat", 77), (10, 12 * SECOND, "flat", 77), (10, 12 * SECOND, "link", 77)]
    assert len(reader.gaps(T0 + 5 * SECOND)) == 2
    reader.close()


def test_of_more_gaps_than_are_asked_for_come_those_that_last_and_the_newest(tmp_path: Path) -> None:
    ended = [gap(10 * second, 10 * second + 1, "link") for second in range(1, 10)]
    with JournalFile(tmp_path / "journal.sqlite") as journal:
        journal.append([], [gap(0, None, "quarantined"), *ended])
    reader = JournalReader(tmp_path / "journal.sqlite")
    found = [((e.from_ns - T0) // SECOND, e.cause) for e in reader.gaps(limit=3)]
    assert found == [(0, "quarantined"), (80, "link"), (90, "link")]
    assert [(e.from_ns - T0) // SECOND for e in reader.gaps(T0 + 85 * SECOND)] == [0, 90]
    reader.close()


def test_a_loss_that_turns_out_longer_is_lengthened_and_a_quarantine_ends(tmp_path: Path) -> None:
    with JournalFile(tmp_path / "journal.sqlite") as journal:
        journal.append([], [gap(1, 2, "server"), gap(5, None, "quarantined"), gap(30, None, "flat")])
        journal.append([], [gap(1, 4, "ring overrun"), gap(5, 9, "quarantined"), gap(1, 3, "link")])
        journal.append([], [gap(5, None, "quarantined"), gap(40, None, "quarantined"), gap(7, None, "flat", sid_of(1))])
        journal.close_gaps({SID: T0 + 35 * SECOND})
    reader = JournalReader(tmp_path / "journal.sqlite")
    found = [((e.from_ns - T0) // SECOND, ((e.to_ns or 0) - T0) // SECOND, e.cause) for e in reader.gaps()]
    assert found == [(1, 4, "server"), (5, 9, "quarantined"), (7, 7, "flat"), (30, 35, "flat"), (40, 40, "quarantined")]
    reader.close()


def test_the_command_prints_it(tmp_path: Path) -> None:
    with JournalFile(tmp_path / "journal.sqlite") as journal:
        journal.append([], [gap(1, None, "flat"), gap(10, 12, "link"), gap(20, 21, "server", sid_of(1))])
    done = finished("gaps", "--state-dir", tmp_path)
    assert done.returncode == 0
    first, second, third = done.stdout.splitlines()
    assert first.startswith("XX.S000..EHZ      2010-05-27T16:24:01.000000Z  still lasts")
    assert second.split()[1:] == ["2010-05-27T16:24:10.000000Z", "2010-05-27T16:24:12.000000Z", "2.000", "s", "link"]
    assert third.startswith("XX.S001..EHZ")
    assert done.stderr == "3 gaps; lost: link 2.000 s, server 1.000 s\n"
    lost = finished("gaps", "--state-dir", tmp_path, "--lost", "--jsonl", "--channel", "XX.S000.*")
    (entry,) = map(json.loads, lost.stdout.splitlines())
    assert GapEntry(**entry).cause == "link"
    late = finished("gaps", "--state-dir", tmp_path, "--since", "2010-05-27T16:24:15", "--lost")
    assert [line.split()[0] for line in late.stdout.splitlines()] == ["XX.S001..EHZ"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--state-dir", "."), "journal.sqlite: no such file; the daemon makes it"),
        (("--state-dir", "here", "--since", "soon"), "--since soon: expected a time such as 2026-11-26T06:00:00"),
    ],
)
def test_what_cannot_be_printed_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    JournalFile(tmp_path / "here" / "journal.sqlite").close()
    done = finished("gaps", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_the_causes_of_loss_are_those_of_the_ledger() -> None:
    assert LOST == ("server", "ring overrun", "link", "bad record", "shed", "quarantined", "conflict")
