"""Which patterns can match a channel, and which match one together."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream.channel_patterns import can_match, channel_pattern, matched_together

_CODES = st.text("ABZ01-", max_size=4)
_NAMES = st.one_of(
    st.tuples(_CODES, _CODES, _CODES, st.text("ABZ0", min_size=3, max_size=3)),
    st.tuples(_CODES, _CODES, _CODES, st.tuples(_CODES, _CODES, _CODES).map("_".join)),
).map(".".join)
_PATTERNS = st.lists(st.sampled_from([*"ABZ01-._*?", "[AB]", "[!A]", "[", "[]", "[!]Z]", ":"]), max_size=9).map("".join)


@pytest.mark.parametrize(
    "pattern",
    ["MN.GEO1..GHZ", "MN.*", "*", "*GHZ", "*HZ", "MN.GEO1..G_*", "BW.UH[34].*.SH?", "[A-C]?.*.?HZ", "mn.geo1..ghz"],
)
def test_patterns_that_can_match(pattern: str) -> None:
    assert channel_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "MN_GEO1:GHZ", "MN_GEO1:*", "MN_*", "MN.GEO1:GHZ", "GEO1", "MN.GEO1.GHZ", "MN.GEO1..HZ", "MN.GEO1..",
        "*.*.*.*.*", "MN.GEO1.. GHZ", "MN.GEO1..[]", "?", "", "MN/GEO1/*",
    ],
)  # fmt: skip
def test_patterns_that_cannot(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"can match no channel; expected NET\.STA\.LOC\.CHA, .* MN\.GEO1\.\.GHZ"):
        channel_pattern(pattern)


def _names(patterns: list[str]) -> set[frozenset[str]]:
    return {frozenset(patterns[number] for number in one) for one in matched_together(patterns)}


def test_only_what_overlaps_is_matched_together() -> None:
    assert _names(["MN.*", "BW.*"]) == {frozenset({"MN.*"}), frozenset({"BW.*"})}
    assert frozenset({"MN.*", "*.GHZ"}) in _names(["MN.*", "*.GHZ"])
    assert _names(["MN.G?.*", "MN.G1.*", "MN.G2.*"]) == {
        frozenset({"MN.G?.*"}),
        frozenset({"MN.G?.*", "MN.G1.*"}),
        frozenset({"MN.G?.*", "MN.G2.*"}),
    }


def test_what_always_matches_as_well_is_never_left_out() -> None:
    """The only channel of the first two is named by the third."""
    one, other, named = "MN.G1..*", "*.GHZ", "MN.G1..GHZ"
    assert _names([one, other, named]) == {frozenset({one}), frozenset({other}), frozenset({one, other, named})}


@given(st.lists(_PATTERNS, min_size=1, max_size=4, unique=True), _NAMES)
def test_no_channel_is_overlooked(patterns: list[str], name: str) -> None:
    matched = frozenset(pattern for pattern in patterns if fnmatchcase(name, pattern))
    assert not matched or matched in _names(patterns)
    assert all(can_match(pattern) for pattern in matched)


def test_patterns_that_overlap_in_every_way_end() -> None:
    assert sum(1 for _ in matched_together([f"*{letter}*" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])) > 100
