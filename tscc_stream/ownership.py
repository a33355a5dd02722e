"""Files that root makes in a service's folder, as a command line does under sudo: the service must be able to write."""

from __future__ import annotations

import os
import stat
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
