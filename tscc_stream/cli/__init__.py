"""The command line: arguments in, one function called, errors as one sentence on stderr.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Final, NoReturn

from tscc_stream import __version__
from tscc_stream.cli.command import PROGRAM, UsageError

GROUPS: Final = {
    "alerts": ("alert",),
    "bridge": ("bridge",),
    "live": ("run", "demo", "tail", "bus-key", "check-config", "http-user"),
    "journal": ("journal",),
    "gaps": ("gaps",),
    "fleet": ("coincide",),
    "report": ("report",),
    "ops": ("doctor", "support-bundle"),
    "recordings": ("classify", "serve", "simulate"),
    "scan": ("scan",),
    "models": ("train", "dataset", "model"),
    "evaluation": ("evaluate",),
    "people": ("console",),
    "benches": ("bench",),
}
"""Modules of this package, each with the commands that it adds; only the one that is needed is loaded."""


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command; its exit status."""
    options = _parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has gone
        return 0
    except Exception as error:  # the one place where errors become a sentence; --debug shows the rest
        if options.debug:
            raise
        complain = getattr(options, "complain", _complain)  # a command may have a better way to tell
        for line in _sentences(error):
            complain(line)
        return 2 if isinstance(error, UsageError) or _mistakes(error) else 1


def program() -> NoReturn:
    """The command line as a process.

    A thread that comes back out of compiled code while the interpreter ends aborts the process: where one may, the
    process ends without that.
    """
    status = main()
    aside = sys.modules.get("tscc_stream.aside")  # where nobody has loaded it, no such thread was started
    if aside is not None and aside.at_work():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _complain(sentence: str) -> None:
    print(f"{PROGRAM}: {sentence}", file=sys.stderr)


def _sentences(error: Exception) -> tuple[str, ...]:
    if mistakes := _mistakes(error):
        return mistakes
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return (_of_file(error, Path(os.fsdecode(error.filename))),)
    text = " ".join(str(error).split())
    ours = type(error).__module__.startswith("tscc_stream")
    return (text if ours and text else f"{type(error).__name__}: {text} (--debug shows where)",)


def _of_file(error: OSError, path: Path) -> str:
    """What is wrong with a file or folder, and where it can be told what to do."""
    if isinstance(error, FileNotFoundError) and not path.absolute().parent.is_dir():
        return f"{path}: there is no folder {path.absolute().parent}; make it first, or name another"
    words = {
        FileNotFoundError: "no such file or folder",
        IsADirectoryError: "is a folder; expected a file",
        NotADirectoryError: "lies below a file; expected a folder there",
        PermissionError: f"user {os.geteuid()} has no right to it",
        FileExistsError: "is there already",
    }
    return f"{path}: {words.get(type(error), error.strerror)}"


def _mistakes(error: Exception) -> tuple[str, ...]:
    """Those of a configuration."""
    from tscc_stream.config import ConfigError  # noqa: PLC0415 takes a tenth of a second

    return error.mistakes if isinstance(error, ConfigError) else ()


def _groups(arguments: list[str]) -> list[str]:
    """The one that has the command; all of them for help, or where there is no such command."""
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    return [group for group, commands in GROUPS.items() if command in commands] or list(GROUPS)


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Real-time clustering of microseismic events: SeedLink in, clustered detections out."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in _groups(arguments):
        import_module(f"{__name__}.{group}").add(commands)
    return parser
