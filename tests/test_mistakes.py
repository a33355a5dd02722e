"""What is wrong with a value is said in our words, whatever pydantic calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tscc_stream import cli, config, mistakes, package
from tscc_stream.config import ConfigError
from tscc_stream.package import Label

THEIRS = ("should", "Input", "String", "valid ", "permitted", "required", "pattern")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "name: is missing"),
        (3, "label: expected keys with values"),
        ({"name": 3}, "name: expected a text"),
        ({"name": "x" * 81}, "name: expected at most 80 letters"),
        ({"name": ""}, "name: expected at least 1 letter"),
        ({"name": "x", "colour": "red"}, "colour: expected a colour such as #1f77b4"),
        ({"name": "x", "age": 1}, "age: unknown key"),
    ],
)
def test_a_label(given: object, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Label.model_validate(given)
    assert mistakes.first(refused.value, "label") == said


WRONG: dict[str, Any] = {
    "list": [],
    "text": "x",
    "number": -1e9,
    "whole": -3,
    "truth": True,
    "none": None,
    "keys": {"a": 1},
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_no_key_of_a_configuration_is_refused_in_other_words(value: object) -> None:
    """All sections of the shipped file, then all keys in them, each with a value that it may not have."""
    shipped = config.yaml.safe_load(config.shipped_text())
    seen = 0
    for document in (dict.fromkeys(shipped, value), _all_replaced(shipped, value)):
        with pytest.raises(ConfigError) as refused:
            config.parse(json.dumps(document))
        seen += len(refused.value.mistakes)
        for one in refused.value.mistakes:
            assert not any(word in one.partition(", got")[0] for word in THEIRS), one
    assert seen > 20


def _all_replaced(document: dict[str, Any], value: object) -> dict[str, Any]:
    def inner(one: object) -> object:
        if isinstance(one, dict) and one:
            return {key: inner(each) for key, each in one.items()}
        return [inner(each) for each in one] if isinstance(one, list) and one else value

    return {key: inner(one) for key, one in document.items()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """With labels of its own."""
    folder = tmp_path / "demo"
    folder.mkdir()
    for file in package.find("models/demo").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 81, "name: expected at most 80 letters"),
        ("Unknown", "name: unknown is what belongs to no cluster; expected another name"),
        (" ", "name: expected printable letters"),
    ],
)
def test_a_name_that_no_cluster_may_have(model: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    before = (model / "labels.json").read_bytes()
    assert cli.main(["model", "label", str(model), "--cluster", "1", "--name", name]) == 2
    assert capsys.readouterr().err == f"tscc-stream: model label: {said}\n"
    assert (model / "labels.json").read_bytes() == before


def test_two_clusters_of_one_name_are_allowed_and_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model", "label", str(model), "--cluster", "1", "--name", "drilling"]) == 0
    told = capsys.readouterr()
    assert told.out.endswith("cluster 1 is now drilling\n")
    assert "warning: cluster 4 is called 'drilling' too: in network events their votes count together" in told.err


def test_a_file_that_cannot_be_had_is_said_plainly(tmp_path: Path) -> None:
    for error, said in (
        (FileNotFoundError, f"there is no folder {tmp_path / 'none'}; make it first, or name another"),
        (NotADirectoryError, "lies below a file; expected a folder there"),
        (IsADirectoryError, "is a folder; expected a file"),
    ):
        path = tmp_path / "none" / "page.html"
        assert cli._sentences(error(2, "its own words", str(path))) == (f"{path}: {said}",)
    assert cli._sentences(FileNotFoundError(2, "x", str(tmp_path / "a"))) == (
        f"{tmp_path / 'a'}: no such file or folder",
    )
