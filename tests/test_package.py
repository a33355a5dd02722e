"""Model packages: what is accepted, and what is refused with which reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from made_streams import package_spec

from tscc_stream import package
from tscc_stream.package import Label, PackageError

FILES = ("weights.pt", "encoder.ts", "selfcheck.npz", "card.md")
LABELS = {0: Label(name="blast", colour="#ff0000", event_type="explosion"), 1: Label(name="Größe", notes="x")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models" / "tiny"
    made.mkdir(parents=True)
    for name in FILES:
        (made / name).write_bytes(name.encode() * 100)
    (made / "nested").mkdir()
    package.write(made, _spec(), LABELS)
    return made


def _spec(**changes: object) -> dict[str, object]:
    return package_spec(**changes).model_dump(exclude={"format", "sha256"}, mode="json")


def _change(folder: Path, **changes: object) -> None:
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps({**document, **changes}), encoding="utf-8")


def test_what_is_written_is_loaded(folder: Path) -> None:
    loaded = package.load(folder)
    assert loaded.labels == LABELS
    assert set(loaded.spec.sha256) == set(FILES)
    assert loaded.spec.model_copy(update={"sha256": {}}) == package_spec()
    assert loaded.sha256 == package.sha256_of(folder / "model.json")
    assert [loaded.name_of(i) for i in range(3)] == ["blast", "Größe", "cluster 2"]


def test_a_name_changes_no_hash_and_a_missing_one_is_no_mistake(folder: Path) -> None:
    before = package.load(folder).sha256
    package.write_labels(folder, {1: Label(name="other")})
    assert [path for path in folder.iterdir() if "labels" in path.name] == [folder / "labels.json"]
    assert package.load(folder).sha256 == before
    assert package.load(folder).name_of(1) == "other"
    (folder / "labels.json").unlink()
    assert package.load(folder).labels == {}


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_and_so_is_a_missing_one(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"other")
    with pytest.raises(PackageError, match=f"{name} was changed: its SHA-256 is not the one in model.json"):
        package.load(folder)
    (folder / name).unlink()
    with pytest.raises(PackageError, match=f"{name} is missing"):
        package.load(folder)


@pytest.mark.parametrize("name", ["../weights.pt", "nested", "..", "", "nested/deep", "/etc/hostname"])
def test_only_files_of_the_folder_are_hashed(folder: Path, name: str) -> None:
    (folder.parent / "weights.pt").write_bytes(b"w")
    hashes = json.loads((folder / "model.json").read_text(encoding="utf-8"))["sha256"]
    _change(folder, sha256={**hashes, name: "0"})
    with pytest.raises(PackageError, match="is missing"):
        package.load(folder)


@pytest.mark.parametrize("name", FILES[:3])
def test_the_files_that_are_run_must_be_hashed(folder: Path, name: str) -> None:
    hashes = json.loads((folder / "model.json").read_text(encoding="utf-8"))["sha256"]
    _change(folder, sha256={key: value for key, value in hashes.items() if key != name})
    with pytest.raises(PackageError, match=f"model.json holds no hash of {name}"):
        package.load(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": "many"}, "model.json: samples: expected a whole number"),
        ({"format": 2}, "format: expected 1"),
        ({"surplus": 1}, "surplus: unknown key"),
        ({"band_hz": [2.0, 25.0]}, "band_hz 2-25: expected within 0 and 25 Hz"),
        ({"band_hz": [20.0, 2.0]}, "band_hz 20-2"),
        ({"onset_sample": 40}, "onset_sample 40: expected below samples 40"),
        ({"channels": 3}, "components \\*: expected 3, one for each channel of a window"),
        ({"components": ["Z", "N"]}, "components Z, N: expected 1, one for each channel of a window"),
        ({"channels": 2, "components": ["Z", "Z"]}, "components Z, Z: expected 2, one for each"),
        ({"channels": 2, "components": ["Z", "*"]}, "components: expected \\* alone, or none of them"),
        ({"components": ["Z_"]}, "components.0: expected letters, digits or `-`, or"),
        ({"novelty": {"score": "nearest_squared_distance", "calibration_windows": 0}}, "novelty.calibration_windows"),
        ({"sample_rate_hz": float("inf")}, "sample_rate_hz: expected a finite number"),
        ({"name": "../../etc"}, "name: expected at most 64 letters"),
    ],
)
def test_a_description_that_does_not_hold_is_refused_in_one_line(
    folder: Path, changes: dict[str, object], words: str
) -> None:
    _change(folder, **changes)
    with pytest.raises(PackageError, match=words) as caught:
        package.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.json", "labels.json"])
@pytest.mark.parametrize("rubbish", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000])
def test_rubbish_is_refused_and_not_run_into(folder: Path, name: str, rubbish: bytes) -> None:
    (folder / name).write_bytes(rubbish)
    with pytest.raises(PackageError, match=f"{name} is not JSON"):
        package.load(folder)


@pytest.mark.parametrize("document", ["[]", "3", "null", '"text"'])
def test_json_of_another_shape_is_refused(folder: Path, document: str) -> None:
    (folder / "labels.json").write_text(document, encoding="utf-8")
    with pytest.raises(PackageError, match=r"labels.json: expected cluster numbers with labels"):
        package.load(folder)
    (folder / "model.json").write_text(document, encoding="utf-8")
    with pytest.raises(PackageError, match=r"model.json: model.json: "):
        package.load(folder)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"2": {"name": "x"}}, "labels.json names cluster 2, expected 0 to 1"),
        ({"-1": {"name": "x"}}, "labels.json names cluster -1"),
        ({"one": {"name": "x"}}, "labels.json: expected cluster numbers with labels"),
        ({"1": {"name": ""}}, "labels.json: name: expected at least 1 letter"),
        ({"1": "x"}, "labels.json: label: "),
        ({"1": {"name": "x", "colour": "red"}}, "labels.json: colour: "),
    ],
)
def test_labels_that_do_not_hold_are_refused(folder: Path, labels: dict[str, object], words: str) -> None:
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    with pytest.raises(PackageError, match=words) as caught:
        package.load(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"is no model package: there is no model.json in it"):
        package.load(tmp_path)


def test_a_model_is_found_beside_the_configuration_here_or_among_the_shipped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert package.find("models/tiny").samefile(folder)
    assert package.find("tiny", relative_to=folder.parent) == folder
    assert package.find(str(folder), relative_to=Path("/")) == folder
    shipped = tmp_path / "shipped"
    (shipped / "models" / "demo").mkdir(parents=True)
    monkeypatch.setattr(package.resources, "files", lambda _: shipped)
    assert package.find("models/demo") == shipped / "models" / "demo"
    assert package.find("demo") == shipped / "models" / "demo"
    for name in ("models/nothing", "../models/demo"):
        with pytest.raises(PackageError, match=f"model {re.escape(name)}: "):
            package.find(name)
