"""What the journal stores, in which order and with which identity.

Numbers: `seq` counts all messages from 1 without holes; `topic_seq` counts per first two parts of the topic.
Identity: the same data make the same messages again after every restart, and the journal is where they end:

- a message with a uid that is there already is refused; an event's last word (final) is stored beside its early notice,
  and an early notice that comes after the last word is refused, so that the last word stands;
- a detection of a channel within half a sample (tolerance_ns) of one that is there is refused, whatever its uid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tscc_stream.messages import Committed, Message, topic_group

_Result = TypeVar("_Result")


class JournalError(RuntimeError):
    """A journal that cannot be opened, read or written, and why, in one sentence."""


class JournalBlockedError(JournalError):
    """It cannot be read or written now: no room, locked, read-only, an error of the disk. The same may work later."""


class JournalDamagedError(JournalError):
    """Its file holds something that SQLite did not write. The same will fail again."""


class UntilDone(Protocol):
    """Does something with the journal, again and again while it is blocked; raises every other error."""

    def __call__(self, write: Callable[[], _Result]) -> _Result: ...


class Stored(Protocol):
    """What is there already."""

    def has_uid(self, uid: str, final: bool) -> bool:
        """Whether the last word of this uid is there (final True), or anything of it at all (final False)."""
        ...

    def has_onset(self, sid: str, from_ns: int, to_ns: int) -> bool:
        """Whether a detection of this channel is there with from_ns <= onset_ns <= to_ns."""
        ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a restart goes on from, as it is stored beside the journal's head of the same instant.

    format: of `state`. made_of: JSON, what must be the same for `state` to be of use. positions: JSON, by server;
    reached: JSON, data time (ns) by source id, before which everything is journalled; state: for this format alone.
    """

    format: int
    made_of: bytes
    positions: bytes
    reached: bytes
    state: bytes

    def checksum(self, head: int) -> bytes:
        """SHA-256 over all of it and the head that it was stored with."""
        parts = (b"%d %d" % (self.format, head), self.made_of, self.positions, self.reached, self.state)
        return hashlib.sha256(b"".join(b"%d:" % len(part) + part for part in parts)).digest()


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot out of the journal. intact: its checksum holds."""

    snapshot: Snapshot
    head: int
    intact: bool


@dataclass(frozen=True, slots=True)
class GapEntry:
    """One line of the ledger of gaps. to_ns: None while it lasts; noted_ns: wall time at which it was noted."""

    sid: str
    from_ns: int
    to_ns: int | None
    cause: str
    noted_ns: int


@dataclass(frozen=True, slots=True)
class Numbered:
    """A group with its numbers, and the heads after it. duplicates: how many were refused."""

    committed: tuple[Committed, ...]
    duplicates: int
    head: int
    heads: dict[str, int]


class _Group:
    """What is stored already, together with what this group adds to it."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._final: dict[str, bool] = {}
        self._onsets: dict[str, list[int]] = {}

    def refuses(self, message: Message) -> bool:
        return self._has_uid(message.uid, message.final) or (message.kind == "detection" and self._has_onset(message))

    def _has_uid(self, uid: str, final: bool) -> bool:
        here = uid in self._final and (self._final[uid] or not final)
        return here or self._stored.has_uid(uid, final)

    def _has_onset(self, message: Message) -> bool:
        onset_ns, tolerance_ns = message.onset_ns, message.tolerance_ns
        here = any(abs(other - onset_ns) <= tolerance_ns for other in self._onsets.get(message.sid, ()))
        return here or self._stored.has_onset(message.sid, onset_ns - tolerance_ns, onset_ns + tolerance_ns)

    def add(self, message: Message) -> None:
        self._final[message.uid] = message.final
        if message.kind == "detection":
            self._onsets.setdefault(message.sid, []).append(message.onset_ns)


def number(messages: Iterable[Message], head: int, heads: Mapping[str, int], stored: Stored) -> Numbered:
    """Number what is new among `messages`, in their order, after `head` and `heads` (last topic_seq per topic group).

    How messages are cut into groups changes nothing: numbering two groups one after the other equals numbering both
    at once.
    """
    group, new_heads = _Group(stored), dict(heads)
    committed: list[Committed] = []
    duplicates = 0
    for message in messages:
        if group.refuses(message):
            duplicates += 1
            continue
        group.add(message)
        topic = topic_group(message.topic)
        new_heads[topic] = new_heads.get(topic, 0) + 1
        committed.append(Committed(head + len(committed) + 1, new_heads[topic], message))
    return Numbered(tuple(committed), duplicates, head + len(committed), new_heads)
