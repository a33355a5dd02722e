"""What one scan is: an archive, a configuration, a model, how time is cut. Kept in a file, for workers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from tscc_stream import __version__, package
from tscc_stream.config import Config
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.scan.layout import Layout, ScanError, read_json, write_json

FORMAT = 4
"""Of everything under state: to be raised whenever its form or meaning changes."""
_SECTIONS = ("site", "assemble", "quarantine", "condition", "trigger", "channels", "novelty")


class Job(msgspec.Struct, frozen=True):
    """paths: of the archive, absolute. config: as JSON. model: the package's folder. part_ns: how long a part is.

    windows: whether they are stored. made_of: digests of what the rows depend on, by name. few: whether the archive is
    small, so that there can be few windows only; None: not known yet.
    """

    paths: list[str]
    config: str
    model: str
    part_ns: int
    windows: bool
    made_of: dict[str, str]
    few: bool | None = None

    def settings(self) -> Config:
        return Config.model_validate_json(self.config)

    @property
    def base(self) -> str:
        """What every part depends on beside its records; by `few`, which form of the encoder it is."""
        return digest([self.made_of, self.few])


def digest(value: object) -> str:
    """Of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def job_of(paths: list[Path], config: Config, loaded: package.Package, part_hours: float, *, windows: bool) -> Job:
    """A new one."""
    part_ns = round(part_hours * 3600 * NS_PER_SECOND)
    sections = config.model_dump(mode="json")
    labels = {str(cluster): label.model_dump(mode="json") for cluster, label in sorted(loaded.labels.items())}
    made_of = {
        "program": f"{__version__} {FORMAT}",
        **{name: digest(sections[name]) for name in _SECTIONS},
        "model": loaded.sha256,
        "names of the model's clusters": digest(labels),
        "part-hours": str(part_ns),
        "windows": str(windows),
    }
    absolute = [str(path.absolute()) for path in paths]
    return Job(absolute, config.model_dump_json(), str(loaded.folder.absolute()), part_ns, windows, made_of)


def check(layout: Layout, job: Job) -> Job | None:
    """The same job as it was carried out in the folder before; None where the folder is free: empty, or with a job that
    has found nothing to do. Raises ScanError where it holds something else; changes nothing.
    """
    found = read(layout) if layout.chains.exists() else None
    if found is None:
        _check_free(layout)
        return None
    if found.paths != job.paths:
        scanned = ", ".join(found.paths)
        raise ScanError(f"--out {layout.root}: holds a scan of {scanned}; expected that archive, or another folder")
    differing = [name for name in job.made_of if found.made_of.get(name) != job.made_of[name]]
    if differing:
        raise ScanError(
            f"--out {layout.root}: holds a scan with another {', '.join(differing)}; expected another folder"
        )
    return found


def _check_free(layout: Layout) -> None:
    try:
        others = [path.name for path in layout.root.iterdir() if path.name != layout.state.name]
    except FileNotFoundError:
        return
    except OSError as error:
        raise ScanError(f"--out {layout.root}: cannot be read: {error.strerror}") from error
    if others:
        raise ScanError(f"--out {layout.root}: holds something else ({min(others)}); expected a new or empty folder")


def claim(layout: Layout, job: Job) -> Job:
    """The folder is for this job from now on; with what is known of the archive from before. Raises as `check`."""
    found = check(layout, job)
    if found is not None:
        job = msgspec.structs.replace(job, few=found.few)
    if found != job:
        write_json(layout.job, job)
    return job


def read(layout: Layout) -> Job | None:
    """The job of a folder; None where there is none."""
    document: dict[str, Any] | None = read_json(layout.job)
    try:
        return None if document is None else msgspec.convert(document, Job)
    except msgspec.ValidationError as error:
        raise ScanError(f"{layout.job}: not written by this program: {error}") from error


def stored_job(layout: Layout) -> Job:
    """The same where there must be one. Raises ScanError."""
    job = read(layout)
    if job is None:
        raise ScanError(f"{layout.root}: holds no scan")
    return job
