"""Carries out, in order, the commands that one document shows, and says what came of each, one line of JSON for each.

    python run_documented.py DOCUMENT.md FOLDER

Meant for a network namespace of its own (see test_documents.py): the ports that documents name are free there. What
documents take for granted is prepared: an archive, a server that replays it, a configuration for it, labelled windows.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tscc_stream import miniseed
from tscc_stream.source_id import from_nslc

START_NS = 1_700_000_000 * 10**9
RATE_HZ, SECONDS = 500.0, 300
CHANNELS = ("MN.A..GHZ", "MN.B..GHZ", "MN.C..GHZ", "MN.D..GHZ")
PROGRAM = re.compile(r"(/opt/tscc-stream/bin/)?tscc-stream\s")
COMMENT = re.compile(r"\s+#\s.*$")
EACH_SECONDS = 120.0

STAY = {"run": r"ready: ", "serve": r"serv", "console": r"console on ", "alert run": r"alert"}
"""Commands that run until they are ended, and what they say when they are ready."""
ENDLESS = ("tail", "demo")
"""Commands that print what comes, for as long as one lets them: their first line counts."""
SHORTER = {"train": "--epochs-pretrain 1 --epochs-finetune 1"}
"""What is added where the same would take hours."""
TYPED = {"http-user": "correct horse\ncorrect horse\n"}
"""What a person types."""


def commands_of(document: str) -> list[str]:
    """Lines of code blocks that call the program, without their comments; a backslash goes on in the next line."""
    found: list[str] = []
    lines, fenced = iter(document.splitlines()), False
    for line in lines:
        text = line.strip()
        if text.startswith("```"):
            fenced = not fenced
        elif PROGRAM.match(text) and (fenced or line.startswith("    ")):
            while text.endswith("\\"):
                text = text[:-1] + next(lines).strip()
            found.append(COMMENT.sub("", text))
    return found


def prepare(folder: Path) -> None:
    """archive/, labelled.npz and site.yaml, as the documents' reader has them."""
    (folder / "archive").mkdir(parents=True)
    rng, t = np.random.default_rng(7), np.arange(int(RATE_HZ)) / RATE_HZ
    onsets = np.arange(20.0, SECONDS - 10.0, 4.7)
    for number, nslc in enumerate(CHANNELS):
        data = 200.0 * rng.standard_normal(int(SECONDS * RATE_HZ))
        for count, onset in enumerate(onsets):
            at = int((onset + 0.05 * number) * RATE_HZ)
            burst = (
                8000.0 * np.exp(-(4.0 + 8.0 * (count % 2)) * t) * np.sin(2 * np.pi * (35.0 + 40.0 * (count % 2)) * t)
            )
            data[at : at + t.size] += burst
        records = miniseed.encode(from_nslc(nslc), START_NS, RATE_HZ, np.round(data).astype(np.int32))
        (folder / "archive" / f"{nslc}.mseed").write_bytes(b"".join(records))
    (folder / "site.yaml").write_text(SITE, encoding="utf-8")


SITE = """
site: deep-level-3
seedlink:
  - {server: "127.0.0.1:18000", streams: ["MN_*:GHZ"]}
model: models/rutford
condition: {band_hz: [20.0, 200.0]}
trigger: {sta_seconds: 0.05, lta_seconds: 1.0, trigger_on: 4.0, trigger_off: 1.5}
network: {min_channels: 3}
"""


@dataclass
class Reader:
    """Somebody who types every command of a document into a shell, in a folder of their own."""

    folder: Path
    staying: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def follow(self, commands: list[str]) -> Iterator[dict[str, object]]:
        """Of each: the command, its exit status (0 for one that stays), how long it took, the end of what it said."""
        shim = self.folder / "bin" / "tscc-stream"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m tscc_stream "$@"\n')
        shim.chmod(0o755)
        try:
            for text in commands:
                started = time.monotonic()
                status, said = self._typed(PROGRAM.sub("tscc-stream ", text, count=1))
                took = round(time.monotonic() - started, 1)
                yield {"command": text, "status": status, "seconds": took, "said": said[-600:]}
        finally:
            for process in reversed(self.staying):
                process.terminate()
                process.wait(40.0)

    def _typed(self, text: str) -> tuple[int, str]:
        words = text.removeprefix("tscc-stream ")
        for name, ready in STAY.items():
            if words.startswith(f"{name} "):
                return self._stays(text, ready)
        if words.split()[0] in ENDLESS and "--count" not in words:
            return self._stays(text, r".")
        more = next((more for start, more in SHORTER.items() if words.startswith(f"{start} ")), "")
        typed = TYPED.get(words.split()[0], "").encode()
        shell = ["bash", "-c", f"{text} {more}"]
        done = subprocess.run(shell, cwd=self.folder, env=self._environment(), input=typed, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=EACH_SECONDS)  # fmt: skip
        return done.returncode, done.stdout.decode()

    def _stays(self, text: str, ready: str) -> tuple[int, str]:
        log = self.folder / f"{len(self.staying)}.log"
        with log.open("wb") as out:
            shell = ["bash", "-c", f"exec {text}"]
            process = subprocess.Popen(
                shell, cwd=self.folder, env=self._environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.staying.append(process)
        deadline = time.monotonic() + EACH_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            if re.search(ready, log.read_text()):
                return 0, log.read_text()
            time.sleep(0.05)
        return process.poll() or 1, log.read_text()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "COLUMNS": "160"}


def main(document: Path, folder: Path) -> None:
    prepare(folder)
    for came in Reader(folder).follow(commands_of(document.read_text(encoding="utf-8"))):
        sys.stdout.write(json.dumps(came) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
