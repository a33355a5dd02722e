"""`tscc-stream bridge`: a process of its own that hands what daemons say to NATS JetStream, at least once, in order.

One event loop has the connection and a feed for each source; each source has a thread that reads its daemon. The
daemons do not know of it: it is a subscriber like others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tscc_stream.apps.alert_probe import Endpoints
from tscc_stream.apps.bridge_feed import Feed
from tscc_stream.apps.bridge_link import NatsLink
from tscc_stream.apps.bridge_message import WAVEFORM_TOPIC
from tscc_stream.apps.bridge_metrics import BridgeMetrics
from tscc_stream.apps.bridge_source import Source, Where
from tscc_stream.apps.bus_keys import curve_keys
from tscc_stream.bus.keys import CurveKeys
from tscc_stream.config import Config, ConfigError
from tscc_stream.config_alerts import AlertSource
from tscc_stream.config_bridge import BridgeConfig
from tscc_stream.edges.http import HttpServer
from tscc_stream.edges.jetstream import check_files
from tscc_stream.edges.supervision import Notifier
from tscc_stream.ownership import give_to_owner_of_folder
from tscc_stream.sharded import for_shard

FOLDER = "bridge"
TURN_SECONDS = 1.0
STALLED_SECONDS = 60.0
"""A turn takes two seconds at most, but for a message that the server is slow to take, and a slow disk."""
DRAIN_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Bridge:
    """Raises SubscriberError, PositionError, CredentialError, OSError or HttpError where it cannot start."""

    def __init__(self, config: Config, bridge: BridgeConfig, state_dir: Path) -> None:
        self._config, self._bridge, self._state_dir = config, bridge, state_dir
        self._metrics = BridgeMetrics()
        self._notifier = Notifier.from_environment(os.environ)
        self._feeds: list[Feed] = []
        self._stopping = False

    async def run(self) -> int:
        """0, or 1 where a part of it has failed."""
        check_files(self._bridge)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        self._link = NatsLink(self._bridge, self._metrics)
        with ExitStack() as stack:
            for source in self._sources(stack):
                self._metrics.add(source.name)
                self._feeds.append(Feed(self._bridge, self._config.site, source, self._link, self._metrics))
            stack.pop_all()  # from here on each feed closes its own
            self._start_http(stack)
            return await self._serve(stop)

    def _sources(self, stack: ExitStack) -> Iterator[Source]:
        """Each source, and beside it, where they are wanted, its waveforms."""
        folder = self._state_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        topics = {"": "", "-waveforms": WAVEFORM_TOPIC} if self._bridge.waveforms else {"": ""}
        for name, where, keys in self._daemons():
            for suffix, topic in topics.items():
                position = folder / f"{name}{suffix}.position"
                give_to_owner_of_folder(position)
                source = Source(f"{name}{suffix}", topic, where, keys, position, self._bridge.start)
                stack.callback(source.close)
                yield source

    def _daemons(self) -> Iterator[tuple[str, Where, CurveKeys | None]]:
        """name, where it listens, and keys. Without sources: this file's own daemon, or each of its shards."""
        for one in self._bridge.sources:
            yield one.name, partial(_given, one), self._keys(one.server_key)
        if self._bridge.sources:
            return
        config = self._config
        if config.shard is None or config.shard.one is not None:
            yield config.site, partial(_own, Endpoints(config, self._state_dir)), self._keys(None)
            return
        for index in range(1, config.shard.count + 1):
            shard = for_shard(config, index)
            yield f"{config.site}-{index}", partial(_own, Endpoints(shard, Path(shard.state_dir))), self._keys(None)

    def _keys(self, server_key: str | None) -> CurveKeys | None:
        return curve_keys(self._bridge.bus_keys, server_key)

    def _start_http(self, stack: ExitStack) -> None:
        if self._bridge.metrics is None:
            return
        server = HttpServer(self._bridge.metrics, self._metrics.registry, self._healthz)
        server.start()
        stack.callback(server.stop)
        _log.info("metrics on %s/metrics", server.url)

    def _healthz(self) -> tuple[bool, dict[str, Any]]:
        """It turns: 200, also while NATS is away, which `connected` says."""
        quiet_s = self._quiet_s()
        well = quiet_s < STALLED_SECONDS and not self._stopping
        connected = self._link.session is not None
        state = "stalled" if not well else "ok" if connected else "disconnected"
        return well, {"state": state, "connected": connected, "last_turn_s": round(quiet_s, 3)}

    def _quiet_s(self) -> float:
        return time.monotonic() - min(feed.turned_s for feed in self._feeds)

    async def _serve(self, stop: asyncio.Event) -> int:
        feeds = [asyncio.create_task(feed.run()) for feed in self._feeds]
        tasks = [*feeds, asyncio.create_task(self._link.run())]
        self._notifier.ready(self._status())
        _log.info("ready: %d sources to NATS %s", len(feeds), ", ".join(self._bridge.servers))
        while not stop.is_set() and not any(task.done() for task in tasks):
            if self._quiet_s() < STALLED_SECONDS:
                self._notifier.watchdog(time.monotonic())
            self._notifier.status(self._status())
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TURN_SECONDS)
        return await self._end(feeds, tasks)

    def _status(self) -> str:
        session = self._link.session
        waiting = sum(feed.unacknowledged for feed in self._feeds)
        return f"{'NATS is away' if session is None else f'NATS {session.server}'}; {waiting} on their way"

    async def _end(self, feeds: list[asyncio.Task[None]], tasks: list[asyncio.Task[None]]) -> int:
        failed = [task for task in tasks if task.done()]
        self._stopping = True
        self._notifier.stopping()
        for feed in self._feeds:
            feed.stop()
        if not failed and self._link.session is not None:
            await asyncio.wait(feeds, timeout=DRAIN_SECONDS)
        for task in tasks:
            task.cancel()
        came = await asyncio.gather(*tasks, return_exceptions=True)
        for feed in self._feeds:
            await feed.close()
        for error in came:
            if isinstance(error, Exception):
                _log.error("a part of the bridge has failed", exc_info=error)
        left = sum(feed.unacknowledged for feed in self._feeds)
        _log.info("stopped; %d messages were not acknowledged and come again at the next start", left)
        return 1 if failed else 0


def _own(endpoints: Endpoints) -> tuple[str, str]:
    where = endpoints.find()
    return where["publish"], where["replay"]


def _given(source: AlertSource) -> tuple[str, str]:
    return source.connect, source.replay


def run(config: Config, state_dir: Path) -> int:
    """The process until SIGTERM or SIGINT."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if config.bridge is None:
        raise ConfigError(["no section `bridge`; `bridge: {}` means NATS on this machine, at 127.0.0.1:4222"])
    if not config.bridge.sources and not state_dir.is_dir():
        raise ConfigError([f"state_dir {state_dir}: no such folder; expected that of a daemon that has run"])
    return asyncio.run(Bridge(config, config.bridge, state_dir).run())
