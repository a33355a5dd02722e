"""The configuration: every mistake at once with its line, and nothing that YAML would quietly make of it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tscc_stream import config, vocabulary
from tscc_stream.config import Config, ConfigError, parse
from tscc_stream.config_http import MetricsConfig
from tscc_stream.config_people import no_term_twice
from tscc_stream.config_section import split_host_port
from tscc_stream.event_types import EVENT_TYPES, canonical

SHIPPED = Path(__file__).parents[1] / "config.yaml"


def _mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).splitlines() == list(caught.value.mistakes)
    return caught.value.mistakes


def test_the_shipped_file_says_every_key_with_its_default() -> None:
    """But for the streams of the demo, and network events, which are off where the section is left out."""
    shipped = config.shipped()
    assert shipped.network == config.NetworkConfig()
    assert shipped.seedlink == (config.SeedLinkConfig(server="127.0.0.1:18000", streams=("BW_*:?HZ",)),)
    assert shipped.model_copy(update={"network": None, "seedlink": ()}) == Config() == parse("") == parse("# nothing\n")
    said = config.yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    for section, values in json.loads(shipped.model_dump_json()).items():
        one = values[0] if isinstance(values, list) and values else values
        given = said[section][0] if isinstance(values, list) and values else said[section]
        if isinstance(one, dict):
            assert set(one) - set(given) == set(), section


def test_the_package_carries_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.resources, "files", lambda name: {"tscc_stream": SHIPPED.parent}[name])
    assert config.shipped() == parse(SHIPPED.read_text(encoding="utf-8"))


def test_a_configuration_goes_there_and_back_through_json() -> None:
    shipped = config.load(SHIPPED)
    assert parse(json.dumps(shipped.model_dump(mode="json"), indent=1)) == shipped


def test_every_mistake_is_told_at_once_with_its_line() -> None:
    text = """\
site: "no spaces"
seedlink:
  - server: nowhere
    streams: ["A_B:EHZ", "what is this"]
  - streams: []
condition:
  corners: 9
  band_hz: [20.0, 10.0]
trigger: {sta_seconds: 20.0, lta_seconds: 10.0, trigger_off: 9.0, min_seconds: 40.0}
surplus:
  - 1
channels:
  "BW.*":
    trigger:
      trigger_on: 50.0
    condition: {corner: 3}
  "XX.*": 4
  "YY.*": {trigger: 3}
inference:
  threads: 0
"""
    got = _mistakes(text)
    expected = [
        (1, "site"), (3, "seedlink.0.server"), (4, "seedlink.0.streams.1"), (5, "seedlink.1.server"),
        (5, "seedlink.1.streams"), (7, "condition.corners"), (9, "trigger"), (10, "surplus"),
        (14, "channels.BW.*.trigger"), (16, "channels.BW.*.condition.corner"), (17, "channels.XX.*"),
        (18, "channels.YY.*.trigger"), (20, "inference.threads"),
    ]  # fmt: skip
    assert [tuple(mistake.split(": ")[:2]) for mistake in got] == [(f"line {line}", place) for line, place in expected]
    trigger = next(mistake for mistake in got if mistake.startswith("line 9:"))
    for words in ("sta_seconds 20", "trigger_off 9", "trigger_on 3.5: STA/LTA cannot exceed", "min_seconds 40"):
        assert words in trigger


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{trigger: {trigger_on: 50.0}}", "channels.P.*.trigger: trigger_on 50: STA/LTA cannot exceed lta/sta = 20"),
        ("{trigger: {trigger_on: no-number}}", "channels.P.*.trigger.trigger_on: expected a number"),
        ("{condition: {band_hz: [20.0, 10.0]}}", "channels.P.*.condition: band_hz [20.0, 10.0]: expected the lower"),
        ("{assemble: {flat: 1.0}}", "channels.P.*.assemble.flat: unknown key"),
        ("{trigge: {}}", "channels.P.*.trigge: unknown key"),
    ],
)
def test_an_override_must_make_a_valid_section(section: str, words: str) -> None:
    assert [m.startswith(f"line 2: {words}") for m in _mistakes(f"channels:\n  P.*: {section}\n")] == [True]


def test_an_override_is_judged_together_with_the_section_that_it_changes() -> None:
    base = "trigger: {lta_seconds: 100.0}\nchannels:\n  P.*:\n    trigger: {trigger_on: 50.0}\n"
    assert parse(base).for_channel("P.S..EHZ")[2].trigger_on == 50.0
    assert len(_mistakes("trigger: 3\n" + base.split("\n", 1)[1])) == 2
    with pytest.raises(ValidationError, match="STA/LTA cannot exceed"):
        Config(trigger=config.TriggerConfig(), channels={"P.*": config.ChannelConfig(trigger={"trigger_on": 50.0})})


_OVERLAP = """\
channels:
  "MN.*": {trigger: {sta_seconds: 1.0}}
  "%s": {trigger: {trigger_on: 12.0}}
"""


def test_overrides_that_hold_for_one_channel_must_be_right_together() -> None:
    (told,) = _mistakes(_OVERLAP % "*.GHZ")
    assert told == (
        "line 3: channels.*.GHZ.trigger: for channels of 'MN.*' as well: trigger_on 12: STA/LTA cannot exceed "
        "lta/sta = 10"
    )


def test_overrides_that_no_channel_shares_are_let_alone() -> None:
    made = parse(_OVERLAP % "BW.*.GHZ")
    assert made.for_channel("BW.UH1..GHZ")[2].trigger_on == 12.0


def test_overrides_that_a_third_one_puts_right_wherever_they_meet_are_let_alone() -> None:
    third = '  "MN.*.GHZ": {trigger: {lta_seconds: 20.0}}\n'
    assert parse(_OVERLAP % "*.GHZ" + third).for_channel("MN.GEO1..GHZ")[2].lta_seconds == 20.0
    assert len(_mistakes(_OVERLAP % "*.GHZ" + third.replace("MN.*.GHZ", "MN.GEO1..GHZ"))) == 1


def test_three_overrides_can_be_wrong_together_alone() -> None:
    text = """
channels:
  "MN.*": {trigger: {sta_seconds: 0.8}}
  "*.GHZ": {trigger: {trigger_on: 9.0}}
  "*.GEO1.*": {trigger: {lta_seconds: 7.0, trigger_on: 8.0}}
  "*.G*.*.G*": {trigger: {trigger_on: 8.9}}
"""
    (told,) = _mistakes(text)
    assert told.startswith(
        "line 6: channels.*.G*.*.G*.trigger: for channels of 'MN.*' and '*.GEO1.*' as well: trigger_on"
    )


@pytest.mark.parametrize("pattern", ["MN_GEO1:GHZ", "MN_GEO1:*", "GEO1"])
def test_an_override_that_no_channel_can_match_is_refused(pattern: str) -> None:
    (told,) = _mistakes(f'channels:\n  "{pattern}": {{trigger: {{trigger_on: 5.0}}}}\n')
    assert told.startswith(f"line 2: channels.{pattern}: can match no channel; expected NET.STA.LOC.CHA")


_TRIGGERS = st.fixed_dictionaries(
    {},
    optional={
        "sta_seconds": st.sampled_from([0.2, 0.5, 2.0]),
        "lta_seconds": st.sampled_from([1.0, 10.0, 40.0]),
        "trigger_on": st.sampled_from([1.5, 3.5, 15.0]),
        "min_seconds": st.sampled_from([0.0, 20.0]),
        "max_seconds": st.sampled_from([10.0, 60.0]),
    },
)
_OVERRIDES = st.dictionaries(
    st.sampled_from(["*", "MN.*", "BW.*", "*.GHZ", "*.G1.*", "MN.G?..*", "MN.G1..GHZ", "BW.G2..G[!Z]?"]), _TRIGGERS
)


@given(_OVERRIDES)
def test_every_channel_of_a_good_configuration_has_settings(overrides: dict[str, dict[str, float]]) -> None:
    channels = {pattern: {"trigger": changes} for pattern, changes in overrides.items()}
    try:
        made = Config.model_validate({"channels": channels})
    except ValidationError:
        return
    for network, station, code in product(("MN", "BW", "X"), ("G1", "G2", "ABC"), ("GHZ", "GXZ", "EHN")):
        made.for_channel(f"{network}.{station}..{code}")


def test_later_patterns_win_and_leave_the_rest_alone() -> None:
    made = parse(
        """
        trigger: {sta_seconds: 0.4}
        channels:
          "BW.*": {trigger: {trigger_on: 5.0}, condition: {band_hz: [5.0, 30.0]}, assemble: {clip_counts: null}}
          "BW.UH[34].*.SH?": {trigger: {trigger_on: 6.0}}
        """
    )
    assemble, condition, trigger = made.for_channel("BW.UH3..SHZ")
    assert (trigger.trigger_on, trigger.sta_seconds, condition.band_hz) == (6.0, 0.4, (5.0, 30.0))
    assert assemble.clip_counts is None
    assert made.for_channel("BW.UH1..SHZ")[2].trigger_on == 5.0
    assert made.for_channel("bw.uh1..SHZ") == (made.assemble, made.condition, made.trigger)


@pytest.mark.parametrize(
    "value",
    ["NO", "on", "Off", "yes", "True", "0012", "0x1F", "0b1", "1e-3", "1E5", "1.5e3", "12:30", "12:30.5", ".inf",
     ".nan", "1_000", "2010-05-27", "Null", "=", "<<", "9" * 30, "+.5e+9x"],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", ["site: {}", "seedlink:\n- {{server: {}}}", "channels: {{A: {{trigger: {{x: {}}}}}}}"]
)
def test_values_with_more_than_one_reading_are_refused_with_their_line(value: str, place: str) -> None:
    if value.endswith("x"):
        assert not any("more than one reading" in mistake for mistake in _mistakes(place.format(value)))
        return
    (mistake,) = _mistakes("\n\n" + place.format(value))
    assert mistake.startswith(f"line {3 + place.count(chr(10))}: ")
    assert f": {value} has more than one reading in YAML; expected a quoted text" in mistake


@pytest.mark.parametrize(
    "value", ["true", "12", "-3", "0", "0.001", "1.0e-3", ".5", "null", "~", "plain", '"NO"', "'1e-3'"]
)
def test_values_with_one_reading_are_let_through(value: str) -> None:
    data, _ = config._parse_yaml(f"key: {value}")
    assert data == config.yaml.safe_load(f"key: {value}")


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("site: a\nsite: b\n", "line 2: site: key given twice, first in line 1"),
        ("trigger:\n  sta_seconds: 1.0\n  sta_seconds: 1.0\n", "line 3: trigger.sta_seconds: key given twice"),
        ("on: 1\n", "line 1: file: key on must be quoted"),
        ("12: 1\n", "line 1: file: key 12 must be quoted"),
        ("!!int 'x': 1\n", "line 1: file: key x must be quoted"),
        ("[a]: 1\n", "line 1: file: expected a plain key"),
        ("trigger:\n  <<: {a: 1}\n", "line 2: trigger: expected a plain key"),
        ("site: &x a\nmodel: *x\n", "line 2: an alias; expected the value itself"),
        ("a: &x {b: *x}\n", "line 1: an alias"),
        ("site:\n\ta: 1\n", "line 2: not YAML: found character '\\t' that cannot start any token"),
        ("site: [\n", "line 2: not YAML: "),
        ("site: a\n---\nsite: b\n", "line 2: not YAML: but found another document"),
        ("site: 'a\x07b'\n", "line 1: not YAML: character U+0007"),
        ("\nsite: a\n# \x00\n", "line 3: not YAML: character U+0000"),
        ("- site\n", "line 1: expected sections such as `seedlink:` and `trigger:`"),
        ("text\n", "line 1: expected sections"),
        ("[" * 20_000, "line 1: not a configuration: nested too deeply"),
        ("site: !!int 'x'\n", "line 1: site: x has more than one reading"),
        ("site: !!bool 'x'\n", "line 1: site: x has more than one reading"),
        ("site: !!binary 'x'\n", "line 1: site: x has more than one reading"),
        ("site: !!python/name:os.system ''\n", "line 1: site:  has more than one reading"),
        ("site: !!python/object/apply:os.getcwd []\n", "line 1: not YAML: could not determine a constructor"),
        ("!!set {a}\n", "line 1: expected sections"),
        ("trigger:\n", "line 1: trigger: expected keys with values, got None"),
        ("channels: []\n", "line 1: channels: expected keys with values, got []"),
        ("seedlink: {}\n", "line 1: seedlink: expected a list, got {}"),
        ("condition: {band_hz: [1, 2, 3]}\n", "line 1: condition.band_hz: expected at most 2 of them, not 3"),
        ("trigger: {trigger_on: '5'}\n", "line 1: trigger.trigger_on: expected a number, got '5'"),
        ("overload: drop\n", "line 1: overload: expected 'wait' or 'spill', got 'drop'"),
        ("inference: {threads: true}\n", "line 1: inference.threads: true: expected auto or "),
        ("inference: {threads: 257}\n", "line 1: inference.threads: 257: expected auto or "),
        ("publish: {bind: 'udp://a:1'}\n", "line 1: publish.bind: 'udp://a:1': expected tcp://HOST:PORT or ipc://PATH"),
        ("publish: {bind: 'ipc://'}\n", "line 1: publish.bind: 'ipc://': expected tcp://HOST:PORT or ipc://PATH"),
        ("publish: {bind: 'tcp://a'}\n", "line 1: publish.bind: 'a': expected HOST:PORT with a port from 0 to 65535"),
        ("seedlink: [{server: 'a:1', streams: [\"A_B:EHZ\\r\\nEND\"]}]\n", "line 1: seedlink.0.streams.0: stream "),
        ("seedlink: [{server: 'a:1', streams: ['A_B:EHZEHZ']}]\n", "line 1: seedlink.0.streams.0: stream "),
        ("seedlink: [{server: 'a:1', streams: []}]\n", "line 1: seedlink.0.streams: 0 streams: expected 1 to 10000"),
        ("trigger: {min_seconds: -1.0}\n", "line 1: trigger.min_seconds: expected 0 or more"),
    ],
)  # fmt: skip
def test_traps_and_mistakes(text: str, mistake: str) -> None:
    got = _mistakes(text)
    assert len(got) == 1
    assert got[0].startswith(mistake)


@given(text=st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@`#?,\n\t 0.1é\x00"), max_size=40))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    mistakes: tuple[str, ...] = ()
    try:
        parse(text)
    except ConfigError as error:
        mistakes = error.mistakes
    assert all(mistake.startswith("line ") for mistake in mistakes)


def test_good_values_of_every_kind() -> None:
    made = parse(
        "inference: {threads: 4, device: 'cuda:1'}\n"
        "publish: {bind: 'ipc:///run/x', replay_bind: 'tcp://[::1]:0'}\n"
        "seedlink: [{server: 'h.example:18000', streams: ['YG_*:EHZ'], tls: true, user: u, password_file: p}]\n"
    )
    assert (made.inference.threads, made.publish.replay_bind, made.seedlink[0].tls) == (4, "tcp://[::1]:0", True)


def metrics(bind: str, *files: str) -> MetricsConfig:
    return MetricsConfig.model_validate({"bind": bind, **dict.fromkeys(files, "file")})


@pytest.mark.parametrize(
    "text",
    [
        "seedlink: [{server: 'a:1', streams: ['A_B:EHZ'], password_file: 47151623}]",
        "seedlink: [{server: 'a:1', streams: ['A_B:EHZ'], password_file: 047151623}]",
        "seedlink: [{server: 'a:1', streams: ['A_B:EHZ'], password: '47151623'}]",
        "metrics: {tls_key: [47151623], tls_certificate: c}",
        "metrics: {users_file: {anna: '47151623'}}",
        "alerts: {commands: {sms: {argv: [/usr/bin/sms, --pin, 047151623]}}}",
        "alerts: {commands: {sms: {argv: '/usr/bin/sms --pin 47151623'}}}",
        "alerts: {webhooks: {hook: {url: [47151623]}}}",
        "alerts: {webhooks: {hook: {url: 'https://a.example/b', headers_file: ['X-Site: 47151623']}}}",
        "bridge: {token_file: 47151623}",
        "bridge: {creds_file: [47151623]}",
        "metrics: {tls_key: c, users_file: '47151623', bind: '10.0.0.1:1'}",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(text: str) -> None:
    assert [mistake for mistake in _mistakes(text) if "7151623" in mistake] == []


def test_keys_of_secrets_are_those_whose_type_says_so() -> None:
    expected = {
        "creds_file", "headers_file", "metrics_password_file", "nkey_file", "password_file", "secret_key_file",
        "tls_key", "token_file", "users_file",
    }  # fmt: skip
    assert expected == config.SECRET_KEYS


LOCAL = ("127.0.0.1:9108", "127.3.2.1:1", "[::1]:9108", "localhost:9108", "LocalHost:1")
OPEN = ("0.0.0.0:9108", "[::]:9108", "10.0.0.5:9108", "mine.example:9108", "localhost.example:1")
TLS = ("tls_certificate", "tls_key")


def test_metrics_on_this_machine_need_nothing() -> None:
    for bind in LOCAL:
        for files in ((), TLS, ("users_file",)):
            assert metrics(bind, *files).warnings() == ()


def test_metrics_that_other_machines_can_read_are_warned_of() -> None:
    for bind in OPEN:
        (warning,) = metrics(bind).warnings()
        assert warning == (
            f"metrics.bind {bind}: other machines can read the metrics, without TLS (tls_certificate, tls_key) and "
            "without users (users_file)"
        )
        (warning,) = metrics(bind, *TLS).warnings()
        assert warning.endswith("can read the metrics, without users (users_file)")
        assert metrics(bind, *TLS, "users_file").warnings() == ()


def test_passwords_do_not_cross_the_network_in_the_clear() -> None:
    for bind in OPEN:
        (mistake,) = _mistakes(f"metrics: {{bind: '{bind}', users_file: users}}")
        assert mistake.startswith(
            f"line 1: metrics: users_file: passwords would cross the network to {bind} in the clear"
        )


@pytest.mark.parametrize("key", TLS)
def test_certificate_and_key_belong_together(key: str) -> None:
    (mistake,) = _mistakes(f"metrics: {{{key}: file}}")
    assert mistake == "line 1: metrics: expected tls_certificate and tls_key together, or neither"


@pytest.mark.parametrize(
    ("text", "parts"), [("a:1", ("a", 1)), ("[::1]:65535", ("::1", 65535)), ("10.0.0.1:0", ("10.0.0.1", 0))]
)
def test_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert split_host_port(text) == parts


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a:65536", "a:1:2", "::1:80", "a b:1", "a:-1", "a:1\n"])
def test_no_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        split_host_port(text)


@pytest.mark.parametrize(
    ("keys", "mistake"),
    [
        ('fallbacks: ["b:1", "a:1"]', "fallbacks: a:1 is given twice"),
        ('fallbacks: ["b:1", "b:1"]', "fallbacks: b:1 is given twice"),
        ("fallbacks: [nowhere]", "'nowhere': expected HOST:PORT with a port from 0 to 65535"),
        ("tls_ca_file: site.pem", "tls_ca_file: expected only together with tls: true"),
        ("stale_seconds: 0.0", "expected more than 0, got 0.0"),
    ],
)
def test_mistakes_in_a_server(keys: str, mistake: str) -> None:
    (found,) = _mistakes(f'seedlink:\n  - server: a:1\n    streams: ["A_B"]\n    {keys}\n')
    assert found.endswith(mistake)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    with pytest.raises(ConfigError, match=r"site\.yaml: no such file; `tscc-stream check-config --example > "):
        config.load(path)
    path.write_bytes(b"site: \xff\xfe")
    with pytest.raises(ConfigError, match=r"site\.yaml: expected a text in UTF-8: byte 6 is none"):
        config.load(path)
    with pytest.raises(ConfigError, match="is a folder; expected the configuration file in it"):
        config.load(tmp_path)


def test_a_relative_state_folder_lies_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever one stands; but a journal where it would have been before is not left behind."""
    site, before = tmp_path / "etc", tmp_path / "lib"
    for folder in (site, before / "var"):
        folder.mkdir(parents=True)
    path = site / "site.yaml"
    path.write_text("state_dir: var\n")
    monkeypatch.chdir(before)
    assert config.load(path).state_dir == str(site / "var")
    assert config.load(Path("../etc/site.yaml")).state_dir == str(site / "var")
    (before / "var" / "journal.sqlite").touch()
    assert caplog.messages == []
    assert config.load(path).state_dir == str(before / "var")
    assert "write that path into the configuration" in caplog.messages[0]
    (site / "var").mkdir()
    (site / "var" / "journal.sqlite").touch()
    assert config.load(path).state_dir == str(site / "var")
    path.write_text(f"state_dir: {tmp_path}\n")
    assert config.load(path).state_dir == str(tmp_path)


def test_nothing_can_be_changed_afterwards() -> None:
    made: Any = Config()
    with pytest.raises(ValidationError):
        made.site = "other"
    with pytest.raises(ValidationError):
        made.trigger.trigger_on = 1.0


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("time_zone: Mars/Olympus", "time_zone: 'Mars/Olympus': expected a name such as UTC, Africa/Johannesburg"),
        ("time_zone: '../etc'", "time_zone: '../etc': expected a name such as UTC"),
        ("shifts: {day: '6-14'}", "shifts.day: '6-14': expected HH:MM-HH:MM"),
        ("shifts: {day: '06:00-06:00'}", "shifts.day: '06:00-06:00': begins where it ends"),
        ("shifts: {}", "shifts: expected at least 1 of them"),
        ("vocabulary: [{name: a}, {name: a}]", "vocabulary: 'a' is given twice"),
        (
            "vocabulary: [{name: a, event_type: mining explosoin}]",
            "vocabulary.0.event_type: 'mining explosoin': expected an event type of QuakeML, such as mining explosion",
        ),
        (
            "vocabulary: [{name: a, event_type: ''}]",
            "vocabulary.0.event_type: '': expected an event type of QuakeML, such as rock burst, mining explosion, "
            "other event, not existing",
        ),
        ("console: {bind: '0.0.0.0:1'}", "console: bind 0.0.0.0:1: other machines could name clusters"),
        ("console: {bind: '0.0.0.0:1', users_file: u}", "console: users_file: passwords would cross the network"),
    ],
)
def test_what_people_see_is_checked(text: str, mistake: str) -> None:
    assert [one.removeprefix("line 1: ")[: len(mistake)] for one in _mistakes(text)] == [mistake]


def test_event_types_are_those_of_quakeml_in_any_case() -> None:
    from obspy.core.event.header import EventType  # noqa: PLC0415  # the oracle, which takes a second

    assert sorted(EventType.keys()) == list(EVENT_TYPES)
    (term,) = parse("vocabulary: [{name: a, event_type: Rock Burst}]").vocabulary
    assert term.event_type == "rock burst"
    assert all(canonical(word) == EventType(word) for word in ("other", "Explosion", "NOT existing", "party"))


def test_the_words_of_a_site_replace_those_that_ship() -> None:
    assert vocabulary.of_site(()) == vocabulary.SHIPPED
    assert [term.name for term in vocabulary.of_site(parse("vocabulary: [{name: sluice}]").vocabulary)] == ["sluice"]
    assert no_term_twice(vocabulary.SHIPPED) == vocabulary.SHIPPED
