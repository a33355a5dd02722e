"""A daemon's journal and bus in a process of their own, to be killed.

`bus_process.py JOURNAL BIND REPLAY_BIND UNTIL [FIRST]` prints both endpoints, then appends and publishes the messages
FIRST (1) to UNTIL in small groups, from the first on as a daemon does that starts again (those in the journal are
refused), prints `done`, and goes on sending heartbeats.
"""

import sys
import threading
import time
from pathlib import Path

from made_messages import mixed

from tscc_stream.config import PublishConfig
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus

SIZE = 20


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(path: Path, bind: str, replay_bind: str, until: int, start: int = 1) -> None:
    journal = JournalFile(path)
    config = PublishConfig(bind=bind, replay_bind=replay_bind, heartbeat_seconds=0.1)
    bus = Bus(config, "test", JournalReader(path), send_queue=50)
    bus.start()
    say(f"{bus.endpoint} {bus.replay_endpoint}")
    for first in range(start, until + 1, SIZE):
        committed = journal.append(mixed(range(first, min(first + SIZE, until + 1))))
        bus.publish(committed)
        if committed:
            time.sleep(0.002)  # some 5,000 messages/s: a rate, not a synchronisation
    say("done")
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
