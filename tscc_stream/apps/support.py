"""One file that says how a site is, for whoever shall help: no secret in it, of bounded size, whatever does not work.

manifest.json   what is in here, how large it is, and what could not be had and why
doctor.txt      what `tscc-stream doctor` says; doctor.json: the same for programs
config.yaml     the configuration, its secrets and comments removed
versions.json   of the program, its packages, the machine
metrics.txt, healthz.json      of the running daemon
log.txt         the last lines of the service's journal, or of a file that was given
gaps.jsonl      the newest entries of the ledger of gaps
journal.json    how far the journal has come; state.txt: what lies in the state folder, and how large
crash-report.txt               where the threads of a daemon that crashed were
model/          model.json, labels.json and card.md of the model that is served
shard-I/        of a configuration for several shards, what each has: log.txt, unless a file was given, and all from
                metrics.txt on
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tscc_stream import __version__, activation, config, credentials
from tscc_stream.activation import ActivationError
from tscc_stream.apps import doctor, redact
from tscc_stream.apps.doctor_site import Site, served, view
from tscc_stream.apps.finding import Finding
from tscc_stream.config import Config, ConfigError
from tscc_stream.edges.daemon_view import DaemonView, ViewError
from tscc_stream.edges.journal_salvage import connect_read_only
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.sharded import for_shard
from tscc_stream.writable import why_not

MOST_BYTES: Final = 8 << 20
"""Of one part, before it is packed."""
LOG_LINES: Final = 5000
GAPS: Final = 10_000
LISTED: Final = 2000
JOURNAL_SECONDS: Final = 20.0
LONG_WORD: Final = 12
MOST_CREDENTIALS: Final = 200
FEW_SHARDS: Final = 8
"""So many may each have parts as large as a site's; of more, each part is shorter."""
LEAST_BYTES: Final = 1 << 17
CRASH_FILE: Final = "crash-report"
_LARGEST_SECRET: Final = 65_536


class SupportError(RuntimeError):
    """The bundle cannot be written, and why, in one sentence."""


@dataclass
class Bundle:
    """Parts as they are gathered; a part is text, its secrets removed when it is added."""

    secrets: set[str] = field(default_factory=set)
    parts: dict[str, bytes] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    most_bytes: int = MOST_BYTES

    def add(self, name: str, text: str) -> None:
        """Of a part that is too long the end is kept: the newest."""
        data = redact.of_text(text, self.secrets).encode("utf-8", "replace")
        if len(data) > self.most_bytes:
            self.notes[name] = f"the last {self.most_bytes} of {len(data)} bytes"
            data = data[-self.most_bytes :]
        self.parts[name] = data

    def gather(self, name: str, made: Callable[[], str]) -> None:
        """A part that may not be had: then the manifest says why."""
        try:
            self.add(name, made())
        except Exception as error:  # noqa: BLE001  # whatever is wrong with one part, the others are wanted
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self.notes[name] = redact.of_text(f"not here: {text:.300}", self.secrets)

    def manifest(self) -> bytes:
        listed = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in self.parts.items()
        }
        return json.dumps({"made": _now(), "parts": listed, "notes": self.notes}, indent=1).encode()


def write(
    file: Path | None,
    out: Path,
    log: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
    shard: int | None = None,
) -> int:
    """Gather everything into a new file; its size in bytes. Raises SupportError where it cannot be written.

    file: the site's configuration; log: where its log goes, if not to journald; shard: which one alone of a file for
    several, without which all of them are looked at. Raises ConfigError where the file has no such shard.
    """
    if out.exists():
        raise SupportError(f"{out}: is there already; give another name, or move it away")
    bundle = Bundle()
    site = _site(file, shard)
    document = _document(file)
    bundle.secrets = set(_secrets(document, file))
    tell("looking at everything, which may take a minute")
    _doctor(bundle, file, shard)
    bundle.gather("versions.json", _versions)
    if file is not None:
        bundle.gather("config.yaml", lambda: _redacted(file, document))
    if log is not None or site is None or not site.shards:
        bundle.gather("log.txt", lambda: _log(site, log))
    if site is not None:
        _of_site(bundle, site)
        _of_shards(bundle, site, log is None)
    _pack(bundle, out)
    return out.stat().st_size


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _document(file: Path | None) -> Any:  # noqa: ANN401  # whatever YAML holds
    """The configuration's values; None where it is no YAML."""
    if file is None:
        return {}
    try:
        return config.values(file)
    except ConfigError:
        return None


def _secrets(document: Any, file: Path | None) -> Iterator[str]:  # noqa: ANN401  # any value of a document
    """What must be nowhere in the bundle: what stands under keys for secrets, and what lies in the files they name."""
    values = _guessed(file) if document is None else document
    beside = None if file is None else file.resolve().parent / f"{file.stem}.credentials"
    for text in redact.known(values):
        places = [credentials.path_of(text), *([] if beside is None else [beside / text])]
        yield from [line for path in places for line in _lines_of(path)] or [text]  # a name of a file is no secret
    yield from redact.known_arguments(values)
    if beside is not None and beside.is_dir():  # all of it is handed to the service, whoever names it
        for path in islice(sorted(beside.iterdir()), MOST_CREDENTIALS):
            yield from _lines_of(path)


def _guessed(file: Path | None) -> list[dict[str, Any]]:
    try:
        return redact.guessed("" if file is None else file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


def _lines_of(path: Path) -> Iterator[str]:
    """Of a file that holds a secret, where it may be read: each line, each long word of it, and what a header says."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_SECRET:
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return
    yield from (line.strip() for line in lines)
    yield from (word for line in lines for word in line.split() if len(word) >= LONG_WORD)
    yield from (value.strip() for line in lines for _, colon, value in [line.partition(": ")] if colon)


def _site(file: Path | None, shard: int | None) -> Site | None:
    if file is None:
        return None
    try:
        settings = config.load(file)
    except ConfigError:
        return None
    return _made(settings, file, shard)


def _made(settings: Config, file: Path, shard: int | None) -> Site:
    """The site, or one shard of it. Raises ConfigError."""
    settings = settings if shard is None else for_shard(settings, shard)
    try:
        running = activation.endpoints(Path(settings.state_dir))
    except ActivationError:
        running = {}
    return Site(settings, file, running, shard)


def _doctor(bundle: Bundle, file: Path | None, shard: int | None) -> None:
    findings: list[Finding] = []

    def look() -> str:
        findings.extend(doctor.examine(file, shard=shard))
        return "\n".join([*map(doctor.line, findings), doctor.summary(findings), ""])

    bundle.gather("doctor.txt", look)
    bundle.gather("doctor.json", lambda: doctor.as_json(findings))


def _versions() -> str:
    names = sorted({(dist.name, dist.version) for dist in metadata.distributions()})
    return json.dumps(
        {
            "tscc-stream": __version__,
            "python": sys.version,
            "system": " ".join(platform.uname()[i] for i in (0, 2, 3, 4)),
            "distribution": _distribution(),
            "cores": os.cpu_count(),
            "packages": dict(names),
        },
        indent=1,
    )


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _redacted(file: Path, document: Any) -> str:  # noqa: ANN401  # any value of a document
    if document is None:
        raise SupportError(f"{file} cannot be read as YAML, and so its secrets cannot be told; doctor.txt says where")
    return config.as_yaml(redact.of_document(document))


def _log(site: Site | None, log: Path | None) -> str:
    if log is not None:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - MOST_BYTES))
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    unit = "tscc-stream.service" if site is None else site.unit
    asked = ["journalctl", f"--unit={unit}", f"--lines={LOG_LINES}", "--no-pager", "--output=short-iso"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=JOURNAL_SECONDS, check=False, errors="replace")
    if done.returncode or not done.stdout.strip() or "No entries" in done.stdout:
        said = " ".join((done.stderr or done.stdout).split())
        raise SupportError(f"journald has no log of {unit} ({said:.200}); --log FILE names one that was kept otherwise")
    return done.stdout


def _of_shards(bundle: Bundle, site: Site, logged: bool) -> None:
    """Each in a folder of its own; together no more than a few sites. logged: journald has their logs."""
    bundle.most_bytes = max(LEAST_BYTES, MOST_BYTES * FEW_SHARDS // max(FEW_SHARDS, len(site.shards)))
    for shard in site.shards:
        folder = f"shard-{shard}/"
        try:
            one = _made(site.config, site.file, shard)
        except ConfigError as error:
            bundle.notes[folder] = redact.of_text(f"not here: {error}", bundle.secrets)
            continue
        if logged:
            bundle.gather(f"{folder}log.txt", partial(_log, one, None))
        _of_site(bundle, one, folder)


def _of_site(bundle: Bundle, site: Site, folder: str = "") -> None:
    """What only a configuration that holds leads to. Of a file for several shards, each shard has a daemon's parts."""
    bundle.gather(f"{folder}state.txt", lambda: "\n".join([*_listing(site.state_dir), ""]))
    if site.shards:
        return
    journal = site.state_dir / "journal.sqlite"
    bundle.gather(f"{folder}metrics.txt", lambda: _asked(site, DaemonView.metrics))
    bundle.gather(f"{folder}healthz.json", lambda: _asked(site, lambda said, at: json.dumps(said.health(at))))
    bundle.gather(f"{folder}journal.json", lambda: _journal(journal))
    bundle.gather(f"{folder}gaps.jsonl", lambda: _gaps(journal))
    bundle.gather(f"{folder}crash-report.txt", lambda: (site.state_dir / CRASH_FILE).read_text("utf-8", "replace"))
    for name in ("model.json", "labels.json", "card.md"):
        bundle.gather(f"{folder}model/{name}", _reading(site, name))


def _reading(site: Site, name: str) -> Callable[[], str]:
    return lambda: (served(site).folder / name).read_text(encoding="utf-8")


def _asked(site: Site, ask: Callable[[DaemonView, str], str]) -> str:
    if not site.running:
        raise SupportError("no daemon runs")
    try:
        return ask(view(site), str(site.running["metrics"]))
    except ViewError as error:
        raise SupportError(str(error)) from error


def _journal(path: Path) -> str:
    if not path.exists():
        raise SupportError("there is no journal yet")
    db = connect_read_only(path)
    try:
        (epoch,) = db.execute("SELECT epoch FROM journal").fetchone()
        heads = dict(db.execute("SELECT * FROM head"))
        (oldest,) = db.execute("SELECT min(seq) FROM message").fetchone()
    finally:
        db.close()
    told = {"epoch": epoch, "head": sum(heads.values()), "oldest": oldest, "topic_heads": heads}
    return json.dumps({**told, "bytes": path.stat().st_size}, indent=1)


def _gaps(path: Path) -> str:
    if not path.exists():
        raise SupportError("there is no journal yet")
    reader = JournalReader(path)
    try:
        entries = reader.gaps(limit=GAPS)
    finally:
        reader.close()
    lines = (
        json.dumps({"sid": one.sid, "from_ns": one.from_ns, "to_ns": one.to_ns, "cause": one.cause}) for one in entries
    )
    return "\n".join([*lines, ""])


def _listing(folder: Path) -> Iterator[str]:
    """Size, time of change, owner and name of what lies there."""
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if number == LISTED:
            yield f"and more: only {LISTED} are listed"
            return
        try:
            found = path.lstat()
        except OSError:
            continue  # gone meanwhile
        changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.st_mtime))
        mode = oct(found.st_mode & 0o777)[2:]
        yield f"{found.st_size:>14} {changed} {found.st_uid:>6} {mode} {path.relative_to(folder)}"


def _pack(bundle: Bundle, out: Path) -> None:
    """Readable by its owner alone, whole or not there."""
    fresh = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as packed:
            for name, data in [("manifest.json", bundle.manifest()), *bundle.parts.items()]:
                entry = tarfile.TarInfo(f"tscc-stream-support/{name}")
                entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
                packed.addfile(entry, io.BytesIO(data))
        fresh.replace(out)
    except OSError as error:
        raise SupportError(f"{out}: cannot be written: {why_not(out.absolute().parent) or error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)
