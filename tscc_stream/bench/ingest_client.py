"""One SeedLink client in a process of its own, for `bench ingest`: what it spends on records, from socket to samples.

    python -m tscc_stream.bench.ingest_client KIND HOST:PORT RECORDS STATION...
    python -m tscc_stream.bench.ingest_client pace HOST:PORT SECONDS RATE

KIND: one of CLIENTS. Prints one line of JSON. CPU time is that of the whole process, user and system, from just before
it connects; what it imports and compiles comes before that.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tscc_stream.config import SeedLinkConfig
from tscc_stream.edges.seedlink_socket import Arrival, Emitted, SeedLinkReader
from tscc_stream.stages import acquire

TIMEOUT_S = 60.0
SETTLE_S = 2.0
"""Of a paced stream that are not measured: every channel is new once."""


def cpu_s() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _ours(server: str, emit: Callable[[Emitted], None]) -> SeedLinkReader:
    acquire.warm_up()
    return SeedLinkReader(SeedLinkConfig(server=server, streams=("*_*",)), emit)


def ours(server: str, records: int, stations: list[str]) -> tuple[int, int, float]:
    """Records, samples, and CPU time before the connection."""
    seen, samples = 0, 0

    def take(emitted: Emitted) -> None:
        nonlocal seen, samples
        if isinstance(emitted, Arrival):
            seen += sum(len(batch) for batch in emitted.batches)
            samples += sum(int(batch.begin[-1] - batch.begin[0]) for batch in emitted.batches)
            if seen >= records:
                reader.stop()

    reader = _ours(server, take)
    before_s = cpu_s()
    reader.run()
    return seen, samples, before_s


def field(server: str, records: int, stations: list[str]) -> tuple[int, int, float]:
    """The documented way of obspy: SLClient, and a Trace of each packet."""
    from obspy.clients.seedlink.slclient import SLClient  # noqa: PLC0415 takes a second

    seen, samples = 0, 0

    def take(_: int, packet: object) -> bool:
        nonlocal seen, samples
        seen += 1
        samples += packet.get_trace().stats.npts  # type: ignore[attr-defined]  # known there, not to its stubs
        return seen >= records

    client = SLClient(timeout=TIMEOUT_S)  # without a time-out obspy 1.5.1 cannot connect
    client.slconn.set_sl_address(server)
    client.multiselect = ",".join(stations)
    client.selectors = "HHZ"
    client.begin_time = "2010,01,01,00,00,00"
    client.initialize()
    before_s = cpu_s()
    client.run(packet_handler=take)
    return seen, samples, before_s


def seedlink_client(server: str, records: int, stations: list[str]) -> tuple[int, int, float]:
    """The documented way of EarthScope's client: collect, and a decoded record of each packet."""
    from seedlink_client import SeedLink  # noqa: PLC0415 an extra of the tests

    seen, samples = 0, 0
    host, _, port = server.rpartition(":")
    before_s = cpu_s()
    with SeedLink(host, int(port), timeout=TIMEOUT_S) as client:
        client.add_stream("*", all_data=True)
        for packet in client.collect(reconnect=False):
            record: Any = packet.record()  # type: ignore[no-untyped-call]  # the library gives it no type
            record.unpack_data()
            seen += 1
            samples += np.array(record.np_datasamples).size
            if seen >= records:
                break
    return seen, samples, before_s


CLIENTS = {"field": field, "ours": ours, "seedlink_client": seedlink_client}


def paced(server: str, seconds: float) -> dict[str, float]:
    """Our client on a stream in real time: its share of a core over some seconds, and the records that came in them."""
    seen = 0

    def take(emitted: Emitted) -> None:
        nonlocal seen
        if isinstance(emitted, Arrival):
            seen += sum(len(batch) for batch in emitted.batches)

    reader = _ours(server, take)
    thread = threading.Thread(target=reader.run)
    thread.start()
    time.sleep(SETTLE_S)
    begin, spent_s, before = time.monotonic(), cpu_s(), seen
    time.sleep(seconds)
    lasted_s = time.monotonic() - begin
    result = {"share": (cpu_s() - spent_s) / lasted_s, "records_per_second": (seen - before) / lasted_s}
    reader.stop()
    thread.join()
    return result


def main(arguments: list[str]) -> None:
    """Run one client and print what it found."""
    kind, server, count, *stations = arguments
    if kind == "pace":
        _tell(paced(server, float(count)))
        return
    seen, samples, before_s = CLIENTS[kind](server, int(count), stations)
    _tell({"records": seen, "samples": samples, "cpu_s": cpu_s() - before_s})


def _tell(found: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
