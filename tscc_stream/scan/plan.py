"""Chains and their parts: what is to be scanned, and by which key one knows that it has been.

A chain is a channel, or the components of one sensor where the model's windows have several: what comes of it depends
on no other. A part is what of it starts within one stretch of time. A part's key is made of everything that its result
depends on: the job, the part before, and the files in which its records lie.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tscc_stream.package import EACH_CHANNEL
from tscc_stream.scan import part_file
from tscc_stream.scan.index import Contents, Piece
from tscc_stream.scan.job import Job, digest
from tscc_stream.scan.layout import Layout, write_json
from tscc_stream.source_id import split_component


class Part(msgspec.Struct, frozen=True):
    """number: of the stretch of time, counted since 1970. batches: of the index, in which its records lie. seconds: of
    samples, of all its channels together.

    last: the chain ends with it. other_key: which it would have if the opposite were so.
    """

    number: int
    key: str
    other_key: str
    batches: list[str]
    seconds: float
    last: bool


class Chain(msgspec.Struct, frozen=True):
    """name: of the channel or the sensor. start_ns, end_ns: of its first and last sample."""

    name: str
    sids: list[str]
    start_ns: int
    end_ns: int
    parts: list[Part]


def chain_name(sid: str, components: tuple[str, ...]) -> str:
    """Of the chain in which a channel is."""
    if components == EACH_CHANNEL:
        return sid
    try:
        return split_component(sid)[0]
    except ValueError:  # which will be refused, by itself
        return sid


def chains(job: Job, components: tuple[str, ...], indexed: Iterable[tuple[str, Contents]]) -> list[Chain]:
    """In the order of their names. indexed: batches by name."""
    pieces: dict[str, list[tuple[str, Contents, Piece]]] = {}
    for name, contents in indexed:
        for piece in contents.pieces:
            pieces.setdefault(chain_name(piece.sid, components), []).append((name, contents, piece))
    return [_chain(job, name, some) for name, some in sorted(pieces.items())]


def _chain(job: Job, name: str, pieces: list[tuple[str, Contents, Piece]]) -> Chain:
    inputs: dict[int, dict[str, set[str]]] = {}
    lasting: dict[int, float] = {}
    for batch, contents, piece in pieces:
        for number, seconds in piece.parts:
            lasting[number] = lasting.get(number, 0.0) + seconds
            inputs.setdefault(number, {}).setdefault(batch, set()).add(contents.inputs[piece.file])
    parts: list[Part] = []
    key = job.base
    for number in sorted(inputs):
        last = number == max(inputs)
        files = sorted(set().union(*inputs[number].values()))
        key, other = (digest([key, number, files, ends]) for ends in (last, not last))
        parts.append(Part(number, key, other, sorted(inputs[number]), lasting[number], last))
    sids = sorted({piece.sid for _, _, piece in pieces})
    starts, ends = [piece.first_ns for *_, piece in pieces], [piece.end_ns for *_, piece in pieces]
    return Chain(name, sids, min(starts), max(ends), parts)


def store(layout: Layout, chain: Chain) -> None:
    """For workers."""
    path = layout.chain(chain.name)
    data = msgspec.json.encode(chain)
    if not path.exists() or path.read_bytes() != data:
        write_json(path, chain)


def gone(layout: Layout, planned: Iterable[Chain]) -> dict[str, float]:
    """Chain -> seconds of its parts that were planned the last time, and are not any more. A chain of which nothing is
    left is forgotten.
    """
    now = {chain.name: {part.number for part in chain.parts} for chain in planned}
    missing: dict[str, float] = {}
    for path in sorted(layout.chains.glob("*.json")):
        before = msgspec.json.decode(path.read_bytes(), type=Chain)
        lost = [part.seconds for part in before.parts if part.number not in now.get(before.name, ())]
        if lost:
            missing[before.name] = sum(lost)
        if before.name not in now:
            path.unlink()
    return missing


def stored(layout: Layout, name: str) -> Chain:
    """A chain as it was stored."""
    return msgspec.json.decode(layout.chain(name).read_bytes(), type=Chain)


def done(layout: Layout, job: Job, chain: Chain) -> int:
    """How many of its parts are."""
    for count, part in enumerate(chain.parts):
        if marker_of(layout, job, chain.name, part) is None:
            return count
    return len(chain.parts)


def marker_of(layout: Layout, job: Job, chain: str, part: Part) -> part_file.Marker | None:
    """Of a part that is done, with its windows where they are wanted; else None."""
    marker = part_file.marker(layout.part(chain, part.number))
    if marker is None or marker.key != part.key:
        return None
    stored = job.windows and marker.detections[0] > marker.without_signal
    if stored and not layout.windows_of(chain, part.number).exists():
        return None
    return marker


def changed(layout: Layout, chain: str, part: Part) -> bool:
    """Whether a part was done with other records than are there now."""
    marker = part_file.marker(layout.part(chain, part.number))
    return marker is not None and marker.key not in (part.key, part.other_key)


def span_ns(job: Job, part: Part) -> tuple[int, int]:
    """From, and up to."""
    return part.number * job.part_ns, (part.number + 1) * job.part_ns
