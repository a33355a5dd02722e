"""Commands of the running site: run, demo, tail, bus-key, check-config, http-user."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tscc_stream import logs
from tscc_stream.cli.command import (
    PROGRAM,
    Commands,
    UsageError,
    add_command,
    add_shard,
    config_of,
    count,
    made_of,
    needs_config,
    real,
    sequence,
    whole,
)

if TYPE_CHECKING:
    from tscc_stream.client_merged import Source
    from tscc_stream.config import Config
    from tscc_stream.package import Package


def add(commands: Commands) -> None:
    """Add them all."""
    for add_one in (_add_run, _add_demo, _add_tail, _add_bus_key, _add_check_config, _add_http_user):
        add_one(commands)


def _add_run(commands: Commands) -> None:
    parser = add_command(commands, "run", "the daemon", "run --config config.yaml", _run)
    needs_config(parser)
    add_shard(parser)
    parser.add_argument(
        "--log-format", choices=logs.FORMS, help=f"of the lines on stderr (default: {logs.VARIABLE}, else text)"
    )


def _run(options: argparse.Namespace) -> int:
    try:
        form = logs.form_of(options.log_format, os.environ)
    except ValueError as error:
        raise UsageError(f"run: {error}") from error
    logs.set_up(form, sys.stderr, os.environ)
    if form == "json":
        options.complain = logging.getLogger(PROGRAM).critical  # why it ended is a line like any other
    settings, folder = config_of(options)
    from tscc_stream.daemon import run  # noqa: PLC0415 torch takes seconds, which the other commands need not wait for

    with _mistakes_of_models("model"):
        return run(settings, folder, options.config, made_of(options))


@contextmanager
def _mistakes_of_models(key: str) -> Iterator[None]:
    """A package that is wrong is a wrong configuration, since trying again does not make it right: what may pass, as an
    error of the disk or a graphics card that is not there yet, stays what it is.
    """
    from tscc_stream import config, package  # noqa: PLC0415  # loaded where it is needed

    try:
        yield
    except package.PackageUnavailableError:
        raise
    except package.PackageError as error:
        raise config.ConfigError([f"{key}: {error}"]) from error


def _add_demo(commands: Commands) -> None:
    parser = add_command(
        commands, "demo", "recordings of real earthquakes through a real daemon", "demo --simulate 8 --speed 10", _demo
    )
    parser.add_argument("--simulate", type=whole, metavar="N", help="N channels of a simulated mine instead")
    parser.add_argument("--speed", type=real, default=10.0, metavar="X", help="times real time (default 10)")
    parser.add_argument("--jsonl", action="store_true", help="one message per line on stdout and nothing else there")
    parser.add_argument("--keep-running", action="store_true", help="keep the daemon up until Ctrl-C")


def _demo(options: argparse.Namespace) -> int:
    from tscc_stream.demo import demo  # noqa: PLC0415  # loaded where it is needed

    return demo(options.simulate, options.speed, jsonl=options.jsonl, keep_running=options.keep_running)


def _add_tail(commands: Commands) -> None:
    parser = add_command(
        commands,
        "tail",
        "a subscriber that never silently misses a message",
        "tail --connect tcp://127.0.0.1:5556 --replay tcp://127.0.0.1:5557 --since 0",
        _tail,
    )
    parser.add_argument("--connect", metavar="tcp://HOST:PORT", help="the daemon's publish.bind")
    parser.add_argument("--replay", metavar="tcp://HOST:PORT", help="the daemon's publish.replay_bind")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=tcp://HOST:PORT,tcp://HOST:PORT",
        help="instead of both, once for each of several daemons: connect, replay, and with --key the daemon's public "
        "key or its file; their messages are merged in time",
    )
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="of several daemons: longest that a message waits for an earlier one of another (default 1)",
    )
    parser.add_argument(
        "--since", type=sequence, metavar="SEQ", help="begin after this one; 0: with the first; default: now"
    )
    parser.add_argument("--topic", default="", metavar="PREFIX", help="for example detection. or network.")
    parser.add_argument("--jsonl", action="store_true", help="one message per line, with epoch and seq")
    parser.add_argument("--count", type=count, metavar="N", help="end after so many messages of the topic")
    parser.add_argument(
        "--position",
        type=Path,
        metavar="FILE",
        help="go on after a restart where it stood; goes before --since; of several daemons: a folder",
    )
    parser.add_argument(
        "--server-key", metavar="KEY|FILE", help="the daemon's public key, where the bus is secured; with --key"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="the subscriber's secret key, as `bus-key` writes it")


def _seconds(text: str) -> float:
    number = real(text)
    if not 0 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 to 3600")
    return number


def _tail(options: argparse.Namespace) -> int:
    if options.source:
        return _tail_many(options)
    from tscc_stream.bus.keys import CurveKeys  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.tail import tail  # noqa: PLC0415  # loaded where it is needed

    if options.connect is None or options.replay is None:
        raise UsageError("tail: expected --connect and --replay, or --source once for each of several daemons")
    if (options.server_key is None) != (options.key is None):
        raise UsageError("tail: --server-key and --key belong together")
    return tail(
        options.connect,
        options.replay,
        since=options.since,
        topic=options.topic,
        jsonl=options.jsonl,
        count=options.count,
        out=sys.stdout,
        notice=lambda text: print(f"{PROGRAM}: {text}", file=sys.stderr),
        curve=None if options.key is None else CurveKeys(options.server_key, options.key),
        position=options.position,
    )


def _tail_many(options: argparse.Namespace) -> int:
    from tscc_stream.tail import tail_many  # noqa: PLC0415  # loaded where it is needed

    if options.connect is not None or options.replay is not None or options.server_key is not None:
        raise UsageError("tail: expected no --connect, --replay or --server-key beside --source, which says them all")
    return tail_many(
        [_source(text, options.key) for text in options.source],
        since=options.since,
        topic=options.topic,
        patience_seconds=options.patience,
        jsonl=options.jsonl,
        count=options.count,
        out=sys.stdout,
        notice=lambda text: print(f"{PROGRAM}: {text}", file=sys.stderr),
        positions=options.position,
    )


def _source(text: str, key: Path | None) -> Source:
    """`north=tcp://a:5556,tcp://a:5557`, and the daemon's public key behind another comma where there is a key."""
    from tscc_stream.bus.keys import CurveKeys  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.client_merged import Source  # noqa: PLC0415  # loaded where it is needed

    name, _, addresses = text.partition("=")
    parts = addresses.split(",")
    if len(parts) != (2 if key is None else 3) or not all(parts):
        server_key = "" if key is None else ",SERVER_KEY"
        raise UsageError(f"tail: --source {text}: expected NAME=tcp://HOST:PORT,tcp://HOST:PORT{server_key}")
    return Source(name, parts[0], parts[1], None if key is None else CurveKeys(parts[2], key))


def _add_bus_key(commands: Commands) -> None:
    parser = add_command(
        commands, "bus-key", "a new key for a secured bus, of the daemon or of a subscriber", "bus-key --out alarm.key",
        _bus_key,
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the secret key; the public one goes into FILE.pub"
    )


def _bus_key(options: argparse.Namespace) -> int:
    from tscc_stream.bus.keys import write_new_pair  # noqa: PLC0415  # loaded where it is needed

    path, public = options.out, f"{options.out}.pub"
    pair = write_new_pair(path)
    print(f"secret key: {path} (for its owner only; keep it on the machine that uses it)")
    print(f"public key: {public}: {pair.public}")
    print(f"of a daemon:     publish.curve.secret_key_file: {path}; subscribers need {public}")
    print(f"of a subscriber: add the line in {public} to the daemon's publish.curve.allowed_keys_file and reload it;")
    print(f"                 {PROGRAM} tail --key {path} --server-key DAEMON.key.pub ...")
    return 0


def _add_check_config(commands: Commands) -> None:
    parser = add_command(
        commands, "check-config", "every mistake of a configuration at once", "check-config config.yaml", _check_config
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE")
    parser.add_argument("--example", action="store_true", help="print the shipped configuration, to start from")
    add_shard(parser)


def _check_shadow(settings: Config, folder: Path, served: Package) -> None:
    from tscc_stream import config, package  # noqa: PLC0415  # loaded where it is needed

    if settings.shadow is None:
        return
    with _mistakes_of_models("shadow"):
        tried = package.load_live(package.find(settings.shadow, folder))
    if differing := package.other_windows(served.spec, tried.spec):
        raise config.ConfigError(
            [f"shadow: {settings.shadow}: its windows are not those of {settings.model}: {differing}"]
        )


def _check_config(options: argparse.Namespace) -> int:
    from tscc_stream import config, package  # noqa: PLC0415  # loaded where it is needed

    if options.example:
        print(config.shipped_text(), end="")
        return 0
    if options.file is None:
        raise UsageError("check-config: expected FILE or --example")
    settings = made_of(options)(config.load(options.file))
    _check_shards(settings)
    with _mistakes_of_models("model"):
        folder = package.find(settings.model, options.file.resolve().parent)
        served = package.load_live(folder)
        _check_shadow(settings, options.file.resolve().parent, served)
    for warning in (*settings.metrics.warnings(), *_of_alerts(settings)):
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    what = f"model {folder.name}, state_dir {settings.state_dir}"
    if not settings.seedlink:
        print(f"{options.file}: good for files ({what}); `run` needs at least one entry under seedlink")
        return 0
    print(f"{options.file}: good ({len(settings.seedlink)} SeedLink server(s), {what})")
    for line in _shards(settings):
        print(line)
    return 0


def _of_alerts(settings: Config) -> list[str]:
    """Where alerts are wanted: why none would come, and what else nobody would be told."""
    from tscc_stream.alerts_in_vain import doubts  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.sharded import alerts_unheard  # noqa: PLC0415  # loaded where it is needed

    why = alerts_unheard(settings) if settings.alerts.rules or settings.alerts.actions else None
    return [*([] if why is None else [f"`alert run` refuses this file: {why}"]), *doubts(settings.alerts)]


def _each_shard(settings: Config) -> list[Config]:
    """Of this shard, or of all that the file is for; none where it has no shards."""
    from tscc_stream.sharded import for_shard  # noqa: PLC0415  # loaded where it is needed

    if settings.shard is None:
        return []
    if settings.shard.one is not None:
        return [settings]
    return [for_shard(settings, index) for index in range(1, settings.shard.count + 1)]


def _check_shards(settings: Config) -> None:
    """Whether each shard has anything to read. Raises ConfigError with those that `run` refuses."""
    from tscc_stream import config  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.sharded import own_servers  # noqa: PLC0415  # loaded where it is needed

    wrong: list[str] = []
    for each in _each_shard(settings) if settings.seedlink else []:
        try:
            own_servers(each)
        except config.ConfigError as error:
            wrong += error.mistakes
    if wrong:
        raise config.ConfigError(wrong)


def _shards(settings: Config) -> list[str]:
    """Where each shard keeps its state and listens."""
    return [
        f"shard {each.shard and each.shard.one}: {each.state_dir}, publish {each.publish.bind}, "
        f"replay {each.publish.replay_bind}, metrics {each.metrics.bind}"
        for each in _each_shard(settings)
    ]


def _add_http_user(commands: Commands) -> None:
    parser = add_command(
        commands,
        "http-user",
        "a line for metrics.users_file: who may read /metrics and /healthz",
        "http-user prometheus >> users",
        _http_user,
    )
    parser.add_argument("name", metavar="NAME")


def _http_user(options: argparse.Namespace) -> int:
    """The password comes from the terminal, unseen, or as the first line of standard input; never as an argument."""
    from tscc_stream import passwords  # noqa: PLC0415  # loaded where it is needed

    try:
        print(passwords.line_for(options.name, _new_password(passwords.LONGEST)))
    except ValueError as error:
        raise UsageError(f"http-user: {error}") from error
    return 0


def _new_password(longest: int) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline(2 * longest).rstrip("\r\n")
    import getpass  # noqa: PLC0415  # loaded where it is needed

    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise UsageError("http-user: the two passwords differ")
    return password
