"""Carries out, in order, the commands that one document shows, and says what came of each, one line of JSON for each.

    python run_documented.py DOCUMENT.md FOLDER SOCKET

Meant for a network namespace of its own (see test_documents.py): the ports that documents name are free there. What
documents take for granted is prepared: an archive, a server that replays it, a configuration for it, labelled windows,
and, but for the tutorial, a daemon that has been running for a while. SOCKET: of forked_shell.py, which is the program.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from forked_shell import shim
from in_time import PATIENCE_S

from tscc_stream import miniseed, package
from tscc_stream.source_id import from_nslc

START_NS = 1_700_000_000 * 10**9
RATE_HZ, SECONDS = 500.0, 150
CHANNELS = ("MN.A..GHZ", "MN.B..GHZ", "MN.C..GHZ", "MN.D..GHZ")
PROGRAM = re.compile(r"(/opt/tscc-stream/bin/)?tscc-stream\s")
NAMED = re.compile(r"# (\w+\.yaml)\n")
COMMENT = re.compile(r"\s+#\s.*$")

STAY = {
    "run": r"ready: ",
    "serve": r"listening",
    "console": r"console on ",
    "alert run": r"tells|rules|alert",
    "coincide": r"ready: ",
    "bridge": r"connected to NATS",
}
"""Commands that run until they are ended, and what they say when they are ready."""
ENDLESS = ("tail", "demo")
"""Commands that print what comes, for as long as one lets them: their first line counts."""
TYPED = {"http-user": "correct horse\ncorrect horse\n"}
"""What a person types."""
INSTEAD = (
    ("/etc/tscc-stream/", "etc/"),
    ("/backup/", "backup/"),
    ("10.0.0.2:", "127.0.0.1:"),
    ("--bind 127.0.0.1:18000 --speed 10", "--bind 127.0.0.1:18010 --speed 10"),  # the prepared one has that port
    ("--random 2000", "--random 60"),
    ("--seconds 1800 --rate 50", "--seconds 900 --rate 50"),
    (
        "--recipe kinds",
        "--recipe kinds --clusters 3 --epochs-pretrain 1 --epochs-finetune 1 --set hidden=8 --set depth=3",
    ),
)
"""Places of this machine for those of a site, and less of what takes hours."""
FIRST = (
    "tscc-stream serve archive/ --bind 127.0.0.1:18000 --speed 40",
    "tscc-stream run --config site.yaml",
    "tscc-stream tail --connect tcp://127.0.0.1:5556 --replay tcp://127.0.0.1:5557 --topic network. --since 0 "
    "--count 20",
)
"""What other documents than the tutorial take for granted."""
SITE = """
site: deep-level-3
seedlink:
  - {server: "127.0.0.1:18000", streams: ["MN_*:GHZ"]}
model: models/rutford
condition: {band_hz: [20.0, 200.0]}
trigger: {sta_seconds: 0.05, lta_seconds: 1.0, trigger_on: 4.0, trigger_off: 1.5}
network: {min_channels: 3}
alerts:
  suppress_below_amplitude: 1000000.0
  commands: {note: {argv: [tee, "-a", alerts.txt]}}
  rules: [{name: any event, least_channels: 3, cooldown_seconds: 5.0}]
"""


def steps_of(document: str) -> list[str]:
    """Lines of code blocks that call the program, without their comments, and blocks of YAML, in their order."""
    found: list[str] = []
    lines, fence = iter(document.splitlines()), ""
    for line in lines:
        text = line.strip()
        if text.startswith("```"):
            fence = "" if fence else text
            if fence == "```yaml":
                found.append("")
        elif fence == "```yaml":
            found[-1] += f"{line}\n"
        elif PROGRAM.match(text) and (fence or line.startswith("    ")):
            while text.endswith("\\"):
                text = text[:-1] + next(lines).strip()
            found.append(COMMENT.sub("", text))
    return found


def is_command(step: str) -> bool:
    return PROGRAM.match(step) is not None


def prepare(folder: Path) -> None:
    """archive/, labelled.npz and site.yaml, as the documents' reader has them."""
    for name in ("archive", "etc/config.credentials", "backup"):
        (folder / name).mkdir(parents=True)
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
    for path in (folder / "site.yaml", folder / "etc/config.yaml"):
        path.write_text(SITE, encoding="utf-8")
    x = rng.standard_normal((60, 500, 1)).astype(np.float32)
    y = np.arange(60) % 2
    x[y == 1, 100:200] *= 8.0
    onset_ns = START_NS + 10**9 * np.arange(60)
    np.savez(folder / "labelled.npz", x=x, y=y, sid=["MN.A..GHZ"] * 60, onset_ns=onset_ns, sample_rate_hz=250.0)


@dataclass
class Reader:
    """Somebody who types every command of a document into a shell, in a folder of their own."""

    folder: Path
    program: str
    staying: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def follow(self, steps: list[str]) -> Iterator[dict[str, object]]:
        """Of each command: its exit status (0 for one that stays), how long it took, the end of what it said."""
        program = self.folder / "bin" / "tscc-stream"
        program.parent.mkdir()
        program.write_text(self.program)
        program.chmod(0o755)
        try:
            for step in steps:
                if not is_command(step):
                    self._write(step)
                    continue
                started = time.monotonic()
                status, said = self._typed(self._here(step))
                took = round(time.monotonic() - started, 1)
                yield {"command": step, "status": status, "seconds": took, "said": said[-600:]}
        finally:
            for process in reversed(self.staying.values()):
                self._end(process)

    def _write(self, yaml: str) -> None:
        """A whole configuration takes the place of the one before; sections are added to it. One that begins with its
        name is a file of that name.
        """
        if named := NAMED.match(yaml):
            (self.folder / named[1]).write_text(yaml, encoding="utf-8")
            return
        with (self.folder / "site.yaml").open("w" if yaml.startswith("site:") else "a", encoding="utf-8") as file:
            file.write(yaml)

    def _here(self, step: str) -> str:
        text = PROGRAM.sub("tscc-stream ", step, count=1)
        for there, here in INSTEAD:
            text = text.replace(there, here)
        if " ack 3fa9 " in text:
            listed = self._typed("tscc-stream alert list --config site.yaml --json")[1]
            text = text.replace("3fa9", re.findall(r'"id": ?"(\w+)"', listed)[0])
        if text.startswith("tscc-stream journal compact"):  # as the document says, of a daemon that was stopped
            self._end(next(process for name, process in self.staying.items() if name.startswith("tscc-stream run")))
        return text

    def _typed(self, text: str) -> tuple[int, str]:
        words = text.removeprefix("tscc-stream ")
        for name, ready in STAY.items():
            if words.startswith(f"{name} "):
                return self._stays(text, ready)
        if words.split()[0] in ENDLESS and "--count" not in words:
            return self._stays(text, r".")
        typed = TYPED.get(words.split()[0], "").encode()
        done = subprocess.run(["bash", "-c", text], cwd=self.folder, env=self._environment(), input=typed, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_S)  # fmt: skip
        return done.returncode, done.stdout.decode()

    def _stays(self, text: str, ready: str) -> tuple[int, str]:
        log = self.folder / f"{len(self.staying)}.log"
        with log.open("wb") as out:
            shell = ["bash", "-c", f"exec {text}"]
            process = subprocess.Popen(
                shell, cwd=self.folder, env=self._environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.staying[text] = process
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and process.poll() is None:
            if re.search(ready, log.read_text()):
                return 0, log.read_text()
            time.sleep(0.05)
        return process.poll() or 1, log.read_text()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        process.wait(PATIENCE_S)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "COLUMNS": "160"}


@contextmanager
def beside(document: Path, folder: Path) -> Iterator[None]:
    """A NATS server with JetStream, for the one document that takes it for granted."""
    if document.name != "bridge.md":
        yield
        return
    program = shutil.which("nats-server", path=f"{os.environ['PATH']}:/usr/sbin")
    with (folder / "nats.log").open("wb") as log:
        told = [str(program), "-js", "-a", "127.0.0.1", "-sd", str(folder / "nats")]
        server = subprocess.Popen(told, stdout=log, stderr=log)
    try:
        yield
    finally:
        Reader._end(server)


def main(document: Path, folder: Path, loaded: str) -> None:
    prepare(folder)
    steps = steps_of(document.read_text(encoding="utf-8"))
    if not any("tscc-stream train " in step for step in steps):
        shutil.copytree(package.find("models/rutford"), folder / "models/mine")
    if document.name == "bridge.md":
        (folder / "var").mkdir()  # of a daemon that is away at present; its one section is read as well
    elif document.name != "tutorial.md":
        first = FIRST[:1] if document.name == "fleet.md" else FIRST  # which has daemons of its own
        steps = [*first, *(step for step in steps if is_command(step) or NAMED.match(step))]
    with beside(document, folder):
        for came in Reader(folder, shim(loaded)).follow(steps):
            sys.stdout.write(json.dumps(came) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
