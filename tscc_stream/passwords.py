"""Who may read the HTTP endpoints: a users file of salted scrypt hashes, and HTTP's Basic authentication (RFC 7617).

A users file holds one line per user, `NAME:scrypt$N$R$P$SALT$HASH` (salt and hash in base64; RFC 7914 for the rest), as
`tscc-stream http-user NAME` prints it. Empty lines and lines that begin with # are skipped.

A check of a password is dear on purpose, and must not cost the live path its processor: one at a time, at most
CHECKS_PER_SECOND in the long run. A password that was right once is recognised again without a check.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from tscc_stream import credentials
from tscc_stream.credentials import CredentialError
from tscc_stream.sampling import NS_PER_SECOND

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
SHORTEST, LONGEST = 8, 256
"""Characters of a password."""
MOST_USERS = 100
CHECKS_PER_SECOND = 2.0
MOST_CHECKS_AT_ONCE = 10
"""So many checks may follow one another at once after a quiet time: a person who mistypes is not kept waiting."""

_SCHEME = "scrypt"
_COST, _BLOCK, _PARALLEL = 2**14, 8, 1  # 16 MiB and about 50 ms
_LARGEST_COST = 2**16
_MEMORY_BYTES = 2**27
_SALT_BYTES, _HASH_BYTES = 16, 32


@dataclass(frozen=True, slots=True, repr=False)
class Hashed:
    """A password as it is stored."""

    cost: int
    salt: bytes
    hashed: bytes
    block: int = _BLOCK
    parallel: int = _PARALLEL

    def matches(self, password: str) -> bool:
        """In a time that does not depend on where the two differ."""
        got = _scrypt(password, self.salt, (self.cost, self.block, self.parallel), len(self.hashed))
        return hmac.compare_digest(got, self.hashed)


def _scrypt(password: str, salt: bytes, settings: tuple[int, int, int], length: int) -> bytes:
    n, r, p = settings
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MEMORY_BYTES, dklen=length)


def line_for(name: str, password: str) -> str:
    """The line of a users file. Raises ValueError, which never holds the password."""
    if NAME.fullmatch(name) is None:
        raise ValueError(f"user {name!r}: expected up to 64 letters, digits and . _ @ -")
    if not SHORTEST <= len(password) <= LONGEST or not password.isprintable():
        raise ValueError(f"the password: expected {SHORTEST} to {LONGEST} printable characters")
    salt = os.urandom(_SALT_BYTES)
    hashed = _scrypt(password, salt, (_COST, _BLOCK, _PARALLEL), _HASH_BYTES)
    parts = (_SCHEME, _COST, _BLOCK, _PARALLEL, base64.b64encode(salt).decode(), base64.b64encode(hashed).decode())
    return f"{name}:{'$'.join(map(str, parts))}"


def read_users(name: str, purpose: str) -> dict[str, Hashed]:
    """The users of a file or credential. purpose: the key that names it. Raises CredentialError."""
    users: dict[str, Hashed] = {}
    for number, line in enumerate(credentials.read(name, purpose).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        place = f"{purpose} {credentials.path_of(name)}: line {number}"
        user, _, stored = line.strip().partition(":")
        if NAME.fullmatch(user) is None or (hashed := _hashed(stored)) is None:
            raise CredentialError(f"{place}: expected what `tscc-stream http-user NAME` prints")
        if user in users:
            raise CredentialError(f"{place}: user {user} is there twice")
        users[user] = hashed
    if not 1 <= len(users) <= MOST_USERS:
        found = len(users)
        raise CredentialError(f"{purpose} {credentials.path_of(name)}: {found} users, expected 1 to {MOST_USERS}")
    return users


def _hashed(stored: str) -> Hashed | None:
    try:
        scheme, n, r, p, salt, hashed = stored.split("$")
        cost, block, parallel = (int(number) for number in (n, r, p))
        made = Hashed(
            cost, base64.b64decode(salt, validate=True), base64.b64decode(hashed, validate=True), block, parallel
        )
    except (ValueError, binascii.Error):
        return None
    cheap_enough = 2 <= cost <= _LARGEST_COST and cost & (cost - 1) == 0 and 1 <= block <= 8 and parallel == 1
    known = scheme == _SCHEME and len(made.salt) >= _SALT_BYTES and _HASH_BYTES <= len(made.hashed) <= 64
    return made if cheap_enough and known else None


class Admission(Enum):
    ADMITTED = auto()
    REFUSED = auto()
    LATER = auto()
    """Too many passwords were tried of late."""


class Doorkeeper:
    """Tells, for each request, whether its Authorization header admits it. Safe to use from several threads."""

    def __init__(self, users: Mapping[str, Hashed]) -> None:
        self._users = dict(users)
        self._nobody = Hashed(_COST, os.urandom(_SALT_BYTES), os.urandom(_HASH_BYTES))
        self._key = os.urandom(32)
        self._admitted: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._left = float(MOST_CHECKS_AT_ONCE)
        self._counted_ns = 0

    def judge(self, header: str | None, now_ns: int) -> Admission:
        """header: what the request says under Authorization, None where it says nothing. now_ns: monotonic."""
        said = _user_and_password(header)
        if said is None:
            return Admission.REFUSED
        name, password = said
        mark = hmac.digest(self._key, f"{name}:{password}".encode(), "sha256")
        with self._lock:
            if hmac.compare_digest(self._admitted.get(name, b""), mark):
                return Admission.ADMITTED
            if not self._may_check(now_ns):
                return Admission.LATER
            right = self._users.get(name, self._nobody).matches(password)  # nobody: unknown names take as long
            if right:
                self._admitted[name] = mark
            return Admission.ADMITTED if right else Admission.REFUSED

    def _may_check(self, now_ns: int) -> bool:
        """Take one of the checks that are left; they grow back with time."""
        grown = max(0, now_ns - self._counted_ns) / NS_PER_SECOND * CHECKS_PER_SECOND
        self._left = min(float(MOST_CHECKS_AT_ONCE), self._left + grown)
        self._counted_ns = max(now_ns, self._counted_ns)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def user_of(header: str | None) -> str | None:
    """Who an Authorization header says it is; whether that is true, a Doorkeeper says."""
    said = _user_and_password(header)
    return None if said is None else said[0]


def _user_and_password(header: str | None) -> tuple[str, str] | None:
    scheme, _, encoded = (header or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (ValueError, binascii.Error):
        return None
    return (name, password) if colon and NAME.fullmatch(name) and len(password) <= LONGEST else None
