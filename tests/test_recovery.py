"""Snapshots: taken anywhere, written down and read back, they change nothing; what does not fit is refused by name."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_streams import SECOND, T0, FakeEncoder, noise_with_bursts, package_spec, records, sid_of
from test_stage_battery import _plain as plain

from tscc_stream import recovery
from tscc_stream.config import Config
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.messages import Gap, NetworkEvent, NetworkTrigger, Record, Window, WindowDropped
from tscc_stream.package import PackageSpec
from tscc_stream.pipeline import BackHalf, FrontHalf, FrontState
from tscc_stream.recovery import Barrier, Barriers, Floors, Reached, made_of, resume, snapshot_at
from tscc_stream.seedlink.position import Mark, Position
from tscc_stream.stages.infer import Infer
from tscc_stream.stages.interpret import VoteState
from tscc_stream.stages.journal import StoredSnapshot

RATE = 100.0
SAMPLES = 1500
TOGETHER = package_spec(channels=3, components=("Z", "N", "E"))
TRIGGER = {"sta_seconds": 0.2, "lta_seconds": 2.0, "trigger_on": 4.0, "max_seconds": 2.0}


def config_with(**trigger: object) -> Config:
    return Config.model_validate(
        {
            "condition": {"band_hz": (5.0, 20.0)},
            "trigger": {**TRIGGER, **trigger},
            "network": {"min_channels": 3},
            "inference": {"max_batch": 4},
        }
    )


def stream(seed: int, sids: list[str]) -> list[Record]:
    """Records of some channels, interleaved, with a burst on all, a gap, a flat line and an invalid sample."""
    order, queues = random.Random(seed), []  # noqa: S311  # made-up data, no secret
    for number, sid in enumerate(sids):
        data = noise_with_bursts(seed + number, SAMPLES, [500 + 5 * number, 610, 1150 + 3 * number], gain=60.0)
        data[800 : 840 + number] = 5.0
        data[900 + number] = np.nan if number == 1 else data[900 + number]
        cuts = sorted(order.sample(range(1, SAMPLES), 25))
        parts = records(data, RATE, cuts, sid=sid, quality=frozenset({"timing"} if number else ()))
        del parts[5 + number]
        queues.append(parts)
    mixed: list[Record] = []
    while any(queues):
        mixed.append(order.choice([queue for queue in queues if queue]).pop(0))
    return mixed


class Daemon:
    """Both halves as the daemon drives them, with a snapshot wherever it is told to."""

    def __init__(self, config: Config, spec: PackageSpec) -> None:
        self._config, self._spec = config, spec
        self.out: list[Any] = []
        self._start()

    def _start(self) -> None:
        self._front = FrontHalf(self._config, self._spec)
        self._back = BackHalf(Infer(FakeEncoder()), str, np.linspace(0, 1, 1000), self._config)

    def feed(self, record: Record) -> None:
        for item in self._front.feed(record):
            self.out.append(item)
            if isinstance(item, Window | WindowDropped | NetworkTrigger):
                self.out += self._back.feed(item)
        self.out += self._back.flush()

    def restart(self) -> None:
        """Everything written down, forgotten and read back."""
        named = self._front.unsettled_windows()
        front, vote = recovery.encode(self._front.snapshot()), recovery.encode(self._back.snapshot(named))
        self._start()
        self._front.restore(recovery.decode(front, FrontState), 0)
        self._back.restore(recovery.decode(vote, VoteState))
        assert recovery.encode(self._front.snapshot()) == front

    def end(self) -> list[Any]:
        for item in self._front.flush():
            self.out.append(item)
            if isinstance(item, Window | WindowDropped | NetworkTrigger):
                self.out += self._back.feed(item)
        self.out += self._back.end()
        return [plain(item) for item in self.out]


CASES: dict[str, tuple[Config, PackageSpec, list[str]]] = {
    "single channels": (config_with(), package_spec(), [sid_of(number) for number in range(3)]),
    "late announcement": (config_with(min_seconds=0.15), package_spec(), [sid_of(number) for number in range(3)]),
    "classic": (config_with(method="classic"), package_spec(), [sid_of(number) for number in range(3)]),
    "components": (config_with(), TOGETHER, [sid_of(0)[:-1] + code for code in "ZNE"]),
}


@pytest.mark.parametrize("case", list(CASES))
@given(seed=st.integers(0, 20), restarts=st.sets(st.integers(0, 75), max_size=12))
def test_a_restart_anywhere_changes_nothing(case: str, seed: int, restarts: set[int]) -> None:
    config, spec, sids = CASES[case]
    whole, cut = Daemon(config, spec), Daemon(config, spec)
    for number, record in enumerate(stream(seed, sids)):
        whole.feed(record)
        cut.feed(record)
        if number in restarts:
            cut.restart()
    expected = whole.end()
    assert any(item[0] == "Window" for item in expected)
    assert cut.end() == expected


def test_counts_of_recorders_take_four_bytes_and_any_other_sample_comes_back_bit_by_bit() -> None:
    front = FrontHalf(config_with(), package_spec(warmup_seconds=100.0))
    front.feed(records(noise_with_bursts(1, 5000).astype(np.int32), RATE)[0])
    state = front.snapshot()
    assert state.extract is not None
    ((sid, kept),) = state.extract.items()
    odd = kept.history + 0.25
    odd[:3] = [np.nan, -0.0, 1e300]
    for history, bytes_each in ((kept.history, 4), (odd, 8)):
        written = recovery.encode(replace(state, extract={sid: replace(kept, history=history)}))
        assert len(written) < bytes_each * history.size + 1500
        again = recovery.decode(written, FrontState).extract
        assert again is not None
        assert again[sid].history.tobytes() == history.tobytes()


def reached_of(stored: StoredSnapshot) -> dict[str, tuple[int, int]]:
    return msgspec.json.decode(stored.snapshot.reached, type=Reached).channels


POSITION = Position(4, Mark(17, T0), (("XX_S000", Mark(17, T0)),), T0)


def barrier_of(front: FrontHalf) -> Barrier:
    return Barriers(0).take(front, {"mine:18000": POSITION}, 0)


@pytest.fixture
def stored() -> StoredSnapshot:
    config, spec = config_with(), package_spec()
    front = FrontHalf(config, spec)
    for record in stream(3, [sid_of(0)])[:12]:
        front.feed(record)
    snapshot = snapshot_at(barrier_of(front), VoteState([], [], []), 1 << 62, made_of(config, spec), Floors())
    return StoredSnapshot(snapshot, 5, intact=True)


def test_what_fits_is_gone_on_from(stored: StoredSnapshot) -> None:
    found = resume(stored, config_with(), package_spec(version="2", clusters=7))
    assert found.positions == {"mine:18000": POSITION}
    assert found.front is not None
    assert found.vote == VoteState([], [], [])
    assert found.floors.channels == {sid: floor for sid, (floor, _) in reached_of(stored).items()}
    assert found.had == {}
    assert found.told == "going on from the snapshot at seq 5, 1 channels"


@pytest.mark.parametrize(
    ("config", "spec", "named"),
    [
        (config_with(trigger_on=5.0), package_spec(), "trigger"),
        (Config.model_validate({**config_with().model_dump(), "channels": {"*": {}}}), package_spec(), "channels"),
        (config_with(), package_spec(onset_sample=12), "the model's windows"),
    ],
)
def test_another_configuration_is_refused_by_name_and_warms_up(
    stored: StoredSnapshot, config: Config, spec: PackageSpec, named: str
) -> None:
    found = resume(stored, config, spec)
    assert (found.front, found.vote) == (None, None)
    assert f"made with another {named} and is refused: reading 14 s more" in found.told
    position = found.positions["mine:18000"]
    assert position.time_ns is not None
    assert (position.last, position.stations) == (Mark(None, position.time_ns), ())
    assert T0 - position.time_ns == round(13.8 * SECOND)
    assert set(found.floors.channels) == set(found.had) == {sid_of(0)}


def test_a_floor_holds_until_its_channel_has_passed_it_over_any_number_of_restarts() -> None:
    """Killed in the middle of a warm-up: what is journalled must not be published by the next start either."""
    barrier = Barrier(b"", b"{}", {"ahead": (20, 22), "behind": (10, 12)}, 12)
    floors = Floors({"ahead": 15, "behind": 15, "silent": 15}, 17).after(barrier, 12)
    assert floors == Floors({"behind": 15, "silent": 15}, 17)
    far_ahead = snapshot_at(barrier, VoteState([], [], []), 1 << 62, b"{}", Floors())
    assert json.loads(far_ahead.reached)["network_ns"] == 10  # nothing waits: what is still to come may begin there
    snapshot = snapshot_at(barrier, VoteState([], [], []), 12, b"{}", floors)
    assert json.loads(snapshot.reached) == {
        "channels": {"ahead": [20, 22], "behind": [15, 12], "silent": [15, 15]},
        "network_ns": 17,
    }
    assert floors.after(barrier, 1 << 62).network_ns == 17
    later = Barrier(b"", b"{}", {"ahead": (30, 32), "behind": (17, 19)}, 12)
    assert floors.after(later, 18).network_ns < 0
    assert floors.without("behind").channels == {"silent": 15}


@pytest.mark.parametrize("over", [{}, {"trigger_on": 5.0}])
def test_who_was_silent_is_known_after_a_restart_with_any_configuration(over: dict[str, float]) -> None:
    config, spec = config_with(), package_spec()
    front = FrontHalf(config, spec)
    barrier = Barriers(0).take(front, {}, 0, (sid_of(1), sid_of(2)))
    snapshot = snapshot_at(barrier, VoteState([], [], []), 1 << 62, made_of(config, spec), Floors())
    found = resume(StoredSnapshot(snapshot, 5, intact=True), config_with(**over), spec)
    assert (found.silent, found.front is None) == ({sid_of(1), sid_of(2)}, bool(over))


def test_what_was_journalled_after_the_snapshot_is_held_back_too_and_what_is_missing_is_known(
    stored: StoredSnapshot,
) -> None:
    asked: list[int] = []

    def latest_onsets(after: int) -> dict[str, int]:
        asked.append(after)
        return {sid_of(0): T0 + 3600 * SECOND, "new": 5}

    found = resume(stored, config_with(trigger_on=5.0), package_spec(), latest_onsets)
    assert asked == [stored.head]
    assert found.floors.channels == {sid_of(0): T0 + 3600 * SECOND + 1, "new": 6}
    assert found.had == {sid: had for sid, (_, had) in reached_of(stored).items()}


def event_at(onset_ns: int) -> NetworkEvent:
    return NetworkEvent("n", onset_ns, 1.0, (), (), {}, None, "unknown", True)


def test_network_events_go_by_what_was_settled_not_by_their_channels() -> None:
    """An event that was still open may begin long before all that its channels were journalled up to."""
    floors = Floors({"a": 36}, 30)
    assert [floors.hold_back(event_at(at)) for at in (29, 30, 35)] == [True, False, False]


def test_the_longest_average_of_any_channel_is_waited_for(stored: StoredSnapshot) -> None:
    config = Config.model_validate(
        {**config_with().model_dump(), "channels": {"*": {"trigger": {"lta_seconds": 60.0}}}}
    )
    assert "reading 72 s more" in resume(stored, config, package_spec()).told


def test_another_format_or_program_is_refused_by_name(stored: StoredSnapshot) -> None:
    older = replace(stored, snapshot=replace(stored.snapshot, format=0, state=b"whatever"))
    assert "another format 0 instead of 3 and is refused" in resume(older, config_with(), package_spec()).told
    program = json.dumps({**json.loads(stored.snapshot.made_of), "program": "0.0.1"}).encode()
    other = replace(stored, snapshot=replace(stored.snapshot, made_of=program))
    assert "another program and is refused" in resume(other, config_with(), package_spec()).told


def test_what_is_damaged_or_not_there_starts_where_the_configuration_says(stored: StoredSnapshot) -> None:
    damaged = resume(replace(stored, intact=False), config_with(), package_spec())
    nothing = resume(None, config_with(), package_spec())
    assert "the snapshot is damaged" in damaged.told
    assert "no snapshot yet" in nothing.told
    for found in (damaged, nothing):
        assert (found.positions, found.front, found.floors) == ({}, None, Floors())


@pytest.mark.parametrize("part", ["positions", "reached", "state"])
def test_what_cannot_be_read_though_it_is_intact_is_told(stored: StoredSnapshot, part: str) -> None:
    for value in (b"{}", b"[1]", b"\xc1", b'{"mine:1": {}}'):
        odd = replace(stored, snapshot=replace(stored.snapshot, **{part: value}))
        found = resume(odd, config_with(), package_spec())
        assert ("cannot be read" in found.told) == (found.front is None)


def test_a_window_that_waits_holds_the_floor_of_its_channel() -> None:
    front = FrontHalf(config_with(), package_spec())
    data = noise_with_bursts(1, 540, [500], gain=60.0)
    out = front.feed(records(data, RATE)[0])
    assert not [item for item in out if isinstance(item, Window)]
    ((floor, had),) = front.reached_ns().values()
    assert had == T0 + round(5.4 * SECOND)
    assert T0 + 5 * SECOND <= floor < T0 + 5.3 * SECOND
    assert floor == front.unsettled_ns()


def test_a_sensors_window_that_waits_holds_the_floor_of_all_its_components() -> None:
    front = FrontHalf(config_with(), TOGETHER)
    sids = [sid_of(0)[:-1] + code for code in "ZNE"]
    for number, sid in enumerate(sids):
        front.feed(records(noise_with_bursts(number, 540, [500], gain=60.0), RATE, sid=sid)[0])
    reached = front.reached_ns()
    assert set(reached) == set(sids)
    assert {floor for floor, _ in reached.values()} == {front.unsettled_ns()}
    assert {had for _, had in reached.values()} == {T0 + round(5.4 * SECOND)}


def test_snapshots_are_as_seldom_as_their_size_wants() -> None:
    barriers, front = Barriers(0), FrontHalf(config_with(), package_spec(warmup_seconds=10_000.0))
    assert not barriers.due(SECOND // 4 - 1)
    assert barriers.due(SECOND // 4)
    barriers.take(front, {}, 2 * SECOND)
    assert not barriers.due(4 * SECOND - 1)
    front.feed(records(noise_with_bursts(1, 500_000), RATE)[0])
    size = len(barriers.take(front, {}, 4 * SECOND).state)
    assert size > 2_000_000
    assert not barriers.due(4 * SECOND + size * SECOND // recovery.BYTES_PER_SECOND - 1)
    assert barriers.due(4 * SECOND + size * SECOND // recovery.BYTES_PER_SECOND)


def flips(count: int, size: int) -> Iterator[int]:
    return iter(random.Random(1).sample(range(size), count))  # noqa: S311  # made-up data, no secret


def test_the_journal_keeps_one_snapshot_and_notices_any_damage(stored: StoredSnapshot, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with JournalFile(path) as journal:
        assert journal.snapshot() is None
        journal.append([], snapshot=replace(stored.snapshot, state=b"earlier"))
        journal.append([], snapshot=stored.snapshot)
    with JournalFile(path) as journal:
        assert journal.snapshot() == replace(stored, head=0)
        for column in ("state", "positions", "reached", "made_of"):
            value = bytearray(getattr(stored.snapshot, column))
            value[next(flips(1, len(value)))] ^= 1
            journal._db.execute(f"UPDATE snapshot SET {column} = ?", (bytes(value),))  # noqa: S608  # names and numbers of ours only
            found = journal.snapshot()
            assert found is not None
            assert not found.intact
            journal.append([], snapshot=stored.snapshot)


def test_what_is_held_at_a_restart_waits_no_longer_than_it_would_have() -> None:
    front = FrontHalf(config_with(), package_spec())
    parts = records(noise_with_bursts(1, 900), RATE, [300, 600])
    for part in (parts[0], parts[2]):
        front.feed(part, 100 * SECOND)
    assert front.unsettled_ns() == parts[2].start_ns
    again = FrontHalf(config_with(), package_spec())
    again.restore(recovery.decode(recovery.encode(front.snapshot()), FrontState), 7 * SECOND)
    assert again.next_deadline() == 9 * SECOND
    assert again.poll(9 * SECOND - 1) == []
    assert [type(item) for item in again.poll(9 * SECOND)] == [Gap]
    assert again.unsettled_ns() == 1 << 62


def test_a_barrier_names_the_windows_that_network_triggers_may_still_name() -> None:
    """Two channels are ahead of the third, without which there is no network trigger."""
    config, spec, sids = CASES["single channels"]
    front, parts = FrontHalf(config, spec), stream(3, sids)
    later = [part for part in parts if part.sid == sids[2]]
    front.feed(later[0])
    out = [item for part in parts if part.sid != sids[2] for item in front.feed(part)]
    given = {item.uid for item in out if isinstance(item, Window | WindowDropped)}
    assert not [item for item in out if isinstance(item, NetworkTrigger)]
    named = barrier_of(front).named
    found = [item for part in later[1:] for item in front.feed(part) if isinstance(item, NetworkTrigger)]
    earlier = {uid for trigger in found for _, _, uid in trigger.members} & given
    assert len(earlier) == 2
    assert earlier <= named
