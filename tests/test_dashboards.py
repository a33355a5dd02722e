"""Dashboards, rules and what to do: written against what a running daemon measures, and against one another."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from in_time import PATIENCE_S
from made_site import Running, make_archive, serving, write_settings
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tscc_stream.client import Subscriber
from tscc_stream.metrics import Metrics

ROOT = Path(__file__).parent.parent
RULES = ROOT / "dashboards" / "prometheus"
GRAFANA = sorted((ROOT / "dashboards" / "grafana").glob("*.json"))
OF_PROMETHEUS = {"up", "ALERTS"}
"""Series that Prometheus itself makes."""
OF_SCRAPES = {"job", "instance"}
METRIC = re.compile(r"\b(tscc_[a-z0-9_]+|process_[a-z0-9_]+|tscc:[a-z0-9_:]+|up|ALERTS)\b(?!\s*\()")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def rules(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((RULES / name).read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


ALERTS = rules("tscc.alerts.yml")
RECORDED = {rule["record"]: rule["expr"] for rule in rules("tscc.recording.yml")}


def dashboard(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def stats(path: Path) -> list[dict[str, Any]]:
    """Panels of one value each."""
    return [panel for panel in panels(path) if panel["type"] == "stat"]


def panels(path: Path) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard(path)["panels"] if panel["type"] != "row"]


def asked_by_dashboards() -> Iterator[tuple[str, str]]:
    """Where, and what of Prometheus."""
    for path in GRAFANA:
        for panel in panels(path):
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
        for note in dashboard(path)["annotations"]["list"]:
            yield f"{path.stem}: annotation {note['name']}", note["expr"]


def asked() -> list[tuple[str, str]]:
    return [
        *asked_by_dashboards(),
        *((rule["alert"], rule["expr"]) for rule in ALERTS),
        *RECORDED.items(),
    ]


def concrete(expr: str) -> str:
    """With values in place of Grafana's variables."""
    return expr.replace("$instance", ".+").replace("$__rate_interval", "5m").replace("$__range", "1h")


def without_words(expr: str) -> str:
    """An expression without label matchers, lists of labels and quoted texts: metrics and functions are left."""
    expr = re.sub(r'"[^"]*"', '""', expr)
    expr = re.sub(r"\{[^}]*\}", "", expr)
    return re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", expr)


def labels_in(expr: str) -> set[str]:
    lists = re.findall(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)", expr)
    matched = re.findall(r"\{([^}]*)\}", expr)
    named = {label for one in lists for label in re.findall(r"\w+", one)}
    return named | {label for one in matched for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", one)}


# ---- alone


@needs_promtool
def test_promtool_finds_no_fault_in_the_rules() -> None:
    names = [str(RULES / name) for name in ("tscc.recording.yml", "tscc.alerts.yml")]
    done = subprocess.run(["promtool", "check", "rules", *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_pass_their_own_tests() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", str(RULES / "tscc.tests.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_where_it_fires_and_where_it_must_not() -> None:
    document = yaml.safe_load((RULES / "tscc.tests.yml").read_text(encoding="utf-8"))
    tests = [test for block in document["tests"] for test in block["alert_rule_test"]]
    names = {rule["alert"] for rule in ALERTS}
    assert {test["alertname"] for test in tests if test["exp_alerts"]} == names
    assert {test["alertname"] for test in tests if not test["exp_alerts"]} == names


@needs_promtool
def test_promtool_understands_every_expression_of_the_dashboards(tmp_path: Path) -> None:
    made = [{"record": f"panel:{n}", "expr": concrete(expr)} for n, (_, expr) in enumerate(asked_by_dashboards())]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


ALIVE, DEAD = 'job="tscc", instance="alive:9108"', 'job="tscc", instance="dead:9108"'


def sending(site: str, values: str) -> dict[str, str]:
    """Series of a daemon that is well. values: of the gauges, `x` for each value."""
    gauges = {
        f"tscc_healthy{{{site}}}": "1", f'tscc_seedlink_connected{{{site}, server="a:1"}}': "1",
        f"process_start_time_seconds{{{site}}}": "1", f'tscc_build_info{{{site}, version="1"}}': "1",
        f"tscc_journal_failing{{{site}}}": "0", f"tscc_state_free_bytes{{{site}}}": "50000000000",
        f'tscc_last_sample_timestamp_seconds{{{site}, sid="A"}}': "1200",
        f'tscc_seedlink_last_data_timestamp_seconds{{{site}, server="a:1"}}': "1195",
        f'tscc_cluster_info{{{site}, cluster="1", name="blast"}}': "1", f"tscc_triggers_total{{{site}}}": "5",
        f'tscc_drift_score{{{site}, cluster="all"}}': "0.05",
    }  # fmt: skip
    return {name: values.replace("x", f"{value}x") for name, value in gauges.items()}


def shown(folder: Path, series: dict[str, str]) -> dict[str, float]:
    """What each panel of one value shows after twenty minutes, by dashboard and title."""
    expected = {f"{path.stem}: {p['title']}": p["targets"][0]["expr"] for path in GRAFANA for p in stats(path)}
    tests = [
        {"expr": concrete(expr), "eval_time": "20m", "exp_samples": [{"labels": "{}", "value": 123456789}]}
        for expr in expected.values()
    ]
    document = {
        "rule_files": [str(RULES / name) for name in ("tscc.recording.yml", "tscc.alerts.yml")],
        "evaluation_interval": "1m",
        "group_eval_order": ["tscc-recording", "tscc-alerts"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": tests,
            }
        ],
    }
    (folder / "tests.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        ["promtool", "test", "rules", str(folder / "tests.yml")], capture_output=True, text=True, check=False
    )
    said = re.findall(r"got:\s*(?:{} (\S+)|nil)", done.stdout + done.stderr)
    assert len(said) == len(expected), done.stdout + done.stderr
    return {name: float(value or "nan") for name, value in zip(expected, said, strict=True)}


def colour(panel: dict[str, Any], value: float) -> str:
    """Of its background."""
    defaults = panel["fieldConfig"]["defaults"]
    for mapping in defaults.get("mappings", ()):
        if mapping["type"] == "value" and f"{value:g}" in mapping["options"]:
            return str(mapping["options"][f"{value:g}"]["color"])
    steps = [step for step in defaults["thresholds"]["steps"] if step["value"] is None or step["value"] <= value]
    return str(steps[-1]["color"])


@pytest.mark.parametrize("path", GRAFANA, ids=lambda path: path.stem)
def test_a_panel_of_one_value_shows_what_is_now(path: Path) -> None:
    """The last value of the hours that are shown stays what it was when a daemon dies."""
    assert stats(path)
    for panel in stats(path):
        (target,) = panel["targets"]
        assert (target.get("instant"), target.get("range")) == (True, False), panel["title"]


@needs_promtool
@pytest.mark.parametrize(
    "series",
    [
        sending(ALIVE, "x30") | {f"up{{{ALIVE}}}": "1x30"} | sending(DEAD, "x9 stale") | {f"up{{{DEAD}}}": "1x9 0x20"},
        sending(DEAD, "x9 stale") | {f"up{{{DEAD}}}": "1x9 0x20"},
        sending(DEAD, "x9 stale") | {f"up{{{DEAD}}}": "1x9 stale"},
    ],
    ids=["one of two", "the only one", "and nobody asks it any more"],
)
def test_no_panel_of_one_value_is_well_while_a_daemon_is_down(series: dict[str, str], tmp_path: Path) -> None:
    values = shown(tmp_path, series)
    for path in GRAFANA:
        for panel in stats(path):
            name = f"{path.stem}: {panel['title']}"
            assert (name, colour(panel, values[name])) == (name, "red")


@needs_promtool
def test_a_panel_of_one_value_is_not_red_while_daemons_are_well(tmp_path: Path) -> None:
    of_both = [sending(site, "x30") | {f"up{{{site}}}": "1x30"} for site in (ALIVE, DEAD)]
    values = shown(tmp_path, of_both[0] | of_both[1])
    assert values["tscc-operations: Daemon"] == 1
    assert values["tscc-operations: Channels"] == 2
    assert values["tscc-operations: Oldest data"] == 5
    for path in GRAFANA:
        for panel in stats(path):
            name = f"{path.stem}: {panel['title']}"
            known = not math.isnan(values[name]) and name != "tscc-operations: Last sample to message"
            assert (name, known and colour(panel, values[name]) == "red") == (name, False)


@needs_promtool
def test_data_of_a_server_that_never_sent_are_as_old_as_the_daemon(tmp_path: Path) -> None:
    series = sending(ALIVE, "x30") | {f"up{{{ALIVE}}}": "1x30"}
    series[f'tscc_seedlink_connected{{{ALIVE}, server="never:1"}}'] = "1x30"
    assert shown(tmp_path, series)["tscc-operations: Oldest data"] == 1199


@needs_promtool
def test_what_was_lost_before_the_first_scrape_is_shown(tmp_path: Path) -> None:
    series = sending(ALIVE, "x30") | {f"up{{{ALIVE}}}": "1x30"}
    series[f'tscc_lost_seconds_total{{{ALIVE}, sid="A"}}'] = "1200x30"
    assert shown(tmp_path, series)["tscc-operations: Lost in 24 hours"] == 1200


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    text = (ROOT / "docs" / "alarms.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n\n(.+?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() == {rule["alert"] for rule in ALERTS}
    for rule in ALERTS:
        name = rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/alarms.md#{name.lower()}"
        assert sections[name].startswith(rule["labels"]["severity"]), name
        assert "\n- " in sections[name], f"{name}: nothing to do"
        waits = re.match(r"\w+, after (\d+) (minute|hour)", sections[name])
        told = f"{waits.group(1)}{waits.group(2)[0]}" if waits else None
        assert told == rule.get("for"), name
    for link in re.findall(r"\(#(\w+)\)", text):
        assert link in {name.lower() for name in sections}


@pytest.mark.parametrize("path", GRAFANA, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_takes(path: Path) -> None:
    document = dashboard(path)
    assert document["schemaVersion"] >= 39
    assert document["uid"] == path.stem
    assert "id" not in document
    assert document["templating"]["list"][0]["type"] == "datasource"
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(numbers) == len(set(numbers))
    for one in document["panels"]:
        place = one["gridPos"]
        assert place["x"] + place["w"] <= 24
    for link in document["links"]:
        assert link["url"].removeprefix("/d/") in {other.stem for other in GRAFANA}


@pytest.mark.parametrize("path", GRAFANA, ids=lambda path: path.stem)
def test_no_two_panels_overlap(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard(path)["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


@pytest.mark.parametrize("path", GRAFANA, ids=lambda path: path.stem)
def test_every_panel_says_what_it_shows_in_which_unit(path: Path) -> None:
    titles = [panel["title"] for panel in panels(path)]
    assert len(titles) == len(set(titles))
    for panel in panels(path):
        name, defaults = panel["title"], panel["fieldConfig"]["defaults"]
        assert name
        assert panel["description"], name
        assert defaults["unit"], name
        steps = defaults["thresholds"]["steps"]
        assert steps[0]["value"] is None, name
        assert all(before["value"] < after["value"] for before, after in pairwise(steps[1:])), name
        assert panel["targets"], name
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, name
        for target in panel["targets"]:
            assert target["expr"], name
            assert "$instance" in target["expr"], f"{name}: shows all sites, whichever was chosen"


# ---- against the daemon


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A daemon that has detected something: where its metrics are, and their text."""
    folder = tmp_path_factory.mktemp("site")
    server, address = serving(make_archive(folder / "archive"), "--speed", "max")
    with server, Running("run", "--config", write_settings(folder, address)) as running:
        running.wait_for("ready: ")
        where = json.loads((folder / "state" / "endpoints.json").read_text())
        with Subscriber(where["publish"], where["replay"], since=0, topic="network.") as events:
            while (received := events.receive(PATIENCE_S)) is not None and not received.body["data"]["final"]:
                pass
        assert received is not None
        with urllib.request.urlopen(f"http://{where['metrics']}/metrics", timeout=PATIENCE_S) as answer:
            yield where["metrics"], answer.read().decode()
        assert running.stop() == 0


def known_labels(text: str) -> dict[str, set[str]]:
    """Sample name -> labels, of a running daemon; of series that nothing has caused yet, as the code declares them."""
    known: dict[str, set[str]] = {}
    made = Metrics(CollectorRegistry())
    for collector in list(made.registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for name in made.registry._collector_to_names[collector]:
            known[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
            if sample.name == family.name and family.samples:
                known[sample.name] = known[sample.name] | set(sample.labels)
    return known


def test_every_metric_that_is_asked_for_is_there_with_its_labels(scraped: tuple[str, str]) -> None:
    """Recording rules have no other labels than what they are made of."""
    text = scraped[1]
    there = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    there |= {f"{name}{end}" for name in there for end in ("_bucket", "_sum", "_count")}
    labels = known_labels(text)
    wrong = []
    for where, expr in asked():
        names = set(METRIC.findall(without_words(concrete(expr))))
        assert names, f"{where}: asks for nothing"
        known = there | RECORDED.keys() | OF_PROMETHEUS
        wrong += [f"{where}: {name}" for name in names - known]
        roots = {root for name in names for root in _roots(name)}
        given = OF_SCRAPES | {"alertname", "alertstate"} | {label for root in roots for label in labels.get(root, ())}
        wrong += [f"{where}: label {label}" for label in labels_in(concrete(expr)) - given]
    assert wrong == []


def _roots(name: str) -> set[str]:
    """The metrics that a recording rule is made of."""
    if ":" not in name:
        return {name}
    inside = METRIC.findall(without_words(RECORDED[name]))
    return {root for one in inside for root in _roots(one)}


def test_names_of_clusters_are_in_the_metrics(scraped: tuple[str, str]) -> None:
    text = scraped[1]
    named = re.findall(r'^tscc_cluster_info\{cluster="(\w+)",name="([^"]+)"\} 1.0$', text, re.MULTILINE)
    assert ("unknown", "unknown") in named
    assert len(named) > 2
    assert re.search(r'^tscc_network_events_total\{cluster="\w+"\} \d', text, re.MULTILINE)
    assert "tscc_healthy 1.0" in text
    assert re.search(r"^tscc_state_free_bytes [0-9.e+]+$", text, re.MULTILINE)
    assert re.search(r"^process_resident_memory_bytes [0-9.e+]+$", text, re.MULTILINE)


@needs_prometheus
def test_a_prometheus_answers_every_question_out_of_a_running_daemon(scraped: tuple[str, str], tmp_path: Path) -> None:
    """Joins that match several series are only found out by data."""
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
        "rule_files": [str(RULES / "tscc.recording.yml"), str(RULES / "tscc.alerts.yml")],
        "scrape_configs": [{"job_name": "tscc", "static_configs": [{"targets": [scraped[0]]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with _prometheus(tmp_path) as address:
        assert _until(address, "tscc:channels:count")[0]["value"][1] == "4"
        _until(address, "tscc:stage_seconds:p99_5m")  # needs two scrapes: so much is there then
        for where, expr in asked():
            answer = _asked(address, concrete(expr))
            assert answer["status"] == "success", f"{where}: {answer.get('error')}"
        named = _asked(
            address, "tscc_cluster_info * on (job, instance, cluster) group_right (name) tscc:detections:total"
        )
        assert len(named["data"]["result"]) > 2
        health = json.loads(_get(f"http://{address}/api/v1/rules"))
        states = [rule for group in health["data"]["groups"] for rule in group["rules"]]
        assert len(states) == len(ALERTS) + len(RECORDED)
        assert [rule["name"] for rule in states if rule["health"] == "err"] == []


@contextmanager
def _prometheus(folder: Path) -> Iterator[str]:
    """A Prometheus with the configuration that lies there: its address."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310  # of this machine
        return str(answer.read().decode())


def _asked(address: str, expr: str) -> dict[str, Any]:
    query = urllib.parse.urlencode({"query": expr})
    try:
        answer: dict[str, Any] = json.loads(_get(f"http://{address}/api/v1/query?{query}"))
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, "error": error.read().decode(), "data": {"result": []}}
    return answer


def _until(address: str, expr: str) -> list[dict[str, Any]]:
    """The answer, once there is one: scrapes and rules take their turns."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            found: list[dict[str, Any]] = _asked(address, expr)["data"]["result"]
        except OSError:
            found = []  # it has not begun to listen
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"no answer to {expr}")
