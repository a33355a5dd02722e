"""`python -m tscc_stream.serve PATH... --bind HOST:PORT`: the replay server without the rest of the program."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tscc_stream.serve.command import parse_speed, serve_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tscc_stream.serve",
        epilog="example: python -m tscc_stream.serve recordings --bind 127.0.0.1:18000",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="recordings, or folders of them")
    parser.add_argument("--bind", default="127.0.0.1:18000", metavar="HOST:PORT", help="port 0: any free one")
    parser.add_argument("--speed", type=parse_speed, default=1.0, metavar="X|max", help="times real time (default 1)")
    parser.add_argument("--loop", action="store_true", help="begin again at the end, with times that go on")
    parser.add_argument("--start-at", choices=["recorded", "now"], default="recorded", help="time of the first sample")
    parser.add_argument("--once", action="store_true", help="end when everything was played to at least one client")
    parser.add_argument("--wait-for-client", action="store_true", help="begin with the first client's request for data")
    given = parser.parse_args(arguments)
    return serve_command(
        given.paths,
        given.bind,
        speed=given.speed,
        loop=given.loop,
        start_at=given.start_at,
        once=given.once,
        wait_for_client=given.wait_for_client,
    )


if __name__ == "__main__":
    sys.exit(main())
