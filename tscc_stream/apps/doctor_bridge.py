"""What `doctor` looks at for the bridge: whether NATS can be reached as configured, and what its stream is like."""

from __future__ import annotations

import asyncio
from functools import partial

from tscc_stream.apps.finding import Check, Finding, fail, ok, warn
from tscc_stream.config import Config
from tscc_stream.config_bridge import BridgeConfig
from tscc_stream.edges.jetstream import JetStreamError, connect

_TODO = "look at section bridge and at the NATS server (docs/bridge.md)"


def checks(config: Config) -> list[Check]:
    """None where there is no section `bridge`."""
    return [] if config.bridge is None else [Check("bridge", partial(_one, config.bridge))]


def _one(bridge: BridgeConfig) -> list[Finding]:
    return [asyncio.run(_looked(bridge))]


async def _looked(bridge: BridgeConfig) -> Finding:
    said: list[str] = []
    try:
        session = await connect(bridge, said.append, make=False)
    except JetStreamError as error:
        return fail("bridge", str(error), _TODO)
    server, notes = session.server, session.notes
    await session.close()
    if notes:
        todo = "the bridge makes it when it starts" if "not there yet" in notes[0] else _TODO
        return warn("bridge", f"NATS {server}: {'; '.join(notes)}", todo)
    return ok("bridge", f"NATS {server}, stream {bridge.stream} takes {bridge.subjects}")
