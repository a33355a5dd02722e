"""Commands load what they need and when they need it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from in_time import PATIENCE_S
from made_site import make_archive, settings

from tscc_stream import cli, package

HEAVY = ("torch", "scipy.signal", "obspy", "sklearn", "matplotlib", "rich", "zmq", "prometheus_client")
PROGRAM = """
import sys
from tscc_stream.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
print(*(name for name in {heavy} if name in sys.modules), file=sys.stderr)
sys.exit(status)
""".format(heavy=(*HEAVY, "numba", "pydantic"))


def loaded(*words: object) -> tuple[int, str, list[str]]:
    """Exit status, standard output, and what of the heavy packages was loaded; whatever else was said goes before."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    *said, names = done.stderr.split("\n")[:-1]
    assert said == [] or done.returncode, said
    return done.returncode, done.stdout, [*said, *names.split()]


def written(folder: Path, **over: object) -> Path:
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings(folder, **over)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def unloadable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose hashes hold, and whose encoder is none."""
    folder = tmp_path_factory.mktemp("models") / "broken"
    shutil.copytree(package.find("models/demo"), folder)
    (folder / "weights.pt").write_bytes(b"no weights")
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    document["sha256"]["weights.pt"] = package.sha256_of(folder / "weights.pt")
    (folder / "model.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_help_of_one_command_loads_nothing() -> None:
    status, text, names = loaded("classify", "--help")
    assert (status, names) == (0, [])
    assert text.startswith("usage: tscc-stream classify")


def test_classify_without_windows_loads_neither_torch_nor_scipy(
    recordings: Path, unloadable: Path, tmp_path: Path
) -> None:
    quiet = written(tmp_path, trigger={"trigger_on": 19.99})
    words = ("classify", recordings, "--config", quiet)
    assert loaded(*words) == (0, "", ["numba", "pydantic"])
    assert loaded(*words, "--model", unloadable)[:2] == (0, "")


def test_a_data_set_is_built_without_what_training_loads(recordings: Path, tmp_path: Path) -> None:
    words = ("dataset", "build", "--from", recordings, "--config", written(tmp_path), "--out", tmp_path / "mine.npz")
    status, said, names = loaded(*words)
    assert (status, names) == (0, ["numba", "pydantic"])
    assert said.endswith(" windows\n")


@pytest.mark.parametrize("output", ["jsonl", "csv", "quakeml"])
def test_a_package_that_cannot_be_loaded_is_one_sentence_before_any_output(
    recordings: Path, unloadable: Path, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["classify", recordings, "--config", written(tmp_path), "--model", unloadable, "--output", output]
    assert cli.main([str(word) for word in words]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "weights.pt: " in said.err


def test_every_command_is_in_the_group_that_adds_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    everything = capsys.readouterr().out
    for group, commands in cli.GROUPS.items():
        for command in commands:
            assert cli._groups(["--debug", command, "--help"]) == [group]
            assert f"\n    {command}" in everything
            with pytest.raises(SystemExit) as ended:
                cli.main([command, "--help"])
            assert ended.value.code == 0
    assert everything.count("\n    ") >= sum(len(commands) for commands in cli.GROUPS.values())
    assert cli._groups(["no-such"]) == list(cli.GROUPS)
