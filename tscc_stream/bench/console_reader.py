"""Consoles without a browser, a process: console_reader ADDRESS QUERY PAGES SECONDS.

Opens what so many pages Live open (/stream, and /live/stream with QUERY), and reads and unpacks all of it as a browser
does, without drawing. Prints `ready` when every page has got samples, and after so many seconds more how many pushes of
samples and how many bytes each page has read meanwhile, in JSON.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Page:
    """What one has read."""

    pushes: int = 0
    size: int = 0
    came: threading.Event = field(default_factory=threading.Event)

    def read(self, url: str) -> None:
        """Until the process ends."""
        event = b""
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  # our own console
            for line in answer:
                self.size += len(line)
                if line.startswith(b"event: "):
                    event = line[7:].strip()
                elif line.startswith(b"data: "):
                    self._take(event, json.loads(line[6:]))

    def _take(self, event: bytes, document: list[list[object]]) -> None:
        if event == b"columns":
            for part in document:
                np.frombuffer(base64.b64decode(str(part[4])), "<f4")
            self.pushes += 1
            self.came.set()


def main(address: str, query: str, pages: int, seconds: float) -> int:
    opened = [Page() for _ in range(pages)]
    for page in opened:
        for path in ("stream", f"live/stream?{query}"):
            threading.Thread(target=page.read, args=(f"http://{address}/{path}",), daemon=True).start()
    for page in opened:
        if not page.came.wait(60):
            return 1
    _say("ready")
    before = [(page.pushes, page.size) for page in opened]
    time.sleep(seconds)
    _say(json.dumps([(p.pushes - b[0], p.size - b[1]) for p, b in zip(opened, before, strict=True)]))
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
