"""More windows than the encoder takes: kept, classified late and in order, or shed and said; none lost, none twice."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_poison import poisoned, windows_of
from made_site import START_NS, serving, write_settings
from made_streams import FakeEncoder
from prometheus_client import CollectorRegistry
from test_daemon import daemon, get, listen, take, until
from test_inference import made_window, patience

from tscc_stream import miniseed
from tscc_stream.config import Config
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.health import Health
from tscc_stream.messages import Gap, Message, NetworkTrigger, Window, WindowDropped, WindowSpilled, read_only
from tscc_stream.metrics import Metrics
from tscc_stream.overload import Overload
from tscc_stream.packed_window import PackedWindowError, identity_of, pack, unpack
from tscc_stream.pipeline import BackHalf
from tscc_stream.recovery import Barrier, Floors, decode
from tscc_stream.source_id import from_nslc
from tscc_stream.stages.infer import Infer
from tscc_stream.stages.interpret import VoteState, _Waiting
from tscc_stream.stages.journal import JournalBlockedError, Snapshot
from tscc_stream.stages.publish import ModelIdentity
from tscc_stream.workers import COMMIT_TOGETHER, STOP, BackWorker, Shared

CUT = "0123456789abcdef"
OTHER_CUT = "fedcba9876543210"


class Site:
    """Overload with a real journal; how full the queue is, is said here."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.metrics = Metrics(CollectorRegistry())
        self.journal = JournalFile(folder / "journal.sqlite")
        self.config = Config.model_validate({"overload": "spill", "inference": {"max_batch": 4}, **config})
        self.share = 0.0
        self.overload = self.made(lambda: self.share)

    def made(self, crowded: Callable[[], float]) -> Overload:
        return Overload(self.config, self.journal, self.metrics, CUT, crowded, patience(self.metrics))

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"tscc_{name}", labels) or 0.0

    def relieve(self, items: list[Any]) -> list[Any]:
        self.overload.look()
        return self.overload.relieve(items)

    def states(self) -> list[Any]:
        return [{k: v for k, v in note.data.items() if k != "seconds"} for note in self.overload.take_notes()]


@pytest.fixture
def site_of(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**config: Any) -> Site:
        for before in made:
            before.journal.close()
        made.append(Site(tmp_path, **config))
        return made[-1]

    yield make
    made[-1].journal.close()


def _windows(*numbers: int) -> list[Window]:
    return [made_window(number) for number in numbers]


def _uids(items: list[Any]) -> list[str]:
    return [item.uid for item in items]


def test_windows_are_kept_in_order_from_the_mark_on_until_the_queue_is_short(site_of: Callable[..., Site]) -> None:
    site = site_of()
    network = NetworkTrigger("n", 1, 2, (), final=True)
    for share, spills in ((0.5, False), (0.74, False), (0.75, True), (0.5, True), (0.25, False), (0.6, False)):
        site.share = share
        first = made_window(int(share * 100))
        out = site.relieve([first, network])
        assert out == [WindowSpilled(first.uid) if spills else first, network]
    assert _uids(site.overload.late()) == ["uid-75", "uid-50"]
    assert (site.overload.waiting, site.value("spilled_windows"), site.value("spilled_total")) == (2, 2.0, 2.0)
    assert site.states() == [{"state": "begin", "queue": 0.75}]


def test_waiting_is_the_default_and_keeps_nothing(site_of: Callable[..., Site]) -> None:
    site = site_of(overload="wait")
    site.share = 1.0
    windows = _windows(1, 2)
    assert site.relieve(windows) == windows
    site.overload.use(site.config.model_copy(update={"overload": "spill"}))
    assert site.relieve(windows) == [WindowSpilled("uid-1"), WindowSpilled("uid-2")]
    site.overload.use(site.config)
    assert site.relieve(windows) == windows
    assert _uids(site.overload.late()) == ["uid-1", "uid-2"]  # what is kept is classified all the same


def test_beyond_the_limit_windows_are_shed_and_said(site_of: Callable[..., Site]) -> None:
    site = site_of(overload_spill_windows=2)
    site.share = 1.0
    out = site.relieve(_windows(1, 2, 3))
    assert out[:2] == [WindowSpilled("uid-1"), WindowSpilled("uid-2")]
    assert out[2] == WindowDropped("uid-3", "FDSN:XX_A__H_H_Z", 3 * 10**9, "shed")
    assert out[3] == Gap("FDSN:XX_A__H_H_Z", 3 * 10**9, 3 * 10**9 + 160_000_000, "shed")
    assert site.value("windows_dropped_total", reason="shed") == 1.0
    site.journal.unspill(["uid-1", "uid-2"])
    assert site.states() == [{"state": "begin", "queue": 1.0}, {"state": "end", "spilled": 2, "shed": 1}]
    assert site.states() == []


def test_what_is_kept_outlives_the_process_and_the_same_window_is_kept_once(site_of: Callable[..., Site]) -> None:
    site = site_of()
    site.share = 1.0
    site.relieve(_windows(2, 1))
    site = site_of()
    site.share = 1.0
    site.relieve(_windows(1, 2, 3))
    assert _uids(site.overload.late()) == ["uid-2", "uid-1", "uid-3"]
    assert site.overload.waiting == site.value("spilled_windows") == 3
    assert site.states() == []  # it began before


def test_a_window_that_no_model_here_can_take_is_left_out_counted_and_said(site_of: Callable[..., Site]) -> None:
    site = site_of()
    good, other, hurt = _windows(1, 2, 3)
    damaged = pack(hurt, CUT)
    site.journal.spill(
        [
            ("rotten", b"\x93\1"),
            (other.uid, pack(other, OTHER_CUT)),
            (hurt.uid, damaged[:-1] + bytes([damaged[-1] ^ 1])),
            (good.uid, pack(good, CUT)),
        ]
    )
    rotten, *said, last = site.overload.late()
    assert rotten == WindowDropped("rotten", "", 0, "shed")
    assert said == [
        said_of_one
        for number in (2, 3)
        for said_of_one in (
            WindowDropped(f"uid-{number}", "FDSN:XX_A__H_H_Z", number * 10**9, "shed"),
            Gap("FDSN:XX_A__H_H_Z", number * 10**9, number * 10**9 + 160_000_000, "shed"),
        )
    ]
    assert isinstance(last, Window)
    assert last.uid == "uid-1"
    assert site.overload.waiting == 1
    assert site.value("windows_dropped_total", reason="shed") == 3.0


def test_after_a_kill_what_is_spilled_or_published_already_is_not_shed(site_of: Callable[..., Site]) -> None:
    site = site_of(overload_spill_windows=2)
    site.share = 1.0
    spilled, also, published, quarantined, fresh = _windows(1, 2, 3, 4, 5)
    site.relieve([spilled, also])
    site.journal.append([Message("uid-3", "detection", "detection.0.XX.A..HHZ.", b"{}", 3)])
    site.journal.quarantine("uid-4", quarantined.sid, 4, "why", b"window")
    site = site_of(overload_spill_windows=2)
    site.share = 1.0
    out = site.relieve([published, quarantined, also, spilled, fresh])
    assert out[:4] == [published, quarantined, WindowSpilled("uid-2"), WindowSpilled("uid-1")]
    assert [type(item) for item in out[4:]] == [WindowDropped, Gap]
    assert site.value("windows_dropped_total", reason="shed") == 1.0
    assert site.value("spilled_total") == 0.0


def test_spilled_windows_are_waited_for_while_the_journal_is_blocked(
    site_of: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of()
    site.journal.spill([("uid-1", pack(made_window(1), CUT))])
    read, blocked = site.journal.spilled, [JournalBlockedError("locked")]

    def spilled(limit: int) -> list[tuple[str, bytes]]:
        if blocked:
            raise blocked.pop()
        return read(limit)

    monkeypatch.setattr(site.journal, "spilled", spilled)
    assert _uids(site.overload.late()) == ["uid-1"]


def test_where_the_disk_takes_nothing_windows_wait_as_they_are(site_of: Callable[..., Site]) -> None:
    site = site_of()
    site.share = 1.0
    site.journal._db.execute("PRAGMA query_only = ON")
    windows = _windows(1, 2)
    assert site.relieve(windows) == windows
    assert site.overload.waiting == 0


@given(
    shape=st.tuples(st.integers(1, 50), st.integers(1, 3)),
    seed=st.integers(0, 99),
    onset_ns=st.integers(0, 2**62),
    quality=st.lists(st.sampled_from(["clipped", "flat", "timing"]), max_size=2),
)
def test_a_window_goes_there_and_back(shape: tuple[int, int], seed: int, onset_ns: int, quality: list[str]) -> None:
    rng = np.random.default_rng(seed)
    waveform, normalised = (read_only(rng.normal(size=shape).astype(np.float32)) for _ in range(2))
    window = Window("u", "FDSN:XX_A__H_H_Z", onset_ns, onset_ns - 7, 50.0, 99.9, waveform, normalised, 3.1, 0.0, 0.7,
                    tuple(quality), received_ns=5)  # fmt: skip
    back = unpack(pack(window, CUT), CUT)
    for name in ("uid", "sid", "onset_ns", "start_ns", "sample_rate_hz", "stream_rate_hz", "peak_ratio", "duration_s",
                 "peak_amplitude", "quality"):  # fmt: skip
        assert getattr(back, name) == getattr(window, name)
    assert np.array_equal(back.waveform, waveform)
    assert np.array_equal(back.normalised, normalised)
    assert not back.normalised.flags.writeable
    assert back.received_ns == 0


@given(damage=st.binary(min_size=1, max_size=3), at=st.integers(0, 400))
def test_damaged_bytes_are_refused_and_tell_which_window_they_were_or_nothing(damage: bytes, at: int) -> None:
    whole = pack(made_window(1), CUT)
    packed = bytearray(whole)
    packed[at : at + len(damage)] = damage
    if packed[: len(whole)] == whole:
        return
    with pytest.raises(PackedWindowError, match=r"no window: (its bytes are damaged|it ends too early)$"):
        unpack(bytes(packed), CUT)
    with suppress(PackedWindowError):
        known = identity_of(bytes(packed))
        assert (known.uid, known.onset_ns, known.end_ns) == ("uid-1", 10**9, 10**9 + 160_000_000)


def _worked_off(
    site: Site, lists: list[list[Any]], floor_ns: int = 0, turns: int = 10_000, vote: VoteState | None = None
) -> list[dict[str, Any]]:
    """What a back worker publishes of these lists, of which it has to spill some; bodies in order.

    floor_ns: detections with earlier onsets were journalled before a warm-up restart. turns: after so many late batches
    it ends, or once nothing is late any more. vote: what it goes on from.
    """
    shared = Shared(site.metrics, Health())
    outbox: queue.Queue[Any] = queue.Queue()
    for item in lists:
        outbox.put(item)
    done: list[bool] = []

    def crowded() -> float:
        return outbox.qsize() / len(lists) if lists else 0.0

    overload = site.made(crowded)
    late = overload.late

    def late_or_stop() -> list[Window | WindowDropped | Gap]:
        done.append(overload.waiting == 0 or len(done) + 1 == turns)
        if done.count(True) == 1 and done[-1]:
            outbox.put(STOP)
        return late()

    overload.late = late_or_stop  # type: ignore[method-assign]  # the test's own seam
    half = BackHalf(Infer(FakeEncoder()), str, None, site.config)
    if vote is not None:
        half.restore(vote)
    served = SimpleNamespace(
        identity=ModelIdentity("m", "1", "0" * 64), package=SimpleNamespace(document=b"{}", called={})
    )
    beside, bus = SimpleNamespace(saw=lambda _: None), SimpleNamespace(publish=lambda _: None)
    guard = SimpleNamespace(quarantine=SimpleNamespace(take_notes=list))
    arguments: Any = (half, served, beside, site.journal, bus, outbox, queue.SimpleQueue(), guard, overload, b"{}")
    floors = Floors({item.sid: floor_ns for items in lists for item in items if isinstance(item, Window)})
    BackWorker(shared, site.config, *arguments, floors).run()
    assert shared.failure is None
    reader = JournalReader(site.folder / "journal.sqlite")
    bodies = [json.loads(one.message.body) for one in reader.since(0).messages]
    reader.close()
    return bodies


def test_every_window_is_published_once_the_spilled_ones_late_and_in_order(site_of: Callable[..., Site]) -> None:
    site = site_of()
    lists = [[made_window(number)] for number in range(400)]
    bodies = _worked_off(site, lists)
    detections = [body for body in bodies if body["type"] == "tscc.detection.v1"]
    ids = [int(body["id"].removeprefix("uid-")) for body in detections]
    late = [number for number, body in zip(ids, detections, strict=True) if body["data"]["late"]]
    assert sorted(ids) == list(range(400))
    assert late == sorted(late)
    assert ids[-len(late) :] == late  # the others did not wait for them
    assert len(late) == 5 * COMMIT_TOGETHER  # from a full queue to one of 80
    assert site.journal.spilled_count == 0
    states = [body["data"] for body in bodies if body["type"] == "tscc.status.v1"]
    assert [data["state"] for data in states] == ["begin", "end"]
    assert (states[1]["spilled"], states[1]["shed"]) == (len(late), 0)


def test_after_a_warm_up_restart_spilled_windows_are_published_all_the_same(site_of: Callable[..., Site]) -> None:
    site = site_of()
    bodies = _worked_off(site, [[made_window(number)] for number in range(400)], floor_ns=1 << 62)
    detections = [body for body in bodies if body["type"] == "tscc.detection.v1"]
    assert [body["data"]["late"] for body in detections] == [True] * (5 * COMMIT_TOGETHER)
    assert site.journal.spilled_count == 0


def _trigger(windows: list[Window]) -> NetworkTrigger:
    return NetworkTrigger("n", 1, 2, tuple((w.sid, w.onset_ns, w.uid) for w in windows), final=True)


def _stored_vote(site: Site) -> VoteState:
    stored = site.journal.snapshot()
    assert stored is not None
    _, vote = msgspec.msgpack.decode(stored.snapshot.state, type=tuple[bytes, bytes])
    return decode(vote, VoteState)


def _told(bodies: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [body["data"] | {"uid": body["id"]} for body in bodies if body["type"] == f"tscc.{kind}.v1"]


def test_a_kill_while_spilled_windows_are_worked_off_loses_no_network_event(site_of: Callable[..., Site]) -> None:
    settings = {"inference": {"max_batch": 1}}
    barrier = Barrier(b"", b"{}", {}, 0)
    site = site_of(**settings)
    windows = _windows(1, 2)
    _worked_off(site, [[*windows, _trigger(windows), barrier]], turns=1)
    assert site.journal.spilled_count == 1  # the first is published; the snapshot is of before
    site = site_of(**settings)
    vote = _stored_vote(site)
    assert vote.spilled == ["uid-1", "uid-2"]
    bodies = _worked_off(site, [], vote=vote)
    [event] = _told(bodies, "network_event")
    assert event["detections"] == ["uid-1", "uid-2"]
    assert [(one["uid"], one["late"]) for one in _told(bodies, "detection")] == [("uid-1", True), ("uid-2", True)]
    assert site.journal.duplicates == 1
    detections = [metric for metric in site.metrics.registry.collect() if metric.name == "tscc_detections"]
    assert sum(sample.value for sample in detections[0].samples if sample.name.endswith("_total")) == 1.0
    assert (site.journal.spilled_count, site.journal.spilled_rows) == (0, 2)
    _worked_off(site, [[barrier]])
    assert site.journal.spilled_rows == 0
    assert site_of(**settings).journal.spilled_count == 0


def test_network_events_do_not_wait_for_spilled_windows_that_no_model_can_take(site_of: Callable[..., Site]) -> None:
    site = site_of()
    good, other, rotten = windows = _windows(1, 2, 3)
    site.journal.spill([(good.uid, pack(good, CUT)), (other.uid, pack(other, OTHER_CUT)), (rotten.uid, b"rotten")])
    vote = VoteState([], [_Waiting(_trigger(windows), set(_uids(windows)))], _uids(windows))
    [event] = _told(_worked_off(site, [], vote=vote), "network_event")
    assert event["detections"] == ["uid-1"]
    reader = JournalReader(site.folder / "journal.sqlite")
    ledger = [(gap.sid, gap.from_ns, gap.to_ns, gap.cause) for gap in reader.gaps()]
    reader.close()
    assert ledger == [(other.sid, 2 * 10**9, 2 * 10**9 + 160_000_000, "shed")]
    assert site.value("gaps_by_cause_total", cause="shed") == 1.0


def test_a_published_window_that_no_model_can_take_any_more_is_no_loss(site_of: Callable[..., Site]) -> None:
    site = site_of()
    site.journal.append([Message("uid-1", "detection", "detection.0.XX.A..HHZ.", b"{}", 3)])
    site.journal.spill([("uid-1", pack(made_window(1), OTHER_CUT))])
    assert site.overload.late() == [WindowDropped("uid-1", "", 0, "shed")]
    assert site.value("windows_dropped_total", reason="shed") == 0.0


def test_a_spilled_window_leaves_the_file_with_a_snapshot_and_not_before(site_of: Callable[..., Site]) -> None:
    site = site_of()

    def settle() -> None:
        site.journal.append([Message("a", "detection", "detection.0.XX.A..HHZ.", b"{}", 1)])
        site.journal.unspill(["b", "never there"])
        site.journal.quarantine("c", "FDSN:XX_A__H_H_Z", 1, "why", b"window")
        assert site.journal.spilled(9) == [("d", b"4"), ("e", b"5")]
        assert (site.journal.spilled_count, site.journal.spilled_rows) == (2, 5)

    site.journal.spill([("a", b"1"), ("b", b"2"), ("c", b"3"), ("d", b"4"), ("e", b"5")])
    settle()
    site = site_of()
    assert [uid for uid, _ in site.journal.spilled(2)] == ["a", "b"]
    settle()
    assert site.journal.spill([("b", b"again"), ("f", b"6")]) == 1  # it comes again, so it is looked at again
    assert [uid for uid, _ in site.journal.spilled(9)] == ["b", "d", "e", "f"]
    site.journal.append([], (), Snapshot(1, b"{}", b"{}", b"{}", b"state"))
    assert (site.journal.spilled_count, site.journal.spilled_rows) == (4, 4)
    assert site_of().journal.spilled_rows == 4


def test_windows_that_wait_for_the_next_snapshot_take_room(site_of: Callable[..., Site]) -> None:
    site = site_of(overload_spill_windows=2)
    site.share = 1.0
    site.relieve(_windows(1, 2))
    site.journal.unspill(["uid-1", "uid-2"])
    assert isinstance(site.relieve(_windows(3))[0], WindowDropped)
    site.journal.append([], (), Snapshot(1, b"{}", b"{}", b"{}", b"state"))
    assert site.relieve(_windows(4)) == [WindowSpilled("uid-4")]


def test_the_early_notice_goes_out_at_once_and_the_last_word_waits_for_spilled_windows() -> None:
    half = BackHalf(Infer(FakeEncoder()), str, None, Config())
    first, second = _windows(1, 2)
    members = tuple((w.sid, w.onset_ns, w.uid) for w in (first, second))
    half.feed(first)
    half.flush()
    assert half.feed(NetworkTrigger("n", 1, 2, members, final=False)) == []
    [early] = half.feed(WindowSpilled(second.uid))
    assert (early.final, early.detections) == (False, ("uid-1",))  # type: ignore[union-attr]  # there by construction
    third = made_window(3)
    later = ((third.sid, third.onset_ns, third.uid),)
    assert half.feed(NetworkTrigger("m", 1, 2, later, final=True)) == half.feed(WindowSpilled(third.uid)) == []
    assert half.feed(NetworkTrigger("n", 1, 2, members, final=True)) == []
    [again] = half.feed(NetworkTrigger("n", 1, 2, members, final=False))
    assert not again.final  # type: ignore[union-attr]  # there by construction
    half.feed(second)
    [_, last] = half.flush()
    assert (last.final, last.detections) == (True, ("uid-1", "uid-2"))  # type: ignore[union-attr]  # the test has put it there


CHANNELS = tuple(f"XX.B{number}..HHZ" for number in range(8))
EVERY_SECONDS, BLASTS = 12, 20
SHORT_QUEUE = "from tscc_stream import daemon; daemon.OUTBOX_LISTS = 8"


def _blasts(folder: Path) -> Path:
    """Blasts on all channels at once, as often as a window is long."""
    folder.mkdir()
    t = np.arange(300) / 100.0
    for number, nslc in enumerate(CHANNELS):
        data = 300.0 * np.random.default_rng(number).standard_normal(100 * (EVERY_SECONDS * BLASTS + 40))
        for count in range(BLASTS):
            at = 100 * (25 + EVERY_SECONDS * count) + 5 * number
            data[at : at + t.size] += 60_000.0 * np.exp(-2.0 * t) * np.sin(2 * np.pi * 14 * t)
        records = miniseed.encode(from_nslc(nslc), START_NS, 100.0, np.round(data).astype(np.int32))
        (folder / f"{nslc}.mseed").write_bytes(b"".join(records))
    return folder


def _spilled_now(where: dict[str, Any]) -> float:
    [line] = [line for line in get(where, "/metrics").splitlines() if line.startswith("tscc_spilled_windows ")]
    return float(line.split()[1])


def test_blasts_on_all_channels_outlive_a_kill_and_arrive_once(tmp_path: Path) -> None:
    archive = _blasts(tmp_path / "archive")
    made = windows_of(archive)
    windows = {window.uid for window in made}
    assert len(windows) == BLASTS * len(CHANNELS)
    model = poisoned(tmp_path / "model", "slow", made, turns=40_000)
    server, address = serving(archive, "--speed", "100", "--wait-for-client")
    path = write_settings(tmp_path, address, model=str(model), overload="spill")
    with server:
        with daemon(path, SHORT_QUEUE) as (running, where), listen(where, "status.") as status:
            until(status, "status.overload.", state="begin")
            running.stop(9)
        with JournalFile(tmp_path / "state" / "journal.sqlite") as journal:
            assert journal.spilled_count > 0
        with daemon(path, SHORT_QUEUE) as (running, where), listen(where, "detection.") as detections:
            found = take(detections, len(windows))
            with listen(where, "status.") as status:
                ended = until(status, "status.overload.", state="end").body["data"]
            assert _spilled_now(where) == 0.0
            assert running.stop() == 0
    assert sorted(m.body["id"] for m in found) == sorted(windows)
    late = [m.body["data"]["late"] for m in found]
    assert 0 < sum(late) < len(windows)
    assert ended["spilled"] > 0
    assert ended["shed"] == 0
