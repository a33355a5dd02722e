"""Which of several servers with the same streams is tried next. Pure: told what happened, it names one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final


class ServerChoice:
    """In turn, round and round. A server is left after two attempts without data, or as soon as its data are silent.

    Once all have been tried in vain, each has one attempt per round, so that the first that comes back is found within
    one wait. Nothing leads back to an earlier server while the present one sends.
    """

    ATTEMPTS: Final = 2

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = tuple(servers)
        self._at = self._attempts = self._left = 0

    @property
    def server(self) -> str:
        """The one to try now."""
        return self._servers[self._at]

    def worked(self) -> None:
        """The present server sent data."""
        self._attempts = self._left = 0

    def failed(self) -> bool:
        """An attempt brought no data. Whether another server is to be tried at once, without a wait before."""
        self._attempts += 1
        if self._attempts < self.ATTEMPTS and self._left < len(self._servers):
            return False
        return self.leave()

    def leave(self) -> bool:
        """On to the next server. False where every server has had its turn, and where there is only one."""
        self._at = (self._at + 1) % len(self._servers)
        self._attempts = 0
        self._left += 1
        return self._left % len(self._servers) != 0
