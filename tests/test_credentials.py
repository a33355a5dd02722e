"""Secrets out of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tscc_stream import credentials
from tscc_stream.credentials import CredentialError


def test_a_plain_name_is_a_credential_of_the_service_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handed_over = tmp_path / "credentials"
    handed_over.mkdir()
    (handed_over / "password").write_text("from systemd\n")
    (tmp_path / "password").write_text("from the site")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert credentials.read("password", "password_file") == "from the site"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed_over))
    assert credentials.read("password", "password_file") == "from systemd"
    assert credentials.read(str(tmp_path / "password"), "password_file") == "from the site"


def test_a_file_of_the_folder_that_the_unit_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "credentials_password").write_text("from the folder")
    assert credentials.read("password", "password_file") == "from the folder"
    (tmp_path / "password").write_text("by its own name")
    assert credentials.read("password", "password_file") == "by its own name"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "expected text in UTF-8"),
        (b"x" * 65_537, "expected at most 65536 bytes"),
    ],
)
def test_what_is_no_secret_is_told_with_its_key_and_place(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CredentialError) as refusal:
        credentials.read(str(path), "password_file")
    assert str(refusal.value) == f"password_file {path}: {sentence}"
