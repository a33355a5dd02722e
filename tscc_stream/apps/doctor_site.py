"""What `doctor` looks at of a site: configuration, model, secrets, what people see, the service, the running daemon."""

from __future__ import annotations

import os
import re
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from tscc_stream import activation, credentials, package
from tscc_stream.activation import ActivationError
from tscc_stream.alerts_in_vain import doubts
from tscc_stream.apps.doctor_state import JOURNAL, holder_of
from tscc_stream.apps.finding import Check, Finding, fail, ok, some, warn
from tscc_stream.config import SECRET_KEYS, Config
from tscc_stream.edges.daemon_view import DaemonView, Login, SecretViewError, ViewError
from tscc_stream.package import Package, PackageError
from tscc_stream.sharded import alerts_unheard

SYSTEMD: Final = Path("/run/systemd/system")
SYSTEMCTL_SECONDS: Final = 5.0
MANY_RESTARTS: Final = 3
FRESH_SECONDS: Final = 7 * 86_400.0
"""A daemon that wrote within this time, and does not run, is missed."""
_FILE_KEY: Final = re.compile(r"(ca|allowed_keys)_file|tls_certificate|stationxml", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Site:
    """A configuration that holds. file: where it lies; running: endpoints of its daemon, empty where none runs.

    shard: which one of the file's the configuration is made for, as `--shard` says; None: the file as it stands.
    """

    config: Config
    file: Path
    running: Mapping[str, Any]
    shard: int | None = None

    @property
    def folder(self) -> Path:
        return self.file.resolve().parent

    @property
    def state_dir(self) -> Path:
        return Path(self.config.state_dir)

    @property
    def credentials(self) -> Path:
        """Where the units take secrets from: config.yaml has config.credentials beside it."""
        return self.folder / f"{self.file.stem}.credentials"

    @property
    def shards(self) -> range:
        """All shards of a file that is for several, and has no daemon as it stands; else none."""
        shard = self.config.shard
        return range(1, 1 + shard.count) if shard is not None and shard.one is None else range(0)

    @property
    def unit(self) -> str:
        return self.unit_of(self.shard)

    def unit_of(self, shard: int | None) -> str:
        """The service of one shard; None: of the file as it stands."""
        if shard is not None:
            return f"tscc-stream-shard@{shard}.service"
        name = self.file.stem
        return "tscc-stream.service" if name == "config" else f"tscc-stream@{name}.service"


def checks(site: Site) -> list[Check]:
    return [
        Check("model", lambda: list(model(site)), patience=3.0),
        Check("secrets", lambda: list(secrets(site))),
        Check("people", lambda: list(people(site))),
        Check("service", lambda: list(services(site))),
        *([] if site.shards else [Check("daemon", lambda: [daemon(site)])]),
    ]


def served(site: Site) -> Package:
    """The package that a start would serve. Raises PackageError and ActivationError."""
    configured = package.find(site.config.model, site.folder)
    return package.load_live(activation.live_folder(site.state_dir, configured))


def model(site: Site) -> Iterator[Finding]:
    """Hashes, then the self-check on the processor."""
    name = "model"
    try:
        loaded = served(site)
    except (PackageError, ActivationError) as error:
        todo = "install the package anew, or name another one as model; `tscc-stream model verify DIR` looks at one"
        yield fail(name, str(error), todo)
        return
    from tscc_stream.edges.torchscript import TorchScriptEncoder  # noqa: PLC0415 torch takes seconds

    try:
        TorchScriptEncoder(loaded, "cpu", threads=1)
    except PackageError as error:
        todo = "tscc-stream model recompile DIR brings it to this version; else take another package"
        yield fail(name, str(error), todo)
        return
    spec, (low, high) = loaded.spec, loaded.spec.band_hz
    yield ok(
        name,
        f"{spec.name} {spec.version} ({loaded.sha256[:12]}): hashes and self-check hold; {spec.clusters} clusters, "
        f"{spec.sample_rate_hz:g} Hz, band {low:g} to {high:g} Hz",
    )


def _named_files(document: object, place: str = "") -> Iterator[tuple[str, str, bool]]:
    """Keys of the configuration that name files, with the names, and whether these hold secrets."""
    if isinstance(document, dict):
        for key, value in document.items():
            where = f"{place}.{key}" if place else str(key)
            if isinstance(value, str) and (key in SECRET_KEYS or _FILE_KEY.search(str(key))):
                yield where, value, key in SECRET_KEYS
            yield from _named_files(value, where)
    elif isinstance(document, list | tuple):
        for number, value in enumerate(document):
            yield from _named_files(value, f"{place}[{number}]")


def secrets(site: Site) -> Iterator[Finding]:
    """Whether the files that the configuration names are there, and whether a stranger may read those with secrets."""
    seen = 0
    for key, name, secret in _named_files(site.config.model_dump()):
        seen += 1
        finding = _file(site, f"file {key}", name, secret=secret)
        if finding is not None:
            yield finding
    if not seen:
        yield ok("secrets", "the configuration names no file with any")


def _file(site: Site, name: str, value: str, *, secret: bool) -> Finding:
    path = _place(site, value)
    try:
        found = path.stat()
    except FileNotFoundError:
        todo = f"put it there (install -m 600), or correct {name.removeprefix('file ')}"
        if "/" not in value and SYSTEMD.exists():
            return warn(name, f"{path}: not there", f"{todo}; where a drop-in hands it over, all is well")
        return fail(name, f"{path}: not there", todo)
    except OSError as error:
        return warn(
            name, f"{path}: cannot be looked at: {error.strerror}", "run doctor as root or as the daemon's user"
        )
    return _readable(name, path, found, secret=secret)


def _readable(name: str, path: Path, found: os.stat_result, *, secret: bool) -> Finding:
    if not stat.S_ISREG(found.st_mode):
        return fail(name, f"{path}: is no file", "name a file")
    if secret and found.st_mode & stat.S_IROTH and not _shut_in(path):
        return fail(
            name, f"{path}: everybody on this machine can read it", f"chmod 600 {path}, and change what it holds"
        )
    if not found.st_size:
        return fail(name, f"{path}: is empty", "write what it should hold into it")
    return ok(name, f"{path}: is there" + (", not for everybody" if secret else ""))


def _shut_in(path: Path) -> bool:
    """Whether a folder above keeps strangers out."""
    return any(not folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)


def people(site: Site) -> Iterator[Finding]:
    """The time that people will read, their shifts, the doors of metrics and console."""
    config = site.config
    now = datetime.now(ZoneInfo(config.time_zone))
    yield ok("time zone", f"{config.time_zone}: it is {now:%Y-%m-%d %H:%M} there; shifts: {', '.join(config.shifts)}")
    for section, settings in (("metrics", config.metrics), ("console", config.console)):
        if settings.tls_certificate is not None and settings.tls_key is not None:
            yield _certificate(site, section, settings.tls_certificate, settings.tls_key)
    for warning in config.metrics.warnings():
        yield warn("metrics", warning, "see `Monitoring from another machine` in docs/operating.md")
    if (config.alerts.rules or config.alerts.actions) and (why := alerts_unheard(config)) is not None:
        yield warn("alerts", f"`alert run` refuses this file: {why}", "see `Alerts over many publishers` there")
    for doubt in doubts(config.alerts):
        yield warn("alerts", doubt, "see docs/alerts.md, and docs/fleet.md for sources")


def _certificate(site: Site, section: str, certificate: str, key: str) -> Finding:
    chain, secret = (_place(site, name) for name in (certificate, key))
    name = f"certificate of {section}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, secret, password="")
    except OSError as error:  # ssl.SSLError is one
        why = getattr(error, "reason", None) or error.strerror
        return fail(
            name, f"{chain} and {secret}: do not go together ({why})", "make both anew, PEM, key without passphrase"
        )
    return ok(name, f"{chain}: goes with its key")


def _place(site: Site, name: str) -> Path:
    path = credentials.path_of(name)
    return path if path.exists() or "/" in name else site.credentials / name


def services(site: Site) -> Iterator[Finding]:
    """How systemd sees the daemon, or each of the shards, where systemd runs."""
    if not SYSTEMD.exists():
        yield ok("service", "systemd does not run here; something else must start the daemon again when it fails")
        return
    units = [site.unit_of(shard) for shard in site.shards or (site.shard,)]
    asked = ["systemctl", "show", "--property=" + ",".join(_PROPERTIES), *units]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=SYSTEMCTL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield warn("service", f"systemctl does not answer: {error}", f"try it by hand: systemctl status {units[0]}")
        return
    for unit, said in zip_longest(units, done.stdout.strip().split("\n\n")[: len(units)], fillvalue=""):
        yield judge(unit, dict(line.partition("=")[::2] for line in said.splitlines()))


_PROPERTIES: Final = ("LoadState", "ActiveState", "SubState", "UnitFileState", "NRestarts", "Result", "ExecMainStatus")


def judge(unit: str, said: Mapping[str, str]) -> Finding:
    """What the properties of a unit mean."""
    name, active = "service", said.get("ActiveState", "unknown")
    if said.get("LoadState") != "loaded":
        todo = "to have it started with the machine, see `As a service` in docs/operating.md"
        return warn(name, f"{unit}: is not installed", todo)
    if active == "failed":
        found = f"{unit}: failed ({said.get('Result')}, exit status {said.get('ExecMainStatus')})"
        return fail(name, found, f"journalctl -u {unit} -n 50 says why; then systemctl restart {unit}")
    restarts = int(said.get("NRestarts") or 0)
    found = f"{unit}: {active} ({said.get('SubState')}), started again {restarts} time(s)"
    if said.get("UnitFileState") == "disabled":
        return warn(name, f"{found}; does not start with the machine", f"systemctl enable {unit}")
    if active != "active":
        return warn(name, found, f"systemctl start {unit}")
    if restarts > MANY_RESTARTS:
        return warn(name, found, f"journalctl -u {unit} -p err says why it ended")
    return ok(name, found)


def daemon(site: Site) -> Finding:
    """What a running daemon says of itself."""
    name = "daemon"
    if not site.running:
        return _gone(site)
    who = f"process {site.running['pid']}"
    try:
        healthy, health = view(site).judged(str(site.running["metrics"]))
    except SecretViewError as error:
        return ok(name, f"{who} runs, and does not say how it is: {error}")
    except ViewError as error:
        todo = f"restart it: systemctl restart {site.unit}; if that stays so, is something else on metrics.bind?"
        return fail(name, f"{who} runs, but does not answer: {error}", todo)
    return _judged(name, who, health, healthy=healthy)


def view(site: Site) -> DaemonView:
    """The running daemon's own words, asked for as the alert process asks."""
    monitor = site.config.alerts.monitor
    return DaemonView(site.config.metrics, Login(monitor.user, monitor.password_file, "alerts.monitor."))


def _gone(site: Site) -> Finding:
    """One that wrote its journal not long ago should run still: it was killed, or stopped and forgotten."""
    name, journal = "daemon", site.state_dir.absolute() / JOURNAL
    if (pid := holder_of(journal.with_name(f"{JOURNAL}.lock"))) is not None:
        return ok(name, f"process {pid} runs; what it says of itself was not looked at")
    files = (journal, journal.with_name(f"{JOURNAL}-wal"), site.state_dir / activation.ENDPOINTS_FILE)
    wrote_s = max((path.stat().st_mtime for path in files if path.exists()), default=None)
    if wrote_s is None:
        return ok(name, f"does not run, and has not run with {site.state_dir.absolute()} yet")
    ago_s = max(0.0, time.time() - wrote_s)
    found = f"does not run; it wrote to {journal.parent} last {_span(ago_s)} ago"
    if ago_s > FRESH_SECONDS:
        return ok(name, found)
    by_hand = "tscc-stream run" if site.shard is None else f"tscc-stream run --shard {site.shard}"
    todo = f"journalctl -u {site.unit} -n 50 says why it ended; systemctl start {site.unit}, or {by_hand}, starts it"
    return warn(name, found, todo)


def _span(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _judged(name: str, who: str, health: Mapping[str, Any], *, healthy: bool) -> Finding:
    state = str(health["state"])
    if not healthy:
        why = health.get("reason") or ", ".join(health.get("stalled", [])) or state
        return fail(name, f"{who}: {state}: {why}", "docs/alarms.md, TsccUnhealthy; the log says more (journalctl -u)")
    away = [server for server, link in health.get("servers", {}).items() if link != "connected"]
    silent = int(health.get("silent_channels", 0))
    found = f"{who}: {state}, {health.get('channels', 0)} channels, {silent} silent"
    old = int(health.get("old_channels", 0))
    if old:
        what = f"{found}; {old} send data older than what was already seen"
        return warn(name, what, "was the SeedLink server started again, or put back? does it play a recording?")
    if away:
        return warn(name, f"{found}; not connected: {some(away)}", "see the lines of this server above")
    if silent:
        return warn(name, f"{found}: {some(list(health.get('silent', {})))}", "look at these sensors and recorders")
    return ok(name, found)
