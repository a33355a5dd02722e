"""Users files, and what a stranger who guesses passwords can cost."""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_site import command, finished

from tscc_stream import cli, passwords
from tscc_stream.credentials import CredentialError
from tscc_stream.passwords import Admission, Doorkeeper, line_for, read_users
from tscc_stream.sampling import seconds_to_ns

RIGHT = "correct horse battery"
SECOND_NS = seconds_to_ns(1.0)


@pytest.fixture(scope="module")
def line() -> str:
    return line_for("anna", RIGHT)


@pytest.fixture
def doorkeeper(line: str, tmp_path: Path) -> Doorkeeper:
    path = tmp_path / "users"
    path.write_text(line)
    return Doorkeeper(read_users(str(path), "users_file"))


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def test_a_line_is_salted_and_holds_no_password(line: str, tmp_path: Path) -> None:
    other = line_for("anna", RIGHT)
    assert re.fullmatch(r"anna:scrypt\$16384\$8\$1\$[A-Za-z0-9+/=]{24}\$[A-Za-z0-9+/=]{44}", line)
    assert line != other
    path = tmp_path / "users"
    path.write_text(f"# people\n\n{line}\n{other.replace('anna', 'otto')}\n")
    users = read_users(str(path), "users_file")
    assert [user.matches(RIGHT) for user in users.values()] == [True, True]
    assert not users["anna"].matches(RIGHT + " ")
    assert line.rpartition("$")[2] not in repr(users)


@pytest.mark.parametrize(
    ("name", "password", "words"),
    [
        ("an na", RIGHT, "user 'an na': expected up to 64"),
        ("an:na", RIGHT, "user 'an:na': expected up to 64"),
        ("", RIGHT, "user '': expected"),
        ("anna", "1234567", "the password: expected 8 to 256"),
        ("anna", "x" * 257, "the password: expected 8 to 256"),
        ("anna", "tab\tin the middle", "the password: expected 8 to 256 printable"),
    ],
)
def test_what_makes_no_line(name: str, password: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        line_for(name, password)
    assert password not in str(refusal.value)


@pytest.mark.parametrize(
    "changed",
    [
        ("scrypt", "md5"), ("16384", "16385"), ("16384", "1048576"), ("16384", "0"), ("16384", "-16384"),
        ("$8$1$", "$1024$1$"), ("$8$1$", "$8$64$"), ("$8$1$", "$8$"), ("anna:", "anna"), ("anna:", ":"), ("=", ""),
        ("anna:scrypt", "anna:plain"),
    ],
)  # fmt: skip
def test_a_line_that_is_none_is_told_without_it(line: str, changed: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"\n# x\n{line.replace(*changed)}\n")
    with pytest.raises(CredentialError) as refusal:
        read_users(str(path), "metrics.users_file")
    assert str(refusal.value) == (
        f"metrics.users_file {path}: line 2: expected what `tscc-stream http-user NAME` prints"
    )


def test_users_twice_and_none_and_too_many(line: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    for text, words in (
        (f"{line}\n{line}", "line 2: user anna is there twice"),
        ("# nobody", "0 users, expected 1 to 100"),
        ("\n".join(line.replace("anna", f"anna{number}") for number in range(101)), "101 users, expected 1 to 100"),
    ):
        path.write_text(text)
        with pytest.raises(CredentialError, match=words):
            read_users(str(path), "users_file")


def test_who_is_admitted(doorkeeper: Doorkeeper) -> None:
    right = basic(f"anna:{RIGHT}")
    assert doorkeeper.judge(right, 0) is Admission.ADMITTED
    assert doorkeeper.judge(right.replace("Basic", "bAsIc"), 0) is Admission.ADMITTED
    for header in (
        None, "", "Basic", "Basic ", "Basic ?", "Bearer x", basic("anna"), basic(b"\xff:\xff"), basic(f"Anna:{RIGHT}"),
        basic(f"anna:{RIGHT} "), basic(f"otto:{RIGHT}"), basic(f":{RIGHT}"), basic("anna:" + "x" * 300),
    ):  # fmt: skip
        assert doorkeeper.judge(header, 0) is Admission.REFUSED, header


@given(header=st.text(max_size=60) | st.binary(max_size=60).map(basic))
def test_no_header_does_more_than_be_refused(header: str) -> None:
    assert Doorkeeper({}).judge(header, 0) is Admission.REFUSED


def test_checks_are_bounded_and_grow_back(doorkeeper: Doorkeeper) -> None:
    def guesses(count: int, now_ns: int) -> list[Admission]:
        return [doorkeeper.judge(basic(f"anna:guess {now_ns} {number}"), now_ns) for number in range(count)]

    at_once = passwords.MOST_CHECKS_AT_ONCE
    assert guesses(at_once + 5, 0) == [Admission.REFUSED] * at_once + [Admission.LATER] * 5
    assert doorkeeper.judge(basic(f"anna:{RIGHT}"), 0) is Admission.LATER, "not known yet"
    each_ns = int(SECOND_NS / passwords.CHECKS_PER_SECOND)
    assert doorkeeper.judge(basic(f"anna:{RIGHT}"), each_ns) is Admission.ADMITTED
    assert guesses(2, each_ns) == [Admission.LATER] * 2
    assert doorkeeper.judge(basic(f"anna:{RIGHT}"), each_ns) is Admission.ADMITTED, "known by now"
    assert guesses(at_once + 1, 10**6 * SECOND_NS)[-1] is Admission.LATER, "a long quiet time saves up no more"
    assert doorkeeper.judge(basic("anna:wrong again"), 0) is Admission.LATER, "time that goes back gives nothing"


def test_the_command_reads_the_password_from_its_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{RIGHT}\r\nmore\n"))
    assert cli.main(["http-user", "anna"]) == 0
    path = tmp_path / "users"
    path.write_text(capsys.readouterr().out)
    assert read_users(str(path), "users_file")["anna"].matches(RIGHT)


def test_the_command_does_not_show_what_is_typed() -> None:
    terminal, its_end = pty.openpty()
    with subprocess.Popen(
        command("http-user", "anna"),
        stdin=its_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for prompt in (b"Password: ", b"Again: "):
            asked = b""
            while prompt not in asked:
                asked += process.stderr.read(1) or pytest.fail(f"it ended without asking: {asked!r}")
            os.write(terminal, RIGHT.encode() + b"\n")
        line = process.stdout.read().decode()
        assert process.wait(PATIENCE_S) == 0
    os.close(its_end)
    shown = b""
    with suppress(OSError):  # what Linux answers at the end of a terminal
        while data := os.read(terminal, 4096):
            shown += data
    os.close(terminal)
    assert RIGHT.encode() not in shown
    assert passwords._hashed(line.strip().partition(":")[2]).matches(RIGHT)


def test_the_command_on_a_bad_password() -> None:
    done = finished("http-user", "anna")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tscc-stream: http-user: the password: expected 8 to 256 printable characters\n"
