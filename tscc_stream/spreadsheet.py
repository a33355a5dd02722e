"""Rows for spreadsheets, which take a text that begins with one of a few characters for a formula, and carry it out."""

from __future__ import annotations

from collections.abc import Mapping

_FORMULA = ("=", "+", "-", "@")


def harmless(row: Mapping[str, object]) -> dict[str, object]:
    """The row, where a text that would be a formula has an apostrophe before it; a number stays one."""
    return {name: _harmless(cell) for name, cell in row.items()}


def _harmless(cell: object) -> object:
    if not isinstance(cell, str) or not cell.lstrip().startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
