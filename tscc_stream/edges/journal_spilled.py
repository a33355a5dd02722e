"""Windows in the journal that wait to be classified, and which of them are done with.

A window that is done with stays in its table until the next snapshot is stored: a process that is killed goes on from
the snapshot before, in which network events may still wait for it, and has to meet it again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from tscc_stream.edges.journal_schema import number_of


class SpilledWindows:
    """The table `spilled` of one writer. Raises sqlite3.Error.

    What `delete` and `add` do counts once the transaction around them is committed and `finish` or `added` is called.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.rows = number_of(db, "SELECT count(*) FROM spilled")
        self._done: set[str] = set()
        self._first_place = 0  # every window before it is done

    @property
    def waiting(self) -> int:
        """Windows that are not done."""
        return self.rows - len(self._done)

    def add(self, windows: Iterable[tuple[str, bytes]]) -> int:
        """How many windows (uid, bytes) came in; one that is there already stays as it is."""
        query = "INSERT OR IGNORE INTO spilled (uid, window) VALUES (?, ?)"
        return max(0, self._db.executemany(query, windows).rowcount)  # -1 where there was none

    def added(self, uids: Iterable[str], rows: int) -> None:
        """One that was done and comes again waits again."""
        self.rows += rows
        again = self._done.intersection(uids)
        if again:
            self._done -= again
            self._first_place = 0

    def held(self, uids: Iterable[str]) -> set[str]:
        """Those that are there, done or not."""
        if not self.rows:
            return set()
        query = "SELECT EXISTS (SELECT 1 FROM spilled WHERE uid = ?)"
        return {uid for uid in uids if number_of(self._db, query, (uid,))}

    def oldest(self, limit: int) -> list[tuple[str, bytes]]:
        """Windows that are not done, in the order in which they came, at most `limit`."""
        if not self.waiting:
            return []
        query = "SELECT uid, window FROM spilled WHERE uid = ?"
        return [self._db.execute(query, (uid,)).fetchone() for uid in self._oldest(limit)]

    def _oldest(self, limit: int) -> list[str]:
        uids: list[str] = []
        query = "SELECT place, uid FROM spilled WHERE place >= ? ORDER BY place"
        for place, uid in self._db.execute(query, (self._first_place,)):
            if uid in self._done:
                continue
            if not uids:
                self._first_place = place
            uids.append(uid)
            if len(uids) >= limit:
                break
        return uids

    def delete(self, done: set[str]) -> None:
        """Take out what is done, and `done`: the snapshot of the same transaction knows what became of them."""
        self._db.executemany("DELETE FROM spilled WHERE uid = ?", [(uid,) for uid in self._done | done])

    def finish(self, done: set[str], deleted: bool) -> None:
        """`done`, of what is there, is done with. deleted: and everything that is done is there no longer."""
        self._done |= done
        if deleted:
            self.rows -= len(self._done)
            self._done.clear()
            self._first_place = 0  # places are given out again
