"""A candidate beside the live model: counted where it has time, skipped where not, never in the way."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from in_time import PATIENCE_S
from made_messages import detection
from made_site import BURSTS_S, CHANNELS, Here, make_archive, serving, write_settings
from prometheus_client import CollectorRegistry
from test_daemon import daemon, get, listen, take, until

from tscc_stream import activation, beside, package
from tscc_stream.beside import Beside, ShadowRun
from tscc_stream.client import Received
from tscc_stream.config import Config
from tscc_stream.health import Health
from tscc_stream.learn import dataset
from tscc_stream.learn.export import annotate
from tscc_stream.messages import Detection, Float32Array
from tscc_stream.metrics import Metrics
from tscc_stream.serving import Served
from tscc_stream.stages.infer import Encoded
from tscc_stream.windows import normalise

DETECTIONS = len(BURSTS_S) * len(CHANNELS)
DEMO = package.find("models/demo")


class FakeEncoder:
    """Everything is in cluster 2; each batch waits until it may go."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.may_go.set()

    def encode(self, normalised: Float32Array) -> Encoded:
        self.begun.set()
        assert self.may_go.wait(PATIENCE_S)
        if self.error:
            raise self.error
        n = len(normalised)
        member = np.tile(np.array([0.1, 0.1, 0.8], np.float32), (n, 1))
        return Encoded(np.zeros((n, 4), np.float32), member, np.full(n, 2), 1.0 - member)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


def _served(encoder: FakeEncoder) -> Served:
    return Served(package.load(DEMO), encoder, None, None)


def _some(count: int, known: bool = True) -> list[Detection]:
    return [detection(known)] * count


def _count(metrics: Metrics, live: str = "1") -> float | None:
    return metrics.registry.get_sample_value("tscc_shadow_total", {"live": live, "shadow": "2"})


def _skipped(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("tscc_shadow_skipped_total")


def _run(shadow: ShadowRun) -> threading.Thread:
    thread = threading.Thread(target=shadow.run)
    thread.start()
    return thread


def _drained(shadow: ShadowRun) -> None:
    """Everything that waits was classified when the mark that is put behind it was taken."""
    shadow._waiting.put(None)
    thread = _run(shadow)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_agreement_is_counted_per_pair_and_anew_with_another_live_model(metrics: Metrics, encoder: FakeEncoder) -> None:
    shadow = ShadowRun(metrics, Health(), 0.01, most_together=4)
    shadow.offer(_some(3))
    shadow.use(_served(encoder))
    shadow.offer(_some(9))
    shadow.offer(_some(2, known=False))
    _drained(shadow)
    assert (_count(metrics), _count(metrics, "unknown"), _skipped(metrics)) == (9.0, 2.0, 0.0)
    shadow.offer(_some(5))
    shadow.begin_anew()
    _drained(shadow)
    assert _count(metrics) is None


def test_what_finds_no_room_is_skipped_at_once_and_the_end_waits_for_one_batch_only(
    metrics: Metrics, encoder: FakeEncoder
) -> None:
    shadow = ShadowRun(metrics, Health(), 0.01, most_together=4)
    shadow.use(_served(encoder))
    encoder.may_go.clear()
    shadow.offer(_some(4))
    thread = _run(shadow)
    assert encoder.begun.wait(PATIENCE_S)
    shadow.offer(_some(4 * beside.MOST_BATCHES))
    shadow.offer(_some(7))
    assert _skipped(metrics) == 7.0
    shadow.stop()
    encoder.may_go.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert _count(metrics) == 4.0


def test_a_candidate_that_changes_while_it_classifies_is_not_counted(metrics: Metrics, encoder: FakeEncoder) -> None:
    shadow = ShadowRun(metrics, Health(), 0.01, most_together=4)
    shadow.use(_served(encoder))
    encoder.may_go.clear()
    shadow.offer(_some(4))
    thread = _run(shadow)
    assert encoder.begun.wait(PATIENCE_S)
    shadow.use(None)
    encoder.may_go.set()
    shadow.stop()
    thread.join(PATIENCE_S)
    assert _count(metrics) is None


def test_a_candidate_that_fails_is_tried_no_longer(
    metrics: Metrics, encoder: FakeEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    shadow = ShadowRun(metrics, Health(), 0.01, most_together=4)
    shadow.use(_served(encoder))
    encoder.error = RuntimeError("out of memory")
    shadow.offer(_some(8))
    _drained(shadow)
    assert [record.getMessage() for record in caplog.records] == [
        "the candidate demo failed and is tried no longer: out of memory"
    ]
    shadow.offer(_some(1))
    assert (_count(metrics), _skipped(metrics)) == (None, 0.0)


@pytest.mark.parametrize(
    "error", [RuntimeError("Traceback\n  in forward\nout of memory\n"), IndexError("out of memory")]
)
def test_whoever_set_a_candidate_that_fails_is_told(error: Exception, metrics: Metrics, encoder: FakeEncoder) -> None:
    told: list[tuple[str, str]] = []
    shadow = ShadowRun(metrics, Health(), 0.01, 4, lambda made, why: told.append((made.sha256, why)))
    served = _served(encoder)
    shadow.use(served)
    encoder.error = error
    shadow.offer(_some(8))
    _drained(shadow)
    assert told == [(served.package.sha256, "out of memory")]


def test_a_candidate_that_hangs_takes_nothing_from_the_one_that_replaced_it(
    metrics: Metrics, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "MOST_SECONDS", 0.2)
    told: list[str] = []
    shadow = ShadowRun(metrics, Health(), 0.01, 4, lambda _made, why: told.append(why))
    hanging = FakeEncoder()
    hanging.may_go.clear()
    shadow.use(_served(hanging))
    shadow.offer(_some(4))
    thread = _run(shadow)
    assert hanging.begun.wait(PATIENCE_S)
    shadow.use(_served(encoder))
    shadow.offer(_some(3))
    assert encoder.begun.wait(PATIENCE_S)
    shadow.stop()
    thread.join(PATIENCE_S)
    hanging.may_go.set()
    assert (_count(metrics), told) == (3.0, [])


def test_a_candidate_that_fails_while_the_live_model_changes_is_given_up_all_the_same(
    metrics: Metrics, encoder: FakeEncoder
) -> None:
    told: list[str] = []
    shadow = ShadowRun(metrics, Health(), 0.01, 4, lambda _made, why: told.append(why))
    encoder.may_go.clear()
    encoder.error = RuntimeError("out of memory")
    shadow.use(_served(encoder))
    shadow.offer(_some(4))
    thread = _run(shadow)
    assert encoder.begun.wait(PATIENCE_S)
    shadow.begin_anew()
    encoder.may_go.set()
    shadow.stop()
    thread.join(PATIENCE_S)
    assert told == ["out of memory"]


def test_drift_of_the_live_model_is_shown_for_each_of_its_clusters(metrics: Metrics, encoder: FakeEncoder) -> None:
    looking = Beside(metrics, Health(), Config(), _served(encoder))
    looking.saw(_some(3))
    looking.saw([])
    clusters = package.load(DEMO).spec.clusters
    for name in ("all", *map(str, range(clusters))):
        assert np.isnan(metrics.registry.get_sample_value("tscc_drift_score", {"cluster": name}))
    fewer = package.load(DEMO)
    fewer.spec = fewer.spec.model_copy(update={"clusters": 1})
    looking.use(replace(_served(encoder), package=fewer))
    assert metrics.registry.get_sample_value("tscc_drift_score", {"cluster": "1"}) is None


def test_a_candidate_beside_a_running_daemon_and_its_windows_as_a_data_set(tmp_path: Path, here: Here) -> None:
    folder = tmp_path / "candidate"
    shutil.copytree(DEMO, folder)
    candidate = annotate(folder, metrics={"candidate": 1})
    server, address = serving(make_archive(tmp_path / "four"), "--speed", "max")
    path = write_settings(tmp_path, address, shadow=str(folder))
    state, out = tmp_path / "state", tmp_path / "site.npz"
    with server, daemon(path) as (running, where), listen(where, "waveform.detection.") as windows:
        with listen(where) as everything:
            told = until(everything, "status.model.", role="shadow").body["data"]
            assert (told["state"], told["sha256"]) == ("active", candidate.sha256)
        found = {m.body["data"]["onset_ns"]: m for m in take(windows, DETECTIONS)}
        assert "tscc_shadow_total" in get(where, "/metrics")
        assert here("model", "shadow", "--report", "--state-dir", state).returncode == 0
        done = here("dataset", "build", "--from", "journal", "--config", path, "--out", out)
        assert (done.returncode, done.stdout) == (0, f"{out}: {DETECTIONS} windows\n"), done.stderr
        done = here("model", "shadow", "--off", "--config", path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "no candidate is tried; the daemon" in done.stdout
        done = here("model", "shadow", folder, "--state-dir", state)
        assert (done.returncode, done.stderr) == (0, "")
        assert "tried beside the live model; the daemon" in done.stdout
        done = here("model", "shadow", "models/rutford", "--state-dir", state)
        assert done.returncode == 1
        assert "sample_rate_hz 250.0 instead of 50.0" in done.stderr
        assert running.stop() == 0
    _check_data_set(out, found)
    assert "no daemon runs there" in here("model", "shadow", "--report", "--state-dir", state).stderr
    assert activation.endpoints(state) == {}


def _check_data_set(out: Path, found: dict[int, Received]) -> None:
    """Array x is the window before normalisation: normalised, it is to the bit what went out on the bus."""
    data, demo = dataset.load(out), package.load(DEMO)
    assert len(data) == DETECTIONS
    assert (data.sample_rate_hz, data.window) == (50.0, dataset.shape_of(demo.spec))
    assert data.cluster is not None
    assert data.model_sha256 is not None
    assert set(data.model_sha256) == {demo.sha256}
    assert list(data.onset_ns) == sorted(data.onset_ns)
    assert np.abs(data.x).max() > 100.0
    for x, sid, onset_ns, cluster in zip(data.x, data.sid, data.onset_ns, data.cluster, strict=True):
        message = found[int(onset_ns)]
        assert message.topic.endswith(f".{sid}.")
        assert message.body["data"]["cluster"]["id"] == cluster
        assert normalise(x, demo.spec.normalisation).tobytes() == message.waveform
