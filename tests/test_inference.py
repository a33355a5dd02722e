"""An encoder that raises, never ends, or takes the process with it costs its window, and nothing else."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_time import PATIENCE_S
from made_poison import How, poisoned, windows_of
from made_site import BURSTS_S, CHANNELS, Running, make_archive, serving, write_settings
from made_streams import FakeEncoder
from prometheus_client import CollectorRegistry
from test_daemon import daemon, expected, get, listen, take, until

from tscc_stream import package
from tscc_stream.aside import Aside, StuckError
from tscc_stream.config import InferenceConfig
from tscc_stream.edges import sqlite
from tscc_stream.edges.in_flight import InFlight, _read
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.health import Health
from tscc_stream.inference import Guard, GuardedInfer, InferenceError
from tscc_stream.messages import Assignment, Float32Array, Window, WindowDropped, read_only
from tscc_stream.metrics import Metrics
from tscc_stream.packed_window import cut_of, pack, unpack
from tscc_stream.patience import Patience
from tscc_stream.stages.gather import batch_of
from tscc_stream.stages.infer import Encoded
from tscc_stream.stages.journal import JournalBlockedError, JournalDamagedError, UntilDone
from tscc_stream.window_quarantine import WindowQuarantine

__all__ = ["expected"]

DETECTIONS = len(BURSTS_S) * len(CHANNELS)
CUT = "0123456789abcdef"


def made_window(number: int) -> Window:
    samples = read_only(np.full((8, 1), number, np.float32))
    return Window(f"uid-{number}", "FDSN:XX_A__H_H_Z", number * 10**9, number * 10**9, 50.0, 100.0, samples, samples,
                  9.0, 1.0, 1.0)  # fmt: skip


def patience(metrics: Metrics, given_up: threading.Event | None = None) -> UntilDone:
    return Patience("back", Health(), metrics, given_up or threading.Event()).until_done


class Choosy(FakeEncoder):
    """Raises for windows of some numbers, and waits for windows of others until the test is over."""

    def __init__(self, raises: set[int], waits: set[int], over: threading.Event) -> None:
        super().__init__()
        self._raises, self._waits, self._over = raises, waits, over

    def encode(self, normalised: Float32Array) -> Encoded:
        numbers = {int(window[0, 0]) for window in normalised}
        if numbers & self._raises:
            raise RuntimeError("Traceback of the program\n  somewhere\nRuntimeError: it cannot be\n")
        if numbers & self._waits:
            self._over.wait(PATIENCE_S)
        return super().encode(normalised)


class Bench:
    """A guarded encoder with a real journal; what it says."""

    def __init__(self, folder: Path, over: threading.Event) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.journal = JournalFile(folder / "journal.sqlite")
        self.quarantine = WindowQuarantine(self.journal, self.metrics, CUT, patience(self.metrics))
        self.in_flight = InFlight(folder / "in-flight")
        self.now = 1000.0
        self.alive = 0
        self.made = 0
        self._over = over
        self.settings = InferenceConfig(timeout_seconds=30.0, most_restarts=3, restart_window_seconds=100.0)

    def guard(self) -> Guard:
        return Guard(self.settings, self._alive, self.in_flight, self.quarantine, self.metrics, lambda: self.now)

    def infer(self, raises: set[int] | None = None, waits: set[int] | None = None) -> GuardedInfer:
        def fresh() -> Choosy:
            self.made += 1
            return Choosy(raises or set(), waits or set(), self._over)

        return GuardedInfer(fresh(), fresh, self.guard())

    def _alive(self) -> None:
        self.alive += 1

    def told(self) -> list[Any]:
        return [(note.kind, note.about, note.data["reason"]) for note in self.quarantine.take_notes()]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"tscc_{name}", labels) or 0.0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    over = threading.Event()
    made = Bench(tmp_path, over)
    yield made
    over.set()
    made.journal.close()
    made.in_flight.end()


def _batch(*numbers: int) -> Any:
    return batch_of([made_window(number) for number in numbers])


def _said(results: list[Assignment | WindowDropped]) -> list[object]:
    return [r.reason if isinstance(r, WindowDropped) else (r.window.uid, r.cluster, *r.membership) for r in results]


def test_a_good_batch_goes_through_as_without_a_guard(bench: Bench) -> None:
    batch = _batch(1, 2, 3)
    plain = FakeEncoder().encode(batch.normalised)
    results = bench.infer().feed(batch)
    assert [r.cluster for r in results if isinstance(r, Assignment)] == list(plain.cluster)
    assert bench.made == 1
    assert bench.count("inference_restarts_total", reason="error") == 0.0


def test_a_call_to_keep_warm_is_of_one_window_as_large_as_the_last(bench: Bench) -> None:
    encoder = Choosy(set(), set(), threading.Event())
    infer = GuardedInfer(encoder, _never, bench.guard())
    infer.keep_warm()
    assert encoder.sizes == []  # how large windows are is not known yet
    infer.feed(_batch(1, 2))
    infer.keep_warm()
    assert encoder.sizes == [2, 1]


@pytest.mark.parametrize("kind", ["error", "timeout"])
def test_a_call_to_keep_warm_that_fails_renews_the_encoder(bench: Bench, kind: str) -> None:
    infer = bench.infer(raises={0}) if kind == "error" else bench.infer(waits={0})
    infer.feed(_batch(1))
    bench.settings = bench.settings.model_copy(update={"timeout_seconds": 0.2})
    infer._guard.settings = bench.settings
    infer.keep_warm()
    assert bench.made == 2
    assert bench.count("inference_restarts_total", reason=kind) == 1.0
    assert len(infer.feed(_batch(2))) == 1


@pytest.mark.parametrize("kind", ["error", "timeout"])
def test_one_bad_window_is_quarantined_and_the_others_are_classified(bench: Bench, kind: str) -> None:
    alone = _said(bench.infer().feed(_batch(1, 2, 4)))
    made = bench.made
    if kind == "timeout":
        bench.settings = InferenceConfig(timeout_seconds=0.05)
    infer = bench.infer({3} if kind == "error" else set(), {3} if kind == "timeout" else set())
    said = _said(infer.feed(_batch(1, 2, 3, 4)))
    assert said == [*alone[:2], "quarantined", alone[2]]
    assert bench.made == made + 3  # its first encoder, one after the batch, one after the window
    assert bench.count("inference_restarts_total", reason=kind) == 2.0
    assert bench.count("windows_dropped_total", reason="quarantined") == 1.0
    reason = "the encoder failed: RuntimeError: it cannot be"
    if kind == "timeout":
        reason = "the encoder did not answer within 0.05 s"
    assert bench.told() == [("quarantine", "uid-3", reason)]
    assert _said(infer.feed(_batch(5, 3)))[1] == "quarantined"  # it is not given to the encoder again
    assert bench.count("inference_restarts_total", reason=kind) == 2.0


def test_quarantine_survives_a_restart_with_the_samples(bench: Bench, tmp_path: Path) -> None:
    bench.infer({3}).feed(_batch(3))
    again = WindowQuarantine(bench.journal, bench.metrics, CUT, patience(bench.metrics))
    assert again.holds("uid-3")
    [(sid, packed)] = sqlite3.connect(tmp_path / "journal.sqlite").execute("SELECT sid, window FROM quarantine")
    kept, window = unpack(packed, CUT), made_window(3)
    assert (sid, kept.uid, kept.onset_ns, kept.quality) == (window.sid, window.uid, window.onset_ns, window.quality)
    assert np.array_equal(kept.normalised, window.normalised)
    assert np.array_equal(kept.waveform, window.waveform)


class _DiskBack(threading.Event):
    """Nobody gives up; the journal can be written again after the first wait."""

    def __init__(self, journal: JournalFile) -> None:
        super().__init__()
        self._journal = journal
        self.waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        self._journal._db.execute("PRAGMA query_only = OFF")
        return False


def test_quarantine_waits_for_a_disk_that_fails_for_a_while(bench: Bench) -> None:
    disk = _DiskBack(bench.journal)
    quarantine = WindowQuarantine(bench.journal, bench.metrics, CUT, patience(bench.metrics, disk))
    window = made_window(3)
    bench.journal.spill([(window.uid, pack(window, CUT))])
    bench.journal._db.execute("PRAGMA query_only = ON")
    assert quarantine.add(window, "why").reason == "quarantined"
    assert disk.waits == 1
    assert bench.journal.quarantined() == {"uid-3": "why"}
    assert bench.journal.spilled_count == 0
    bench.journal.spill([("uid-4", pack(made_window(4), CUT))])
    bench.journal._db.execute("PRAGMA query_only = ON")
    quarantine.refuse(window)  # this writes nothing
    assert disk.waits == 1


def test_a_window_that_is_held_waits_for_a_journal_that_cannot_be_read_for_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.quarantine.add(made_window(3), "why")
    disk, blocked = _DiskBack(bench.journal), [JournalBlockedError("locked")]
    bench.journal.spill([("uid-3", pack(made_window(3), CUT))])
    unspill = bench.journal.unspill

    def blocked_once(uids: list[str]) -> None:
        if blocked:
            raise blocked.pop()
        unspill(uids)

    monkeypatch.setattr(bench.journal, "unspill", blocked_once)
    quarantine = WindowQuarantine(bench.journal, bench.metrics, CUT, patience(bench.metrics, disk))
    assert quarantine.refuse(made_window(3)).reason == "quarantined"
    assert (disk.waits, bench.journal.spilled_count) == (1, 0)


def test_a_damaged_journal_ends_quarantine_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise JournalDamagedError("rot")

    monkeypatch.setattr(bench.journal, "quarantine", damaged)
    with pytest.raises(JournalDamagedError):
        bench.quarantine.add(made_window(3), "why")


def test_what_the_journal_forgets_is_held_no_longer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "MOST_QUARANTINED", 2)
    for number in (1, 2, 3):
        bench.quarantine.add(made_window(number), "why")
    held = {f"uid-{number}" for number in (1, 2, 3) if bench.quarantine.holds(f"uid-{number}")}
    assert held == set(bench.journal.quarantined()) == {"uid-2", "uid-3"}


def test_suspects_go_alone_until_they_come_through_and_the_condemned_not_at_all(bench: Bench) -> None:
    encoder = FakeEncoder()
    infer = GuardedInfer(encoder, _never, bench.guard())
    bench.in_flight.suspects.update({"uid-2": 5, "uid-3": 6})
    said = _said(infer.feed(_batch(1, 2, 3, 4)))
    assert encoder.sizes == [1, 2]
    assert [result if isinstance(result, str) else result[0] for result in said] == [  # type: ignore[index]  # the test knows its form
        "uid-1", "uid-2", "quarantined", "uid-4"]  # fmt: skip
    infer.feed(_batch(1, 2, 3, 4))
    assert encoder.sizes == [1, 2, 3]
    assert bench.in_flight.suspects == {}
    [told, _] = bench.told()
    assert told == ("quarantine", "uid-3", "it was in the encoder, alone, each time the process died")


def test_too_many_failures_end_it_and_what_was_bad_is_stored_before(bench: Bench) -> None:
    infer = bench.infer({3, 6})
    infer.feed(_batch(1, 3))
    with pytest.raises(
        InferenceError, match=r"inference failed 4 times within 100 s \(most_restarts: 3\), last: .*it c"
    ):
        infer.feed(_batch(6, 7))
    assert set(bench.journal.quarantined()) == {"uid-3", "uid-6"}


def test_failures_long_ago_do_not_count(bench: Bench) -> None:
    infer = bench.infer({3, 6, 9})
    for number in (3, 6, 9):
        infer.feed(_batch(1, number))
        bench.now += 101.0
    assert bench.count("inference_restarts_total", reason="error") == 6.0


def test_a_model_that_cannot_be_loaded_afresh_ends_it(bench: Bench) -> None:
    def gone() -> Choosy:
        raise package.PackageError("the folder is empty")

    infer = GuardedInfer(Choosy({1}, set(), threading.Event()), gone, bench.guard())
    with pytest.raises(InferenceError, match="cannot be loaded afresh: the folder is empty"):
        infer.feed(_batch(1))


def test_who_waits_shows_that_it_lives_until_the_time_is_over_and_not_beyond(bench: Bench) -> None:
    bench.settings = InferenceConfig(timeout_seconds=1.2)
    with pytest.raises(InferenceError):
        GuardedInfer(Choosy(set(), {1}, bench._over), _never, bench.guard()).feed(_batch(1))
    assert 2 <= bench.alive <= 5  # at 0, 0.5 and 1.0 s, and once for the model that is loaded


def _never() -> Choosy:
    raise package.PackageError("nothing")


def test_work_aside_gives_what_it_gives_raises_what_it_raises_and_may_get_stuck() -> None:
    over = threading.Event()
    aside = Aside("test")
    assert aside.call(lambda: 7, 30.0, lambda: None) == 7
    with pytest.raises(TimeoutError, match="its own"):
        aside.call(_raise(TimeoutError("its own")), 30.0, lambda: None)
    with pytest.raises(StuckError, match=r"did not end within 0\.05 s"):
        aside.call(over.wait, 0.05, lambda: None)
    over.set()


def _raise(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


# The daemon, with a model that has such a fault


@pytest.fixture(scope="module")
def archive_of_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def bad(archive_of_four: Path) -> Window:
    """The window that the faulty models cannot take."""
    return windows_of(archive_of_four)[7]


def _quarantined(path: Path) -> list[tuple[str, str]]:
    state = Path(json.loads(path.read_text())["state_dir"])
    with sqlite3.connect(state / "journal.sqlite") as db:
        return list(db.execute("SELECT uid, reason FROM quarantine"))


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_a_model_with_a_fault_loses_that_window_only(
    archive_of_four: Path, expected: dict[str, int], bad: Window, how: How, tmp_path: Path
) -> None:
    model = poisoned(tmp_path / "model", how, [bad])
    server, address = serving(archive_of_four, "--speed", "max")
    path = write_settings(tmp_path, address, model=str(model), inference={"timeout_seconds": 2.0})
    with server, daemon(path) as (running, where):
        with listen(where, "detection.") as detections, listen(where, "status.") as status:
            found = take(detections, DETECTIONS - 1)
            told = until(status, "status.quarantine.", uid=bad.uid).body["data"]
        event = _event_around(where, bad.onset_ns)
        assert {m.body["id"]: m.body["data"]["cluster"]["id"] for m in found} == {
            uid: cluster for uid, cluster in expected.items() if uid != bad.uid and uid in {m.body["id"] for m in found}
        }
        assert len({m.body["id"] for m in found} - {bad.uid}) == DETECTIONS - 1
        assert ("poison" if how == "raises" else "within 2 s") in told["reason"]
        assert (len(event["channels"]), len(event["detections"])) == (4, 3)
        metrics = get(where, "/metrics")
        assert 'tscc_windows_dropped_total{reason="quarantined"} 1.0' in metrics
        kind = "error" if how == "raises" else "timeout"
        assert f'tscc_inference_restarts_total{{reason="{kind}"}} 2.0' in metrics
        assert json.loads(get(where, "/healthz"))["state"] == "ok"
        assert running.stop() == 0
    assert [uid for uid, _ in _quarantined(path)] == [bad.uid]


def _event_around(where: dict[str, Any], onset_ns: int) -> dict[str, Any]:
    """The last word on a network event within two seconds of an onset."""
    with listen(where, "network.") as events:
        while True:
            data: dict[str, Any] = until(events, "network.", final=True).body["data"]
            if abs(data["onset_ns"] - onset_ns) <= 2 * 10**9:
                return data


def test_too_many_bad_windows_end_the_daemon_with_one_sentence(archive_of_four: Path, tmp_path: Path) -> None:
    model = poisoned(tmp_path / "model", "raises", windows_of(archive_of_four))
    server, address = serving(archive_of_four, "--speed", "max")
    path = write_settings(tmp_path, address, model=str(model))
    with server, Running("run", "--config", path) as running:
        assert running.wait(PATIENCE_S) == 1
        last = running.text.splitlines()[-2]
    assert last.startswith("tscc-stream: inference failed 4 times within 600 s (most_restarts: 3), last: ")
    assert "this window is poison" in last
    assert "Traceback" not in running.text
    assert len(_quarantined(path)) == 3


def test_a_window_that_crashes_the_process_is_found_and_kept_out(
    archive_of_four: Path, bad: Window, tmp_path: Path
) -> None:
    """Three deaths: in a batch, or among others; alone; and alone again. The fourth start goes on without it."""
    model = poisoned(tmp_path / "model", "crashes", [bad])
    server, address = serving(archive_of_four, "--speed", "max")
    path = write_settings(tmp_path, address, model=str(model))
    with server:
        for _ in range(3):
            with Running("run", "--config", path) as running:
                assert running.wait(PATIENCE_S) == -signal.SIGSEGV
            assert _quarantined(path) == []
        with daemon(path) as (running, where), listen(where) as everything:
            running.wait_for("the process before this one crashed: Fatal Python error: Segmentation fault")
            told = until(everything, "status.quarantine.", uid=bad.uid).body["data"]
            with listen(where, "detection.") as detections:
                found = take(detections, DETECTIONS - 1)
            assert running.stop() == 0
    assert "each time the process died" in told["reason"]
    assert len({m.body["id"] for m in found}) == DETECTIONS - 1
    assert bad.uid not in {m.body["id"] for m in found}
    assert [uid for uid, _ in _quarantined(path)] == [bad.uid]


def test_who_is_killed_from_outside_loses_nothing_however_often_the_same_window_is_in_flight(
    archive_of_four: Path, expected: dict[str, int], bad: Window, tmp_path: Path
) -> None:
    model = poisoned(tmp_path / "model", "hangs", [bad])
    server, address = serving(archive_of_four, "--speed", "max")
    in_flight = tmp_path / "state" / "in-flight"
    with server:
        path = write_settings(tmp_path, address, model=str(model))
        for alone in (False, True):
            with daemon(path) as (running, where), listen(where) as everything:
                for _ in range(600):
                    held = _read(in_flight).in_flight
                    if bad.uid in held and not (alone and len(held) > 1):
                        break
                    everything.receive(0.05)
                else:
                    pytest.fail("the window was never in the encoder")
                assert running.stop(9) == -9
        path = write_settings(tmp_path, address)
        with daemon(path) as (running, where), listen(where, "detection.") as detections:
            found = take(detections, DETECTIONS)
            assert running.stop() == 0
    assert {m.body["id"] for m in found} <= expected.keys()
    assert len({m.body["id"] for m in found}) == DETECTIONS
    assert _quarantined(path) == []


def test_two_models_cut_alike_exactly_where_their_windows_are_the_same() -> None:
    spec = package.load(package.find("models/demo")).spec
    assert cut_of(spec) == cut_of(spec.model_copy(update={"version": "2", "clusters": 3}))
    assert cut_of(spec) != cut_of(spec.model_copy(update={"warmup_seconds": 1.5}))
