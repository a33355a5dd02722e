"""The keys with which a process that follows daemons meets a secured bus, out of its section `bus_keys`."""

from __future__ import annotations

from tscc_stream.bus.keys import CurveKeys
from tscc_stream.config_section import BusKeysConfig
from tscc_stream.credentials import path_of


def curve_keys(keys: BusKeysConfig | None, server_key: str | None = None) -> CurveKeys | None:
    """None where the bus is not secured. server_key: of one source, instead of that for all."""
    return None if keys is None else CurveKeys(server_key or keys.server_key, path_of(keys.secret_key_file))
