"""Sections of what people at a site see: their time zone, their shifts, their words for what the rock does."""

from __future__ import annotations

import re
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field

from tscc_stream import event_types
from tscc_stream.config_section import Section
from tscc_stream.mistakes import COLOUR

_SHIFT = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r}: expected a name such as UTC, Africa/Johannesburg or America/Toronto") from error
    return name


def minutes_of(span: str) -> tuple[int, int]:
    """`HH:MM-HH:MM` -> minutes of the day, from and up to, where the second may be the smaller. Raises ValueError."""
    match = _SHIFT.fullmatch(span)
    if match is None:
        raise ValueError(f"{span!r}: expected HH:MM-HH:MM, for example 06:00-14:00")
    begin_h, begin_m, end_h, end_m = (int(part) for part in match.groups())
    return 60 * begin_h + begin_m, 60 * end_h + end_m


def _span(text: str) -> str:
    begin, end = minutes_of(text)
    if begin == end:
        raise ValueError(f"{text!r}: begins where it ends")
    return text


TimeZone = Annotated[str, AfterValidator(_time_zone)]
"""An IANA name."""
Span = Annotated[str, AfterValidator(_span)]
"""HH:MM-HH:MM in the site's time zone; over midnight where the second is the smaller."""
Shifts = Annotated[dict[Annotated[str, Field(min_length=1, max_length=40)], Span], Field(min_length=1, max_length=12)]


class Term(Section):
    """A word for a kind of source. event_type: of QuakeML."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    event_type: Annotated[str, AfterValidator(event_types.checked)] = event_types.NOT_REPORTED
    colour: Annotated[str, Field(pattern=COLOUR)] = "#888888"


def no_term_twice(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """The same terms. Raises ValueError where two have one name."""
    names = [term.name for term in terms]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice!r} is given twice")
    return terms
