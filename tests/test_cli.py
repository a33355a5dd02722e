"""The command line: help with examples, errors as one sentence, exit statuses."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from made_site import finished, write_settings

from tscc_stream import cli, config, package
from tscc_stream.cli import command

COMMANDS = (
    ["run"],
    ["demo"],
    ["classify"],
    ["serve"],
    ["simulate"],
    ["tail"],
    ["bus-key"],
    ["train"],
    ["dataset", "build"],
    ["evaluate"],
    ["model", "show"],
    ["model", "verify"],
    ["model", "label"],
    ["model", "import-reference"],
    ["check-config"],
    ["doctor"],
    ["support-bundle"],
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0
    assert f"example: tscc-stream {' '.join(words)}" in capsys.readouterr().out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_examples_are_valid_command_lines(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([*words, "--help"])
    example = capsys.readouterr().out.split("example: tscc-stream ")[1].strip()
    options = cli._parser(shlex.split(example)).parse_args(shlex.split(example))
    assert callable(options.run)


def test_check_config_names_every_mistake_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("site: a b\ntrigger:\n  sta_seconds: -1.0\n  sto_seconds: 1.0\nmetrics: {bind: here}\n")
    assert cli.main(["check-config", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert [line.split(": ")[1] for line in lines] == ["line 1", "line 3", "line 4", "line 5"]


def test_check_config_warns_of_metrics_that_other_machines_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check-config", str(write_settings(tmp_path, metrics={"bind": "0.0.0.0:9108"}))]) == 0
    assert "tscc-stream: warning: metrics.bind 0.0.0.0:9108: other machines can read" in capsys.readouterr().err
    assert cli.main(["check-config", str(write_settings(tmp_path))]) == 0
    assert capsys.readouterr().err == ""


def test_check_config_looks_at_the_model_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-config", str(write_settings(tmp_path))]) == 0
    assert f"good (1 SeedLink server(s), model demo, state_dir {tmp_path / 'state'})" in capsys.readouterr().out
    assert cli.main(["check-config", str(write_settings(tmp_path, model="models/none"))]) == 2
    assert "model models/none: no such folder" in capsys.readouterr().err


def test_an_example_to_start_from_is_good_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-config", "--example"]) == 0
    path = tmp_path / "site.yaml"
    path.write_text(capsys.readouterr().out)
    assert cli.main(["check-config", str(path)]) == 0
    assert cli.main(["check-config"]) == 2


def test_the_shipped_configuration_is_good(tmp_path: Path) -> None:
    assert config.shipped().model == "models/demo"


def test_an_error_is_one_sentence_and_a_traceback_only_with_debug(tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    plain = finished("classify", missing)
    assert (plain.returncode, plain.stdout) == (1, "")
    assert plain.stderr == f"tscc-stream: {missing}: no such file or folder\n"
    assert "Traceback" in finished("classify", missing, "--debug").stderr
    assert "Traceback" in finished("--debug", "classify", missing).stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_options: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("tscc_stream.cli.os.dup2", lambda *_: None)
    monkeypatch.setattr("tscc_stream.cli.live._check_config", gone)
    assert cli.main(["check-config", "x"]) == 0


def test_an_unforeseen_error_says_where_to_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_options: object) -> int:
        raise RuntimeError("odd\nthing")

    monkeypatch.setattr("tscc_stream.cli.live._check_config", broken)
    assert cli.main(["check-config", "x"]) == 1
    assert capsys.readouterr().err == "tscc-stream: RuntimeError: odd thing (--debug shows where)\n"


def test_simulate_and_serve_refuse_nonsense(tmp_path: Path) -> None:
    none = finished("simulate", "--channels", 0, "--seconds", 10, "--rate", 100, "--seed", 1, "--out", tmp_path / "m")
    assert (none.returncode, none.stderr) == (2, "tscc-stream: simulate: channels 0: expected 1 to 9999\n")
    fast = finished("serve", tmp_path, "--speed", "fast")
    assert fast.returncode == 2
    assert "expected a number above 0, or max" in fast.stderr


def test_simulate_then_classify(tmp_path: Path) -> None:
    made = finished(
        "simulate", "--channels", 2, "--seconds", 60, "--rate", 100, "--seed", 1001, "--out", tmp_path / "m"
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert (tmp_path / "m" / "truth.csv").read_text().startswith("event_id,kind,")
    found = finished("classify", tmp_path / "m")
    assert found.returncode == 0
    assert all(json.loads(line)["specversion"] == "1.0" for line in found.stdout.splitlines())


def test_model_show_verify_and_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "model"
    shutil.copytree(package.find("models/demo"), copy)
    before = package.load(copy).sha256
    assert cli.main(["model", "verify", str(copy)]) == 0
    assert cli.main(["model", "label", str(copy), "--cluster", "0", "--name", "orepass", "--colour", "#112233"]) == 0
    loaded = package.load(copy)
    assert (loaded.sha256, loaded.name_of(0), loaded.labels[0].colour) == (before, "orepass", "#112233")
    capsys.readouterr()
    assert cli.main(["model", "show", str(copy)]) == 0
    assert "cluster 0: orepass" in capsys.readouterr().out
    assert cli.main(["model", "label", str(copy), "--cluster", "99", "--name", "x"]) == 2
    assert cli.main(["model", "label", str(copy), "--cluster", "0", "--name", "x", "--colour", "red"]) == 2
    assert cli.main(["model", "label", str(copy), "--cluster", "0", "--name", "x", "--event-type", "foo"]) == 2
    (copy / "weights.pt").write_bytes(b"")
    assert cli.main(["model", "verify", str(copy)]) == 1
    assert "weights.pt was changed" in capsys.readouterr().err


def test_program_name_is_the_installed_one() -> None:
    assert command.PROGRAM == "tscc-stream"
    assert finished("--version").stdout.startswith("tscc-stream ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tail --connect foo --replay bar", "cannot connect to foo and bar: expected addresses such as tcp://"),
        ("tail --connect tcp://a:1 --replay tcp://a:2 --count 0", "argument --count: 0: expected 1 or more"),
        ("tail --connect tcp://a:1 --replay tcp://a:2 --since x", "argument --since: x: expected a whole number"),
        (
            "simulate --channels 2 --seconds 9 --rate 100 --seed 1 --out text",
            "--out text: is a file; expected a folder",
        ),
        ("train --data text --out m --clusters three", "three: expected auto, or a whole number, 1 or more"),
        ("train --data text --out m", "not a readable npz file, or a truncated one"),
        ("model show .", "is no model package: there is no model.json in it"),
        ("journal check --state-dir .", "the daemon makes it when it first starts (is state_dir right?)"),
        ("simulate --channels 2 --seconds x --rate 100 --seed 1 --out a", "argument --seconds: x: expected a number"),
    ],
)
def test_bad_input_gets_one_plain_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("hello\n")
    try:
        status = cli.main(line.split())
    except SystemExit as ended:  # argparse
        status = int(ended.code or 0)
    last = capsys.readouterr().err.splitlines()[-1]
    assert status in (1, 2)
    assert said in last
    assert not any(word in last for word in ("Errno", "pickle", "invalid", "Error:"))
