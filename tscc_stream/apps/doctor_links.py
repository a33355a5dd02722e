"""What `doctor` looks at on each SeedLink server, with the daemon's own client: name, connection, TLS, user, streams,
rates, ages of data, and whether the bands fit the rates.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tscc_stream.apps.finding import Check, Finding, fail, ok, some, warn
from tscc_stream.config import Config, SeedLinkConfig
from tscc_stream.edges.seedlink_dial import Dialer, LinkError, password_of
from tscc_stream.edges.seedlink_probe import converse
from tscc_stream.edges.seedlink_socket import Arrival, Emitted, LinkState, SeedLinkReader
from tscc_stream.messages import RecordBatch
from tscc_stream.package import PackageSpec
from tscc_stream.sampling import RateError, offset_ns
from tscc_stream.seedlink.frames import FrameError
from tscc_stream.seedlink.held_streams import held_streams
from tscc_stream.seedlink.info import Answer, Info
from tscc_stream.seedlink.streams import parse_pattern
from tscc_stream.shard import Shard
from tscc_stream.sharded import own_streams
from tscc_stream.source_id import name_of, to_nslc
from tscc_stream.stages.condition import bandpass
from tscc_stream.windows import plan_windows

CONNECT_SECONDS: Final = 4.0
LISTEN_SECONDS: Final = 4.0
MOST_ATTEMPTS: Final = 2  # some servers refuse the first request, and take another form of it
AHEAD_SECONDS: Final = 30.0
"""Data that are farther in the future come of a wrong clock: of the recorder or of this machine."""
_TODO: Final = {
    "dns": "look at the name in the configuration, and at /etc/resolv.conf or /etc/hosts; an address works without",
    "refused": "start the SeedLink server, or look at its port in the configuration",
    "network": "look at cables, routes (ip route) and firewalls on the way there",
    "timeout": "a firewall drops it, or the address is wrong: try `nc -vz HOST PORT` from here",
    "tls": "look at tls, tls_ca_file (the authority of the server's certificate) and the name that the certificate has",
    "auth": "look at user and password_file of this entry, and at the server's list of users",
}


@dataclass
class _Heard:
    """What came while we listened. rates, newest: by source id (Hz; ns of data time)."""

    rates: dict[str, float] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    lost: LinkState | None = None
    attempts: int = 1

    def take(self, batch: RecordBatch) -> None:
        for place, channel in enumerate(batch.channel.tolist()):
            sid, rate_hz = batch.sids[channel], float(batch.sample_rate_hz[place])
            count = int(batch.begin[place + 1] - batch.begin[place])
            end_ns = int(batch.start_ns[place]) + (offset_ns(count - 1, rate_hz) if count and rate_hz > 0 else 0)
            self.rates[sid] = rate_hz
            self.newest[sid] = max(end_ns, self.newest.get(sid, end_ns))


def checks(config: Config, spec: PackageSpec | None) -> list[Check]:
    """One per server, fallbacks included. spec: of the model, where it could be read."""
    if not config.seedlink:
        return [Check("seedlink", _none)]
    own = [own for entry in config.seedlink if (own := own_streams(entry, _shard(config))) is not None]
    return [
        Check(f"seedlink {server}", partial(_one, config, entry, server, spec))
        for entry in own
        for server in (entry.server, *entry.fallbacks)
    ]


def _shard(config: Config) -> Shard | None:
    return None if config.shard is None else config.shard.one


def _none() -> list[Finding]:
    return [fail("seedlink", "no server is given", "name at least one under seedlink: server and streams (README)")]


def _one(config: Config, entry: SeedLinkConfig, server: str, spec: PackageSpec | None) -> list[Finding]:
    shorter = {"server": server, "fallbacks": (), "timeout_seconds": min(entry.timeout_seconds, CONNECT_SECONDS)}
    alone = entry.model_copy(update=shorter)
    return list(server_of(config, alone, spec))


def server_of(config: Config, entry: SeedLinkConfig, spec: PackageSpec | None) -> Iterator[Finding]:
    """Everything about one server. entry: without fallbacks."""
    name = f"seedlink {entry.server}"
    try:
        answer = _ask(entry)
    except (LinkError, FrameError) as error:
        yield _unreached(name, error)
        return
    except OSError as error:
        yield fail(name, f"{entry.server}: {error.strerror or error}", _TODO["network"])
        return
    held = held_streams(answer)
    shard = _shard(config)
    matching = {sid: end_ns for sid, end_ns in held.items() if _wants(entry, sid)}
    wanted = {sid: end_ns for sid, end_ns in matching.items() if shard is None or shard.holds_sid(sid)}
    if not wanted and held:
        yield ok(name, _greeting(answer, entry))
        yield _none_of_the_shard(entry, shard, len(matching)) if matching else _no_match(entry, list(held))
        return
    heard = _listen(entry, len(wanted), shard)
    if heard.lost is not None and not heard.rates:
        todo = "look at user and password_file, and at what the server's own log says of this client"
        yield fail(name, heard.lost.text, todo)
        return
    yield ok(name, _greeting(answer, entry))
    yield from _streams(entry, wanted, held, heard)
    yield from _bands(config, heard.rates, spec, entry.server)
    yield _ages(entry, wanted, heard)


def _ask(entry: SeedLinkConfig) -> Answer:
    question = Info("STREAMS", entry.user or "", password_of(entry))
    answer = converse(Dialer(entry, lambda: None), entry.server, question, entry.timeout_seconds)
    if answer is None and not question.greeting:
        raise LinkError("timeout", f"{entry.server}: connected, but no answer to HELLO: is it a SeedLink server?")
    return answer or Answer(3, question.greeting, "", b"")


def _unreached(name: str, error: LinkError | FrameError) -> Finding:
    todo = _TODO.get(error.reason, "that is no SeedLink server: look at the port, and whether tls must be true")
    return fail(name, str(error), todo)


def _greeting(answer: Answer, entry: SeedLinkConfig) -> str:
    how = f"version {answer.protocol}" + (", TLS" if entry.tls else "") + (f", as {entry.user}" if entry.user else "")
    return f"{answer.software.split(' ::')[0]} ({answer.organisation}), {how}"


def _wants(entry: SeedLinkConfig, sid: str) -> bool:
    return any(parse_pattern(pattern).matches(sid) for pattern in entry.streams)


def _no_match(entry: SeedLinkConfig, held: list[str]) -> Finding:
    patterns, has = some(list(entry.streams), 5), some([name_of(sid) for sid in sorted(held)], 5)
    found = f"none of its {len(held)} streams matches {patterns}; it has {has}"
    return fail(f"streams {entry.server}", found, "correct streams of this entry: NET_STA:LOCCHA, * and ? allowed")


def _none_of_the_shard(entry: SeedLinkConfig, shard: Shard | None, matching: int) -> Finding:
    found = f"{matching} streams match, and all of them are other shards' than {shard}"
    return warn(f"streams {entry.server}", found, "nothing is wrong with few stations; else use fewer shards")


def _listen(entry: SeedLinkConfig, expected: int, shard: Shard | None) -> _Heard:
    """Data as they come, until each expected stream has sent, for LISTEN_SECONDS at most."""
    heard, enough = _Heard(), threading.Event()

    def emit(item: Emitted) -> None:
        if isinstance(item, Arrival):
            for batch in item.batches:
                heard.take(batch)
        elif isinstance(item, LinkState) and not item.connected:
            heard.lost = item
            if heard.attempts == MOST_ATTEMPTS:
                enough.set()
            heard.attempts += 1
        if expected and len(heard.rates) >= expected:
            enough.set()

    reader = SeedLinkReader(entry, emit, agent="tscc-stream doctor", shard=shard)
    thread = threading.Thread(target=reader.run, name="doctor", daemon=True)
    thread.start()
    enough.wait(LISTEN_SECONDS)
    reader.stop()
    thread.join(1.0)
    return heard


def _streams(
    entry: SeedLinkConfig, wanted: dict[str, int | None], held: dict[str, int | None], heard: _Heard
) -> Iterator[Finding]:
    """How many, at which rates; and patterns for which there is none."""
    name, seen = f"streams {entry.server}", wanted.keys() | heard.rates.keys()
    if not seen:
        found = f"the server has no data yet: it names no stream, and nothing came for {some(list(entry.streams))}"
        todo = (
            "try again in a minute, as after a start of the server; if that stays so, look at streams of this entry, "
            "and whether the recorders send (slinktool -Q HOST:PORT)"
        )
        yield warn(name, found, todo)
        return
    rates = Counter(f"{rate:g} Hz" for rate in heard.rates.values())
    untold = len(seen) - len(heard.rates)
    at = ", ".join(f"{count} at {rate}" for rate, count in rates.most_common(5)) or "no rate seen"
    found = f"{len(seen)} match" + (f" of {len(held)}" if held else "") + f": {at}"
    found += f"; {untold} sent nothing within {LISTEN_SECONDS:g} s" if untold else ""
    every = seen | held.keys()  # a pattern for other shards' stations is no mistake
    empty = [one for one in entry.streams if not any(parse_pattern(one).matches(sid) for sid in every)]
    if empty:
        yield warn(name, f"{found}; none matches {some(empty)}", "correct these patterns, or take them out")
    elif not heard.rates:
        yield warn(name, found, "look whether the recorders send: the server holds these streams, but gave nothing")
    else:
        yield ok(name, found)


def _ages(entry: SeedLinkConfig, wanted: dict[str, int | None], heard: _Heard) -> Finding:
    """Of the newest data of each stream. What comes in order from the ring's beginning says nothing of its end."""
    name, now_ns = f"data age {entry.server}", time.time_ns()
    newest = {sid: end_ns for sid, end_ns in wanted.items() if end_ns is not None}
    for sid, end_ns in heard.newest.items():
        newest[sid] = max(end_ns, newest.get(sid, end_ns))
    ages = {sid: (now_ns - end_ns) / 1e9 for sid, end_ns in newest.items()}
    if not ages:
        return warn(name, "no data, so no age", "look at the recorders, or wait until they have sent")
    if ahead := sorted(sid for sid, age in ages.items() if age < -AHEAD_SECONDS):
        found = f"data of {some([name_of(sid) for sid in ahead])} are {-min(ages.values()):.0f} s in the future"
        return fail(
            name, found, "the clock of this machine is slow (see clock), or that of the recorder is fast: set it"
        )
    old = sorted(sid for sid, age in ages.items() if age > entry.stale_seconds)
    youngest, oldest = min(ages.values()), max(ages.values())
    first, last = _lasting(youngest), _lasting(oldest)
    span = f"newest data are {first if first == last else f'{first} to {last}'} old"
    if len(old) == len(ages):
        return warn(
            name, f"{span}: all {len(old)} streams are silent", "look at the recorders; a replay of old data is so, too"
        )
    if old:
        todo = "look at these sensors and their recorders"
        return warn(name, f"{span}: {len(old)} of {len(ages)} are silent: {some([name_of(sid) for sid in old])}", todo)
    return ok(name, span)


def _lasting(seconds: float) -> str:
    if seconds >= 172_800:
        return f"{seconds / 86_400:.0f} days"
    return f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{max(0.0, seconds):.1f} s"


def _bands(config: Config, rates: dict[str, float], spec: PackageSpec | None, server: str) -> Iterator[Finding]:
    """Whether each rate holds the trigger's band and the model's."""
    name = f"band {server}"
    wrong: dict[str, list[str]] = {}
    for sid, rate_hz in sorted(rates.items()):
        for text in _misfits(config, sid, rate_hz, spec):
            wrong.setdefault(text, []).append(sid)
    for text, sids in wrong.items():
        todo = "lower the band (for some channels: section channels), take a model for this rate, or leave them out"
        yield fail(name, f"{text} ({some([name_of(sid) for sid in sids])})", todo)
    if rates and not wrong:
        yield ok(name, f"trigger and model fit {', '.join(f'{rate:g} Hz' for rate in sorted(set(rates.values())))}")


def _misfits(config: Config, sid: str, rate_hz: float, spec: PackageSpec | None) -> Iterator[str]:
    try:
        _, condition, _ = config.for_channel(to_nslc(sid))
        bandpass(*condition.band_hz, condition.corners, rate_hz)
    except (RateError, ValueError) as error:
        yield f"condition.band_hz: {error}"
    try:
        if spec is not None:
            plan_windows(spec, rate_hz)
    except (RateError, ValueError) as error:
        yield f"model: {error}"
