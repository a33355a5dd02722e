"""A SeedLink server that only sends: prepared packets of many channels, in real time, at hardly any cost.

    python -m tscc_stream.bench.ingest_load CHANNELS RATE_HZ

Prints its port, serves one client in version 4, and ends with the connection. Every channel sends the same samples
again and again under the time that goes on; the channels take their turn evenly.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np

from tscc_stream import miniseed
from tscc_stream.messages import AnyArray

SAMPLES = 350
"""Of each record: so many of this noise fit into 512 bytes of Steim-2."""
RECORD_BYTES = 512
TICK_S = 0.001
_NOISE_COUNTS = 40.0
_GREETING = b"SeedLink v4.0 (ringserver-like load) :: SLPROTO:4.0\r\nbench\r\n"
_SEQUENCE, _BTIME = 8, 20


def _sid(channel: int) -> str:
    return f"FDSN:XX_S{channel // 3:04}__H_H_{'ZNE'[channel % 3]}"


def packets(channels: int, rate_hz: float) -> AnyArray:
    """One packet of each channel: [channels, bytes] uint8."""
    rng = np.random.default_rng(0)
    rows = []
    for channel in range(channels):
        samples = np.round(rng.normal(0.0, _NOISE_COUNTS, SAMPLES)).astype(np.int32)
        (payload,) = miniseed.encode(_sid(channel), 0, rate_hz, samples, record_length=RECORD_BYTES)
        station = f"XX_S{channel // 3:04}".encode()
        head = b"SE2D" + struct.pack("<IQB", len(payload), 0, len(station)) + station
        rows.append(np.frombuffer(head + payload, np.uint8))
    return np.stack(rows)


def btime(moment: datetime) -> bytes:
    """SEED manual, chapter 3: year, day, hour, minute, second, unused, 0.1 ms."""
    tenths_ms = moment.microsecond // 100
    return struct.pack(
        ">HHBBBBH", moment.year, moment.timetuple().tm_yday, moment.hour, moment.minute, moment.second, 0, tenths_ms
    )


def _greet(client: socket.socket) -> None:
    """Agree to everything until END."""
    with client.makefile("rb") as lines:
        for line in lines:
            verb = line.split()[0].upper() if line.strip() else b""
            if verb == b"END":
                return
            answers = {b"HELLO": _GREETING, b"INFO": b"ERROR UNSUPPORTED no\r\n"}
            client.sendall(answers.get(verb, b"OK\r\n"))


def _send(client: socket.socket, ready: AnyArray, rate_hz: float) -> None:
    channels = len(ready)
    lasts_s = SAMPLES / rate_hz
    payload_at = ready.shape[1] - RECORD_BYTES
    origin, begin, sent = datetime.now(UTC), time.monotonic(), 0
    while True:
        due = int((time.monotonic() - begin) / lasts_s * channels)
        while sent < due:
            turn, first = divmod(sent, channels)
            last = min(channels, first + due - sent)
            rows = ready[first:last]
            start = origin + timedelta(seconds=turn * lasts_s)
            rows[:, payload_at + _BTIME : payload_at + _BTIME + 10] = np.frombuffer(btime(start), np.uint8)
            numbers = np.arange(sent + 1, sent + 1 + len(rows), dtype="<u8")
            rows[:, _SEQUENCE : _SEQUENCE + 8] = numbers.view(np.uint8).reshape(-1, 8)
            client.sendall(rows.tobytes())
            sent += len(rows)
        time.sleep(TICK_S)


def main(arguments: list[str]) -> None:
    """Serve one client."""
    channels, rate_hz = int(arguments[0]), float(arguments[1])
    ready = packets(channels, rate_hz)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        client, _ = listener.accept()
    with client:
        _greet(client)
        try:
            _send(client, ready, rate_hz)
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main(sys.argv[1:])
