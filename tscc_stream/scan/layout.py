"""Where a scan keeps what in its folder, and how files get there: whole, or not at all.

DIR/detections/year=2009/month=1/2009-01-21.parquet   one row per detection, by onset
DIR/network_events/...                                likewise
DIR/windows/...                                       with --windows: what training reads
DIR/summary.json, summary.md, *.png
DIR/state/                                            what a scan goes on from; no reader of the above looks here
    job.json      what is scanned, by what
    index/        where the records of a batch of files lie
    chains/       of each chain: its parts, with a key each
    parts/        of each part: results, the state at its end, and last a marker that bears its key
    joined.json   what the folders of rows were made of
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec


class ScanError(Exception):
    """A scan that cannot be carried out, and why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The places within one scan's folder."""

    root: Path

    @property
    def detections(self) -> Path:
        return self.root / "detections"

    @property
    def network_events(self) -> Path:
        return self.root / "network_events"

    @property
    def windows(self) -> Path:
        return self.root / "windows"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def job(self) -> Path:
        return self.state / "job.json"

    @property
    def joined(self) -> Path:
        return self.state / "joined.json"

    @property
    def index(self) -> Path:
        return self.state / "index"

    def batch(self, digest: str, suffix: str) -> Path:
        """A file of one batch of the index."""
        return self.index / f"{digest}{suffix}"

    @property
    def chains(self) -> Path:
        return self.state / "chains"

    def chain(self, name: str) -> Path:
        """What is to be done of one chain."""
        return self.chains / f"{safe(name)}.json"

    def part(self, chain: str, number: int) -> Path:
        """The file of one part."""
        return self.state / "parts" / safe(chain) / f"{number}.part"

    def windows_of(self, chain: str, number: int) -> Path:
        """The windows of one part."""
        return self.windows / safe(chain) / f"{number}.parquet"


def safe(name: str) -> str:
    """As the name of a file, whatever a recorder calls itself."""
    return quote(name, safe="").replace(".", "%2E") if name.startswith(".") else quote(name, safe="")


def write(path: Path, data: bytes) -> None:
    """The file appears whole, with everything in it. Raises OSError with its name.

    A loss of power may take it away again, but not a part of it: then it is made anew.
    """
    fresh = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")  # several machines may write here
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, document: object) -> None:
    """As `write`."""
    write(path, msgspec.json.encode(document))


def read_json(path: Path) -> dict[str, Any] | None:
    """A document that `write_json` wrote; None where there is none, or another program wrote over it."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def taken(layout: Layout) -> Iterator[None]:
    """The folder is this scan's alone. Raises ScanError where another one works on it, or it cannot be written."""
    path = layout.state / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise ScanError(f"--out {layout.root}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ScanError(f"--out {layout.root}: another scan works on it") from error
        except OSError as error:
            raise ScanError(f"--out {layout.root}: cannot be locked: {error.strerror}") from error
        yield
