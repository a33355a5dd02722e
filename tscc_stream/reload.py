"""The configuration file read again while the daemon runs: what may change is taken over, the rest refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tscc_stream.config import Config, ConfigError, load

_log = logging.getLogger(__name__)

CHANGEABLE = frozenset(
    {
        "novelty.alpha",
        "drift.window",
        "retention.days",
        "retention.max_gib",
        "inference.timeout_seconds",
        "inference.most_restarts",
        "inference.restart_window_seconds",
        "overload",
        "overload_spill_windows",
    }
)
"""Keys that may change while the daemon runs. All others decide what a window is, where it comes from or goes to."""
OF_OTHERS = frozenset({"time_zone", "shifts", "vocabulary", "stationxml", "console", "alerts", "coincide"})
"""Sections that the daemon does not read: they belong to the console, the alerts and the reports."""
_INSTEAD = {
    "model": "use `tscc-stream model activate`, or restart",
    "shadow": "use `tscc-stream model shadow`, or restart",
}


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What reading it again came to. config: what holds from now on; mistakes: the file was refused whole."""

    config: Config
    taken: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        """What a status message says of it; empty where nothing had changed."""
        if self.mistakes:
            return {"state": "refused", "mistakes": list(self.mistakes)}
        if self.taken or self.refused:
            return {"state": "reloaded", "taken": list(self.taken), "refused": list(self.refused)}
        return {}


def _flat(sections: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Dotted keys of a configuration; lists, and per-channel overrides, as one value each."""
    flat: dict[str, Any] = {}
    for name, value in sections.items():
        nested = isinstance(value, dict) and name != "channels"
        flat |= _flat(value, f"{place}{name}.") if nested else {place + name: value}
    return flat


def changes(old: Config, new: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Dotted keys whose values differ: (those that are taken over, those that need a restart), each in order."""
    before, after = (_flat(one.model_dump(exclude=set(OF_OTHERS))) for one in (old, new))
    absent = object()
    differing = sorted(key for key in before.keys() | after.keys() if before.get(key, absent) != after.get(key, absent))
    taken = tuple(key for key in differing if key in CHANGEABLE)
    return taken, tuple(key for key in differing if key not in CHANGEABLE)


def merged(old: Config, new: Config, taken: Iterable[str]) -> Config:
    """The running configuration with the values of some dotted keys out of another."""
    document, source = old.model_dump(), new.model_dump()
    for key in taken:
        section, _, name = key.rpartition(".")
        if section:
            document[section][name] = source[section][name]
        else:
            document[name] = source[name]
    return Config.model_validate(document)


class ConfigFile:
    """The file that the daemon was started with. Used by one thread. running: what holds.

    made: what is made of what the file says, as was `running`.
    """

    def __init__(self, path: Path, running: Config, made: Callable[[Config], Config] = lambda config: config) -> None:
        self._path, self.running, self._made = path.resolve(), running, made

    def again(self) -> Reloaded:
        """Read it again, and say in the log what came of it."""
        try:
            fresh = self._made(load(self._path))
        except ConfigError as error:
            for mistake in error.mistakes:
                _log.error("configuration refused, the running values go on: %s", mistake)
            return Reloaded(self.running, mistakes=error.mistakes)
        taken, refused = changes(self.running, fresh)
        for key in refused:
            _log.error("configuration: %s cannot change while running: %s", key,
                       _INSTEAD.get(key.partition(".")[0], "it counts from the next start on"))  # fmt: skip
        if taken:
            _log.info("configuration: taken over: %s", ", ".join(taken))
        self.running = merged(self.running, fresh, taken)
        return Reloaded(self.running, taken, refused)
