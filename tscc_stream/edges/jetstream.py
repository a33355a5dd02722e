"""One connection to NATS JetStream: credentials, TLS, the stream, and messages with their acknowledgements.

A connection that breaks is not mended here: whoever uses it makes another one and sends again what was not
acknowledged. So no message waits in a buffer that nobody sees. Client: nats-py. Sources: NATS client protocol
(https://docs.nats.io/reference/reference-protocols/nats-protocol), JetStream (https://docs.nats.io/nats-concepts/jetstream).
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import StaleConnectionError
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from tscc_stream import credentials
from tscc_stream.config_bridge import BridgeConfig
from tscc_stream.credentials import CredentialError

_log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
ASK_SECONDS = 5.0
CLOSE_SECONDS = 2.0
SEND_SECONDS = 10.0
"""For one message to be taken into the socket: a server that reads nothing for as long is given up."""
PING_SECONDS = 5
MOST_BYTES = 2**31
"""More than any server takes."""
NOBODY = "503"
"""Status of an answer where nobody listens to a subject."""
FULL, TOO_LARGE = 10077, 10054
"""Error codes of JetStream: the stream's limits are reached; the message is larger than the stream takes."""
_EXPECTED = "Nats-Expected-Stream"
_GIB = 2**30
_DAY_SECONDS = 86_400.0
Tell = Callable[[str], None]


class JetStreamError(RuntimeError):
    """Why nothing can be handed over, in one sentence with what to do."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message as the server gets it. headers: names and values in printable ASCII."""

    subject: str
    payload: bytes
    headers: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes that count against the server's max_payload."""
        return len(self.payload) + 12 + sum(len(name) + len(value) + 4 for name, value in self.headers.items())


class RefusedError(RuntimeError):
    """A message that was not taken, in one sentence. code: of JetStream. gone: nobody is there who would take it."""

    def __init__(self, sentence: str, code: int = 0, *, gone: bool = False) -> None:
        super().__init__(sentence)
        self.code, self.gone = code, gone


class _Error(msgspec.Struct):
    description: str = "for no reason that it gives"
    err_code: int = 0


class Acknowledgement(msgspec.Struct):
    """PubAck. duplicate: the stream had a message with this id already."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


@dataclass(frozen=True, slots=True)
class _Stream:
    """As it was found. made: when; empty where it is not there. notes: what is unusual about it, one sentence each."""

    name: str
    most_bytes: int
    made: str = ""
    notes: tuple[str, ...] = ()


class Session:
    """A connection with a stream that takes our subjects. lost: done, with the reason, once it is over.

    Acknowledgements have an inbox of their own: in the client's publish_async those that are errors do not arrive.
    """

    def __init__(self, client: Client, stream: _Stream, lost: asyncio.Future[str]) -> None:
        self._client = client
        self._stream, self._most_bytes = stream.name, stream.most_bytes
        url = client.connected_url
        self.server = "" if url is None else url.netloc.rpartition("@")[2]
        self.lost = lost
        self.notes = stream.notes
        self.stream_made = stream.made
        """When the stream was made: another time means another stream, which has nothing of what the one before had."""
        self._inbox = client.new_inbox()
        self._number = 0
        self._waiting: dict[str, asyncio.Future[Acknowledgement]] = {}

    async def listen(self) -> None:
        """For acknowledgements; before anything is published."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    @property
    def most_bytes(self) -> int:
        """Of one message with its headers, that both the server and the stream take with what `publish` adds."""
        return min(self._client.max_payload, self._most_bytes) - len(f"{_EXPECTED}: {self._stream}\r\n")

    async def publish(self, message: Outgoing) -> asyncio.Future[Acknowledgement]:
        """Send it; its acknowledgement to come, or RefusedError. Raises JetStreamError: the connection is of no use."""
        self._number += 1
        name = str(self._number)
        headers = {**message.headers, _EXPECTED: self._stream}
        sending = self._client.publish(message.subject, message.payload, f"{self._inbox}.{name}", headers)
        try:
            await asyncio.wait_for(sending, SEND_SECONDS)
        except TimeoutError as error:
            raise JetStreamError(f"it takes nothing for {SEND_SECONDS:g} s") from error
        except (NatsError, OSError) as error:
            raise JetStreamError(_words(error)) from error
        answer: asyncio.Future[Acknowledgement] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answer
        answer.add_done_callback(lambda _answer: self._waiting.pop(name, None))
        return answer

    async def _answered(self, said: Msg) -> None:
        answer = self._waiting.get(said.subject.rpartition(".")[2])
        if answer is None or answer.done():
            return
        if said.headers and said.headers.get("Status") == NOBODY:
            answer.set_exception(RefusedError(f"the stream {self._stream} is gone, or JetStream is", gone=True))
            return
        try:
            found = msgspec.json.decode(said.data, type=Acknowledgement)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            answer.set_exception(RefusedError(f"an answer that is no acknowledgement: {error}"))
            return
        if found.error is None:
            answer.set_result(found)
            return
        code = found.error.err_code
        todo = "; it is full: raise its limits, or remove from it" if code == FULL else ""
        words = f"the stream {self._stream} refuses messages: {found.error.description} (error {code}){todo}"
        answer.set_exception(RefusedError(words, code))

    def fail(self, reason: str) -> None:
        """It is of no use any more."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self) -> None:
        self.fail("closed")
        await _close(self._client)


async def _close(client: Client) -> None:
    # AssertionError: of a client whose credentials could not even be read
    with suppress(TimeoutError, NatsError, OSError, AssertionError, asyncio.CancelledError):
        await asyncio.wait_for(client.close(), CLOSE_SECONDS)


async def connect(config: BridgeConfig, tell: Tell, *, make: bool = True) -> Session:
    """A session, within bounded time. tell: is told what the server says in between, such as a missing permission.

    make: the stream, where it is not there. Raises JetStreamError.
    """
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    client = Client()
    listener = _Listener(client, lost, tell)
    try:
        await _open(client, config, listener)
        _refuse_without_tls(client, config)
        listener.connected = True
        session = Session(client, await _stream(client, config, make=make), lost)
        await session.listen()
    except BaseException:
        await _close(client)
        raise
    return session


class _Listener:
    """What the client tells of while it works."""

    def __init__(self, client: Client, lost: asyncio.Future[str], tell: Tell) -> None:
        self._client, self._lost, self._tell = client, lost, tell
        self.connected = False
        self.last: Exception | None = None

    async def error(self, error: Exception) -> None:
        self.last = error
        if self.connected and not isinstance(error, (StaleConnectionError, OSError)):  # the end, which `lost` tells
            self._tell(f"NATS says: {_words(error)}")

    async def closed(self) -> None:
        if not self._lost.done():
            error = self._client.last_error
            self._lost.set_result("the server has gone" if error is None else _words(error))


async def _open(client: Client, config: BridgeConfig, listener: _Listener) -> None:
    try:
        opening = client.connect(
            servers=[f"nats://{server}" for server in config.servers],
            name="tscc-stream bridge",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(CONNECT_SECONDS),
            ping_interval=PING_SECONDS,
            error_cb=listener.error,
            closed_cb=listener.closed,
            tls=_tls_of(config),
            **_credentials_of(config, client),
        )
        await asyncio.wait_for(opening, CONNECT_SECONDS * len(config.servers) + 1.0)
    except CredentialError as error:
        raise JetStreamError(str(error)) from error
    except (NatsError, OSError, ValueError) as error:  # TimeoutError is an OSError
        why = listener.last if listener.last is not None and not isinstance(error, ssl.SSLError) else error
        raise JetStreamError(_why_not(why, config)) from error
    except JetStreamError:
        raise
    except Exception as error:
        key = "nkey_file" if config.nkey_file is not None else "creds_file"
        if getattr(config, key) is None:
            raise
        # what reads them has errors of many kinds for files that are none
        raise JetStreamError(f"bridge.{key} {getattr(config, key)}: cannot be used: {type(error).__name__}") from error


def _tls_of(config: BridgeConfig) -> ssl.SSLContext | None:
    """Raises CredentialError."""
    if not config.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=config.tls_ca_file)
    except OSError as error:
        raise CredentialError(f"bridge.tls_ca_file {config.tls_ca_file}: {error.strerror or error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.tls_certificate and config.tls_key:
        files = credentials.path_of(config.tls_certificate), credentials.path_of(config.tls_key)
        try:
            context.load_cert_chain(*files)
        except OSError as error:
            raise CredentialError(f"bridge.tls_certificate {files[0]}: {error.strerror or error}") from error
    return context


def _credentials_of(config: BridgeConfig, client: Client) -> dict[str, Any]:
    """Options of the client. Secrets that are sent as they are: only where TLS is on, if it is wanted."""

    def guarded(secret: str) -> Callable[[], str]:
        def give() -> str:
            _refuse_without_tls(client, config)
            return secret

        return give

    if config.user is not None and config.password_file is not None:
        password = credentials.read(config.password_file, "bridge.password_file")
        return {"user": config.user, "password": guarded(password)}
    if config.token_file is not None:
        return {"token": guarded(credentials.read(config.token_file, "bridge.token_file"))}
    for key, name in (("nkeys_seed_str", "nkey_file"), ("user_credentials", "creds_file")):
        if (file := getattr(config, name)) is not None:
            if importlib.util.find_spec("nkeys") is None:
                raise CredentialError(f"bridge.{name}: needs the Python package nkeys, which is not installed")
            secret = credentials.read(file, f"bridge.{name}")
            return {key: secret if key == "nkeys_seed_str" else str(credentials.path_of(file))}
    return {}


def check_files(config: BridgeConfig) -> None:
    """Whether every secret and certificate can be read. Raises CredentialError."""
    _tls_of(config)
    _credentials_of(config, Client())


def _refuse_without_tls(client: Client, config: BridgeConfig) -> None:
    """The client speaks TLS only where the server asks for it: one that does not, true or false, gets nothing."""
    if config.tls and not client._server_info.get("tls_required"):
        raise JetStreamError(
            f"NATS {', '.join(config.servers)} does not ask for TLS, and bridge.tls wants it: nothing was sent"
        )


def _words(error: Exception) -> str:
    """Of an error of the client, without its prefix; a timeout has none of its own."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, APIError):
        return f"{error.description} (error {error.err_code})"
    if isinstance(error, OSError) and error.strerror:
        return os.strerror(error.errno) if isinstance(error, ConnectionError) and error.errno else error.strerror
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__


def _why_not(error: Exception, config: BridgeConfig) -> str:
    name = f"NATS {', '.join(config.servers)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{name}: its certificate is not trusted ({error.verify_message}); look at bridge.tls_ca_file"
    if isinstance(error, ssl.SSLError):
        return f"{name}: TLS fails ({error.reason or error}); look at bridge.tls, tls_ca_file and tls_certificate"
    if "uthorization" in str(error):
        return f"{name} refuses {_as_whom(config)}; look at the credentials under bridge and at the server's users"
    if isinstance(error, TimeoutError):
        return f"{name}: no answer within {CONNECT_SECONDS:g} s; is it NATS, and does a firewall let it through?"
    if config.tls and config.tls_certificate is None and not isinstance(error, ConnectionRefusedError):
        return f"{name} cannot be reached: {_words(error)}; does it want a certificate (bridge.tls_certificate)?"
    return f"{name} cannot be reached: {_words(error)}"


def _as_whom(config: BridgeConfig) -> str:
    if config.user is not None:
        return f"user {config.user}"
    names = {"token_file": "the token", "nkey_file": "the nkey", "creds_file": "the credentials"}
    known = [f"{words} of bridge.{key}" for key, words in names.items() if getattr(config, key)]
    return known[0] if known else "a client without credentials"


async def _stream(client: Client, config: BridgeConfig, *, make: bool) -> _Stream:
    """Make it where it is not there. Raises JetStreamError where one that is there will not do."""
    manager = client.jsm(timeout=ASK_SECONDS)
    try:
        try:
            info = await manager.stream_info(config.stream)
        except NotFoundError:
            if not make:
                return _Stream(config.stream, MOST_BYTES, notes=(f"stream {config.stream} is not there yet",))
            info = await manager.add_stream(_wanted(config))
            _log.info("made the stream %s for %s", config.stream, config.subjects)
            return _Stream(config.stream, MOST_BYTES, _made(info))
    except ServiceUnavailableError as error:
        if error.description is None or error.err_code == 10039:
            raise JetStreamError(
                f"NATS {', '.join(config.servers)} has no JetStream for this account; start it with -js, or allow it"
            ) from error
        raise JetStreamError(f"stream {config.stream}: {_words(error)}") from error
    except TimeoutError as error:
        why = f" ({_words(client.last_error)})" if client.last_error is not None else ""
        raise JetStreamError(
            f"JetStream does not answer within {ASK_SECONDS:g} s{why}; may this user ask it?"
        ) from error
    except APIError as error:
        raise JetStreamError(f"stream {config.stream} cannot be had: {_words(error)}; look at bridge.limits") from error
    except (NatsError, OSError) as error:
        raise JetStreamError(f"stream {config.stream}: {_words(error)}") from error
    return _checked(info.config, _made(info), config)


def _made(info: StreamInfo) -> str:
    return "" if info.created is None else info.created.isoformat()


def _wanted(config: BridgeConfig) -> StreamConfig:
    limits = config.limits
    return StreamConfig(
        name=config.stream,
        description="Messages of tscc-stream",
        subjects=[config.subjects],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD if limits.discard == "old" else DiscardPolicy.NEW,
        max_age=limits.max_age_days * _DAY_SECONDS,
        max_bytes=int(limits.max_gib * _GIB),
        duplicate_window=limits.duplicate_window_seconds,
        num_replicas=limits.replicas,
    )


def _checked(found: StreamConfig, made: str, config: BridgeConfig) -> _Stream:
    """Of one that was there. Raises JetStreamError where it would not take our messages."""
    name, taken = f"stream {config.stream}", found.subjects or []
    if not any(covers(pattern, f"{config.subject}.*.>") for pattern in taken):
        raise JetStreamError(
            f"{name} takes {', '.join(taken) or 'no subject'}, and not {config.subjects}; add that to its subjects, or "
            "give another bridge.stream"
        )
    if found.no_ack or found.sealed:
        raise JetStreamError(
            f"{name} {'is sealed' if found.sealed else 'acknowledges nothing (no_ack)'}; make another one"
        )
    notes = []
    if found.duplicate_window < config.limits.duplicate_window_seconds:
        notes.append(
            f"{name} knows messages again for {found.duplicate_window:g} s only: expected "
            f"{config.limits.duplicate_window_seconds:g} s; after a longer outage some may be stored twice"
        )
    if found.retention not in (None, RetentionPolicy.LIMITS):
        notes.append(f"{name} has retention {found.retention}: messages go away once somebody has read them")
    if found.storage == StorageType.MEMORY:
        notes.append(f"{name} is kept in memory: a restart of the server loses it")
    most_bytes = found.max_msg_size if found.max_msg_size is not None and found.max_msg_size > 0 else MOST_BYTES
    return _Stream(config.stream, most_bytes, made, tuple(notes))


def covers(pattern: str, wanted: str) -> bool:
    """Whether a subject with wildcards takes everything that another one takes."""
    ours, theirs = pattern.split("."), wanted.split(".")
    for place, part in enumerate(ours):
        if part == ">":
            return len(theirs) > place
        if place >= len(theirs) or theirs[place] == ">" or part not in ("*", theirs[place]):
            return False
    return len(ours) == len(theirs)
