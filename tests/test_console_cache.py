"""The console's cache of events against a plain scan of the same events; embeddings; what becomes of a bad file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tscc_stream.edges.console_cache import CacheError, CacheFile, joined, next_stretch
from tscc_stream.edges.console_cache_embeddings import EmbeddingStore
from tscc_stream.edges.console_cache_events import (
    QUALITY_BITS,
    Choice,
    EventIndex,
    Indexed,
    Place,
    Verdict,
    VerdictMirror,
)

CHANNELS = ("XX.A..HHZ", "XX.B..HHZ", "XX.C..HHZ")
NAMES = ("blast", "drilling", "unknown")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[CacheFile]:
    made = CacheFile(tmp_path / "console.sqlite", "epoch-1")
    yield made
    made.close()


def event(seq: int, uid: str = "", **changes: object) -> Indexed:
    values: dict[str, object] = {
        "seq": seq,
        "uid": uid or f"u{seq}",
        "network": False,
        "onset_ns": seq,
        "model": "m",
        "cluster": 0,
        "name": "blast",
        "unknown": False,
        "membership": 0.5,
        "votes": 1,
        "quality": (),
        "channels": (CHANNELS[0],),
        **changes,
    }
    return Indexed(**values)  # type: ignore[arg-type]  # of any kind


_events = st.lists(
    st.fixed_dictionaries(
        {
            "onset_ns": st.integers(0, 12),
            "network": st.booleans(),
            "name": st.sampled_from(NAMES),
            "unknown": st.booleans(),
            "membership": st.sampled_from((0.2, 0.5, 0.9)),
            "votes": st.integers(0, 4),
            "quality": st.lists(st.sampled_from(sorted(QUALITY_BITS)), max_size=3, unique=True).map(tuple),
            "channels": st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=3, unique=True).map(tuple),
            "uid": st.integers(0, 40).map(str),
        }
    ),
    max_size=30,
).map(lambda found: [event(seq, **values) for seq, values in enumerate(found, 1)])

_optional = st.none() | st.integers(-1, 13)


@st.composite
def _choices(draw: st.DrawFn) -> dict[str, object]:
    return {
        "from_ns": draw(_optional),
        "to_ns": draw(_optional),
        "names": draw(st.none() | st.sets(st.sampled_from(NAMES))),
        "channels": draw(st.none() | st.sets(st.sampled_from(CHANNELS))),
        "network": draw(st.none() | st.booleans()),
        "least_votes": draw(st.integers(0, 4)),
        "least_membership": draw(st.sampled_from((0.0, 0.5, 0.91))),
        "unknown": draw(st.booleans()),
        "unjudged": draw(st.booleans()),
        "quality": draw(st.sampled_from(("", "clean", *QUALITY_BITS))),
    }


def _is_wanted(one: Indexed, wanted: dict[str, object], judged: set[str]) -> bool:
    """The plain way, one event at a time."""
    from_ns, to_ns, quality = wanted["from_ns"], wanted["to_ns"], wanted["quality"]
    return all(
        (
            from_ns is None or one.onset_ns >= from_ns,  # type: ignore[operator]  # of any kind
            to_ns is None or one.onset_ns < to_ns,  # type: ignore[operator]  # one of the forms that are tried
            wanted["names"] is None or one.name in wanted["names"],  # type: ignore[operator]  # one of the forms that are tried
            wanted["channels"] is None or wanted["channels"] & set(one.channels),  # type: ignore[operator]  # one of the forms that are tried
            wanted["network"] is None or one.network == wanted["network"],
            not one.network or one.votes >= wanted["least_votes"],  # type: ignore[operator]  # one of the forms that are tried
            one.network or one.membership >= wanted["least_membership"],  # type: ignore[operator]  # one of the forms that are tried
            not wanted["unknown"] or one.unknown,
            not wanted["unjudged"] or one.uid not in judged,
            quality == "" or (not one.quality if quality == "clean" else quality in one.quality),
        )
    )


def _choice(wanted: dict[str, object], index: EventIndex) -> Choice:
    names, channels = wanted["names"], wanted["channels"]
    known = index.channels()
    labels = None
    if names is not None:
        labels = frozenset(label.number for label in index.labels() if label.name in names)  # type: ignore[operator]  # one of the forms that are tried
    numbers = None if channels is None else frozenset(known[one] for one in channels if one in known)  # type: ignore[attr-defined]  # known there, not to its stubs
    rest = {key: value for key, value in wanted.items() if key not in ("names", "channels")}
    return Choice(labels=labels, channels=numbers, **rest)  # type: ignore[arg-type]  # of the type that is expected, by construction


def _all_pages(index: EventIndex, choice: Choice, size: int) -> list[Place]:
    found: list[Place] = []
    while page := index.page(choice, (found[-1].onset_ns, found[-1].seq) if found else None, size):
        found += page
        assert len(found) <= 100, "the pages do not end"
    return found


def _fill(index: EventIndex, events: Sequence[Indexed], cuts: Sequence[int]) -> None:
    """From any place in the middle outwards, as the upkeep does: what comes first, then what lies before."""
    head = len(events)
    done = None
    for most in cuts:
        piece = next_stretch(done, 1, head, most)
        if piece is None:
            return
        index.add([one for one in events if piece[0] <= one.seq <= piece[1]], piece, 1)
        done = index.done()
    for _ in range(2 + head):
        piece = next_stretch(done, 1, head, 7)
        if piece is None:
            return
        index.add([one for one in events if piece[0] <= one.seq <= piece[1]], piece, 1)
        done = index.done()
    raise AssertionError("the stretches do not end")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    _events,
    _choices(),
    st.sets(st.integers(0, 40).map(str)),
    st.integers(1, 9),
    st.lists(st.integers(1, 9), max_size=4),
)
def test_pages_of_any_filter_are_a_plain_scan_s(
    tmp_path: Path,
    events: list[Indexed],
    wanted: dict[str, object],
    judged: set[str],
    size: int,
    cuts: list[int],
) -> None:
    path = tmp_path / "console.sqlite"
    path.unlink(missing_ok=True)
    file = CacheFile(path, "epoch")
    index = EventIndex(file)
    _fill(index, events, cuts)
    VerdictMirror(file).take([Verdict(uid, "blast", True, "anna", 1) for uid in judged], (), 1)
    last = {one.uid: one for one in events}  # of one uid the highest seq is the last word
    expected = [one for one in last.values() if _is_wanted(one, wanted, judged)]
    expected.sort(key=lambda one: (-one.onset_ns, -one.seq))
    choice = _choice(wanted, index)
    found = _all_pages(index, choice, size)
    assert [place.seq for place in found] == [one.seq for one in expected]
    for i, place in enumerate(found):
        newer = index.newer_than(choice, (place.onset_ns, place.seq), 3)
        assert newer == found[max(0, i - 3) : i][::-1]
    assert [place.seq for place in index.since(choice, 5)] == sorted(one.seq for one in expected if one.seq > 5)
    file.close()
    for beside in (f"{path}-wal", f"{path}-shm"):
        Path(beside).unlink(missing_ok=True)


@given(st.integers(1, 60), st.integers(0, 60), st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_stretches_cover_everything_once_while_the_journal_grows_and_is_trimmed(
    oldest: int, count: int, sizes: list[int]
) -> None:
    head = oldest + count - 1
    seen: list[int] = []
    done = None
    for turn in range(400):
        size = sizes[turn % len(sizes)]
        if turn == 3:
            head += 11
            oldest += 4
        piece = next_stretch(done, oldest, head, size)
        if piece is None:
            break
        assert piece[1] - piece[0] < size
        seen += range(piece[0], piece[1] + 1)
        done = joined(done, piece, oldest)
    assert len(seen) == len(set(seen))
    assert set(range(oldest, head + 1)) <= set(seen) or head < oldest
    assert done is None or next_stretch(done, oldest, head, 5) is None or head < oldest


def test_what_the_journal_forgot_is_forgotten(file: CacheFile) -> None:
    index = EventIndex(file)
    members = ("u1", "u2")
    index.add([event(1), event(2), event(3, network=True, members=members)], (1, 3), 1)
    assert index.network_of("u2") == "u3"
    index.forget_before(2)
    assert [place.uid for place in index.page(Choice())] == ["u3", "u2"]
    index.forget_before(9)
    assert index.page(Choice()) == []
    assert index.network_of("u2") is None


def test_verdicts_follow_the_last_word_and_count_by_name(file: CacheFile) -> None:
    index, mirror = EventIndex(file), VerdictMirror(file)
    index.add([event(1), event(2), event(3, name="drilling", cluster=1)], (1, 3), 1)
    mirror.take([Verdict("u1", "blast", True, "a", 1), Verdict("u2", "noise", False, "a", 1)], (), 4)
    names = {label.number: label.name for label in index.labels()}
    assert {names[label]: counts for label, counts in mirror.counts().items()} == {"blast": (2, 1)}
    mirror.take((), ["u2"], 5)
    assert mirror.through() == 5
    assert list(mirror.of(["u1", "u2"])) == ["u1"]
    mirror.begin_anew()
    assert mirror.of(["u1"]) == {}


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_file_that_is_none_of_ours_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "console.sqlite"
    path.write_bytes(content)
    file = CacheFile(path, "e")
    assert EventIndex(file).page(Choice()) == []
    file.close()


def test_another_journal_s_cache_is_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "console.sqlite"
    file = CacheFile(path, "one")
    EventIndex(file).add([event(1)], (1, 1), 1)
    file.close()
    same = CacheFile(path, "one")
    assert len(EventIndex(same).page(Choice())) == 1
    same.close()
    other = CacheFile(path, "two")
    assert EventIndex(other).page(Choice()) == []
    other.close()


def test_a_file_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"console\.sqlite"):
        CacheFile(tmp_path / "nowhere" / "console.sqlite", "e")


def test_embeddings_come_back_as_they_were_and_are_of_one_model(file: CacheFile) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((3, 5)).astype(np.float32)
    store = EmbeddingStore(file, "one", 5)
    store.add(np.array([7, 8, 9]), vectors, (5, 9), 1)
    store.add(np.array([4]), vectors[:1], (3, 4), 4)
    seqs, found = store.all()
    assert seqs.tolist() == [4, 7, 8, 9]
    assert np.array_equal(found, np.vstack((vectors[:1], vectors)))
    assert store.done() == (4, 9)
    of_some = store.of([4, 5, 9])
    assert list(of_some) == [4, 9]
    assert np.array_equal(of_some[9], vectors[2])
    other = EmbeddingStore(file, "two", 5)
    assert other.of([9]) == {}
    assert other.done() is None
    assert other.all()[0].size == 0
    other.add(np.array([9]), vectors[:1], (9, 9), 1)
    assert store.done() is None
    assert other.all()[0].tolist() == [9]
