"""An alert for a program: JSON on its standard input. Whoever runs too long is killed with all that it has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tscc_stream.config_alerts import CommandConfig

MOST_BYTES = 300
"""Of what the program says on stderr, that the outcome shows."""


class CommandError(RuntimeError):
    """The program did not do it, and why, in one sentence."""


def execute(config: CommandConfig, document: Mapping[str, Any]) -> str:
    """Run it once; blocks for timeout_seconds at most. Raises CommandError unless it ends with 0."""
    with tempfile.TemporaryFile() as said:  # a pipe would be held open by what the program leaves behind
        try:
            process = subprocess.Popen(
                config.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise CommandError(f"{config.argv[0]}: cannot be started: {why}") from error
        try:
            process.communicate(json.dumps(document, allow_nan=False).encode() + b"\n", config.timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"{config.argv[0]}: killed after {config.timeout_seconds:g} s") from error
        finally:
            _end(process)
        if process.returncode:
            raise CommandError(f"{config.argv[0]}: ended with {process.returncode}: {_last_words(said)}".rstrip(": "))
    return "ended with 0"


def _end(process: subprocess.Popen[bytes]) -> None:
    """The group is killed only while its leader is not reaped, so that its number cannot be somebody else's."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # it has not read everything, and need not
            process.stdin.close()


def _last_words(said: Any) -> str:  # noqa: ANN401  # what tempfile gives has no public name
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - MOST_BYTES))
    text = said.read(MOST_BYTES).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()
