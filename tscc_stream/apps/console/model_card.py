"""A model's card.md as HTML: headings, paragraphs, lists, tables, code. Everything else is text. Pure.

The card comes with a model from elsewhere: each of its characters is escaped before anything is made of it, so that no
tag comes out but those that are written here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import escape

MOST_LETTERS = 100_000
_STRONG = re.compile(r"\*\*(.+?)\*\*")
_CODE = re.compile(r"`([^`]+)`")
_HEADING = re.compile(r"(#{1,4}) +(.*)")
_ITEM = re.compile(r"[-*] +(.*)")
_RULE = re.compile(r"\|[\s|:-]+\|?")
_Block = list[str]


def html_of(card: str) -> str:
    """One heading level lower than in the card, since the page has its own."""
    return "\n".join(_made(block) for block in _blocks(card[:MOST_LETTERS]))


def _kind(line: str) -> str:
    if not line.strip():
        return ""
    for name, fits in _KINDS:
        if fits(line):
            return name
    return "paragraph"


_KINDS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("code", lambda line: line.startswith(("    ", "\t"))),
    ("heading", lambda line: _HEADING.fullmatch(line.strip()) is not None),
    ("list", lambda line: _ITEM.fullmatch(line.strip()) is not None),
    ("table", lambda line: line.startswith("|")),
)


def _blocks(card: str) -> Iterator[tuple[str, _Block]]:
    """(kind, lines): lines of one kind that follow one another; a list's items go on over lines without a dash."""
    kind, lines = "", _Block()
    for line in card.splitlines():
        found = _kind(line)
        goes_on = found == kind != "heading" or (kind == "list" and found in ("paragraph", "code"))
        if goes_on and found:
            lines.append(line)
            continue
        if lines:
            yield kind, lines
        kind, lines = found, [line] if found else []
    if lines:
        yield kind, lines


def _made(block: tuple[str, _Block]) -> str:
    kind, lines = block
    if kind == "code":
        return f"<pre>{escape(chr(10).join(line[4:] for line in lines))}</pre>"
    if kind == "heading":
        match = _HEADING.fullmatch(lines[0].strip())
        level, text = (len(match[1]), match[2]) if match else (1, lines[0])
        return f"<h{level + 2}>{_inline(text)}</h{level + 2}>"
    if kind == "list":
        return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in _items(lines))}</ul>"
    if kind == "table":
        return _table(lines)
    return f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>"


def _items(lines: _Block) -> list[str]:
    items: list[str] = []
    for line in lines:
        match = _ITEM.fullmatch(line.strip())
        if match:
            items.append(match[1])
        else:
            items[-1] += f" {line.strip()}"
    return items


def _table(lines: _Block) -> str:
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if not _RULE.fullmatch(line)
    ]
    head, *body = rows or [[]]
    cells = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
    made = "".join(f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in body)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{made}</tbody></table></div>'


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", _STRONG.sub(r"<b>\1</b>", escape(text)))
