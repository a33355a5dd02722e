"""CURVE keys and the files that hold them: a secret key, a public key, or a list of public keys that are allowed.

Sources: CurveZMQ (https://rfc.zeromq.org/spec/26), Z85 (https://rfc.zeromq.org/spec/32): a key is 32 bytes, written as
40 printable characters. # is one of them, but never the first: five characters that begin with it exceed 32 bits.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from tscc_stream import credentials
from tscc_stream.credentials import CredentialError
from tscc_stream.writable import why_not

CHARACTERS = 40
_EXPECTED = f"a CURVE key of {CHARACTERS} characters, as `tscc-stream bus-key` writes it"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves in Z85."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """What a subscriber needs where the bus is secured.

    server: the daemon's public key, or a file that holds it; secret_file: the subscriber's own secret key.
    """

    server: str
    secret_file: str | Path


@dataclass(frozen=True, slots=True)
class AllowList:
    """names: by public key; empty where the list gives none. place: the file."""

    names: Mapping[str, str]
    place: str


def binary(text: str) -> bytes | None:
    """The 32 bytes of a key in Z85; None where it is none."""
    if len(text) != CHARACTERS or not text.isascii():
        return None
    try:
        return bytes(z85.decode(text.encode()))
    except (KeyError, ValueError, struct.error):
        return None


def text_of(key: bytes) -> str:
    """A binary key in Z85."""
    return bytes(z85.encode(key)).decode()


def abbreviated(key: str) -> str:
    """Enough of a public key to find it in a list."""
    return f"{key[:8]}..."


def read_pair(name: str, purpose: str) -> KeyPair:
    """The secret key in a file, and its public half. name, purpose, errors: as credentials.read."""
    secret = credentials.read(name, purpose)
    if binary(secret) is None:
        raise CredentialError(f"{purpose} {credentials.path_of(name)}: expected {_EXPECTED}, and nothing else")
    return KeyPair(zmq.curve_public(secret.encode()).decode(), secret)


def read_allowed(name: str, purpose: str) -> AllowList:
    """The public keys in a file: one a line, then `# name` if wanted; empty lines and lines of comment are skipped.

    Raises CredentialError.
    """
    place = str(credentials.path_of(name))
    names: dict[str, str] = {}
    for number, line in enumerate(credentials.read(name, purpose).splitlines(), 1):
        entry = _entry(line.strip(), f"{purpose} {place}: line {number}")
        if entry is None:
            continue
        if entry[0] in names:
            raise CredentialError(f"{purpose} {place}: line {number}: this key stands in the list already")
        names[entry[0]] = entry[1]
    return AllowList(names, place)


def _entry(line: str, where: str) -> tuple[str, str] | None:
    """Key and name of one line; None where it is empty or a comment."""
    if line.startswith("#") or not line:
        return None
    key, rest = (*line.split(maxsplit=1), "")[:2]
    if binary(key) is None or rest[:1] not in ("", "#"):
        raise CredentialError(
            f"{where}: expected a public key of {CHARACTERS} characters, then nothing or # and a name"
        )
    name = rest.removeprefix("#").strip()
    return key, "".join(character for character in name if character.isprintable())


def public_key(text: str, purpose: str) -> str:
    """A public key given as such, or as a file that holds nothing else but comments. Raises CredentialError."""
    if binary(text) is not None:
        return text
    allowed = read_allowed(text, purpose)
    if len(allowed.names) != 1:
        raise CredentialError(f"{purpose} {allowed.place}: {len(allowed.names)} keys; expected one public key")
    return next(iter(allowed.names))


def write_new_pair(path: Path) -> KeyPair:
    """A new key pair: the secret in `path`, for its owner only, the public key beside it in `path`.pub.

    The public one begins with a letter or a digit, so that it needs no care at the beginning of a line or an argument.
    Raises CredentialError where either file is there already or cannot be written.
    """
    pair = _new_pair()
    while not pair.public[0].isalnum():
        pair = _new_pair()
    beside = path.with_name(f"{path.name}.pub")
    _write_new(beside, f"{pair.public} # {path.stem}\n", 0o644)
    try:
        _write_new(path, f"{pair.secret}\n", 0o600)
    except CredentialError:
        beside.unlink()
        raise
    return pair


def _new_pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def _write_new(path: Path, text: str, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise CredentialError(f"{path}: is there already, and a key is never overwritten") from error
    except OSError as error:
        raise CredentialError(f"{path}: cannot be written: {why_not(path.parent) or error.strerror}") from error
    try:
        with open(handle, "w", encoding="ascii", errors="replace") as file:  # noqa: PTH123  # opened so that it is new
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise CredentialError(f"{path}: cannot be written: {error.strerror}") from error
