"""Section `alerts`: every mistake is told with its place, and the examples of the documentation are good."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tscc_stream import config
from tscc_stream.config import ConfigError, parse
from tscc_stream.config_alerts import WatchConfig

DOCUMENT = Path(__file__).parents[1] / "docs" / "alerts.md"
GOOD = """\
time_zone: Africa/Johannesburg
alerts:
  webhooks:
    control room: {url: "https://10.0.0.5/alerts", headers_file: alert-headers}
  mails:
    boss: {server: "mail:587", sender: a@mine.example, recipients: [b@mine.example], user: a, password_file: mail}
  commands:
    siren: {argv: [/usr/local/bin/siren, "--on"]}
  rules:
    - {name: swarm, kind: network, clusters: [seismic event], rate: {count: 5, seconds: 60.0}, repeat_seconds: 300.0,
       shifts: [night], escalate_to: [siren]}
    - {name: rock burst, kind: detection, clusters: [rock burst], least_membership: 0.5, actions: [boss]}
  suppression:
    - {reason: blast, hours: ["14:00-14:20"], days: [mon, fri]}
  suppress_below_amplitude: 2000.0
network: {min_channels: 3}
"""


def mistakes(text: str) -> list[tuple[str, str]]:
    """(line, sentence) of each mistake."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [tuple(one.split(": ", 1)) for one in caught.value.mistakes]  # type: ignore[misc]  # two parts each


def test_a_good_section() -> None:
    alerts = parse(GOOD).alerts
    assert alerts.actions == ("control room", "boss", "siren")
    assert [one.kind for one in alerts.watches] == ["daemon", "data", "journal"]
    assert WatchConfig(name="x", kind="triggers").seconds == 3600.0
    assert parse(config.yaml.safe_dump(parse(GOOD).model_dump(mode="json"))) == parse(GOOD)


@pytest.mark.parametrize(
    ("good", "bad", "line", "sentence"),
    [
        ("shifts: [night]", "shifts: [evening]", 11, "alerts.rules.0.shifts: 'evening': expected a name under shifts"),
        ("escalate_to: [siren]", "escalate_to: [horn]", 11, "alerts.rules.0.escalate_to: 'horn': expected a name"),
        ("actions: [boss]", "actions: [bos]", 12, "alerts.rules.1.actions: 'bos': expected"),
        ("name: rock burst", "name: swarm", 12, "alerts.rules.1.name: 'swarm' is given twice"),
        ("  suppress_below_amplitude: 2000.0\n", "", 13, "alerts.suppression: without suppress_below_amplitude"),
        ("repeat_seconds: 300.0,", "", 10, "alerts.rules.0: escalate_to: expected repeat_seconds too"),
        ("kind: detection", "kind: network", 12, "alerts.rules.1: least_membership: expected only with"),
        ("kind: network", "kind: detection, least_votes: 3", 10, "alerts.rules.0: least_votes: expected only with"),
        ("count: 5", "count: 1", 10, "alerts.rules.0.rate.count: expected 2 or more"),
        ("https://10.0.0.5", "http://10.0.0.5", 4, "alerts.webhooks.control room: headers_file: secrets"),
        ("https://10.0.0.5", "ftp://10.0.0.5", 4, "alerts.webhooks.control room.url: expected http://HOST/PATH"),
        ("https://10.0.0.5", "https://me:sesame@10.0.0.5", 4, "alerts.webhooks.control room.url: expected no user"),
        ("user: a, ", "", 6, "alerts.mails.boss: expected user and password_file together"),
        ("user: a,", "user: a, tls: none,", 6, "alerts.mails.boss: tls none: the password would cross"),
        ("[b@mine.example]", "[b]", 6, "alerts.mails.boss.recipients.0: 'b': expected an address"),
        ("[b@mine.example]", "[]", 6, "alerts.mails.boss.recipients: "),
        ("14:00-14:20", "14:00-25:20", 14, "alerts.suppression.0.hours.0: '14:00-25:20': expected HH:MM-HH:MM"),
        ("[mon, fri]", "[mon, friday]", 14, "alerts.suppression.0.days.1: "),
        ("argv: [/usr", "arg: [/usr", 8, "alerts.commands.siren.arg: unknown key"),
        ("siren: {", "boss: {", 2, "alerts: action 'boss' is given twice"),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_its_place(good: str, bad: str, line: int, sentence: str) -> None:
    found = mistakes(GOOD.replace(good, bad, 1))
    assert any(where == f"line {line}" and said.startswith(sentence) for where, said in found), found
    assert "sesame" not in str(found)


def test_a_watch_has_channels_only_where_they_mean_something() -> None:
    (found,) = mistakes("alerts:\n  watches:\n    - {name: a, kind: daemon, channels: [X.*]}\n")
    assert found == (
        "line 3",
        "alerts.watches.0: channels: expected only with kind: data, gaps or triggers, not with daemon",
    )


def test_the_documentation_shows_good_configurations() -> None:
    shown = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(shown) >= 3
    for text in shown:
        parse(f"{text}network: {{}}\n")
