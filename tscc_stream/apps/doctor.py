"""Can this machine and this site run: one line per check, with what to do. Reads, asks and tries; changes nothing.

Every check has a thread of its own and a time in which to end; one that fails or hangs takes nothing from the others.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tscc_stream import activation, aside, config
from tscc_stream.activation import ActivationError
from tscc_stream.apps import doctor_bridge, doctor_links, doctor_machine, doctor_ports, doctor_site, doctor_state
from tscc_stream.apps.doctor_site import Site
from tscc_stream.apps.finding import Check, Finding, fail, ok, warn
from tscc_stream.package import PackageError, PackageSpec
from tscc_stream.sharded import for_shard

SECONDS: Final = 10.0
"""What a check may take; some, which load torch or compile, three times as much."""
INSTALLED: Final = Path("/etc/tscc-stream/config.yaml")
_NEXT: Final = (
    "tscc-stream check-config --example > site.yaml; name your SeedLink server and streams in it; "
    "then tscc-stream doctor --config site.yaml"
)
_COLOURS: Final = {"ok": "\x1b[32m", "warn": "\x1b[33m", "fail": "\x1b[31m"}
_PLAIN: Final = "\x1b[0m"


def examine(
    file: Path | None,
    seconds: float = SECONDS,
    shard: int | None = None,
) -> Iterator[Finding]:
    """Findings as they come. file: the site's configuration; None: the machine alone. seconds: for each check.

    shard: which one of a file for several; None: the file as it stands.
    """
    if file is None:
        yield from _all(doctor_machine.checks(), seconds)
        yield _next()
        return
    try:
        settings = config.load(file)
        settings = settings if shard is None else for_shard(settings, shard)
    except config.ConfigError as error:
        yield from _all(doctor_machine.checks(), seconds)
        todo = f"correct it; tscc-stream check-config {file} says whether it is good"
        told = (one if one.startswith(f"{file}:") else f"{file}: {one}" for one in error.mistakes)
        yield from (fail("config", one, todo) for one in told)
        return
    yield from _site(settings, file, seconds, shard)


def _next() -> Finding:
    if INSTALLED.exists():
        return warn("config", "none was given", f"tscc-stream doctor --config {INSTALLED}")
    return warn("config", "none was given, so only the machine was looked at", _NEXT)


def _site(settings: config.Config, file: Path, seconds: float, shard: int | None) -> Iterator[Finding]:
    running, told = _running(settings, seconds)
    site = Site(settings, file, running, shard)
    spec = _spec(site, seconds)
    beside = [*doctor_links.checks(settings, spec), *doctor_bridge.checks(settings)]
    links = _Beside(beside, seconds)  # they wait for the network meanwhile
    yield from _all(doctor_machine.checks(settings.inference.device), seconds)
    yield _good(settings, file)
    yield from told
    state = doctor_state.StateFolder(site.state_dir, settings.retention)
    of_a_daemon = [] if site.shards else [*doctor_state.checks(state), *doctor_ports.checks(settings, running)]
    yield from _all([*of_a_daemon, *doctor_site.checks(site)], seconds)
    yield from links.findings()


def _good(settings: config.Config, file: Path) -> Finding:
    if settings.shard is not None and settings.shard.one is None:
        todo = f"look at each of them: --shard 1 to {settings.shard.count}"
        return warn(
            "config", f"{file}: is for {settings.shard.count} shards, and no daemon of it runs as it stands", todo
        )
    return ok("config", f"{file}: good ({len(settings.seedlink)} SeedLink server(s))")


def _running(settings: config.Config, seconds: float) -> tuple[dict[str, object], list[Finding]]:
    """Where a daemon of this site listens; empty where none runs, or it cannot be told."""
    look = aside.Aside("doctor endpoints")
    try:
        return look.call(lambda: activation.endpoints(Path(settings.state_dir)), seconds, lambda: None), []
    except (ActivationError, OSError, aside.StuckError) as error:
        return {}, [warn("daemon", f"cannot be looked at: {error}", "else its ports look as if somebody else had them")]


def _spec(site: Site, seconds: float) -> PackageSpec | None:
    """Of the model, for its band; None where it cannot be read, which the check of the model tells."""
    try:
        return aside.Aside("doctor model").call(lambda: doctor_site.served(site).spec, seconds, lambda: None)
    except (PackageError, ActivationError, OSError, aside.StuckError):
        return None


class _Beside:
    """Checks that go on at the same time."""

    def __init__(self, checks: list[Check], seconds: float) -> None:
        self._found: dict[str, list[Finding]] = {}
        self._threads = [threading.Thread(target=self._look, args=(check, seconds), daemon=True) for check in checks]
        self._names = [check.name for check in checks]
        for thread in self._threads:
            thread.start()

    def _look(self, check: Check, seconds: float) -> None:
        self._found[check.name] = carried_out(check, seconds)

    def findings(self) -> Iterator[Finding]:
        """In the order of the checks."""
        for name, thread in zip(self._names, self._threads, strict=True):
            thread.join()
            yield from self._found[name]


def _all(checks: Iterable[Check], seconds: float) -> Iterator[Finding]:
    for check in checks:
        yield from carried_out(check, seconds)


def carried_out(check: Check, seconds: float) -> list[Finding]:
    """One check, whatever becomes of it."""
    limit = seconds * check.patience
    try:
        return aside.Aside(f"doctor {check.name}").call(check.work, limit, lambda: None)
    except aside.StuckError:
        todo = "what it looks at hangs (a disk, a network, a device) or is very slow: look at it by hand"
        return [fail(check.name, f"no answer within {limit:g} s", todo)]
    except Exception as error:  # noqa: BLE001  # a check that fails is told, and ends no other
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return [
            fail(check.name, f"cannot be looked at: {what:.200}", "see what it names; is doctor run as the right user?")
        ]


def line(finding: Finding, *, colour: bool = False) -> str:
    """`FAIL  clock: not synchronised -> enable chrony`."""
    word = finding.state if finding.state == "ok" else finding.state.upper()
    shown = f"{_COLOURS[finding.state]}{word:<4}{_PLAIN}" if colour else f"{word:<4}"
    return f"{shown}  {finding.check}: {finding.found}" + (f" -> {finding.todo}" if finding.todo else "")


def summary(findings: list[Finding]) -> str:
    """The last line."""
    counts = Counter(finding.state for finding in findings)
    if not counts["fail"] and not counts["warn"]:
        return f"all {counts['ok']} checks are well"
    return f"{counts['fail']} fail, {counts['warn']} to look at, {counts['ok']} well"


def as_json(findings: list[Finding]) -> str:
    """The same for programs."""
    bad = any(finding.state == "fail" for finding in findings)
    return json.dumps({"ok": not bad, "checks": [finding.as_dict() for finding in findings]}, indent=1)
