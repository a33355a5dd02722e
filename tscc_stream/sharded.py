"""One configuration file for all shards of a machine: what differs between them is worked out, not written down.

Shard I of `tscc-stream run --shard I` keeps its state in `<state_dir>/shard-I`, and listens on ports that lie
10 x (I - 1) above those in the file; `ipc://` addresses end in `-shard-I`. Port 0 stays 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from pydantic import ValidationError

from tscc_stream.config import Config, ConfigError, SeedLinkConfig
from tscc_stream.config_section import split_host_port
from tscc_stream.seedlink.streams import is_wildcard, parse_pattern
from tscc_stream.shard import Shard

PORTS_APART = 10
_HIGHEST_PORT = 65535
_LISTENING = (("publish", "bind"), ("publish", "replay_bind"), ("metrics", "bind"), ("console", "bind"))


def for_shard(config: Config, index: int) -> Config:
    """The configuration of one shard out of that for all of them. Raises ConfigError."""
    count = _count(config, index)
    _check_ports(config, count)
    document = config.model_dump()
    document["shard"] = {"index": index, "count": count}
    document["state_dir"] = f"{config.state_dir.rstrip('/')}/shard-{index}"
    for section, key in _LISTENING:
        document[section][key] = _address(document[section][key], index)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"shard {index}: {one['msg']}" for one in error.errors()) from error


def _count(config: Config, index: int) -> int:
    if config.shard is None:
        raise ConfigError([f"--shard {index}: the file names no shards; expected `shard: {{count: N}}` in it"])
    if config.shard.index is not None:
        raise ConfigError([f"--shard {index}: expected no shard.index in the file beside it"])
    if not 1 <= index <= config.shard.count:
        raise ConfigError([f"--shard {index}: expected 1 to shard.count {config.shard.count}"])
    return config.shard.count


def _port(address: str) -> int:
    """0 where there is none, or the system shall choose."""
    return 0 if address.startswith("ipc://") else split_host_port(address.removeprefix("tcp://"))[1]


def _address(address: str, index: int) -> str:
    if address.startswith("ipc://"):
        return f"{address}-shard-{index}"
    rest, _, port = address.rpartition(":")
    return f"{rest}:{int(port) + PORTS_APART * (index - 1)}" if int(port) else address


def _check_ports(config: Config, count: int) -> None:
    """No port of one shard may be another one's."""
    document = config.model_dump()
    ports = {f"{section}.{key}": _port(document[section][key]) for section, key in _LISTENING}
    wrong = [
        f"{name}: port {port} + {PORTS_APART * (count - 1)} of shard {count} is beyond {_HIGHEST_PORT}"
        for name, port in ports.items()
        if port and port + PORTS_APART * (count - 1) > _HIGHEST_PORT
    ]
    for (one, a), (other, b) in combinations(ports.items(), 2):
        apart = abs(a - b)
        if a and b and a != b and apart % PORTS_APART == 0 and apart < PORTS_APART * count:
            wrong.append(
                f"{one} and {other}: ports {a} and {b} would be used by two of {count} shards, which lie "
                f"{PORTS_APART} apart; expected ports that differ in their last digit"
            )
    if wrong:
        raise ConfigError(wrong)


def alerts_unheard(config: Config) -> str | None:
    """Why `alert run` cannot run with a file for all shards; None where it can."""
    if config.shard is None or config.shard.one is not None or config.alerts.sources:
        return None
    count = config.shard.count
    return f"alerts.sources: none is given, and this file is for {count} shards; expected each of them (docs/fleet.md)"


def own_streams(server: SeedLinkConfig, shard: Shard | None) -> SeedLinkConfig | None:
    """An entry without the stations that it names and another shard serves; None where nothing is left.

    Patterns over stations stay: what comes by them of others' stations is dropped as it comes.
    """
    if shard is None:
        return server
    streams = tuple(text for text in server.streams if _may_be_own(text, shard))
    return server.model_copy(update={"streams": streams}) if streams else None


def _may_be_own(text: str, shard: Shard) -> bool:
    station = parse_pattern(text).station
    return is_wildcard(station) or shard.holds(station)


def named_stations(server: SeedLinkConfig) -> list[str]:
    """Stations (NET_STA) that an entry names one by one."""
    named = (parse_pattern(text).station for text in server.streams)
    return [station for station in named if not is_wildcard(station)]


def entry_names(servers: Sequence[SeedLinkConfig]) -> list[str]:
    """What positions are stored under: the server, and its how-manieth entry where it has several."""
    seen: Counter[str] = Counter()
    names = []
    for server in servers:
        seen[server.server] += 1
        names.append(server.server if seen[server.server] == 1 else f"{server.server} #{seen[server.server]}")
    return names


def own_servers(config: Config) -> list[tuple[SeedLinkConfig, str]]:
    """Entries under seedlink that may have stations of this shard, each with what positions are stored under.

    The others are left out. Raises ConfigError where none is left.
    """
    if not config.seedlink:
        raise ConfigError(["seedlink: no server given; expected at least one entry with server and streams"])
    shard = None if config.shard is None else config.shard.one
    if config.shard is not None and shard is None:
        raise ConfigError([f"shard.index: not given; expected run --shard, 1 to {config.shard.count}"])
    named = zip(config.seedlink, entry_names(config.seedlink), strict=True)
    kept = [(own, name) for server, name in named if (own := own_streams(server, shard)) is not None]
    if not kept:
        raise ConfigError(
            [f"shard {shard}: none of the stations that seedlink names is its own; expected fewer shards"]
        )
    return kept
