"""What the daemon writes to stderr: lines for people, or one JSON object per line.

Under journald each line begins with its priority, `<3>` for an error, which journald takes off and keeps as the
priority of the entry, and the time is left to it. Source: sd-daemon(3); systemd.exec(5), JOURNAL_STREAM.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, get_args

Form = Literal["text", "json"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)
VARIABLE: Final = "TSCC_LOG_FORMAT"

_COLOURS: Final = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[1;31m"}
_PLAIN: Final = "\x1b[0m"


def form_of(asked: str | None, environment: Mapping[str, str]) -> Form:
    """What was asked for, else what the environment says, else text. Raises ValueError."""
    said = asked or environment.get(VARIABLE) or "text"
    for form in FORMS:
        if said == form:
            return form
    raise ValueError(f"{VARIABLE} {said!r}: expected text or json")


def set_up(form: Form, stream: TextIO, environment: Mapping[str, str]) -> None:
    """The root logger writes there from now on, from level INFO on; colour only on terminals that want it."""
    journald = _is_journald(stream, environment)
    line: logging.Formatter
    if form == "json":
        line = JsonLines()
    elif journald:
        line = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    elif stream.isatty() and not environment.get("NO_COLOR"):
        line = Coloured("%(asctime)s %(levelname)s %(name)s: %(message)s")
    else:
        line = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Prioritised(line) if journald else line)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)


def _is_journald(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether the stream is the one that JOURNAL_STREAM names, by device and inode: children may inherit the name."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JsonLines(logging.Formatter):
    """One object: time (UTC), level, logger, message, thread, and where there was an error its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "thread": record.threadName,
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


class Coloured(logging.Formatter):
    """Warnings yellow, errors red."""

    def format(self, record: logging.LogRecord) -> str:
        colour = _COLOURS.get(record.levelno, "")
        return f"{colour}{super().format(record)}{_PLAIN if colour else ''}"


class Prioritised(logging.Formatter):
    """Another one's lines, each with its priority: journald takes every line for an entry of its own."""

    def __init__(self, line: logging.Formatter) -> None:
        super().__init__()
        self._line = line

    def format(self, record: logging.LogRecord) -> str:
        priority = f"<{_priority(record.levelno)}>"
        return "\n".join(f"{priority}{line}" for line in self._line.format(record).splitlines())


def _priority(level: int) -> int:
    """Of syslog: 2 critical, 3 error, 4 warning, 6 information, 7 debugging."""
    steps = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((number for least, number in steps if level >= least), 7)
