"""What is wrong with a value, in our words: what was expected. The checks themselves are pydantic's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_EXPECTED: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "extra_forbidden": "unknown key",
    "model_type": "expected keys with values",
    "model_attributes_type": "expected keys with values",
    "dict_type": "expected keys with values",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "string_type": "expected a text",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "expected a smaller number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
}
COLOUR: Final = r"^#[0-9a-fA-F]{6}$"
WORD: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
WORDS: Final = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}$"
DEVICE: Final = r"^(auto|cpu|cuda(:\d+)?)$"
COMPONENT: Final = r"^([A-Za-z0-9-]+|\*)$"
LOCAL_TIME: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?$"
_FORMS: Final[Mapping[str, str]] = {
    COLOUR: "a colour such as #1f77b4",
    WORD: "at most 64 letters, digits, `.`, `_` or `-`, the first a letter or digit",
    WORDS: "at most 60 letters, digits, blanks, `.`, `_` or `-`, the first a letter or digit",
    DEVICE: "auto, cpu, cuda or cuda:N",
    LOCAL_TIME: "a time such as 2026-11-20T06:00",
    COMPONENT: "letters, digits or `-`, or * alone",
}
_WITH_LIMITS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "greater_than": lambda limits: f"expected more than {limits['gt']:g}",
    "greater_than_equal": lambda limits: f"expected {limits['ge']:g} or more",
    "less_than": lambda limits: f"expected less than {limits['lt']:g}",
    "less_than_equal": lambda limits: f"expected at most {limits['le']:g}",
    "literal_error": lambda limits: f"expected {limits['expected']}",
    "string_too_short": lambda limits: f"expected at least {_letters(limits['min_length'])}",
    "string_too_long": lambda limits: f"expected at most {_letters(limits['max_length'])}",
    "string_pattern_mismatch": lambda limits: f"expected {_FORMS.get(limits['pattern'], limits['pattern'])}",
    "too_short": lambda limits: f"expected at least {limits['min_length']} of them",
    "too_long": lambda limits: f"expected at most {limits['max_length']} of them, not {limits['actual_length']}",
    "json_invalid": lambda limits: f"expected JSON ({limits['error']})",
}


def expected(error: ErrorDetails) -> str:
    """Of one mistake. One that was put into words before has them as `said` in its context."""
    kind, context = error["type"], error.get("ctx", {})
    if "said" in context:
        return str(context["said"])
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in _WITH_LIMITS and context:
        return _WITH_LIMITS[kind](context)
    message = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def first(error: ValidationError, name: str) -> str:
    """The first of several, with its place: `band_hz.0: expected a number`. name: of what has no place of its own."""
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc'])) or name}: {expected(found)}"


def _letters(count: int) -> str:
    return "1 letter" if count == 1 else f"{count} letters"
