"""The support bundle: everything that helps, no secret anywhere, bounded, whatever does not work."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from pathlib import Path

import pytest
import yaml
from made_site import Running, finished, make_archive, serving, settings, write_settings

from tscc_stream import config
from tscc_stream.apps import redact, support
from tscc_stream.apps.doctor_site import Site
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.messages import Gap

PASSWORD = "open-sesame-Nr.5"  # noqa: S105  # made up, as the next
HOOK = "T00000/B11111/Xx9secretXx9"
URL_PASSWORD = "hunter2hunter2"  # noqa: S105  # made up for the test
CURVE = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
TYPED_HERE = "typed-into-the-file"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.e30.abc"  # noqa: S105  # made up for the test
SEED = "SUA" + "MADEUPSEED234567" * 3 + "MADEUP2"
PIN = "0815"
ARGUMENT = "long-secret-of-the-command"
HANDED_OVER = "handed-over-and-named-nowhere"
SECRETS = (
    PASSWORD, HOOK, URL_PASSWORD, CURVE, TYPED_HERE, TOKEN, "87654321", SEED, f" {PIN}", ARGUMENT, HANDED_OVER, "r0ck",
)  # fmt: skip


def parts_of(path: Path) -> dict[str, str]:
    with tarfile.open(path) as packed:
        members = {member.name.removeprefix("tscc-stream-support/"): member for member in packed.getmembers()}
        found = {}
        for name, member in members.items():
            data = packed.extractfile(member)
            assert data is not None
            found[name] = data.read().decode()
        return found


def planted(folder: Path, *, unknown_keys: bool) -> tuple[Path, Path]:
    """A configuration with secrets in all sorts of places, and a log that tells them."""
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "daemon.key").write_text(f"# secret key of the bus\n{CURVE}\n")
    curve = {"secret_key_file": str(folder / "daemon.key"), "allowed_keys_file": str(folder / "none.keys")}
    entry = {"server": "127.0.0.1:1", "streams": ["XX_*"], "user": "miner", "password_file": str(folder / "password")}
    document = settings(folder, seedlink=[entry], publish={"bind": "tcp://127.0.0.1:0", "curve": curve})
    document["metrics"]["users_file"] = TYPED_HERE
    (folder / "nats.creds").write_text(f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n")
    document["bridge"] = {"creds_file": str(folder / "nats.creds")}
    sms = ["/usr/bin/sms", "--pin", PIN, "-pr0ck", f"--header=X-Site: {ARGUMENT}"]
    document["alerts"] = {"commands": {"sms": {"argv": sms}}}
    (folder / "site.credentials").mkdir()
    (folder / "site.credentials" / "other").write_text(f"{HANDED_OVER}\n")
    if unknown_keys:
        document["alerts"] |= {
            "actions": [{"webhook": f"https://hooks.example.org/services/{HOOK}"}, {"api_key": 87654321}],
            "smtp": f"smtp://alarm:{URL_PASSWORD}@mail.example.org:587",
            "headers": {"Authorization": f"Bearer {TOKEN}"},
        }
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(document) + f"# old password: {PASSWORD}\n")
    log = folder / "daemon.log"
    told = [f"retrying with {secret}" for secret in (PASSWORD, CURVE, f"https://hooks.example.org/services/{HOOK}")]
    told += [f"retrying with {secret}" for secret in (HOOK, URL_PASSWORD) if unknown_keys]
    told += [f"action sms: ended with 1: no such pin: {PIN}, not {ARGUMENT}", f"sms says {HANDED_OVER} and r0ck"]
    told += [f"NATS: seed {SEED} refused", f"a day of 86{PIN}00 s"]
    told += [f"AUTH USERPASS miner {PASSWORD}", f"POST https://bob:{URL_PASSWORD}@x.example.org/", f"token={TOKEN}"]
    log.write_text("\n".join([*told, "the last line"]) + "\n")
    return path, log


@pytest.mark.parametrize("unknown_keys", [False, True])
def test_no_planted_secret_is_anywhere(tmp_path: Path, unknown_keys: bool) -> None:
    path, log = planted(tmp_path, unknown_keys=unknown_keys)
    out = tmp_path / "support.tar.gz"
    support.write(path, out, log)
    parts = parts_of(out)
    for name, text in parts.items():
        for secret in SECRETS:
            assert secret not in text, (name, secret)
    kept = yaml.safe_load(parts["config.yaml"])
    assert kept["site"] == "test"
    assert kept["seedlink"][0]["user"] == "miner"
    assert kept["seedlink"][0]["password_file"] == redact.REMOVED
    assert kept["metrics"]["users_file"] == redact.REMOVED
    assert kept["bridge"]["creds_file"] == redact.REMOVED
    assert kept["alerts"]["commands"]["sms"]["argv"] == ["/usr/bin/sms", *[redact.REMOVED] * 4]
    assert f"a day of 86{PIN}00 s\n" in parts["log.txt"]
    assert "the last line" in parts["log.txt"]
    if unknown_keys:
        assert kept["alerts"]["actions"][0]["webhook"] == "https://hooks.example.org/(removed)"
        assert kept["alerts"]["smtp"] == "smtp://(removed)@mail.example.org:587"


def test_what_a_short_header_says_is_nowhere(tmp_path: Path) -> None:
    headers, log, path = tmp_path / "headers", tmp_path / "log", tmp_path / "site.yaml"
    headers.write_text("X-Site: s3cr3t99\n")
    log.write_text("refused: s3cr3t99\n")
    hook = {"url": "https://hooks.example.org/x", "headers_file": str(headers)}
    path.write_text(yaml.safe_dump(settings(tmp_path, alerts={"webhooks": {"hook": hook}})))
    support.write(path, tmp_path / "support.tar.gz", log)
    assert parts_of(tmp_path / "support.tar.gz")["log.txt"] == "refused: (removed)\n"


def test_a_configuration_that_is_no_yaml_is_left_out_and_its_secrets_still_removed(tmp_path: Path) -> None:
    path, log = planted(tmp_path, unknown_keys=True)
    path.write_text(path.read_text() + "site: [twice\n")
    out = tmp_path / "support.tar.gz"
    support.write(path, out, log)
    parts = parts_of(out)
    assert "config.yaml" not in parts
    assert "cannot be read as YAML" in json.loads(parts["manifest.json"])["notes"]["config.yaml"]
    assert [(name, secret) for name, text in parts.items() for secret in SECRETS if secret in text] == []
    assert "FAIL  config" in parts["doctor.txt"]


def test_a_site_whose_daemon_is_down(tmp_path: Path) -> None:
    """Its journal, ledger and model are there; the manifest says what is not, and why."""
    path = write_settings(tmp_path, "127.0.0.1:1")
    journal = JournalFile(tmp_path / "state" / "journal.sqlite")
    journal.append([], [Gap("FDSN:XX_A__H_H_Z", 1, 2, "server")])
    journal.close()
    out = tmp_path / "support.tar.gz"
    done = finished("support-bundle", "--config", path, "--out", out)
    assert (done.returncode, "look into it before you send it" in done.stdout) == (0, True)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    parts = parts_of(out)
    manifest = json.loads(parts["manifest.json"])
    assert set(manifest["parts"]) == set(parts) - {"manifest.json"}
    assert "no daemon runs" in manifest["notes"]["metrics.txt"]
    assert "--log FILE" in manifest["notes"].get("log.txt", "--log FILE")
    assert json.loads(parts["gaps.jsonl"])["cause"] == "server"
    assert json.loads(parts["journal.json"])["head"] == 0
    assert "journal.sqlite" in parts["state.txt"]
    assert json.loads(parts["model/model.json"])["name"] == "demo"
    assert json.loads(parts["versions.json"])["packages"]["numpy"]
    assert "connection refused" in parts["doctor.txt"]
    again = finished("support-bundle", "--config", path, "--out", out)
    assert (again.returncode, again.stderr) == (
        1, f"tscc-stream: {out}: is there already; give another name, or move it away\n"
    )  # fmt: skip


def test_a_site_that_runs(tmp_path: Path) -> None:
    server, address = serving(make_archive(tmp_path / "a"), "--speed", "max")
    with server, Running("run", "--config", write_settings(tmp_path, address)) as running:
        running.wait_for("ready: ")
        out = tmp_path / "support.tar.gz"
        support.write(tmp_path / "site.yaml", out)
        assert running.stop() == 0
    parts = parts_of(out)
    assert "tscc_journal_head_seq" in parts["metrics.txt"]
    assert json.loads(parts["healthz.json"])["state"] in ("ok", "disconnected")


def test_of_a_file_for_several_shards_each_is_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_settings(tmp_path, "127.0.0.1:1", shard={"count": 2})
    for shard, cause in ((1, "server"), (2, "clock")):
        folder = tmp_path / "state" / f"shard-{shard}"
        journal = JournalFile(folder / "journal.sqlite")
        journal.append([], [Gap("FDSN:XX_A__H_H_Z", 1, 2, cause)])
        journal.close()
        (folder / "crash-report").write_text(f"Fatal Python error: of shard {shard}\n")
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "log of $1"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    support.write(path, tmp_path / "all.tar.gz")
    parts = parts_of(tmp_path / "all.tar.gz")
    for shard, cause in ((1, "server"), (2, "clock")):
        assert json.loads(parts[f"shard-{shard}/gaps.jsonl"])["cause"] == cause
        assert json.loads(parts[f"shard-{shard}/journal.json"])["head"] == 0
        assert parts[f"shard-{shard}/crash-report.txt"] == f"Fatal Python error: of shard {shard}\n"
        assert parts[f"shard-{shard}/log.txt"] == f"log of --unit=tscc-stream-shard@{shard}.service\n"
        assert json.loads(parts[f"shard-{shard}/model/model.json"])["name"] == "demo"
    notes = json.loads(parts["manifest.json"])["notes"]
    assert sorted(notes) == [f"shard-{shard}/{name}" for shard in (1, 2) for name in ("healthz.json", "metrics.txt")]
    assert "shard-2/journal.sqlite" in parts["state.txt"]
    assert "config.yaml" in parts
    done = finished("support-bundle", "--config", path, "--shard", "2", "--out", tmp_path / "one.tar.gz")
    assert done.returncode == 0, done.stderr
    parts = parts_of(tmp_path / "one.tar.gz")
    assert json.loads(parts["gaps.jsonl"])["cause"] == "clock"
    assert parts["log.txt"] == "log of --unit=tscc-stream-shard@2.service\n"
    assert [name for name in parts if name.startswith("shard-")] == []
    with pytest.raises(config.ConfigError, match=r"expected 1 to shard\.count 2"):
        support.write(path, tmp_path / "none.tar.gz", shard=3)
    assert not (tmp_path / "none.tar.gz").exists()


def test_shards_whose_ports_clash_are_noted(tmp_path: Path) -> None:
    publish = {"bind": "tcp://127.0.0.1:5556", "replay_bind": "tcp://127.0.0.1:5566"}
    path = write_settings(tmp_path, "127.0.0.1:1", shard={"count": 2}, publish=publish)
    support.write(path, tmp_path / "support.tar.gz", Path(os.devnull))
    notes = json.loads(parts_of(tmp_path / "support.tar.gz")["manifest.json"])["notes"]
    assert "would be used by two of 2 shards" in notes["shard-1/"]


def test_many_shards_have_shorter_parts_each() -> None:
    limits = []
    for count in (2, 16, 1000):
        bundle, settings = (
            support.Bundle(),
            config.parse(f"shard: {{count: {count}}}\nmetrics: {{bind: '127.0.0.1:0'}}"),
        )
        publish = settings.publish.model_copy(update={"bind": "tcp://127.0.0.1:0", "replay_bind": "tcp://127.0.0.1:0"})
        console = settings.console.model_copy(update={"bind": "127.0.0.1:0"})
        settings = settings.model_copy(update={"publish": publish, "console": console, "state_dir": "/nowhere"})
        support._of_shards(bundle, Site(settings, Path("site.yaml"), {}), False)
        limits.append(bundle.most_bytes)
    assert limits == [support.MOST_BYTES, support.MOST_BYTES // 2, support.LEAST_BYTES]


def test_what_is_too_long_loses_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "huge.log"
    log.write_text("first line\n" + "an ordinary line of the log\n" * (support.MOST_BYTES // 20) + "last line\n")
    out = tmp_path / "support.tar.gz"
    support.write(None, out, log)
    parts = parts_of(out)
    assert len(parts["log.txt"]) <= support.MOST_BYTES
    assert parts["log.txt"].endswith("last line\n")
    assert "first line" not in parts["log.txt"]
    assert out.stat().st_size < 1 << 20


def test_any_part_is_bounded_and_the_manifest_says_so() -> None:
    bundle = support.Bundle()
    bundle.add("metrics.txt", "x" * (support.MOST_BYTES + 1) + "end")
    assert len(bundle.parts["metrics.txt"]) == support.MOST_BYTES
    assert bundle.parts["metrics.txt"].endswith(b"end")
    assert (
        json.loads(bundle.manifest())["notes"]["metrics.txt"]
        == f"the last {support.MOST_BYTES} of {support.MOST_BYTES + 4} bytes"
    )


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "smtp_password",
        "client_secret",
        "token",
        "api_key",
        "Authorization",
        "users_file",
        "PASSPHRASE",
        "creds_file",
        "nkey_file",
        "creds",
        "pin",
        "sim_pin",
        "pwd",
    ],
)
def test_keys_for_secrets(key: str) -> None:
    document = {"site": "north", "a": [{key: "value", "deep": {key: {"x": 1}}}]}
    assert redact.of_document(document) == {
        "site": "north",
        "a": [{key: "(removed)", "deep": {key: {"x": "(removed)"}}}],
    }
    assert set(redact.known(document)) == {"value", "1"}


def test_of_a_command_the_program_alone_is_shown() -> None:
    document = {"commands": {"sms": {"argv": ["/usr/bin/sms", "--pin", "0815"]}}}
    assert redact.of_document(document)["commands"]["sms"]["argv"] == ["/usr/bin/sms", "(removed)", "(removed)"]


@pytest.mark.parametrize("key", ["argv", "command", "args"])
def test_of_a_command_in_one_text_too(key: str) -> None:
    document = {"commands": {"sms": {key: "/usr/bin/sms --pin 0815"}}}
    assert redact.of_document(document)["commands"]["sms"][key] == "/usr/bin/sms (removed) (removed)"
    assert "0815" in set(redact.known_arguments(document))
    assert "/usr/bin/sms" not in set(redact.known_arguments(document))


def test_of_a_command_that_a_shell_runs_the_long_words_are_known() -> None:
    text = "curl -H 'Authorization: Bearer abc.def-ghi' -d pin=08154711 https://a.example.org/hook/of-the-mine"
    found = set(redact.known_arguments([{"argv": ["/bin/sh", "-c", text]}]))
    assert {text, "abc.def-ghi", "08154711", "of-the-mine"} <= found
    assert "--pin" not in set(redact.known_arguments({"argv": ["sms", "--pin", "0815"]}))


@pytest.mark.parametrize(
    "text",
    [
        "argv: [sms, --pin, 0815]",
        "sms: {argv: ['sms', '--pin', \"0815\"], timeout_seconds: 3",
        "argv:\n- sms\n- --pin\n- 0815\nother: 3",
        "  argv:\n    - sms\n    - '0815'\n  other: 3",
        "- {user: anna, password: 0815}",
        "- user: anna\n  password: >-\n    0815\n  other: 3",
        "headers:\n  X-Site: 0815\n",
    ],
)
def test_secrets_of_a_text_that_is_no_yaml(text: str) -> None:
    values = redact.guessed(text)
    found = {*redact.known(values), *redact.known_arguments(values)}
    assert "0815" in found
    assert found.isdisjoint({"sms", "other", "anna"})


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("https://a.example.org/hook?t=short-one&n=1", {"short-one"}),
        ("https://a.example.org/#long-fragment", {"long-fragment"}),
        ("nats://long-token@a.example.org:4222", {"long-token"}),
        ("smtp://alarm:p%40ss/w0rd@a.example.org", {"p%40ss/w0rd", "p@ss/w0rd"}),
        ("alarm:hunter2@a.example.org:25", {"hunter2"}),
    ],
)
def test_what_a_url_carries_is_known(url: str, secrets: set[str]) -> None:
    assert set(redact.known({"place": f"at {url} now"})) >= secrets
    for secret in secrets - {"p@ss/w0rd"}:
        assert secret not in redact.of_text(f"at {url} now", redact.known({"place": url}))


def test_keys_of_the_shipped_configuration_that_are_no_secrets() -> None:
    kept = redact.of_document(config.shipped().model_dump())
    assert kept["seedlink"][0]["keepalive_seconds"] == 30.0
    assert kept["publish"]["bind"] == "tcp://127.0.0.1:5556"
    assert "(removed)" not in str(kept)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    out = tmp_path / "none" / "support.tar.gz"
    with pytest.raises(support.SupportError, match="cannot be written: there is no folder"):
        support.write(None, out, Path(os.devnull))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp://127.0.0.1:5556 is up", "tcp://127.0.0.1:5556 is up"),
        ("GET http://127.0.0.1:9108/metrics", "GET http://127.0.0.1:9108/metrics"),
        ("GET https://a.example.org/hook?x=1 now", "GET https://a.example.org/(removed) now"),
        ("GET https://a.example.org?k=x1 now", "GET https://a.example.org?(removed) now"),
        ("GET https://a.example.org#x1 now", "GET https://a.example.org#(removed) now"),
        ("wss://bob:pw@a.example.org?x", "wss://(removed)@a.example.org?(removed)"),
        ("password_file: seedlink", "password_file: seedlink"),
        ("password: abc123", "password: (removed)"),
        ('{"token": "abc123"}', '{"token": "(removed)"}'),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: (removed) (removed)"),
        ("ana:scrypt$16384$8$1$c2FsdA==$aGFzaA==", "ana:scrypt$(removed)"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END", "-----BEGIN EC PRIVATE KEY-----(removed)-----END"),
        ("stations of key importance", "stations of key importance"),
        ("sms --password abc123 --to x", "sms --password (removed) --to x"),
        ("sms --pass abc123", "sms --pass (removed)"),
        ("sms -pass abc123", "sms -pass (removed)"),
        ("sms --token 'abc 123' x", "sms --token '(removed)' x"),
        ("sms --client-secret=abc123;", "sms --client-secret=(removed);"),
        ("['sms', '--pin', '0815', '-v']", "['sms', '--pin', '(removed)', '-v']"),
        ("sms --password-file /run/x", "sms --password-file /run/x"),
        ("journalctl -u tscc-stream -p err", "journalctl -u tscc-stream -p err"),
        ("curl -u anna:abc123 x", "curl -u anna:(removed) x"),
        ("SMTP_PASSWORD=ab,cd; next", "SMTP_PASSWORD=(removed); next"),
        ("AWS_SECRET_ACCESS_KEY=abc123", "AWS_SECRET_ACCESS_KEY=(removed)"),
        ("accessToken: abc123", "accessToken: (removed)"),
        ('password: "abc 123" x', 'password: "(removed)" x'),
        (r'{"text": "{\"token\": \"abc 123\"}"}', r'{"text": "{\"token\": \"(removed)\"}"}'),
        ("Authorization: ApiKey abc123\nnext", "Authorization: (removed)\nnext"),
        ("Set-Cookie: a=abc123; b=1", "Set-Cookie: (removed)"),
        (
            "'alarm:abc123@a.example.org:25': expected HOST:PORT",
            "'alarm:(removed)@a.example.org:25': expected HOST:PORT",
        ),
        ("mailto:control@mine.example", "mailto:control@mine.example"),
        ("host tscc-stream[1]: to control@mine.example", "host tscc-stream[1]: to control@mine.example"),
        ("unit tscc-stream-shard@1.service", "unit tscc-stream-shard@1.service"),
        ("smtp://alarm:pa/ss@a.example.org:25/x", "smtp://(removed)@a.example.org:25/x"),
        ("http://127.0.0.1:9108/a@b", "http://127.0.0.1:9108/a@b"),
        (f"seed {SEED}.", "seed SU(removed)."),
        (f"token of {TOKEN} here", "token of eyJ(removed) here"),
        ("bandpass: 10", "bandpass: 10"),
        ("pinged: 10 pins: 3", "pinged: 10 pins: 3"),
    ],
)
def test_what_looks_like_a_secret(text: str, expected: str) -> None:
    assert "dXNlcjpwYXNz" not in redact.of_text(text)
    if not text.startswith("Authorization"):
        assert redact.of_text(text) == expected
