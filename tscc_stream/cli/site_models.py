"""Commands that change which model a running site serves, and what its people think of it."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any

from tscc_stream import activation, package
from tscc_stream.activation import ActivationError
from tscc_stream.cli.command import Commands, UsageError, add_command, needs_site, site_of
from tscc_stream.config import Config
from tscc_stream.edges.daemon_view import DaemonView, Login

ANSWER_SECONDS = 120.0
"""How long a daemon may take to load, check and warm up a model."""


def add(actions: Commands) -> None:
    """Add them all to `model`."""
    activate = add_command(
        actions,
        "activate",
        "serve another model without a restart",
        "model activate models/mine --config site.yaml",
        _activate,
    )
    activate.add_argument("model", metavar="DIR")
    rollback = add_command(
        actions, "rollback", "serve the model before the active one", "model rollback --config site.yaml", _rollback
    )
    shadow = add_command(
        actions,
        "shadow",
        "try a candidate beside the live model, on the same windows",
        "model shadow models/candidate --config site.yaml",
        _shadow,
    )
    what = shadow.add_mutually_exclusive_group(required=True)
    what.add_argument("model", nargs="?", metavar="DIR")
    what.add_argument("--off", action="store_true", help="try none")
    what.add_argument("--report", action="store_true", help="how often the two agreed so far")
    for parser in (activate, rollback, shadow):
        needs_site(parser)
        parser.add_argument("--no-signal", action="store_true", help="only write; a running daemon is not told")
    carry = add_command(
        actions,
        "carry-labels",
        "give the clusters of a new model the names of the old ones that they are",
        "model carry-labels models/old models/new --data mine.npz",
        _carry_labels,
    )
    carry.add_argument("old", metavar="OLD")
    carry.add_argument("new", metavar="NEW")
    carry.add_argument("--data", type=Path, required=True, metavar="FILE.npz", help="windows that both sort")
    _add_precision(actions)


def _add_precision(actions: Commands) -> None:
    precision = add_command(
        actions,
        "precision",
        "how often people agreed with each cluster",
        "model precision --config site.yaml",
        _precision,
    )
    needs_site(precision)


def _precision(options: argparse.Namespace) -> int:
    """Per model and cluster, out of the verdicts whose detections the journal still holds."""
    from tscc_stream.apps.judged import of_site  # noqa: PLC0415  # loaded where it is needed

    settings, base = site_of(options)
    found, gone = of_site(settings, base)
    if not found and not gone:
        print("nobody has confirmed or corrected a detection yet")
        return 0
    print(f"{'model':<13} {'cluster':<32} {'agreed':>13} {'share':>7}  95 % interval")
    for (sha256, name), one in found.items():
        shown = "".join(letter if letter.isprintable() else "?" for letter in name)
        share = f"{one.agreed} of {one.judged}"
        interval = f"{100 * one.low:.0f} to {100 * one.high:.0f} %"
        print(f"{sha256[:12]:<13} {shown:<32} {share:>13} {100 * one.share:>5.0f} %  {interval}")
    if gone:
        print(f"{gone} verdicts are on detections that the journal no longer holds")
    return 0


def _carry_labels(options: argparse.Namespace) -> int:
    from tscc_stream.learn import identity  # noqa: PLC0415 torch takes seconds

    old, new = (package.load(package.find(name)) for name in (options.old, options.new))
    print(identity.carry_labels(old, new, options.data))
    return 0


def state_dir_of(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """The state folder, and the configuration's model where a configuration was given."""
    settings, folder = site_of(options)
    state_dir = Path(settings.state_dir)
    configured = None if options.config is None else package.find(settings.model, folder)
    if not state_dir.is_dir():
        raise UsageError(f"state folder {state_dir}: no such folder; the daemon makes it when it first starts")
    return state_dir, configured


def _installed(options: argparse.Namespace) -> package.Package:
    """A checked copy in the state folder of the package that was given, if it may take the live one's place."""
    from tscc_stream.edges.torchscript import TorchScriptEncoder  # noqa: PLC0415 torch takes seconds

    state_dir, configured = state_dir_of(options)
    offered = package.load_live(package.find(options.model))
    name = activation.chosen(state_dir).active
    running = configured if name is None else activation.folder_of(state_dir, name)
    if running is not None:
        _check_windows(offered, running)
    TorchScriptEncoder(offered)
    return activation.install(offered.folder, state_dir)


def _check_windows(offered: package.Package, running: Path) -> None:
    try:
        spec = package.load(running).spec
    except package.PackageError:
        return  # the one in use is broken: anything that holds may replace it
    if differing := package.other_windows(spec, offered.spec):
        raise ActivationError(
            f"model package {offered.folder}: its windows are not those being cut: {differing}; "
            "name it as `model` in the configuration and start anew"
        )


def _activate(options: argparse.Namespace) -> int:
    made = _installed(options)
    state_dir, _ = state_dir_of(options)
    ask = _Asking(state_dir, options)
    activation.activate(state_dir, made.sha256[:12])
    return ask.until_told("live", f"{made.folder}: active")


def _rollback(options: argparse.Namespace) -> int:
    state_dir, _ = state_dir_of(options)
    ask = _Asking(state_dir, options)
    name = activation.rollback(state_dir).active
    active = "the configuration's model" if name is None else str(activation.folder_of(state_dir, name))
    return ask.until_told("live", f"{active}: active again")


def _shadow(options: argparse.Namespace) -> int:
    state_dir, _ = state_dir_of(options)
    if options.report:
        return _report(site_of(options)[0])
    made = None if options.off else _installed(options)
    ask = _Asking(state_dir, options)
    activation.set_shadow(state_dir, None if made is None else made.sha256[:12])
    done = "no candidate is tried" if made is None else f"{made.folder}: tried beside the live model"
    return ask.until_told("shadow", done)


_ANSWERS = ("active", "off", "refused")
"""Of a role; a candidate that failed, or new names of clusters, are told unasked."""


class _Asking:
    """A running daemon is told by SIGHUP, and says on its bus what came of it. Made before the files are changed."""

    def __init__(self, state_dir: Path, options: argparse.Namespace) -> None:
        self._where = {} if options.no_signal else activation.endpoints(state_dir)
        self._unheard = "the daemon was not told" if options.no_signal else "no daemon runs there"

    def until_told(self, role: str, done: str) -> int:
        """Prints what was done. Raises ActivationError where the daemon refused, or did not answer."""
        if not self._where:
            print(f"{done} from the next start ({self._unheard})")
            return 0
        data = self._answer(role)
        if data["state"] == "refused":
            raise ActivationError(f"the daemon goes on with the model it had: {data['reason']}")
        print(f"{done}; the daemon (process {self._where['pid']}) has taken it over")
        return 0

    def _answer(self, role: str) -> dict[str, Any]:
        from tscc_stream.client import Subscriber  # noqa: PLC0415  # loaded where it is needed

        pid, deadline = self._where["pid"], time.monotonic() + ANSWER_SECONDS
        with Subscriber(self._where["publish"], self._where["replay"], topic="status.model.") as answers:
            while answers.through is None and time.monotonic() < deadline:
                answers.receive(0.5)  # from now on nothing that it says is missed
            _hang_up(pid)
            while (left := deadline - time.monotonic()) > 0:
                if (message := answers.receive(left)) is not None:
                    data: dict[str, Any] = message.body["data"]
                    if (data["role"] == role and data["state"] in _ANSWERS) or data["state"] == "unchanged":
                        return data
        raise ActivationError(f"the daemon (process {pid}) was told, but did not answer within {ANSWER_SECONDS:g} s")


def _hang_up(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise ActivationError(f"the daemon (process {pid}) cannot be told: {error.strerror}") from error


def _report(settings: Config) -> int:
    """Agreement per pair of clusters, out of the running daemon's metrics."""
    where = activation.endpoints(Path(settings.state_dir))
    if not where:
        raise ActivationError(f"{settings.state_dir}: no daemon runs there whose candidate could be reported on")
    monitor = settings.alerts.monitor
    view = DaemonView(settings.metrics, Login(monitor.user, monitor.password_file, "alerts.monitor."))
    counts, skipped = _counts(view.metrics(where["metrics"]))
    if not counts and not skipped:
        print("no window was classified by a candidate yet")
        return 0
    total = sum(counts.values())
    print(f"{'live':>8} {'candidate':>10} {'windows':>8} {'share':>7}")
    for (live, shadow), count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{live:>8} {shadow:>10} {count:>8} {100 * count / total:>6.1f}%")
    print(f"{total} windows by both, {skipped} skipped for want of time")
    return 0


def _counts(text: str) -> tuple[dict[tuple[str, str], int], int]:
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  # loaded where it is needed

    counts: dict[tuple[str, str], int] = {}
    skipped = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "tscc_shadow_total":
                counts[sample.labels["live"], sample.labels["shadow"]] = int(sample.value)
            elif sample.name == "tscc_shadow_skipped_total":
                skipped = int(sample.value)
    return counts, skipped
