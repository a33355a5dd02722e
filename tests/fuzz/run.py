"""Fuzzes both targets: `python tests/fuzz/run.py --frames 1000000`. Says what it did and the peak memory.

With atheris (the optional extra `fuzz`) coverage leads the way; `--plain`, or without it, damage is done blindly, and
the same seed gives the same inputs. Each target runs in a process of its own and does half of the frames. The corpus
in the repository is read, never written; an input that breaks something is kept in --findings, and the status is 1.
Peak memory with atheris holds what it leaks itself (3.0.0: the result of each comparison of arrays in the code that it
watches); that of --plain is the product's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_MOST_BYTES = 20_000


class Progress:
    """Counts the frames of a target, and ends the process once there were enough."""

    def __init__(self, target: str, frames: int, engine: str) -> None:
        self._target, self._limit, self._engine = target, frames, engine
        self._began, self._report = time.monotonic(), frames // 10
        self.frames = self.inputs = self.bytes = 0

    def add(self, frames: int, size: int) -> None:
        self.frames += frames
        self.inputs += 1
        self.bytes += size
        if self.frames >= self._report:
            self._report += self._limit // 10
            sys.stderr.write(f"{self._target}: {self.frames} frames, peak {_peak_mb():.0f} MB\n")
        if self.frames >= self._limit:
            self._end()

    def _end(self) -> None:
        said = {"target": self._target, "engine": self._engine, "frames": self.frames, "inputs": self.inputs}
        seconds = time.monotonic() - self._began
        _say(json.dumps({**said, "bytes": self.bytes, "seconds": round(seconds, 1), "peak_mb": round(_peak_mb(), 1)}))
        os._exit(0)  # libFuzzer would go on


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _blindly(target: str, frames: int, seed: int, findings: Path) -> None:
    from fuzz.inputs import DAMAGE  # noqa: PLC0415  # loaded where it is needed
    from fuzz.seeds import corpus  # noqa: PLC0415  # loaded where it is needed
    from fuzz.targets import TARGETS  # noqa: PLC0415  # loaded where it is needed

    progress, inputs, number = Progress(target, frames, "plain"), list(corpus(target).values()), seed
    while True:
        rng = random.Random(number)  # noqa: S311  # made-up data, no secret
        data = DAMAGE[target](rng, rng.choice(inputs))
        (findings / f"{target}_running").write_bytes(data)  # stays where the process dies of it
        progress.add(TARGETS[target](data), len(data))
        number += 1


def _led_by_coverage(target: str, frames: int, seed: int, findings: Path) -> None:
    import atheris  # noqa: PLC0415  # loaded where it is needed

    with atheris.instrument_imports(include=["tscc_stream"]):
        from fuzz.targets import TARGETS  # noqa: PLC0415  # loaded where it is needed
    from fuzz.inputs import DAMAGE  # noqa: PLC0415  # loaded where it is needed
    from fuzz.seeds import CORPUS  # noqa: PLC0415  # loaded where it is needed

    progress = Progress(target, frames, "atheris")

    def one(data: bytes) -> None:
        progress.add(TARGETS[target](data), len(data))

    def damage(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)  # noqa: S311  # made-up data, no secret
        if rng.random() < 0.3 or len(data) < 2:
            return bytes(atheris.Mutate(data, most))
        return DAMAGE[target](rng, bytes(data))[:most]

    with tempfile.TemporaryDirectory(prefix="fuzz-") as grown:
        shutil.copytree(CORPUS / target, grown, dirs_exist_ok=True)
        options = [f"-max_len={_MOST_BYTES}", f"-seed={seed + 1}", "-rss_limit_mb=2048", "-timeout=60", "-verbosity=0"]
        atheris.Setup(
            [sys.argv[0], *options, f"-artifact_prefix={findings}/{target}_", "-print_final_stats=1", grown],
            one,
            custom_mutator=damage,
        )
        atheris.Fuzz()


def _in_a_process(target: str, given: argparse.Namespace) -> dict[str, Any] | None:
    """What a target's process says at its end; None where it found something."""
    command = [sys.executable, __file__, "--target", target, "--frames", str(-(-given.frames // 2))]
    command += ["--seed", str(given.seed), "--findings", str(given.findings), *(["--plain"] if given.plain else [])]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:  # the process ends without tidying up
        environment = {**os.environ, "TMPDIR": folder}
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    said = run.stdout.strip().splitlines()[-1:]
    if run.returncode or not said:
        sys.stderr.write(f"{run.stdout[-3000:]}\n{target}: a finding, kept in {given.findings} ({run.returncode})\n")
        return None
    return dict(json.loads(said[0]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "tscc-stream-findings")
    parser.add_argument("--json", type=Path, help="where to write the figures too")
    parser.add_argument("--target", choices=["session", "records"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.findings.mkdir(parents=True, exist_ok=True)
    if given.target:
        warnings.simplefilter("error")  # numpy's: a stage shall not stumble over numbers either
        (_blindly if given.plain or not _has_atheris() else _led_by_coverage)(
            given.target, given.frames, given.seed, given.findings
        )
    figures = [_in_a_process(target, given) for target in ("session", "records")]
    done = [each for each in figures if each is not None]
    for each in done:
        _say(json.dumps(each))
    total, peak = sum(each["frames"] for each in done), max((each["peak_mb"] for each in done), default=0.0)
    _say(f"{total} frames, {len(figures) - len(done)} findings, peak memory {peak:.0f} MB")
    if given.json:
        given.json.write_text(json.dumps(done, indent=1) + "\n")
    return int(len(done) < len(figures))


def _has_atheris() -> bool:
    try:
        import atheris  # noqa: F401, PLC0415  # whether it is there
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
