"""Alerts that nobody would ever be told: refused, or said where the file alone does not show it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from made_site import write_settings

from tscc_stream import config
from tscc_stream.alerts_in_vain import doubts
from tscc_stream.apps import alert_run, doctor, doctor_site
from tscc_stream.cli import main
from tscc_stream.config import ConfigError, as_yaml, parse

SOURCE = {"name": "north", "connect": "tcp://10.0.0.1:5556", "replay": "tcp://10.0.0.1:5557"}
NETWORK: dict[str, Any] = {"network": {}}


def refused(alerts: dict[str, Any], **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(as_yaml({"alerts": alerts, **sections}))
    (told,) = caught.value.mistakes
    return told.split(": ", 1)[1]


def doubted(alerts: dict[str, Any]) -> list[str]:
    return list(doubts(parse(as_yaml({"alerts": alerts, **NETWORK})).alerts))


def test_a_network_rule_without_network_is_refused() -> None:
    rules = [{"name": "near", "kind": "detection"}, {"name": "burst"}]
    told = refused({"rules": rules})
    assert told.startswith("alerts.rules.1: kind network (the default): without the section network no network event")
    assert told.endswith("expected that section (`network: {}` has its defaults), or kind: detection")
    parse(as_yaml({"alerts": {"rules": rules}, **NETWORK}))


def test_of_other_sources_the_file_cannot_know_and_says_so() -> None:
    alerts = {"rules": [{"name": "burst"}], "sources": [{**SOURCE, "metrics": "10.0.0.1:9108"}]}
    parse(as_yaml({"alerts": alerts}))
    (told,) = doubted(alerts)
    assert told.startswith("burst: network events come only from a source that is `coincide`, or whose own file has")
    assert doubted({**alerts, "rules": [{"name": "any", "kind": "detection"}]}) == []


def test_a_source_without_metrics_does_not_tell_of_its_journal() -> None:
    (told,) = doubted({"sources": [SOURCE]})
    assert told == "journal failing: tells nothing of north, since a source without metrics does not say it"


@pytest.mark.parametrize(
    ("section", "one"),
    [
        ("rules", {"name": "near", "kind": "detection"}),
        ("watches", {"name": "data", "kind": "data"}),
        ("watches", {"name": "none", "kind": "triggers"}),
        ("watches", {"name": "lost", "kind": "gaps"}),
    ],
)
def test_patterns_as_under_seedlink_are_refused(section: str, one: dict[str, Any]) -> None:
    told = refused({section: [{**one, "channels": ["MN.*", "MN_GEO1:GHZ"]}]})
    assert told.startswith(
        f"alerts.{section}.0.channels.1: 'MN_GEO1:GHZ' can match no channel; expected NET.STA.LOC.CHA"
    )


def test_unknown_is_never_suppressed() -> None:
    planned = {"reason": "blast", "hours": ["14:00-14:20"], "clusters": ["blast", "unknown"]}
    told = refused({"suppression": [planned], "suppress_below_amplitude": 10.0})
    assert told == (
        "alerts.suppression.0.clusters: unknown: expected names of clusters, since an unknown event is never suppressed"
    )


def test_a_stream_is_told_after_stale_seconds_and_nothing_else() -> None:
    told = refused({"watches": [{"name": "a", "kind": "data", "channels": ["MN.*"], "after_seconds": 10.0}]})
    assert told.startswith("alerts.watches.0: after_seconds: expected not beside channels")


@pytest.mark.parametrize(
    ("when", "seconds"),
    [
        ({"hours": ["06:00-06:30"]}, 3600.0),
        ({"hours": ["06:00-07:00"]}, 3600.0),
        ({"hours": ["23:30-00:15"]}, 3600.0),
        ({"shifts": ["day"]}, 12 * 3600.0),
        ({"days": ["mon"]}, 86_400.0),
        ({"hours": ["06:00-06:01"]}, 90.0),
    ],
)
def test_a_watch_whose_hours_are_shorter_than_its_time_is_refused(when: dict[str, Any], seconds: float) -> None:
    watch = {"name": "none", "kind": "triggers", "after_seconds": seconds, **when}
    assert refused({"watches": [watch]}).startswith(
        f"alerts.watches.0: after_seconds {seconds:g}: its hours, shifts and"
    )


@pytest.mark.parametrize(
    ("when", "seconds"),
    [
        ({}, 1e9),
        ({"hours": ["06:00-07:01"]}, 3600.0),
        ({"hours": ["23:30-00:45"]}, 3600.0),
        ({"hours": ["06:00-06:01"]}, 59.0),
        ({"hours": ["06:00-06:30"]}, 86_400.0),
        ({"hours": ["06:00-06:30", "05:00-05:30"]}, 3600.0),
        ({"shifts": ["night"], "days": ["sun"]}, 3600.0),
        ({"days": ["mon", "tue"]}, 86_400.0),
    ],
)
def test_a_watch_whose_hours_are_long_enough_is_good(when: dict[str, Any], seconds: float) -> None:
    parse(as_yaml({"alerts": {"watches": [{"name": "none", "kind": "triggers", "after_seconds": seconds, **when}]}}))


def test_a_user_of_the_monitor_without_a_password_is_refused() -> None:
    assert refused({"monitor": {"user": "alert"}}) == (
        "alerts.monitor: expected user and password_file together, or neither"
    )


def test_an_escalation_to_who_was_told_at_once_is_doubted() -> None:
    rule = {"name": "burst", "repeat_seconds": 60.0, "escalate_to": ["siren"]}
    actions = {"siren": {"argv": ["/bin/true"]}, "note": {"argv": ["/bin/true"]}}
    (told,) = doubted({"commands": actions, "rules": [rule]})
    assert told.startswith("burst: escalate_to changes nothing")
    assert doubted({"commands": actions, "rules": [{**rule, "actions": ["note"]}]}) == []


def test_a_watch_of_streams_alone_leaves_out_servers() -> None:
    streams = {"name": "north", "kind": "data", "channels": ["MN.*"]}
    (told,) = doubted({"watches": [streams]})
    assert told.startswith("north: with channels a watch of kind data tells of streams, not of a server")
    assert doubted({"watches": [streams, {"name": "all", "kind": "data"}]}) == []


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"alerts": {"rules": [{"name": "burst"}]}, "network": None}, "alerts.rules.0: kind network (the default)"),
        (
            {"alerts": {"rules": [{"name": "near", "kind": "detection", "channels": ["MN_GEO1:GHZ"]}]}},
            "alerts.rules.0.channels.0: 'MN_GEO1:GHZ' can match no channel",
        ),
        (
            {
                "channels": {
                    "MN.*": {"trigger": {"sta_seconds": 1.0}},
                    "*.GHZ": {"trigger": {"trigger_on": 12.0}},
                }
            },
            "channels.*.GHZ.trigger: for channels of 'MN.*' as well: trigger_on 12",
        ),
    ],
)
def test_every_command_that_reads_the_file_refuses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], over: dict[str, Any], words: str
) -> None:
    path = write_settings(tmp_path, **over)
    for command in (["check-config", str(path)], ["alert", "run", "--config", str(path)]):
        assert main(command) == 2
        assert words in capsys.readouterr().err
    found = [one for one in doctor.examine(path) if one.check == "config"]
    assert [one.state for one in found] == ["fail"]
    assert words in found[0].found


def test_doubts_are_said_where_the_file_is_checked_and_where_alerts_start(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_settings(tmp_path, alerts={"rules": [{"name": "burst"}], "sources": [SOURCE]})
    words = ("burst: network events come only from a source that", "journal failing: tells nothing of north")
    assert main(["check-config", str(path)]) == 0
    warned = capsys.readouterr().err
    made = config.load(path)
    found = [one.found for one in doctor_site.people(doctor_site.Site(made, path, {})) if one.check == "alerts"]
    monkeypatch.setattr(alert_run.AlertProcess, "run", lambda _process: 0)
    monkeypatch.setattr(alert_run.signal, "signal", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        assert alert_run.run(made, tmp_path / "state", tmp_path) == 0
    for one in words:
        assert f"warning: {one}" in warned
        assert any(said.startswith(one) for said in found)
        assert one in caplog.text
