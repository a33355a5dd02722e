"""Secrets out of what leaves the site: by the key that they stand under, by their form, and by their very text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from tscc_stream.config import SECRET_KEYS
from tscc_stream.config_http import is_loopback

REMOVED: Final = "(removed)"
SHORTEST: Final = 4
"""Characters from which a secret's text is looked for everywhere; shorter ones would take away ordinary words."""
LONG_PART: Final = 8
"""Characters from which a part of a URL, or of a command's argument, counts as a secret of its own."""
_KEY: Final = re.compile(
    r"pass|pwd|secret|token|cred|auth|key|header|users_file|cookie|signature|(?<![a-z])pin(?![a-z])", re.IGNORECASE
)
_COMMAND: Final = re.compile(r"argv|args|arguments|command|cmd|exec", re.IGNORECASE)
_URL: Final = re.compile(r"\b([a-z][a-z0-9+.-]{1,20}://)([^\s\"'<>]+)", re.IGNORECASE)
_WHO: Final = re.compile(r"[^/?#:\[]*:(?!\d{1,5}(?:[/?#]|$)).*@|[^/?#]*@")
"""Who asks, of a URL behind its scheme. A colon before no port begins a password, which may hold a slash."""
_AUTHORITY: Final = re.compile(r"[^/?#]*")
_WEB: Final = ("http", "https", "ws", "wss")
_VALUE: Final = (
    r"(?!\(removed\)[,;)}\]]{0,8}(?:[\s\"'\\]|$))"
    r"(?:(?<=\\\")[^\"\\\n]+|(?<=[^\\]\")(?:[^\"\\\n]|\\.)+|(?<=')[^'\n]+|[^\s\"'\\]+?(?=[,;)}\]]{0,8}(?:[\s\"'\\]|$)))"
)
"""What a secret ends with: its quotes, or a blank where it has none."""
_WITH_PASSWORD: Final = re.compile(r"(?<![\w/:.@+-])(?!mailto:)([\w.+-]+:)([^\s/@\"'<>]+)(?=@[\w\[])", re.IGNORECASE)
"""`user:password@host`, as a URL has it, without the scheme."""
_FORMS: Final = (
    re.compile(r"\b((?:bearer|basic|token)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE),
    re.compile(r"((?:authorization|cookie)\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s\"'\\][^\n\"'\\]*", re.IGNORECASE),
    re.compile(
        r"((?:(?<![a-z])(?:pass|pin|pwd)|password|passwd|passphrase|secret|token|(?:api|access|private|secret)[_-]?key)"
        rf"\\?[\"']?\s*[=:]\s*\\?[\"']?){_VALUE}",
        re.IGNORECASE,
    ),
    re.compile(
        r"((?<![\w-])--?(?:[a-z0-9]+[_-])*(?:pass|password|passwd|passphrase|pwd|pin|secret|token|api-?key)"
        rf"(?:\\?[\"']\s*,\s*|\s*=\s*|\s+)\\?[\"']?){_VALUE}",
        re.IGNORECASE,
    ),
    re.compile(r"((?<![\w-])(?:-u|--user|--proxy-user)[=\s]+[\"']?[^\s:\"']+:)[^\s\"']+"),
    _WITH_PASSWORD,
    re.compile(r"(AUTH\s+USERPASS\s+)\S+\s+\S+", re.IGNORECASE),
    re.compile(r"(-----BEGIN [A-Z ]*(?:PRIVATE KEY|SEED)-----).*?(?=-----END|\Z)", re.DOTALL),
    re.compile(r"\b(S[ACNOUX])[A-Z2-7]{40,}\b"),  # the seed of a NATS key
    re.compile(r"\b(eyJ)[\w-]{8,}\.[\w-]+\.[\w-]*"),  # a JSON web token
    re.compile(r"(scrypt\$)\S+"),
)
_LONG_OPTION: Final = re.compile(r"--[a-z][a-z0-9_-]*", re.IGNORECASE)
_PAIR: Final = re.compile(
    r"(?:^|[\s{,])[\"']?([\w.-]+)[\"']?\s*:(?=\s|$)\s*(\"[^\"]*\"|'[^']*'|[^,{}\]\s\"'][^,}\]\s]*|)"
)
_WORD: Final = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s,\[\]]+")


def is_secret_key(key: str) -> bool:
    """Whether a secret, or the name of one, may stand under a key of the configuration."""
    return key in SECRET_KEYS or _KEY.search(key) is not None


def _is_command(key: object, value: object) -> bool:
    return isinstance(value, list | tuple | str) and _COMMAND.fullmatch(str(key)) is not None


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
    if _is_command(key, value):  # a command's arguments may be anything
        words = value.split() if isinstance(value, str) else list(value)
        shown = [*of_document(words[:1], secret=secret), *(REMOVED for _ in words[1:])]
        return " ".join(map(str, shown)) if isinstance(value, str) else shown
    return of_document(value, secret=secret or is_secret_key(key))


def _parted(rest: str) -> tuple[str, str, str]:
    """A URL behind its scheme: who asks, up to the @; host and port; and all behind them."""
    match = _WHO.match(rest)
    who = "" if match is None else match.group()
    host = _AUTHORITY.match(rest, len(who)).group()  # type: ignore[union-attr]  # it matches the empty text, too
    return who, host, rest[len(who) + len(host) :]


def _host_of(match: re.Match[str]) -> str:
    """What of a URL may be shown: a web hook's path is its secret, a path of this machine is none."""
    scheme, rest = match.groups()
    who, host, path = _parted(rest)
    before = f"{scheme}{REMOVED}@" if who else scheme
    shown = scheme[:-3].lower() not in _WEB or is_loopback(host.rpartition(":")[0] or host)
    return f"{before}{host}{path if shown or not path[1:] else path[0] + REMOVED}"


def of_text(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without the secrets that are known, and without what looks like one."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = _without(text, secret)
    text = _URL.sub(_host_of, text)
    for form in _FORMS:
        text = form.sub(rf"\g<1>{REMOVED}", text)
    return text


def _without(text: str, secret: str) -> str:
    """A number of a few digits is no secret within a longer one."""
    if secret.isdecimal() and len(secret) < LONG_PART:
        return re.sub(rf"(?<!\d){secret}(?!\d)", REMOVED, text)
    return text.replace(secret, REMOVED)


def known(document: Any, *, secret: bool = False) -> Iterator[str]:  # noqa: ANN401  # whatever YAML holds
    """Texts that are, or may be, secrets: those under such keys, and what the URLs carry."""
    if isinstance(document, dict):
        for key, value in document.items():
            if not _is_command(key, value):
                yield from known(value, secret=secret or is_secret_key(str(key)))
    elif isinstance(document, list | tuple):
        for value in document:
            yield from known(value, secret=secret)
    elif secret and document is not None and not isinstance(document, bool):
        yield str(document)
    if isinstance(document, str):
        yield from _of_urls(document)


def known_arguments(document: Any) -> Iterator[str]:  # noqa: ANN401  # whatever YAML holds
    """What commands are given, each of which may be a secret; names of long options are none."""
    if isinstance(document, dict):
        for key, value in document.items():
            if _is_command(key, value):
                words = value.split() if isinstance(value, str) else map(str, value)
                for word in list(words)[1:]:
                    yield from _of_argument(word)
            else:
                yield from known_arguments(value)
    elif isinstance(document, list | tuple):
        for value in document:
            yield from known_arguments(value)


def _of_argument(word: str) -> Iterator[str]:
    if _LONG_OPTION.fullmatch(word):
        return
    yield word
    if re.match(r"-[A-Za-z]", word):  # -pSECRET
        yield word[2:]
    yield word.partition("=")[2]
    yield from (part for part in re.split(r"[\s\"'=:,;@]+", word) if len(part) >= LONG_PART)
    yield from _of_urls(word)


def guessed(text: str) -> list[dict[str, Any]]:
    """Of a text that is no YAML, what keys and values its lines seem to have; a value more rather than one less."""
    found: list[dict[str, Any]] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        key, colon, rest = line.strip(" -").partition(":")
        pairs = [*_PAIR.findall(line), *([(key.strip("{[ \"'"), rest)] if colon else [])]
        for name, value in pairs:
            bare = value.split(" #")[0].strip()
            if _COMMAND.fullmatch(name):
                words = _WORD.findall(" ".join([line.partition(name)[2].lstrip("\"' :"), *_below(lines, number)]))
                found.append({name: [word.strip("\"'") for word in words if word != "-"]})
            elif is_secret_key(name):
                found += [{name: one.strip("\"' ")} for one in (bare, bare.strip("[]{}"), *_below(lines, number))]
            else:
                found.append({name: bare.strip("\"'")})
    return found


def _below(lines: list[str], number: int) -> Iterator[str]:
    """Lines that belong to a key since they are indented further, and what stands in them behind a colon."""
    indent = len(lines[number]) - len(lines[number].lstrip(" -"))
    for line in lines[number + 1 :]:
        bare = line.strip()
        deep = len(line) - len(line.lstrip())
        if bare and deep <= indent and not (deep == indent and bare.startswith("-")):
            return
        yield bare.removeprefix("- ")
        yield bare.partition(": ")[2]


def _of_urls(text: str) -> Iterator[str]:
    for match in _URL.finditer(text):
        yield from _of_url(*match.groups())
    yield from (match.group(2) for match in _WITH_PASSWORD.finditer(text))


def _of_url(scheme: str, rest: str) -> Iterator[str]:
    """A password as it stands there and as it is meant; a name alone, which is a token; parts of the path."""
    who, _, behind = _parted(rest)
    name, colon, password = who[:-1].partition(":")
    if password or (not colon and len(name) >= LONG_PART):
        yield from {password or name, unquote(password or name)}
    if scheme[:-3].lower() not in _WEB:
        return
    path, _, query = behind.partition("#")[0].partition("?")
    parts = (
        path.strip("/"),
        query,
        behind.partition("#")[2],
        *path.split("/"),
        *(value for _, value in parse_qsl(query)),
    )
    yield from (part for part in parts if len(part) >= LONG_PART)
