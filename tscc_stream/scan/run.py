"""A scan from its archive to its tables: index, chains, parts wherever they are placed, then everything joined."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from tscc_stream import package
from tscc_stream.config import Config
from tscc_stream.edges.archive import ArchiveError
from tscc_stream.scan import index, join, plan, tidy
from tscc_stream.scan.job import Job, check, claim, digest, job_of
from tscc_stream.scan.layout import Layout, ScanError, read_json, taken, write_json
from tscc_stream.scan.local import Local
from tscc_stream.scan.part_file import Marker
from tscc_stream.scan.placement import Done, Placement, Task
from tscc_stream.scan.schedule import Schedule
from tscc_stream.scan.summary import Finished, write_summary
from tscc_stream.scan.telling import telling
from tscc_stream.source_id import name_of

Place = Callable[[Path, int], Placement]
"""Makes the placement of a scan's folder, with so many workers."""
UNIT = "channel-hours"
FEW_HOURS = 24.0
"""Of all channels together, up to which an archive is small."""
_HOUR = 3600.0
_WAIT_SECONDS = 1.0


class Options(msgspec.Struct, frozen=True):
    """How a scan is carried out, which changes nothing of what comes of it."""

    workers: int = 1
    part_hours: float = 24.0
    windows: bool = False


def scan(paths: list[Path], out: Path, config: Config, model: Path, options: Options, place: Place = Local) -> int:
    """Everything under `paths` into the folder `out`; what was done before is not done again.

    Returns 0, or 1 where a chain could not be scanned to its end, which is said. Raises ScanError, ArchiveError and
    PackageError with one sentence each.
    """
    loaded = package.load_live(model)
    job = job_of(paths, config, loaded, options.part_hours, windows=options.windows)
    layout = Layout(out.absolute())
    batches = _batches(layout, job)
    check(layout, job)
    _made(layout)
    with taken(layout):
        job = claim(layout, job)
        tidy.unfinished(layout)
        with closing(place(layout.root, options.workers)) as placement:
            chains, contents, stopped = _scan(layout, job, loaded, batches, placement)
        finished = [one for chain in chains for one in _finished(layout, job, chain, stopped)]
        came = Finished(chains, finished, contents, stopped)
        _join(layout, job, loaded, came)
        tidy.index(layout, {batch.digest for batch in batches})
        return _told(came)


def _batches(layout: Layout, job: Job) -> list[index.Batch]:
    """All that there is to read. Raises ArchiveError, and ScanError where the scan would read itself."""
    for path in map(Path, job.paths):
        if layout.root.resolve().is_relative_to(path.resolve()) and path.is_dir():
            raise ScanError(f"--out {layout.root}: lies within the archive {path}; expected a folder outside")
    found = list(index.batches(job.paths, job.part_ns))
    if not found:
        raise ArchiveError(f"{', '.join(job.paths)}: no recording found")
    return found


def _made(layout: Layout) -> None:
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScanError(f"--out {layout.root}: cannot be made: {error.strerror}") from error


def _scan(
    layout: Layout, job: Job, loaded: package.Package, batches: list[index.Batch], placement: Placement
) -> tuple[list[plan.Chain], list[index.Contents], dict[str, str]]:
    """Index and parts. Returns the chains, what the batches hold, and chains that go no further, with the reason."""
    _index(placement, {batch.digest: index.extent(batch) for batch in batches if index.plan(layout, batch)})
    contents = {batch.digest: index.contents(layout, batch.digest) for batch in batches}
    before, job = job.few, msgspec.structs.replace(job, few=_hours(contents.values()) <= FEW_HOURS)
    chains = plan.chains(job, loaded.spec.components, contents.items())
    if not chains:
        raise ArchiveError(_nothing(job, contents))
    write_json(layout.job, job)
    _say_what_is_gone(plan.gone(layout, chains))
    anew = before not in (None, job.few)
    if anew:
        now = "at most" if job.few else "more than"
        _say(f"the archive has {now} {FEW_HOURS:g} channel-hours now, for another form of the encoder: scanned again")
    return chains, list(contents.values()), _parts(layout, job, placement, chains, anew)


def _hours(contents: Iterable[index.Contents]) -> float:
    """Of all channels together."""
    return sum(seconds for one in contents for piece in one.pieces for _, seconds in piece.parts) / _HOUR


def _index(placement: Placement, wanting: dict[str, str]) -> None:
    """wanting: batches, and what to call them."""
    schedule = Schedule({name: [Task("index", name)] for name in wanting})
    with telling("index") as tell:
        indexed = 0
        for done in _carried_out(placement, schedule):
            indexed += not done.error
            tell(indexed, len(wanting), "batches")
    for name, why in schedule.stopped.items():
        raise ScanError(f"{wanting[name]}: {why}")


def _parts(layout: Layout, job: Job, placement: Placement, chains: list[plan.Chain], anew: bool) -> dict[str, str]:
    """Those that are not done; chains that go no further, with the reason. anew: people know that all are."""
    hours: dict[Task, float] = {}
    lines: dict[str, list[Task]] = {}
    passed = 0.0
    for chain in chains:
        plan.store(layout, chain)
        have = plan.done(layout, job, chain)
        if have < len(chain.parts) and not anew and plan.changed(layout, chain.name, chain.parts[have]):
            _say(f"{name_of(chain.name)}: the archive has changed: scanned again from part {have + 1} on")
        passed += sum(part.seconds for part in chain.parts[:have]) / _HOUR
        lines[chain.name] = [Task("part", chain.name, part.number) for part in chain.parts[have:]]
        hours.update(zip(lines[chain.name], (part.seconds / _HOUR for part in chain.parts[have:]), strict=True))
    total = passed + sum(hours.values())
    schedule = Schedule(lines)
    with telling("scan") as tell:
        tell(passed, total, UNIT)
        for done in _carried_out(placement, schedule):
            passed += 0.0 if done.error else hours[done.task]
            tell(passed, total, UNIT)
    return schedule.stopped


def _carried_out(placement: Placement, schedule: Schedule) -> Iterator[Done]:
    """What becomes of each task. Raises ScanError where all others would fail as well."""
    while not schedule.over:
        while placement.room and (task := schedule.next()) is not None:
            placement.submit(task)
        for done in placement.wait(_WAIT_SECONDS):
            if done.fatal:
                raise ScanError(done.error)
            schedule.hear(done)
            yield done


def _finished(
    layout: Layout, job: Job, chain: plan.Chain, stopped: dict[str, str]
) -> Iterator[tuple[str, int, Marker]]:
    """The parts of a chain that are done, up to the first that is not; stopped: is told why, where it does not know."""
    for part in chain.parts:
        marker = plan.marker_of(layout, job, chain.name, part)
        if marker is None:
            path = layout.part(chain.name, part.number)
            stopped.setdefault(chain.name, f"{path} was removed, or replaced by another scan, meanwhile; run it again")
            return
        yield chain.name, part.number, marker


def _join(layout: Layout, job: Job, loaded: package.Package, came: Finished) -> None:
    """The tables and the summary, unless they are of these parts already."""
    config = job.settings().network
    made_of = {
        "parts": digest([marker.key for *_, marker in came.parts]),
        "network": digest(repr(config)),
        "stopped": digest(came.stopped),
        "skipped": digest(came.skipped),
    }
    if read_json(layout.joined) == made_of | {"tables": _tables(layout)}:
        return
    layout.joined.unlink(missing_ok=True)
    detections, triggers = join.pieces_of(layout, came.parts)
    first = came.span_ns[0] // join.DAY_NS
    join.join_detections(layout, detections, first)
    join.join_network(layout, triggers, config, first)
    _only_of(layout, came.parts)
    write_summary(layout, job, loaded, came)
    write_json(layout.joined, made_of | {"tables": _tables(layout)})


def _tables(layout: Layout) -> str:
    """Digest of what lies there for people: which files, and how large."""
    folders = [layout.detections.rglob("*.parquet"), layout.network_events.rglob("*.parquet")]
    pages = [layout.root.glob("summary.*"), layout.root.glob("*.png")]
    return digest(
        sorted([str(path.relative_to(layout.root)), path.stat().st_size] for path in itertools.chain(*folders, *pages))
    )


def _only_of(layout: Layout, finished: Sequence[tuple[str, int, Marker]]) -> None:
    """Windows of parts that are none any more go."""
    wanted = {layout.windows_of(name, number) for name, number, _ in finished}
    for path in layout.windows.rglob("*.parquet"):
        if path not in wanted:
            path.unlink()


def _nothing(job: Job, contents: dict[str, index.Contents]) -> str:
    reasons = "; ".join([text for one in contents.values() for text in one.told][:3])
    return f"{', '.join(job.paths)}: no recording found{': ' if reasons else ''}{reasons}"


def _told(came: Finished) -> int:
    """What people must know, as `classify` says it."""
    for name, why in came.left_out:
        _say(f"channel {name} {why}")
    skipped, texts = came.skipped
    for text in texts:
        _say(f"skipped: {text}")
    if skipped > len(texts):
        _say(f"and {skipped - len(texts)} more skipped")
    for name, why in sorted(came.stopped.items()):
        _say(f"{name_of(name)}: not scanned to its end: {why}")
    return 1 if came.stopped else 0


def _say_what_is_gone(seconds: dict[str, float]) -> None:
    """A disk that is not mounted looks like an archive from which somebody removed files."""
    if seconds:
        hours, name = sum(seconds.values()) / _HOUR, name_of(min(seconds))
        channels = f"{name} and {len(seconds) - 1:,} more channels" if len(seconds) > 1 else name
        _say(f"{channels}: {hours:,.2f} channel-hours that were scanned before are no longer there: their rows go")


def _say(sentence: str) -> None:
    print(f"tscc-stream: {sentence}", file=sys.stderr)  # noqa: T201 a command's own output
