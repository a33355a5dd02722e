"""Files of keys: made once, never overwritten, never shown; lists that say what is wrong with them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from made_keys import Keyring
from made_site import finished

from tscc_stream import cli, config
from tscc_stream.bus.keys import binary, public_key, read_allowed, read_pair, text_of, write_new_pair
from tscc_stream.credentials import CredentialError

ONE, TWO, THREE = (text_of(bytes([n]) * 32) for n in (1, 2, 3))


@given(st.binary(min_size=32, max_size=32))
def test_keys_as_text_and_back(key: bytes) -> None:
    assert binary(text_of(key)) == key
    assert text_of(key)[0] != "#", "which begins a comment"


@pytest.mark.parametrize("text", ["", "a" * 39, "a" * 41, "~" * 40, "#" * 40, "ä" * 40, "a" * 39 + " "])
def test_what_is_no_key(text: str) -> None:
    assert binary(text) is None


def test_a_new_pair_belongs_together_and_its_secret_to_its_owner(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"alarm {number}.key"
        pair = write_new_pair(path)
        assert read_pair(str(path), "key") == pair
        assert zmq.curve_public(pair.secret.encode()).decode() == pair.public
        assert pair.public[0].isalnum()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        beside = tmp_path / f"alarm {number}.key.pub"
        assert public_key(str(beside), "server key") == public_key(pair.public, "server key") == pair.public
        assert read_allowed(str(beside), "allowed").names == {pair.public: f"alarm {number}"}
        assert pair.secret not in repr(pair)


@pytest.mark.parametrize("there", ["alarm.key", "alarm.key.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(CredentialError, match=r"is there already, and a key is never overwritten"):
        write_new_pair(tmp_path / "alarm.key")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "precious")]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match=r"alarm\.key\.pub: cannot be written: there is no folder .*nowhere"):
        write_new_pair(tmp_path / "nowhere" / "alarm.key")


def test_a_list_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "allowed"
    path.write_text(f"# who may connect\n\n{ONE}\n  {TWO}   # alarm of shaft 3\n#{ONE}\n{THREE}\t#\x1bx\n")
    allowed = read_allowed(str(path), "allowed_keys_file")
    assert allowed.names == {ONE: "", TWO: "alarm of shaft 3", THREE: "x"}
    assert allowed.place == str(path)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["nonsense"], "line 1: expected a public key of 40 characters, then nothing or # and a name"),
        ([ONE, "", f"{TWO} alarm"], "line 3: expected a public key of 40 characters"),
        ([ONE, f"{ONE} # again"], "line 2: this key stands in the list already"),
    ],
)
def test_what_is_wrong_with_a_list_is_told_with_its_line(tmp_path: Path, lines: list[str], sentence: str) -> None:
    path = tmp_path / "allowed"
    path.write_text("\n".join(lines))
    with pytest.raises(CredentialError) as refusal:
        read_allowed(str(path), "allowed_keys_file")
    assert str(refusal.value).startswith(f"allowed_keys_file {path}: {sentence}")


def test_what_is_no_secret_key_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2")
    with pytest.raises(CredentialError) as refusal:
        read_pair(str(path), "publish.curve.secret_key_file")
    assert str(refusal.value) == (
        f"publish.curve.secret_key_file {path}: expected a CURVE key of 40 characters, as `tscc-stream bus-key` writes "
        "it, and nothing else"
    )


def test_a_server_key_is_one_key(tmp_path: Path) -> None:
    path = tmp_path / "two"
    path.write_text(f"{ONE}\n{TWO}\n")
    with pytest.raises(CredentialError, match=r"server key .*two: 2 keys; expected one public key"):
        public_key(str(path), "server key")


def test_keys_that_systemd_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "handed over"
    folder.mkdir()
    ring = Keyring(folder)
    ring.allow("alarm")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert read_pair("daemon.key", "secret_key_file") == ring.server
    assert list(read_allowed("allowed", "allowed_keys_file").names.values()) == ["alarm"]


def test_the_section_of_the_configuration() -> None:
    text = "publish: {curve: {secret_key_file: a.key, allowed_keys_file: allowed}}"
    curve = config.parse(text).publish.curve
    assert curve is not None
    assert (curve.secret_key_file, curve.allowed_keys_file) == ("a.key", "allowed")
    assert config.parse("publish: {curve: null}").publish.curve is None
    with pytest.raises(config.ConfigError, match=r"publish\.curve\.allowed_keys_file"):
        config.parse("publish: {curve: {secret_key_file: a.key}}")


def test_the_command_tells_the_public_key_and_nothing_of_the_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "alarm.key"
    assert cli.main(["bus-key", "--out", str(path)]) == 0
    pair = read_pair(str(path), "key")
    said = "".join(capsys.readouterr())
    assert pair.public in said
    assert pair.secret not in said
    assert "publish.curve.allowed_keys_file" in said
    assert cli.main(["bus-key", "--out", str(path)]) == 1
    assert capsys.readouterr().err.endswith("is there already, and a key is never overwritten\n")
    assert read_pair(str(path), "key") == pair


def test_tail_wants_both_keys(tmp_path: Path) -> None:
    half = finished("tail", "--connect", "tcp://a:1", "--replay", "tcp://a:2", "--key", tmp_path / "a.key")
    assert (half.returncode, half.stderr) == (2, "tscc-stream: tail: --server-key and --key belong together\n")
