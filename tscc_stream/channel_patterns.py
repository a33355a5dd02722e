"""Patterns over `NET.STA.LOC.CHA`, as `fnmatch` reads them: whether any channel can match, and which match together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from string import ascii_letters, digits
from typing import Final

FORM: Final = (
    "expected NET.STA.LOC.CHA, * and ? allowed, for example MN.GEO1..GHZ or MN.GEO*, since NET_STA:LOCCHA is how "
    "seedlink[].streams are written alone"
)
MOST_STEPS: Final = 2_000_000
"""Of a walk: a few seconds. What patterns that overlap in more ways than that do together is not looked at further."""
_CODE: Final = ascii_letters + digits + "-"
_NAME: Final[tuple[Mapping[str, int], ...]] = (
    {"code": 0, ".": 1},
    {"code": 1, ".": 2},
    {"code": 2, ".": 3},
    {"code": 4, "_": 8},
    {"code": 5, "_": 8},
    {"code": 6, "_": 8},
    {"code": 7, "_": 8},
    {"code": 7, "_": 8},
    {"code": 8, "_": 9},
    {"code": 9},
)
"""Names of channels, by place: what may follow, and the place after it. CHA is three letters, or B_S_SS."""
_WHOLE: Final = frozenset((6, 9))
_Place = tuple[tuple[int, ...], int]


def channel_pattern(text: str) -> str:
    """The same text. Raises ValueError where it can match no channel."""
    if not can_match(text):
        raise ValueError(f"{text!r} can match no channel; {FORM}")
    return text


@lru_cache(maxsize=4096)
def can_match(pattern: str) -> bool:
    """Whether any NET.STA.LOC.CHA matches."""
    return next(matched_together((pattern,)), None) is not None


def matched_together(patterns: Sequence[str]) -> Iterator[frozenset[int]]:
    """Which patterns (by place) match one channel, and no other of them does: once for each such choice of them.

    All names are spelled at once, letter by letter, keeping how far each pattern has come; letters that no pattern
    names are as good as one. Ends early after MOST_STEPS.
    """
    walk = _Walk(patterns)
    told: set[frozenset[int]] = set()
    seen = {walk.begin}
    waiting = list(seen)
    while waiting and walk.steps < MOST_STEPS:
        reached, place = waiting.pop()
        if place in _WHOLE:
            matched = frozenset(walk.ends[position] for position in reached if position in walk.ends)
            if matched and matched not in told:
                told.add(matched)
                yield matched
        for after in walk.following(reached, place):
            if after not in seen:
                seen.add(after)
                waiting.append(after)


@lru_cache(maxsize=16)
def overlaps(patterns: tuple[str, ...]) -> tuple[frozenset[int], ...]:
    """All that `matched_together` gives, fewest patterns first; remembered, since each shard's settings ask again."""
    return tuple(sorted(matched_together(patterns), key=lambda one: (len(one), sorted(one))))


class _Walk:
    """Positions in all patterns, one pattern behind the other. ends: where a pattern is matched -> its place."""

    def __init__(self, patterns: Sequence[str]) -> None:
        parts = [list(_parts(pattern)) for pattern in patterns]
        distinct = {part for row in parts for part in row}
        letters = _letters(distinct)
        moves = {one: "".join(letter for letter in letters if fnmatchcase(letter, one)) for one in distinct}
        self._by_kind = {".": ".", "_": "_", "code": "".join(letter for letter in letters if letter in _CODE)}
        self._moves: list[str] = []
        self._stays: list[bool] = []
        self.ends: dict[int, int] = {}
        begin = []
        for number, row in enumerate(parts):
            begin.append(len(self._moves))
            stays = False
            for part in row:
                if part == "*":
                    stays = True
                else:
                    self._add(moves[part], stays)
                    stays = False
            self.ends[len(self._moves)] = number
            self._add("", stays)
        self.begin: _Place = tuple(begin), 0
        self.steps = 0

    def _add(self, moves: str, stays: bool) -> None:
        self._moves.append(moves)
        self._stays.append(stays)

    def following(self, reached: tuple[int, ...], place: int) -> Iterator[_Place]:
        """Where one more letter leads, without those after which nothing can match."""
        for kind, after in _NAME[place].items():
            allowed = self._by_kind[kind]
            by_letter: dict[str, set[int]] = {}
            for position in reached:
                if self._stays[position]:
                    self._reach(by_letter, allowed, position)
                self._reach(by_letter, self._moves[position], position + 1)
            for letter in allowed:
                if letter in by_letter:
                    yield tuple(sorted(by_letter[letter])), after

    def _reach(self, by_letter: dict[str, set[int]], letters: str, position: int) -> None:
        self.steps += len(letters)
        for letter in letters:
            by_letter.setdefault(letter, set()).add(position)


def _parts(pattern: str) -> Iterator[str]:
    """`*`, `?`, `[...]` and single letters, cut as fnmatch cuts them."""
    at = 0
    while at < len(pattern):
        end = _end_of_set(pattern, at) if pattern[at] == "[" else at + 1
        yield "[[]" if pattern[at:end] == "[" else pattern[at:end]
        at = end


def _end_of_set(pattern: str, at: int) -> int:
    """Behind the bracket that closes the one at a place; behind that one alone where none does."""
    first = at + 1 + (pattern[at + 1 : at + 2] == "!")
    close = pattern.find("]", first + 1) if pattern[first : first + 1] == "]" else pattern.find("]", first)
    return at + 1 if close < 0 else close + 1


def _letters(parts: Iterable[str]) -> str:
    """Those that a name may hold and some pattern names, and one that stands for all others."""
    plain = [part for part in parts if part not in {"*", "?"}]
    named = [letter for letter in _CODE if any(fnmatchcase(letter, part) for part in plain)]
    other = next((letter for letter in _CODE if letter not in named), "")
    return "".join(("._", *named, other))
