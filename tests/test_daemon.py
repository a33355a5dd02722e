"""The daemon as a process of its own: what it publishes, how it starts, what it survives, how it ends."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from in_time import PATIENCE_S
from made_site import BURSTS_S, CHANNELS, Running, make_archive, serving, settings, write_settings
from seedlink_fakes import FakeServer, Packet, record, v4

from tscc_stream import classifier, config, package
from tscc_stream.client import Received, Subscriber

DETECTIONS = len(BURSTS_S) * len(CHANNELS)


@pytest.fixture(scope="module")
def archive_of_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def expected(archive_of_four: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Uid -> cluster of everything that `classify` finds."""
    out = io.StringIO()
    known = config.parse(json.dumps(settings(tmp_path_factory.mktemp("state"))))
    classifier.classify([archive_of_four], known, package.find("models/demo"), "jsonl", out)
    return {body["id"]: body["data"]["cluster"]["id"] for body in map(json.loads, out.getvalue().splitlines())}


@contextmanager
def daemon(path: Path, begin: str = "", *, fresh: bool = False) -> Iterator[tuple[Running, dict[str, Any]]]:
    with Running("run", "--config", path, begin=begin, fresh=fresh) as running:
        running.wait_for(r"ready: ")
        where = json.loads((Path(json.loads(path.read_text())["state_dir"]) / "endpoints.json").read_text())
        yield running, where


def listen(where: dict[str, Any], topic: str = "", since: int | None = 0) -> Subscriber:
    return Subscriber(where["publish"], where["replay"], since=since, topic=topic)


def take(subscriber: Subscriber, count: int) -> list[Received]:
    """So many messages, each within bounded time."""
    got = []
    while len(got) < count:
        received = subscriber.receive(PATIENCE_S)
        assert received is not None, f"only {len(got)} of {count} messages came"
        got.append(received)
    return got


def until(subscriber: Subscriber, topic: str, **data: Any) -> Received:
    """The first message of a topic whose data hold these values."""
    while True:
        (received,) = take(subscriber, 1)
        if received.topic.startswith(topic) and data.items() <= received.body["data"].items():
            return received


def get(where: dict[str, Any], path: str) -> str:
    with urllib.request.urlopen(f"http://{where['metrics']}{path}", timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def test_everything_that_classify_finds_arrives_once_in_order_and_a_restart_repeats_nothing(
    archive_of_four: Path, expected: dict[str, int], tmp_path: Path
) -> None:
    server, address = serving(archive_of_four, "--speed", "max")
    with server:
        path = write_settings(tmp_path, address)
        with daemon(path, fresh=True) as (running, where):
            with listen(where) as everything, listen(where, "detection.") as detections:
                found = take(detections, DETECTIONS)
                until(everything, "network.", final=True)
            assert {m.body["id"]: m.body["data"]["cluster"]["id"] for m in found}.items() <= expected.items()
            assert len({m.body["id"] for m in found}) == DETECTIONS
            _check_metrics(where)
            assert running.stop() == 0
        with daemon(path, fresh=True) as (_, where), listen(where) as everything:
            seqs, seen, restarts = [], [], 0
            while restarts < 2 or not seen or seen[-1].topic != "status.seedlink.":
                (received,) = take(everything, 1)
                seen.append(received)
                seqs.append(received.seq)
                restarts += received.topic == "status.daemon." and received.body["data"]["state"] == "started"
            assert seqs == list(range(1, len(seqs) + 1))
            again = [m.body["id"] for m in seen if m.topic.startswith("detection.")]
            assert sorted(again) == sorted(m.body["id"] for m in found)


def _check_metrics(where: dict[str, Any]) -> None:
    text = get(where, "/metrics")
    for line in (f"tscc_triggers_total {DETECTIONS}.0", "tscc_seedlink_connected{", "tscc_journal_head_seq "):
        assert line in text
    assert f'tscc_samples_total{{sid="FDSN:XX_A__H_H_Z"}} {150 * 100:.1f}' in text
    assert text.count("tscc_gaps_total{") == 0
    assert json.loads(get(where, "/healthz"))["state"] == "ok"
    if shutil.which("promtool"):
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_server_comes_and_goes(archive_of_four: Path, tmp_path: Path) -> None:
    """First away, then there, then away again: said on the bus, and what came is published."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with daemon(write_settings(tmp_path, f"127.0.0.1:{port}")) as (running, where), listen(where) as everything:
        assert "refused" in until(everything, "status.seedlink.", connected=False).body["data"]["text"]
        with Running("serve", archive_of_four, "--bind", f"127.0.0.1:{port}", "--speed", "max") as server:
            server.wait_for("listening on")
            until(everything, "status.seedlink.", connected=True)
            until(everything, "detection.")
        until(everything, "status.seedlink.", connected=False)
        assert running.stop() == 0


def test_one_stream_refused_one_record_rotten_the_rest_goes_on(archive_of_four: Path, tmp_path: Path) -> None:
    slow = make_archive(tmp_path / "slow", rate_hz=20.0, channels=("XX.SLOW..HHZ",))
    for path in archive_of_four.iterdir():
        shutil.copy(path, slow)
    server, address = serving(slow, "--speed", "max")
    _, rotten_address = _server_with_a_rotten_record()
    streams = [{"server": address, "streams": ["XX_*:HHZ"]}, {"server": rotten_address, "streams": ["BW_*"]}]
    with server, daemon(write_settings(tmp_path, seedlink=streams)) as (_, where), listen(where) as everything:
        counted, refused = 0, ""
        while counted < DETECTIONS or not refused:
            (received,) = take(everything, 1)
            counted += received.topic.startswith("detection.")
            if received.topic == "status.channel.":
                refused = received.body["data"]["refused"]
        assert refused.startswith("20 Hz cannot hold the band")
        assert 'tscc_records_rejected_total{reason="malformed"} 1.0' in _metrics_once(where, "malformed", everything)


def _metrics_once(where: dict[str, Any], word: str, subscriber: Subscriber) -> str:
    """The metrics once they hold a word; the bus's heartbeat paces the asking."""
    for _ in range(100):
        text = get(where, "/metrics")
        if word in text:
            return text
        subscriber.receive(0.1)
    raise AssertionError(f"no {word!r} in the metrics")


def _server_with_a_rotten_record() -> tuple[threading.Thread, str]:
    """A server that sends its ring, then a packet of rubbish and a good one, and ends with its first client."""
    listener = socket.create_server(("127.0.0.1", 0))
    script = FakeServer([Packet(1, record())])

    def talk() -> None:
        with listener, listener.accept()[0] as peer:
            while data := peer.recv(4096):
                was_streaming = script.streaming
                peer.sendall(script.feed(data))
                if script.streaming and not was_streaming:
                    peer.sendall(v4(2, b"\x17" * 512) + v4(3, record(second=1)))

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    host, port = listener.getsockname()
    return thread, f"{host}:{port}"


def _fails(path: Path, sentence: str, status: int = 1) -> None:
    with Running("run", "--config", path) as running:
        assert running.wait(PATIENCE_S) == status
        text = running.text
    assert sentence in text
    assert "Traceback" not in text


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        publish = {"bind": f"tcp://127.0.0.1:{port}", "replay_bind": "tcp://127.0.0.1:0"}
        _fails(write_settings(tmp_path, publish=publish), f"tcp://127.0.0.1:{port}: cannot bind: the address is in use")
        bind = {"bind": f"127.0.0.1:{port}"}
        _fails(write_settings(tmp_path, metrics=bind), f"metrics.bind 127.0.0.1:{port}: cannot bind")


def test_a_second_daemon_on_the_same_state_is_refused(tmp_path: Path) -> None:
    path = write_settings(tmp_path)
    with daemon(path):
        _fails(path, "journal")


def test_a_model_that_is_missing_or_tampered_with_is_refused(tmp_path: Path) -> None:
    _fails(write_settings(tmp_path, model=str(tmp_path / "nothing")), "no such folder", 2)
    copy = tmp_path / "model"
    shutil.copytree(package.find("models/demo"), copy)
    with (copy / "encoder.ts").open("ab") as file:
        file.write(b"\0")
    _fails(
        write_settings(tmp_path, model=str(copy)), "encoder.ts was changed: its SHA-256 is not the one in model.json", 2
    )


def test_a_wrong_configuration_names_every_mistake_and_ends_with_two(tmp_path: Path) -> None:
    path = write_settings(tmp_path, site="two words", novelty={"alpha": 2.0}, metrics={"bind": "nowhere"})
    with Running("run", "--config", path) as running:
        assert running.wait(PATIENCE_S) == 2
        assert all(name in running.text for name in ("site", "novelty.alpha", "metrics.bind"))


def test_interrupt_ends_it_as_terminate_does(tmp_path: Path) -> None:
    with daemon(write_settings(tmp_path), fresh=True) as (running, _):
        assert running.stop(signal.SIGINT) == 0


def test_a_fallback_takes_over_and_what_falls_silent_is_told(archive_of_four: Path, tmp_path: Path) -> None:
    """The first server dies, the next goes on by time, nothing twice; then it has no more, and that is said."""
    first, one = serving(archive_of_four, "--speed", "50")
    second, two = serving(archive_of_four, "--speed", "max")
    entry = {"server": one, "fallbacks": [two], "streams": ["XX_*:HHZ"], "stale_seconds": 3.0, "timeout_seconds": 2.0}
    with first, second, daemon(write_settings(tmp_path, seedlink=[entry])) as (_, where), listen(where) as everything:
        up = until(everything, "status.seedlink.", connected=True).body["data"]
        assert (up["server"], up["actual"]) == (one, one)
        until(everything, "detection.")
        first.stop()
        up = until(everything, "status.seedlink.", connected=True).body["data"]
        assert (up["server"], up["actual"], up["step"]) == (one, two, "time")
        until(everything, "status.data.", server=one, state="SILENT")
        until(everything, "status.seedlink.", connected=False, reason="stale")
        with listen(where, "detection.") as detections:
            found = [received.body["id"] for received in take(detections, DETECTIONS)]
        assert len(set(found)) == DETECTIONS
        text = get(where, "/metrics")
        assert f'tscc_seedlink_resumes_total{{server="{one}",step="time"}} 1.0' in text
        assert f'tscc_seedlink_last_data_timestamp_seconds{{server="{one}"}} 1' in text
        assert f'tscc_seedlink_actual{{actual="{two}",server="{one}"}}' in text
        data = json.loads(get(where, "/healthz"))["data"][one]
        assert (data["state"], data["age_s"] > 1.0) == ("SILENT", True)
