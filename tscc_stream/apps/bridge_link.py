"""The bridge's connection to NATS, made again and again until it holds: at once, then with pauses that grow to 30 s."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from tscc_stream.apps.bridge_metrics import BridgeMetrics
from tscc_stream.config_bridge import BridgeConfig
from tscc_stream.edges.jetstream import JetStreamError, Session, connect
from tscc_stream.seedlink.backoff import Backoff
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)


class NatsLink:
    """session: the connection that holds now, or None. changed: done when that changes; then there is another one."""

    def __init__(self, config: BridgeConfig, metrics: BridgeMetrics) -> None:
        self._config, self._metrics = config, metrics
        self._backoff = Backoff(random.Random())  # noqa: S311  # jitter
        self._seldom = Seldom()
        self.session: Session | None = None
        self.changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                await self._once()
                await asyncio.sleep(self._backoff.delay_ns(time.monotonic_ns()) / 1e9)
        finally:
            if self.session is not None:
                await self.session.close()

    async def _once(self) -> None:
        """One connection, from its beginning to its end."""
        self._backoff.attempt(time.monotonic_ns())
        try:
            session = await connect(self._config, self._tell)
        except JetStreamError as error:
            self._tell(f"{error}; tried again, nothing is lost")
            return
        for note in session.notes:
            self._tell(note)
        _log.info("connected to NATS %s, stream %s", session.server, self._config.stream)
        self._backoff.reset()
        self._set(session)
        reason = await session.lost
        self._set(None)
        self._tell(f"connection to NATS {session.server} lost: {reason}")
        await session.close()

    def _set(self, session: Session | None) -> None:
        self.session = session
        self._metrics.connected(session is not None)
        changed, self.changed = self.changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)

    def _tell(self, sentence: str) -> None:
        if self._seldom.due(sentence, time.monotonic()):
            _log.warning("%s", sentence)
