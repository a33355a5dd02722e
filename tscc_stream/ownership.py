"""Files that root makes in a service's folder, as a command line does under sudo: the service must be able to use them,
whatever root's umask is.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def give_to_owner_of_folder(path: Path) -> None:
    """Where root runs: the file, made where there is none, belongs to whom its folder belongs to. Raises OSError.

    Before SQLite opens it: then the log beside it is the same owner's. It is never opened here, since to close it would
    give up the locks that this process has on it. A link is not followed, and of two names none is given: whoever owns
    the folder could have put them there to be given somebody else's file.
    """
    if os.geteuid() != 0:
        return
    owner = path.parent.stat()
    with suppress(FileExistsError):
        os.mknod(path, 0o644 | stat.S_IFREG)
    found = path.lstat()
    if found.st_nlink == 1 and (found.st_uid, found.st_gid) != (owner.st_uid, owner.st_gid):
        with suppress(OSError):  # the root of a container may not, and is then the one who writes here
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def belong_to_folder(path: Path) -> None:
    """A file or folder: all may read it, and where root runs it belongs to whom its folder belongs to. Raises OSError.

    A link, and a file of two names, are left alone, for the reason above.
    """
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give_descriptor(descriptor, path.parent)
    finally:
        os.close(descriptor)


def give_descriptor(descriptor: int, folder: Path) -> None:
    """As `belong_to_folder`, of what is open: its name may lead to something else by now."""
    found, owner = os.fstat(descriptor), folder.stat()
    is_folder = stat.S_ISDIR(found.st_mode)
    if not is_folder and found.st_nlink > 1:
        return
    readable = found.st_mode | (0o555 if is_folder else 0o444)
    if readable != found.st_mode:
        os.fchmod(descriptor, stat.S_IMODE(readable))
    if os.geteuid() == 0 and (found.st_uid, found.st_gid) != (owner.st_uid, owner.st_gid):
        with suppress(OSError):  # as above
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def replace_text(path: Path, text: str) -> None:
    """The file's new content, in one step and on the disk: a reader sees the old one or this one. Raises OSError."""
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            give_descriptor(descriptor, path.parent)
            file.flush()
            os.fsync(descriptor)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
