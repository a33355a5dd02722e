"""What the alert process learns from /healthz, whatever that says: no answer ends the thread that asks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from made_alerts import SID, Site, until
from made_site import write_settings

from tscc_stream import config
from tscc_stream.apps.alert_health import Facts
from tscc_stream.apps.alert_probe import Probe
from tscc_stream.messages import Gap


class _Daemon(BaseHTTPRequestHandler):
    body: ClassVar[bytes] = b""
    metrics: ClassVar[bytes] = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body if self.path == "/healthz" else self.metrics)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Daemon) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def _facts(folder: Path, address: str, document: object) -> Facts:
    """Of a probe that has asked once and goes on."""
    _Daemon.body = json.dumps(document).encode()
    settings = config.load(write_settings(folder, metrics={"bind": address}))
    probe = Probe(settings, Path(settings.state_dir))
    first = probe.facts
    probe.start()
    try:
        until(lambda: probe.facts is not first or not probe.alive, "the first answer")
        assert probe.alive
        return probe.facts
    finally:
        probe.stop()


def test_a_server_that_has_never_sent_anything_is_silent(tmp_path: Path, address: str) -> None:
    said = {"state": "ok", "servers": {"s:1": "connected"}, "data": {"s:1": {"state": "SILENT", "age_s": None}}}
    facts = _facts(tmp_path, address, said)
    assert (facts.state, dict(facts.silent), facts.cut_off) == ("ok", {"s:1": None}, True)


@pytest.mark.parametrize(
    "document",
    [
        {"state": "ok", "data": {"s:1": None}},
        {"state": "ok", "data": {"s:1": {"state": "SILENT"}}},
        {"state": "ok", "data": ["s:1"]},
        {"state": "ok", "silent": {"FDSN:SM_S001__G_H_Z": "long"}},
        {"state": "ok", "servers": 1},
        {"state": "ok", "stalled": 1},
    ],
)
def test_a_document_of_another_form_is_as_none(tmp_path: Path, address: str, document: object) -> None:
    assert _facts(tmp_path, address, document) == Facts()


def test_one_clock_that_is_ahead_hides_no_loss_of_data(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.time_ns()
    line = f'tscc_last_sample_timestamp_seconds{{sid="{SID}"}} {time.time() + 86_400}\n'
    monkeypatch.setattr(_Daemon, "metrics", line.encode())
    with Site(tmp_path / "state", metrics=address) as site:
        site.lose(Gap(SID, now_ns - 100 * 10**9, now_ns - 10 * 10**9, "link"))
        facts = _facts(tmp_path, address, {"state": "ok"})
    assert [gap.cause for gap in facts.gaps] == ["link"]
