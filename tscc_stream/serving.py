"""Models and settings while the daemon runs: got ready in a thread of their own, then handed to the back thread.

The back thread takes an order between two batches, so that every window is classified once, by one model, and the
journal's sequence goes on without a hole. Whatever may not serve is refused by name, and what runs goes on.
"""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tscc_stream import activation, names, package
from tscc_stream.activation import ActivationError
from tscc_stream.aside import TURN_SECONDS, Aside, StuckError
from tscc_stream.calibration import calibration_scores, reference_of
from tscc_stream.config import Config, InferenceConfig
from tscc_stream.drift import Reference
from tscc_stream.edges import people
from tscc_stream.edges.people import PeopleError, PeopleThere
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.health import Health
from tscc_stream.messages import Float64Array
from tscc_stream.package import Label, Package, PackageError, PackageSpec
from tscc_stream.reload import ConfigFile
from tscc_stream.seldom import Repeats
from tscc_stream.stages.infer import Encoder
from tscc_stream.stages.interpret import calibrated
from tscc_stream.stages.publish import ModelIdentity

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A model that is ready to classify. scores: as Interpret takes them; reference: as Drift does."""

    package: Package
    encoder: Encoder
    scores: Float64Array | None
    reference: Reference | None

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(self.package.spec.name, self.package.spec.version, self.package.sha256)

    def told(self) -> dict[str, Any]:
        """What status messages say of it."""
        return {"name": self.identity.name, "version": self.identity.version, "sha256": self.identity.sha256}


@dataclass(frozen=True, slots=True, eq=False)
class NewLive:
    """From now on this one classifies."""

    served: Served


@dataclass(frozen=True, slots=True)
class NewShadow:
    """From now on this one is tried beside the live one; None: none is."""

    served: Served | None


@dataclass(frozen=True, slots=True)
class Told:
    """Nothing changes, and this is why: the data of a status message, and its kind."""

    data: dict[str, Any]
    kind: str = "model"


@dataclass(frozen=True, slots=True)
class NewSettings:
    """From now on this configuration holds; it differs in what may change while running."""

    config: Config


@dataclass(frozen=True, slots=True, eq=False)
class NewNames:
    """From now on clusters of the live model are called so."""

    sha256: str
    given: dict[int, Label]


Order = NewLive | NewShadow | NewSettings | NewNames | Told

PREPARE_SECONDS = 120.0
"""Longest that loading, checking and warming up a model may take while another one serves."""


def prepare(folder: Path, config: Config, running: PackageSpec | None = None) -> Served:
    """Load, check and warm up. running: whose windows are being cut. Raises PackageError where it may not serve."""
    loaded = package.load_live(folder)
    if running is not None and (differing := package.other_windows(running, loaded.spec)):
        raise PackageError(
            f"model package {folder}: its windows are not those being cut: {differing}; "
            "name it as `model` in the configuration and start anew"
        )
    encoder = _warm(loaded, config.inference)
    scores = calibration_scores(loaded)
    if not calibrated(scores, config.novelty.alpha):
        _log.warning("novelty: model %s has too few calibration windows for alpha %g: no window is called unknown",
                     loaded.spec.name, config.novelty.alpha)  # fmt: skip
    _log.info("model %s %s (%s) on %s", loaded.spec.name, loaded.spec.version, loaded.sha256[:12], encoder.device)
    for line in encoder.told:
        _log.info("%s", line)
    if config.inference.device == "auto" and encoder.device.type == "cpu":
        _log.info("inference.device auto: torch finds no CUDA device here, so the CPU does the work")
    return Served(loaded, encoder, scores, reference_of(loaded))


def _warm(loaded: Package, settings: InferenceConfig) -> TorchScriptEncoder:
    encoder = TorchScriptEncoder(loaded, settings.device, settings.threads, settings.precision)
    encoder.warm_up(settings.max_batch)
    return encoder


def _in_one_thread(config: Config) -> Config:
    """For a candidate: further threads would not have the low priority that its own has."""
    return config.model_copy(update={"inference": config.inference.model_copy(update={"threads": 1})})


def renewed(served: Served, settings: InferenceConfig) -> Encoder:
    """The same model, loaded, checked and warmed up afresh. Raises PackageError where its folder holds it no longer."""
    loaded = package.load_live(served.package.folder)
    if loaded.sha256 != served.package.sha256:
        raise PackageError(f"model package {loaded.folder}: it is another one than the model in use")
    return _warm(loaded, settings)


class ModelKeeper:
    """Loads what the state folder's files ask for; `start` once, then `ask` whenever they may have changed.

    configured, configured_shadow: the configuration's packages. health: is shown that its thread turns. file: the
    configuration, looked at again first; None: it came from no file. orders: what the back thread takes.
    """

    NAME = "models"

    def __init__(
        self,
        config: Config,
        state_dir: Path,
        configured: Path,
        configured_shadow: Path | None,
        health: Health,
        file: ConfigFile | None = None,
    ) -> None:
        self._config, self._state_dir, self._health, self._file = config, state_dir, health, file
        self._configured, self._configured_shadow = configured, configured_shadow
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._shadow: Package | None = None
        self._failures: queue.SimpleQueue[tuple[Package, str]] = queue.SimpleQueue()
        self._people = PeopleThere(state_dir / people.FILE)
        self._named: dict[int, Label] = {}
        self._unread = Repeats()

    def start(self) -> Served:
        """The model to begin with. Raises ActivationError and PackageError."""
        folder = activation.live_folder(self._state_dir, self._configured)
        if folder != self._configured:
            _log.info("%s is active; the configuration's model is what is served without one", folder)
        try:
            served = prepare(folder, self._config)
        except PackageError as error:
            if folder == self._configured:
                raise
            raise ActivationError(f"{error}; `tscc-stream model rollback` returns to the one before") from error
        self._name(served)
        self._live = served.package
        return served

    def ask(self) -> None:
        """Look at the files again. Safe in a signal handler: a SimpleQueue may be put to while it is put to."""
        self._asked.put(True)

    def shadow_failed(self, candidate: Package, reason: str) -> None:
        """It is tried no longer: that is told, and it may be set again. From any thread."""
        self._failures.put((candidate, reason))

    def stop(self) -> None:
        self._asked.put(False)

    def run(self) -> None:
        self._try_shadow()
        while self._wanted():
            self._reload()
            if not (self._try_live() | self._try_shadow()):
                self._tell("live", "unchanged", self._live)

    def _wanted(self) -> bool:
        """Wait until somebody asks (True) or wants an end (False)."""
        while True:
            self._alive()
            self._look_for_names()
            try:
                asked = self._asked.get(timeout=TURN_SECONDS)
            except queue.Empty:
                self._note_failures()
                continue
            self._note_failures()
            return asked

    def _note_failures(self) -> None:
        """Of a candidate that was replaced since, nothing is told: the one that is tried goes on."""
        while not self._failures.empty():
            candidate, reason = self._failures.get()
            if candidate is self._shadow:
                self._shadow = None
                self._tell("shadow", "failed", candidate, reason=reason)

    def _alive(self) -> None:
        self._health.stamp(self.NAME, time.monotonic_ns())

    def _reload(self) -> None:
        if self._file is None:
            return
        reloaded = self._file.again()
        self._config = reloaded.config
        if reloaded.taken:
            self.orders.put(NewSettings(reloaded.config))
        if told := reloaded.told():
            self.orders.put(Told(told, kind="config"))

    def _given(self, sha256: str) -> dict[int, Label] | None:
        """None where the file of names cannot be read: told once a minute, and what holds goes on."""
        try:
            return names.given(self._people.file(), sha256)
        except PeopleError as error:
            if self._unread.due("people", time.monotonic()) is not None:
                _log.error("names of clusters: %s", error)
            return None

    def _name(self, served: Served) -> None:
        served.package.given = self._named = self._given(served.package.sha256) or {}

    def _look_for_names(self) -> None:
        given = self._given(self._live.sha256)
        if given is not None and given != self._named:
            self._named = given
            self.orders.put(NewNames(self._live.sha256, given))

    def _prepared(self, folder: Path, config: Config) -> Served:
        """In a thread that may get stuck: a model that never ends must not serve. Raises PackageError."""
        spec = self._live.spec
        try:
            return Aside("loading").call(lambda: prepare(folder, config, spec), PREPARE_SECONDS, self._alive)
        except StuckError as error:
            raise PackageError(f"model package {folder}: loading it {error}") from error

    def _try_live(self) -> bool:
        """Whether there was anything to do."""
        try:
            folder = activation.live_folder(self._state_dir, self._configured)
        except ActivationError as error:
            return self._refuse("live", error)
        try:
            if self._is(self._live, folder):
                return False
            served = self._prepared(folder, self._config)
        except PackageError as error:
            self._refuse("live", error)
            self._take_back(folder)
            return True
        self._name(served)
        self._live = served.package
        self.orders.put(NewLive(served))
        return True

    def _take_back(self, refused: Path) -> None:
        try:
            activation.take_back(self._state_dir, refused, self._live.folder)
        except ActivationError as error:
            _log.warning("%s; a restart would try the refused model again", error)

    def _try_shadow(self) -> bool:
        try:
            folder = activation.shadow_folder(self._state_dir, self._configured_shadow)
            if folder is None:
                return self._end_shadow()
            if self._shadow is not None and self._is(self._shadow, folder):
                return False
            served = self._prepared(folder, _in_one_thread(self._config))
        except (ActivationError, PackageError) as error:
            return self._refuse("shadow", error)
        self._shadow = served.package
        self.orders.put(NewShadow(served))
        return True

    def _end_shadow(self) -> bool:
        if self._shadow is None:
            return False
        self._shadow = None
        self.orders.put(NewShadow(None))
        return True

    @staticmethod
    def _is(loaded: Package, folder: Path) -> bool:
        """Whether a folder holds the very package that is in use, with the same names of clusters."""
        return folder == loaded.folder and package.same_as_loaded(loaded)

    def _refuse(self, role: str, error: Exception) -> bool:
        _log.error("%s model refused, the one in use goes on: %s", role, error)
        in_use = self._live if role == "live" else self._shadow
        self._tell(role, "refused", in_use, reason=str(error))
        return True

    def _tell(self, role: str, state: str, in_use: Package | None, **more: str) -> None:
        named = (
            {}
            if in_use is None
            else {"name": in_use.spec.name, "version": in_use.spec.version, "sha256": in_use.sha256}
        )
        self.orders.put(Told({"role": role, "state": state, **named, **more}))
