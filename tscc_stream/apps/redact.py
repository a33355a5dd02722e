"""Secrets out of what leaves the site: by the key that they stand under, by their form, and by their very text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from tscc_stream.config_http import is_loopback

REMOVED: Final = "(removed)"
SHORTEST: Final = 4
"""Characters from which a secret's text is looked for everywhere; shorter ones would take away ordinary words."""
LONG_PART: Final = 8
"""Characters from which a part of a URL counts as a secret of its own."""
_KEY: Final = re.compile(r"pass|secret|token|credential|auth|key|header|users_file|cookie|signature", re.IGNORECASE)
_URL: Final = re.compile(r"\b([a-z][a-z0-9+.-]{1,20}://)([^\s\"'<>]+)", re.IGNORECASE)
_AUTHORITY: Final = re.compile(r"[^/?#]*")
_FORMS: Final = (
    re.compile(r"\b((?:bearer|basic|token)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE),
    re.compile(
        r"\b((?:pass(?:word|wd)?|secret|token|api[_-]?key|authorization)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]+",
        re.IGNORECASE,
    ),
    re.compile(r"(AUTH\s+USERPASS\s+)\S+\s+\S+", re.IGNORECASE),
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)", re.DOTALL),
    re.compile(r"(scrypt\$)\S+"),
)


def is_secret_key(key: str) -> bool:
    """Whether a secret, or the name of one, may stand under a key of the configuration."""
    return _KEY.search(key) is not None


def of_document(document: Any, *, secret: bool = False) -> Any:  # noqa: ANN401  # whatever YAML holds
    """The same values, without those under keys for secrets, and without what URLs carry beyond scheme and host."""
    if isinstance(document, dict):
        return {str(key): _of_value(str(key), value, secret) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [of_document(value, secret=secret) for value in document]
    if secret and document is not None and not isinstance(document, bool):
        return REMOVED
    return of_text(document) if isinstance(document, str) else document


def _of_value(key: str, value: Any, secret: bool) -> Any:  # noqa: ANN401  # any value of a document
    if key == "argv" and isinstance(value, list | tuple):  # a command's arguments may be anything
        return [*of_document(value[:1]), *(REMOVED for _ in value[1:])]
    return of_document(value, secret=secret or is_secret_key(key))


def _host_of(match: re.Match[str]) -> str:
    """What of a URL may be shown: a web hook's path is its secret, a path of this machine is none."""
    scheme, rest = match.groups()
    authority = _AUTHORITY.match(rest)[0]  # type: ignore[index]  # it matches the empty text, too
    slash, path = rest[len(authority) :][:1], rest[len(authority) + 1 :]
    host = authority.rpartition("@")[2]
    before = f"{scheme}{REMOVED}@" if "@" in authority else scheme
    shown = not scheme.lower().startswith("http") or is_loopback(host.rpartition(":")[0] or host)
    return f"{before}{host}{slash}{path if shown or not path else REMOVED}"


def of_text(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without the secrets that are known, and without what looks like one."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, REMOVED)
    text = _URL.sub(_host_of, text)
    for form in _FORMS:
        text = form.sub(rf"\g<1>{REMOVED}", text)
    return text


def known(document: Any, *, secret: bool = False) -> Iterator[str]:  # noqa: ANN401  # whatever YAML holds
    """Texts that are, or may be, secrets: those under such keys, and what the URLs carry."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from known(value, secret=secret or is_secret_key(str(key)))
    elif isinstance(document, list | tuple):
        for value in document:
            yield from known(value, secret=secret)
    elif secret and document is not None and not isinstance(document, bool):
        yield str(document)
    if isinstance(document, str):
        for match in _URL.finditer(document):
            yield from _of_url(match.group())


def known_lines(text: str) -> Iterator[str]:
    """The same of a text that is no YAML, line by line."""
    for line in text.splitlines():
        key, colon, value = line.strip(" -").partition(":")
        if colon and is_secret_key(key):
            yield value.split(" #")[0].strip().strip("'\"")
        for match in _URL.finditer(line):
            yield from _of_url(match.group())


def _of_url(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        password, path = parts.password, parts.path.strip("/")
    except ValueError:
        return
    if password:
        yield password
    if parts.scheme in ("http", "https"):
        yield from (part for part in (path, parts.query, *path.split("/")) if len(part) >= LONG_PART)
