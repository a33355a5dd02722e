"""The types of event that QuakeML knows (https://quake.ethz.ch/quakeml, BED 1.2, EventType)."""

from __future__ import annotations

import difflib

NOT_REPORTED = "not reported"
NOT_EXISTING = "not existing"
EVENT_TYPES = (
    "accidental explosion",
    "acoustic noise",
    "anthropogenic event",
    "atmospheric event",
    "avalanche",
    "blasting levee",
    "boat crash",
    "building collapse",
    "cavity collapse",
    "chemical explosion",
    "collapse",
    "controlled explosion",
    "crash",
    "debris avalanche",
    "earthquake",
    "experimental explosion",
    "explosion",
    "fluid extraction",
    "fluid injection",
    "hydroacoustic event",
    "ice quake",
    "induced or triggered event",
    "industrial explosion",
    "landslide",
    "meteorite",
    "mine collapse",
    "mining explosion",
    NOT_EXISTING,
    NOT_REPORTED,
    "nuclear explosion",
    "other event",
    "plane crash",
    "quarry blast",
    "reservoir loading",
    "road cut",
    "rock burst",
    "rockslide",
    "slide",
    "snow avalanche",
    "sonic blast",
    "sonic boom",
    "thunder",
    "train crash",
    "volcanic eruption",
)
_EXAMPLES = ("rock burst", "mining explosion", "other event", NOT_EXISTING)
_KNOWN = {one: one for one in EVENT_TYPES} | {"other": "other event"}


def canonical(text: str) -> str | None:
    """As QuakeML writes it, whatever the case; None for what is no type of event."""
    return _KNOWN.get(text.lower())


def checked(text: str) -> str:
    """As QuakeML writes it. Raises ValueError, with those that are spelt alike."""
    if (found := canonical(text)) is not None:
        return found
    near = difflib.get_close_matches(text.lower()[:80], EVENT_TYPES, 4) or _EXAMPLES
    raise ValueError(f"{text!r:.80}: expected an event type of QuakeML, such as {', '.join(near)}")
