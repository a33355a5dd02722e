"""What `doctor` looks at in the state folder: can it be written, is there room, is the journal whole, who holds it."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from tscc_stream.apps.finding import Check, Finding, fail, ok, some, warn
from tscc_stream.config import RetentionConfig
from tscc_stream.edges.journal_check import check_heads, sqlite_findings
from tscc_stream.edges.journal_salvage import connect_read_only
from tscc_stream.edges.journal_schema import check_format, explained, heads_of
from tscc_stream.stages.journal import JournalError

JOURNAL: Final = "journal.sqlite"
LEAST_FREE: Final = 512 << 20
FEW_INODES: Final = 100
QUICK_SECONDS: Final = 4.0
GROWN: Final = 1.2  # what retention lets the journal take beside its limit, until it has trimmed
REMOTE: Final = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "fuse.sshfs",
    "afs",
    "ceph",
    "glusterfs",
    "fuse.glusterfs",
)
LONGEST_NAME: Final = 40
_INTERPRETER: Final = re.compile(r"(python|pypy|perl|ruby|node|java|bash|dash|zsh|sh|php|lua|tclsh|Rscript)[\d.]*")
FLEETING: Final = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The state folder, wherever it will be: path need not be there yet."""

    path: Path
    retention: RetentionConfig

    @property
    def nearest(self) -> Path:
        """The folder itself, or the nearest one above it that is there."""
        folder = self.path.absolute()
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        return folder

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL


def checks(state: StateFolder) -> list[Check]:
    return [
        Check("state_dir", lambda: list(writable(state))),
        Check("file system", lambda: [file_system(state)]),
        Check("disk", lambda: [room(state)]),
        Check("journal", lambda: [journal(state)]),
        Check("lock", lambda: [lock(state)]),
    ]


def writable(state: StateFolder) -> Iterator[Finding]:
    """By writing to it, and by whose files lie there."""
    name, where = "state_dir", state.path.absolute()
    if where.exists() and not where.is_dir():
        yield fail(name, f"{where} is no folder", "move it away, or name another folder as state_dir")
        return
    try:
        with tempfile.TemporaryFile(dir=state.nearest):
            pass
    except OSError as error:
        yield fail(name, f"{state.nearest} cannot be written to: {error.strerror}", _how_to_write(error, where))
        return
    if not where.is_dir():
        yield ok(name, f"{where} is not there yet; the daemon makes it")
        return
    yield from _owners(where)


def _how_to_write(error: OSError, folder: Path) -> str:
    if error.errno == errno.EROFS:
        return f"mount it for writing (mount -o remount,rw), or look in dmesg why it went read-only: {folder}"
    if error.errno == errno.ENOSPC:
        return "the disk is full: make room"
    if not folder.is_dir():
        return f"make it for the daemon's user: install -d -o USER -m 700 {folder}"
    return f"give it to the daemon's user (chown -R USER {folder}), or run this as that user"


def _owners(where: Path) -> Iterator[Finding]:
    """Files of another owner than the folder's, as a run by root leaves them, stop the service from writing."""
    owner = where.stat().st_uid
    others = sorted(entry.name for entry in where.iterdir() if entry.lstat().st_uid != owner)
    if others:
        todo = f"stop the daemon, chown -R {owner} {where}, start it"
        yield fail("state_dir", f"{where} belongs to user {owner}, but {some(others)} to somebody else", todo)
    else:
        yield ok("state_dir", f"{where} can be written to by user {os.geteuid()}")


def file_system(state: StateFolder) -> Finding:
    """SQLite's locks do not hold over a network, and what lies in memory is gone after a restart."""
    name = "file system"
    kind, mount = _mounted(state.nearest.resolve())
    found = f"{kind} at {mount}"
    if kind in REMOTE:
        return fail(name, f"{found}: the journal's locks do not hold over a network", "put state_dir on a local disk")
    if kind in FLEETING:
        return warn(name, f"{found}: in memory, gone after a restart", "put state_dir on a disk")
    return ok(name, found)


def _mounted(path: Path) -> tuple[str, str]:
    """Type and place of the mount that a folder lies on. Source: proc(5), /proc/pid/mountinfo."""
    best = ("unknown", "/")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        place = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal.group(1), 8)), before.split()[4])
        if path.is_relative_to(place) and len(place) >= len(best[1]):  # a later mount hides an earlier one
            best = (after.split()[0], place)
    return best


def room(state: StateFolder) -> Finding:
    """Whether what retention allows still fits."""
    name, disk = "disk", os.statvfs(state.nearest)
    free = disk.f_bavail * disk.f_frsize
    has = _size(state.journal)
    may_take = max(0.0, GROWN * state.retention.max_gib * 2**30 - has)
    found = f"{_amount(free)} free, the journal has {_amount(has)} and may grow to {state.retention.max_gib:g} GiB"
    if free < LEAST_FREE:
        return fail(name, f"nearly full: {found}", "make room: without, nothing is stored, and nothing goes out")
    if disk.f_files and disk.f_favail < FEW_INODES:
        return fail(name, f"{disk.f_favail} inodes free", "remove files that nobody needs: no new one can be made")
    if free < may_take:
        fits = (free + has) / GROWN / 2**30
        return warn(name, found, f"make room, or set retention.max_gib to {fits:.1f} or less")
    return ok(name, found)


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*") if one.is_file())


def _amount(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def journal(state: StateFolder) -> Finding:
    """A quick look; `tscc-stream journal check` looks at everything."""
    name, path = "journal", state.journal
    if not path.exists():
        return ok(name, "there is none yet; the daemon makes it")
    try:
        db = connect_read_only(path)
        try:
            wrong, head, complete = _looked_at(db, path)
        finally:
            db.close()
    except JournalError as error:
        return fail(name, *_parted(str(error), path))
    if wrong:
        todo = (
            f"tscc-stream journal check --state-dir {state.path} tells all; then restore a backup (docs/operating.md)"
        )
        return fail(name, f"{path} is damaged: {some(wrong, 2)}", todo)
    return ok(
        name, f"{path}: head {head}" + ("" if complete else f"; looked at for {QUICK_SECONDS:g} s, not to its end")
    )


def _looked_at(db: sqlite3.Connection, path: Path) -> tuple[list[str], int, bool]:
    with explained(path, "read it"):
        check_format(db, path)
        head = sum(heads_of(db).values())
        check_heads(db, path, head)
        wrong, complete = sqlite_findings(db, "quick_check", QUICK_SECONDS)
        return wrong, head, complete


def _parted(sentence: str, path: Path) -> tuple[str, str]:
    """What is wrong, and the advice that an error of the journal already carries."""
    wrong, _, advice = sentence.partition("; ")
    return wrong, advice or f"move {path.name} away, or restore a backup (docs/operating.md)"


def holder_of(path: Path) -> int | None:
    """Process that has locked a file, without touching the lock. Source: proc(5), /proc/locks."""
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        match = re.search(r"FLOCK\s+ADVISORY\s+WRITE\s+(-?\d+)\s+\S+:(\d+)\s", line)
        if match and int(match.group(2)) == inode:
            return int(match.group(1))
    return None


def lock(state: StateFolder) -> Finding:
    """Whether a daemon writes the journal. A lock ends with its process: a file that is left over holds nobody up."""
    name, path = "lock", state.journal.with_name(f"{JOURNAL}.lock")
    if not path.exists():
        return ok(name, "no daemon has run here")
    pid = holder_of(path)
    if pid is not None:
        return ok(name, f"process {pid} ({program_of(pid)}) writes the journal")
    written = path.read_text(encoding="ascii", errors="replace")[:20].strip() or "unknown"
    return ok(name, f"no daemon runs; the lock file is left over from process {written} and holds nobody up")


def program_of(pid: int) -> str:
    """Name of a process's program, and of the script or module that an interpreter runs. No arguments: passwords may be
    among them.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        named = re.match(r"[\w.+-]+", words[0].split(" ")[0].rpartition("/")[2])  # a process may write its own title
        if named is None:
            return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"
    program = named.group()[:LONGEST_NAME]
    runs = _run_by(program, words[1:], Path(f"/proc/{pid}/cwd")) if _INTERPRETER.fullmatch(program) else ""
    return f"{program} {runs}".strip()


def _run_by(interpreter: str, words: list[str], folder: Path) -> str:
    """The first word that is no option, if it is a file's or a module's name; empty where that cannot be told."""
    for before, word in pairwise(["", *words]):
        if before == "-m" and interpreter.startswith("py"):
            return word[:LONGEST_NAME] if re.fullmatch(r"[\w.]+", word) else ""
        if word and not word.startswith("-"):
            try:
                return Path(word).name[:LONGEST_NAME] if (folder / word).is_file() else ""
            except (OSError, ValueError):
                return ""
    return ""
