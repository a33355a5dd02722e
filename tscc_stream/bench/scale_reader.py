"""Subscribers of `bench scale`, all in one process: scale_reader BIND HOW_MANY.

Each is a plain SUB socket for detections, network events, status and heartbeats. Prints, with each heartbeat that the
first one gets, [messages, bytes, heartbeats, bytes of heartbeats] of all of them so far, as ZMTP 3.1 sends them
(https://rfc.zeromq.org/spec/23): 2 bytes before a frame of up to 255 bytes, 9 before a longer one.
"""

from __future__ import annotations

import json
import sys

import zmq

from tscc_stream.stages.publish import HEARTBEAT_TOPIC, KINDS

_SHORT = 255


def main(bind: str, how_many: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    poller, sockets = zmq.Poller(), []
    for _ in range(how_many):
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, 0)
        for topic in (HEARTBEAT_TOPIC, *(kind.encode() for kind in KINDS)):
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        socket.connect(bind)
        poller.register(socket, zmq.POLLIN)
        sockets.append(socket)
    seen = [0, 0, 0, 0]
    while True:
        for socket, _ in poller.poll():
            frames = socket.recv_multipart()
            beat = frames[0].startswith(HEARTBEAT_TOPIC)
            seen[2 * beat] += 1
            seen[2 * beat + 1] += sum(sent_bytes(len(frame)) for frame in frames)
            if beat and socket is sockets[0]:
                print(json.dumps(seen), flush=True)  # noqa: T201  # for the process that started this one


def sent_bytes(size: int) -> int:
    """Of a frame of so many bytes."""
    return size + (2 if size <= _SHORT else 9)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
