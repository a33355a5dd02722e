"""The subscriber of `bench latency`, a process of its own: latency_reader BIND REPLAY.

Prints `ready`, then for each detection a line [source id, onset ns, monotonic ns of its receipt], until it is ended.
"""

from __future__ import annotations

import sys
import time

import msgspec

from tscc_stream.client import Subscriber


def main(bind: str, replay: str) -> None:
    with Subscriber(bind, replay, topic="detection.") as subscriber:
        while subscriber.through is None:
            subscriber.receive(0.01)
        _say("ready")
        while True:
            message = subscriber.receive(60.0)
            now_ns = time.monotonic_ns()
            if message is not None and message.topic.startswith("detection."):
                _say([message.body["subject"], message.body["data"]["onset_ns"], now_ns])


def _say(item: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(item) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:3])
