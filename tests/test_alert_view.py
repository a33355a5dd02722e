"""How the alert process learns what the daemon says over HTTP; and names that no cluster has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_alerts import SID, Site, until
from made_certificate import make_certificate, make_leaf, needs_openssl
from prometheus_client import CollectorRegistry

from tscc_stream import passwords
from tscc_stream.apps.alert_names import names_in_use, without_cluster
from tscc_stream.apps.alert_probe import Probe
from tscc_stream.config import Config, parse
from tscc_stream.config_http import MetricsConfig
from tscc_stream.edges.daemon_view import DaemonView, Login, SecretViewError, ViewError, newest_samples
from tscc_stream.edges.http import HttpServer
from tscc_stream.edges.people import FILE, PeopleFile
from tscc_stream.messages import Gap, Record, read_only
from tscc_stream.metrics import Metrics
from tscc_stream.names import give
from tscc_stream.package import Label, find, load

SECOND = 10**9
NOBODY = Login(None, None, "alerts.monitor.")


@pytest.fixture
def registry() -> CollectorRegistry:
    import numpy as np  # noqa: PLC0415  # for one array

    registry = CollectorRegistry()
    Metrics(registry).channels.took(Record("FDSN:A_B__G_H_Z", 5 * 10**9, 1.0, read_only(np.zeros(3, np.int32))))
    return registry


def serving(config: MetricsConfig, registry: CollectorRegistry, document: dict[str, Any]) -> HttpServer:
    server = HttpServer(config, registry, lambda: (False, document))
    server.start()
    return server


def test_health_and_newest_samples(registry: CollectorRegistry) -> None:
    config = MetricsConfig(bind="127.0.0.1:0")
    server = serving(config, registry, {"state": "journal", "reason": "disk full"})
    address, view = f"127.0.0.1:{server.address[1]}", DaemonView(config, NOBODY)
    assert view.health(address) == {"state": "journal", "reason": "disk full"}
    assert newest_samples(view.metrics(address)) == {"FDSN:A_B__G_H_Z": 7.0}
    server.stop()
    with pytest.raises(ViewError, match="refused"):
        view.health(address)


def test_the_probe_puts_together_what_daemon_and_ledger_say(registry: CollectorRegistry, tmp_path: Path) -> None:
    health = {
        "state": "disconnected",
        "servers": {"s:1": "not connected", "s:2": "connected"},
        "data": {"s:2": {"state": "SILENT", "age_s": 70.0}},
        "stalled": ["back"],
    }
    server = serving(MetricsConfig(bind="127.0.0.1:0"), registry, health)
    begin, end = 4 * SECOND, 6 * SECOND
    with Site(tmp_path / "state", metrics=f"127.0.0.1:{server.address[1]}") as site:
        site.lose(Gap(SID, begin, end, "link"), Gap(SID, begin, None, "flat"), Gap("X", begin, end, "rate"))
        probe = Probe(config_of(), tmp_path / "state")
        probe.start()
        until(lambda: probe.facts.state, "what the daemon says")
        probe.stop()
        facts = probe.facts
    server.stop()
    assert (facts.state, facts.stalled, facts.cut_off) == ("disconnected", ("back",), True)
    assert (facts.silent, facts.away) == ({"s:2": 70.0}, {"s:1"})
    assert facts.channels == {"FDSN:A_B__G_H_Z": 7.0}
    assert facts.open_gaps == ((SID, "flat"),)
    assert [(gap.sid, gap.cause) for gap in facts.gaps] == [(SID, "link")]


@pytest.mark.parametrize(
    ("data", "silent"),
    [({"s:1": {"state": "SILENT", "age_s": None}}, {"s:1": None}), (["not", "as", "expected"], {}), ({"s:1": 5}, {})],
)
def test_no_answer_of_the_daemon_ends_the_probe(
    registry: CollectorRegistry, tmp_path: Path, data: object, silent: dict[str, None]
) -> None:
    """age_s is null of a server that has sent nothing since the daemon's start."""
    health = {"state": "ok", "servers": {"s:1": "connected"}, "data": data}
    server = serving(MetricsConfig(bind="127.0.0.1:0"), registry, health)
    with Site(tmp_path / "state", metrics=f"127.0.0.1:{server.address[1]}"):
        probe = Probe(config_of(), tmp_path / "state")
        before = probe.facts
        probe.start()
        until(lambda: probe.facts is not before or not probe.alive, "what the daemon says")
        assert (probe.alive, probe.facts.silent) == (True, silent)
        probe.stop()
    server.stop()


@needs_openssl
def test_where_the_daemon_is_secured(registry: CollectorRegistry, tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "tls")
    (tmp_path / "users").write_text(passwords.line_for("alert", "open sesame") + "\n")
    (tmp_path / "password").write_text("open sesame\n")
    files = {"tls_certificate": made.certificate, "tls_key": made.key, "users_file": tmp_path / "users"}
    config = MetricsConfig.model_validate({"bind": "127.0.0.1:0", **{key: str(path) for key, path in files.items()}})
    server = serving(config, registry, {"state": "ok"})
    address = f"127.0.0.1:{server.address[1]}"
    alert = Login("alert", str(tmp_path / "password"), "alerts.monitor.")
    assert DaemonView(config, alert).health(address) == {"state": "ok"}
    with pytest.raises(SecretViewError, match=r"set alerts\.monitor\.user and alerts\.monitor\.password_file"):
        DaemonView(config, NOBODY).metrics(address)
    other = config.model_copy(update={"tls_certificate": str(make_certificate(tmp_path / "other").certificate)})
    with pytest.raises(ViewError, match="self"):
        DaemonView(other, alert).health(address)
    server.stop()


@needs_openssl
def test_a_certificate_is_trusted_without_that_of_its_authority(registry: CollectorRegistry, tmp_path: Path) -> None:
    made = make_leaf(tmp_path)
    files = {"tls_certificate": str(made.certificate), "tls_key": str(made.key)}
    config = MetricsConfig.model_validate({"bind": "127.0.0.1:0", **files})
    server = serving(config, registry, {"state": "ok"})
    assert DaemonView(config, NOBODY).health(f"127.0.0.1:{server.address[1]}") == {"state": "ok"}
    server.stop()


def config_of(*clusters: str) -> Config:
    rules = [{"name": "a", "clusters": list(clusters)}]
    return parse(json.dumps({"model": str(find("models/demo")), "network": {}, "alerts": {"rules": rules}}))


def test_names_that_no_cluster_has(tmp_path: Path) -> None:
    config = config_of("microseismic", "unknown", "micro-seismic", "rock burst")
    known = names_in_use(config, tmp_path, tmp_path)
    assert known is not None
    slip, absent = without_cluster(config, known)
    assert slip == "rule a: no cluster is called 'micro-seismic' at present; did you mean 'microseismic'?"
    assert absent.startswith("rule a: no cluster is called 'rock burst' at present; there are blast or microseismic, ")
    people = PeopleFile(tmp_path / FILE)
    give(people, load(find("models/demo")).sha256, 0, Label(name="rock burst"), "eve", 1)
    people.close()
    known = names_in_use(config, tmp_path, tmp_path)
    assert known is not None
    assert ["rock burst" in known, "microseismic" in known] == [True, False]
    assert names_in_use(config.model_copy(update={"model": "nowhere"}), tmp_path, tmp_path) is None
