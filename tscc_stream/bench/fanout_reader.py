"""One subscriber of `bench fanout`, a process of its own: fanout_reader BIND REPLAY.

Prints `ready`, then at each message under `status.mark.` one line of JSON: what came since the one before, as pairs of
seq and monotonic time (ns) of receipt. Ends when nothing comes for PATIENCE_S.
"""

from __future__ import annotations

import sys
import time

import msgspec

from tscc_stream.client import Subscriber

MARK = "status.mark."
PATIENCE_S = 60.0


def main(bind: str, replay: str) -> int:
    with Subscriber(bind, replay) as subscriber:
        while subscriber.through is None:
            subscriber.receive(0.01)
        _say(b'"ready"')
        came: list[tuple[int, int]] = []
        while (message := subscriber.receive(PATIENCE_S)) is not None:
            if message.topic == MARK:
                _say(msgspec.json.encode(came))
                came.clear()
            else:
                came.append((message.seq, time.monotonic_ns()))
    return 1


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
