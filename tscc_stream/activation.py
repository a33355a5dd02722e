"""Which model a site serves, and which one it tries beside it: small files in the state folder.

Commands write them, the daemon reads them at its start and on SIGHUP:

    models/<first 12 digits of sha256>/   packages that were installed here
    active-model                          {"active": "<12 digits>"|null, "before": [...]}; null: the configuration's
    shadow-model                          {"shadow": "<12 digits>"|null}; null: none, whatever the configuration says
    endpoints.json                        written by the daemon: where it listens, and its process id

Every file is replaced in one step, so that a reader sees the old one or the new one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tscc_stream.config import PublishConfig
from tscc_stream.config_http import MetricsConfig
from tscc_stream.ownership import belong_to_folder, replace_text
from tscc_stream.package import Package, PackageError, load_live, write_labels

ACTIVE_FILE = "active-model"
SHADOW_FILE = "shadow-model"
MODELS_FOLDER = "models"
ENDPOINTS_FILE = "endpoints.json"
MOST_ROLLBACKS = 10
"""Activations that can be taken back, one after the other."""
_NAME = re.compile(r"[0-9a-f]{12}")


class ActivationError(RuntimeError):
    """A model that cannot be activated or taken back, and why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Choice:
    """active: name of a folder under models/; None: the configuration's model. before: those before it, newest last."""

    active: str | None = None
    before: tuple[str | None, ...] = ()


def _read(path: Path) -> dict[str, Any]:
    """The document in a file; empty where there is none."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ActivationError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ActivationError(f"{path}: not what `model activate` writes: {error}") from error
    if not isinstance(document, dict):
        raise ActivationError(f"{path}: not what `model activate` writes: expected an object")
    return document


def _write(path: Path, document: dict[str, Any]) -> None:
    try:
        replace_text(path, json.dumps(document) + "\n")
    except OSError as error:
        raise ActivationError(f"{path}: cannot be written: {error.strerror}") from error


def _name(value: object, path: Path) -> str | None:
    if value is None or (isinstance(value, str) and _NAME.fullmatch(value)):
        return value
    raise ActivationError(f"{path}: names {value!r:.40}, expected the first 12 digits of a package's sha256, or null")


def chosen(state_dir: Path) -> Choice:
    """What was activated last; the configuration's model where nothing was. Raises ActivationError."""
    path = state_dir / ACTIVE_FILE
    document = _read(path)
    before = document.get("before", [])
    if not isinstance(before, list):
        raise ActivationError(f"{path}: before is {before!r:.40}, expected a list")
    return Choice(_name(document.get("active"), path), tuple(_name(one, path) for one in before))


def _choose(state_dir: Path, choice: Choice) -> Choice:
    _write(state_dir / ACTIVE_FILE, {"active": choice.active, "before": list(choice.before)})
    return choice


def folder_of(state_dir: Path, name: str) -> Path:
    """Where an installed package lies."""
    return state_dir / MODELS_FOLDER / name


def live_folder(state_dir: Path, configured: Path) -> Path:
    """The package to serve: the active one, else the configuration's. Raises ActivationError."""
    active = chosen(state_dir).active
    return configured if active is None else folder_of(state_dir, active)


def install(source: Path, state_dir: Path) -> Package:
    """A copy of a package in the state folder, checked; where it is there already and whole, only its labels follow.

    Raises PackageError where the package may not serve, and ActivationError where it cannot be copied.
    """
    offered = load_live(source)
    target = folder_of(state_dir, offered.sha256[:12])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        belong_to_folder(target.parent)
        if not _holds(target, offered.sha256):
            _copy(offered, target)
        elif target.resolve() != source.resolve():
            write_labels(target, offered.labels)
            _open_up(target)
    except (OSError, shutil.Error) as error:
        raise ActivationError(f"{target}: the package cannot be copied there: {error}") from error
    return load_live(target)


def _holds(target: Path, sha256: str) -> bool:
    try:
        return target.is_dir() and load_live(target).sha256 == sha256
    except PackageError:
        return False  # changed since: it is written anew


def _copy(offered: Package, target: Path) -> None:
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for name in ("model.json", *offered.spec.sha256):
            shutil.copyfile(offered.folder / name, fresh / name)
        write_labels(fresh, offered.labels)
        load_live(fresh)
        _open_up(fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _open_up(folder: Path) -> None:
    """The daemon is to load it, whoever writes it and with whatever umask."""
    belong_to_folder(folder)
    for path in folder.iterdir():
        belong_to_folder(path)


def activate(state_dir: Path, name: str) -> Choice:
    """Point at an installed package; what was active can be returned to."""
    now = chosen(state_dir)
    if now.active == name:
        return now
    return _choose(state_dir, Choice(name, (*now.before, now.active)[-MOST_ROLLBACKS:]))


def rollback(state_dir: Path) -> Choice:
    """Point at the package before the active one. Raises ActivationError where there is none."""
    now = chosen(state_dir)
    if not now.before:
        raise ActivationError(f"{state_dir / ACTIVE_FILE}: no model was active before this one")
    return _choose(state_dir, Choice(now.before[-1], now.before[:-1]))


def take_back(state_dir: Path, refused: Path, running: Path) -> None:
    """After a refusal: a restart shall serve what runs now, unless somebody has chosen anew meanwhile."""
    now = chosen(state_dir)
    if now.active is None or folder_of(state_dir, now.active) != refused:
        return
    name = running.name if folder_of(state_dir, running.name) == running else None
    before = now.before[:-1] if now.before[-1:] == (name,) else now.before
    _choose(state_dir, Choice(name, before))


def set_shadow(state_dir: Path, name: str | None) -> None:
    """The installed package that is tried beside the live one; None: none."""
    _write(state_dir / SHADOW_FILE, {"shadow": name})


def shadow_folder(state_dir: Path, configured: Path | None) -> Path | None:
    """The package to try: what `model shadow` said last, else the configuration's. Raises ActivationError."""
    path = state_dir / SHADOW_FILE
    document = _read(path)
    if "shadow" not in document:
        return configured
    name = _name(document["shadow"], path)
    return None if name is None else folder_of(state_dir, name)


def write_endpoints(state_dir: Path, publish: str, replay: str, metrics: str) -> None:
    """Where this process listens, for programs on this machine: with port 0 the system chose. Raises OSError."""
    where = {"publish": publish, "replay": replay, "metrics": metrics, "pid": os.getpid()}
    fresh = state_dir / (ENDPOINTS_FILE + ".new")
    fresh.write_text(json.dumps(where) + "\n", encoding="utf-8")
    fresh.replace(state_dir / ENDPOINTS_FILE)


def endpoints(state_dir: Path) -> dict[str, Any]:
    """Where the daemon of this state folder listens, and its "pid"; empty where none runs.

    A process id alone proves nothing, since it may be somebody else's by now: whoever holds the journal's lock file
    open is the daemon. Raises ActivationError where that cannot be told.
    """
    where = _read(state_dir / ENDPOINTS_FILE)
    pid = where.get("pid")
    return where if isinstance(pid, int) and _has_open(pid, state_dir / "journal.sqlite.lock") else {}


def addresses(said: Mapping[str, Any], publish: PublishConfig, metrics: MetricsConfig) -> dict[str, str]:
    """publish, replay and metrics of a daemon: as it said itself, else as configured. To be asked on this machine."""
    configured = {"publish": publish.bind, "replay": publish.replay_bind, "metrics": metrics.bind}
    found = configured | {name: str(said[name]) for name in configured if name in said}
    return {name: address.replace("//0.0.0.0:", "//127.0.0.1:") for name, address in found.items()}


def _has_open(pid: int, path: Path) -> bool:
    try:
        wanted = path.stat()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found = link.stat()
            except FileNotFoundError:
                continue  # closed meanwhile, or no file
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise ActivationError(f"process {pid} cannot be looked at: run this as the daemon's user or as root") from error
    return False
