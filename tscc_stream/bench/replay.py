"""`bench replay`: an archive through `classify`, beside whole-trace obspy on the same files.

A simulated mine of 1 kHz: 100 channels for 5 minutes, and ten for half an hour (`replay_ten`). obspy reads each file as
one trace, filters it, and computes STA/LTA and triggers; it knows no windows. So that both do the same, the trigger is
set so high that neither finds anything; one more figure is `classify` with the shipped trigger, windows through the
demo model. `replay` is the work alone, in this process; `replay_started` is a process from its start to its end.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tscc_stream import classifier, config, package
from tscc_stream.bench import replay_field
from tscc_stream.bench.measure import FIELD, Results, rates, seconds_of
from tscc_stream.serve.mine import simulate

SHAPES = {"replay": (100, 300.0), "replay_ten": (10, 1800.0)}
"""Channels and seconds."""
ROUNDS = 7
REST = 0.1
"""Seconds before each turn: the threads of numpy's products spin for some time after their last one."""
RATE_HZ, SEED = 1000.0, 7
UNIT = "hours of 100 channels a minute"
_HIGH = 0.9995
"""Of what the ratio can reach."""


class ReplayError(RuntimeError):
    """A process failed, or something was found where nothing is."""


def run(shapes: Mapping[str, tuple[int, float]] = SHAPES, rounds: int = ROUNDS) -> Results:
    """Ratios against obspy, of each shape: the work alone, and `..._started`. Raises ReplayError."""
    results: Results = {}
    for name, (channels, seconds) in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            results |= _of_shape(name, channels, seconds, rounds, Path(folder))
    return results


def _of_shape(name: str, channels: int, seconds: float, rounds: int, folder: Path) -> Results:
    simulate(folder / "mine", channels=channels, seconds=seconds, rate_hz=RATE_HZ, seed=SEED)
    files = sorted((folder / "mine").glob("*.mseed"))
    shipped = config.shipped()
    apart = seconds_of(_apart(_deaf(shipped), shipped, files), rounds, rest=REST)
    started = seconds_of(_started(_deaf(shipped), files, folder), rounds, rest=REST)
    hours = channels / 100 * seconds / 3600
    return {name: rates(apart, 60 * hours, UNIT), f"{name}_started": rates(started, 60 * hours, UNIT)}


def _deaf(shipped: config.Config) -> config.Config:
    """With a trigger that nothing reaches."""
    trigger = shipped.trigger
    high = _HIGH * trigger.lta_seconds / trigger.sta_seconds
    return shipped.model_copy(update={"trigger": trigger.model_copy(update={"trigger_on": high}), "network": None})


def _field_settings(deaf: config.Config) -> dict[str, float]:
    (low, high), trigger = deaf.condition.band_hz, deaf.trigger
    settings = {"low": low, "high": high, "corners": deaf.condition.corners}
    times = {"sta": trigger.sta_seconds, "lta": trigger.lta_seconds}
    return {**settings, **times, "on": trigger.trigger_on, "off": trigger.trigger_off}


def _apart(deaf: config.Config, shipped: config.Config, files: list[Path]) -> dict[str, Callable[[], None]]:
    model = package.find(shipped.model)
    settings, names = _field_settings(deaf), [str(file) for file in files]

    def field() -> None:
        _nothing(replay_field.triggers(settings, names), "obspy")

    def ours() -> None:
        out = io.StringIO()
        classifier.classify(files, deaf, model, "jsonl", out)
        _nothing(out.tell(), "classify")

    def with_windows() -> None:
        classifier.classify(files, shipped, model, "jsonl", io.StringIO())

    return {FIELD: field, "ours": ours, "ours, shipped trigger and demo model": with_windows}


def _started(deaf: config.Config, files: list[Path], folder: Path) -> dict[str, Callable[[], None]]:
    path = folder / "config.yaml"
    path.write_text(deaf.model_dump_json(exclude_unset=True), encoding="utf-8")  # JSON is YAML
    field = [sys.executable, "-m", replay_field.__name__, json.dumps(_field_settings(deaf)), *map(str, files)]
    ours = [sys.executable, "-m", "tscc_stream", "classify", *map(str, files), "--config", str(path)]
    return {FIELD: lambda: _carried_out(field, "0"), "ours": lambda: _carried_out(ours, "")}


def _carried_out(command: list[str], expected: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or done.stdout.strip() != expected:
        raise ReplayError(f"{' '.join(command[:4])} ended with status {done.returncode}: {done.stderr[-300:]}")


def _nothing(found: int, by: str) -> None:
    if found:
        raise ReplayError(f"{by} found something, where the trigger is set so high that there is nothing")
