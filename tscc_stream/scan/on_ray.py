"""Placement by Ray: tasks on this machine or on a cluster, encoders on its graphics cards.

Everything that a task needs lies in the scan's folder, which every node sees under the same path; what travels by Ray
is a task's name, what became of it, and windows to be classified. Ray is imported when a placement is made.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from tscc_stream import __version__
from tscc_stream.scan.encoders import encoder_of
from tscc_stream.scan.job import stored_job
from tscc_stream.scan.layout import Layout, ScanError
from tscc_stream.scan.placement import Done, Hand, Task
from tscc_stream.scan.run import Place

LOCAL = "local"
CONNECT_SECONDS, JOIN_SECONDS, ENCODER_SECONDS = 5.0, 60.0, 120.0
"""Longest that a cluster may take to accept a connection, and to take us in; that its encoders may take to load."""
STORE_BYTES = 256 << 20
"""Of shared memory, for a Ray of our own."""
AHEAD = 2
"""Tasks for each core where encoders are elsewhere: while a task waits for its windows, another one has its core."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # what has no graphics card sees none
}
_TRIAL = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
except Exception as error:
    print((str(error.__cause__ or error).strip().splitlines() or [""])[-1][:200] or type(error).__name__)
"""
_Handler = Callable[[int, FrameType | None], Any] | int | None
_LONGEST = 200
"""Characters of what Ray says."""
_hands: dict[str, tuple[list[Any], Hand]] = {}
"""In a process of Ray: what it keeps from one task of a scan to the next, by the scan's folder."""


def placing(address: str, encoders: int = 0) -> Place:
    """The placement for `--ray`. encoders: how many to start without a graphics card, for trials.

    Raises ScanError where Ray is not installed, or the address is none.
    """
    _ray(address)
    if address != LOCAL:
        _host_and_port(address)
    return partial(OnRay, address=address, encoders=encoders)


class OnRay:
    """Placement by Ray. folder: of the scan; workers: at a time, 0 for one for each core of the cluster.

    A Ray of our own (address "local") ends with the placement, a cluster stays. Raises ScanError where there is none.
    """

    def __init__(self, folder: Path, workers: int, address: str = LOCAL, encoders: int = 0) -> None:
        self._ray = _ray(address)
        self._folder, self._workers, self._unhelped = folder, workers, encoders
        self._encoders: list[Any] | None = None
        self._under_way: dict[object, Task] = {}
        self._scratch = tempfile.mkdtemp(prefix="scan-ray-") if address == LOCAL else ""
        self._ended_by = signal.getsignal(signal.SIGTERM)
        try:
            self._begin(address)
        except BaseException:
            self.close()
            raise

    @property
    def room(self) -> int:
        return max(0, self._most() - len(self._under_way))

    def submit(self, task: Task) -> None:
        """As Placement has it. Before the first part, encoders are started where there are graphics cards."""
        encoders = [] if task.kind == "index" else self._helped()
        reference = self._carry_out.options(name=f"scan {task.kind}").remote(
            str(self._folder), __version__, task, encoders
        )
        self._under_way[reference] = task

    def wait(self, seconds: float) -> list[Done]:
        """As Placement has it."""
        waiting = list(self._under_way)
        if not waiting or not self._ray.wait(waiting, num_returns=1, timeout=seconds)[0]:
            return []
        ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return [self._became(reference) for reference in ready]

    def close(self) -> None:
        """As Placement has it. Tasks and encoders of ours end on every node."""
        self._ray.shutdown()
        _on_sigterm(self._ended_by)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _begin(self, address: str) -> None:
        if address == LOCAL:
            _own(self._ray, self._workers or len(os.sched_getaffinity(0)), self._scratch)
        else:
            _join(self._ray, address)
        _mute(self._ray)
        _on_sigterm(_terminated)  # Ray has put its own there
        if not self._resource("CPU"):
            raise ScanError(f"--ray {address}: the cluster has no CPU to give; expected some")
        self._carry_out = self._ray.remote(num_cpus=1, max_retries=0)(carry_out)

    def _resource(self, name: str) -> int:
        """Of the nodes that live."""
        return int(self._ray.cluster_resources().get(name, 0))

    def _most(self) -> int:
        """Tasks at a time; never all there are, so that nothing piles up in Ray."""
        return max(1, self._workers or self._resource("CPU")) * (AHEAD if self._encoders else 1)

    def _became(self, reference: object) -> Done:
        task = self._under_way.pop(reference)
        failures = self._ray.exceptions
        try:
            done: Done = self._ray.get(reference)
        except (failures.RayTaskError, failures.RuntimeEnvSetupError) as error:
            # what a task raises itself is in its Done: this one could not even begin
            return Done(task, f"a node of the cluster cannot do its work: {_last_line(error)}", fatal=True)
        except failures.RayError as error:
            return Done(task, f"its process or its node was lost ({type(error).__name__})", lost=True)
        return done

    def _helped(self) -> list[Any]:
        if self._encoders is None:
            self._encoders = self._started()
        return self._encoders

    def _started(self) -> list[Any]:
        """Encoders, one for each graphics card, where the configuration wants them. Raises ScanError."""
        job = stored_job(Layout(self._folder))
        device = job.settings().inference.device
        cards = self._resource("GPU")
        if device.startswith("cuda") and not cards:
            raise ScanError(f"inference.device {device}: the cluster has no graphics card")
        if device == "cpu" or (device == "auto" and job.few):
            cards = 0
        if not cards and not self._unhelped:
            return []
        from tscc_stream.scan.ray_encoder import RayEncoder  # noqa: PLC0415  # loaded where it is needed

        kind = self._ray.remote(
            num_cpus=0, num_gpus=1 if cards else 0, max_restarts=-1, max_task_retries=0, max_concurrency=1000
        )(RayEncoder)
        made = [kind.remote(str(self._folder), bool(cards)) for _ in range(cards or self._unhelped)]
        return self._ready(made)

    def _ready(self, made: list[Any]) -> list[Any]:
        """Those that come up. Raises ScanError where none does, or one cannot run the model."""
        names = {one.ready.remote(): one for one in made}
        came, late = self._ray.wait(list(names), num_returns=len(names), timeout=ENCODER_SECONDS)
        try:
            self._ray.get(came)
        except self._ray.exceptions.RayError as error:
            raise ScanError(f"an encoder cannot be started on the cluster: {_last_line(error)}") from error
        if not came:
            raise ScanError(
                f"no encoder came up within {ENCODER_SECONDS:.0f} s: are the graphics cards taken? "
                "inference.device cpu does without"
            )
        for reference in late:
            self._ray.kill(names[reference])
        return [names[reference] for reference in came]


def carry_out(folder: str, version: str, task: Task, encoders: list[Any]) -> Done:
    """In a process of Ray: one task. encoders: actors to ask, none to classify here."""
    unfit = "" if folder in _hands else unfit_for(Layout(Path(folder)), version)
    if unfit:
        return Done(task, f"node {socket.gethostname()}: {unfit}", fatal=True)
    known = _hands.get(folder)
    if known is None or known[0] != encoders:
        _hands.clear()  # one scan at a time
        _hands[folder] = encoders, _hand(Path(folder), encoders)
    return _hands[folder][1].carry_out(task)


def _hand(folder: Path, encoders: list[Any]) -> Hand:
    if not encoders:
        return Hand(folder, encoder_of)
    from tscc_stream.scan.ray_encoder import Remote  # noqa: PLC0415  # loaded where it is needed

    return Hand(folder, lambda _config, _loaded, _few: Remote(encoders))


def unfit_for(layout: Layout, version: str) -> str:
    """Why a node cannot work on a scan; empty where it can."""
    if version != __version__:
        return f"has tscc-stream {__version__}; expected {version}, as where the scan was begun"
    try:
        job = stored_job(layout)
    except (OSError, ScanError):
        return f"does not see {layout.job}; expected --out on a file system that all nodes share, at the same path"
    for path in (*job.paths, job.model):
        if not Path(path).exists():
            return f"does not see {path}; expected archive and model at the same path on all nodes"
    return ""


def _ray(address: str) -> ModuleType:
    """Ray, quiet. Raises ScanError where it is not installed."""
    for name, value in {**_QUIET, **_admission(address)}.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: PLC0415  # an extra, and it takes a second
    except ImportError as error:
        raise ScanError(f"--ray {address}: Ray is not installed; expected tscc-stream[ray]") from error
    loaded: ModuleType = ray
    return loaded


def _admission(address: str) -> dict[str, str]:
    """How Ray's processes know one another: by a token, of this scan alone where Ray is ours. A cluster's is where
    Ray keeps it. What the environment says counts more.
    """
    if address == LOCAL:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    kept = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return {"RAY_AUTH_MODE": "token"} if kept or (Path.home() / ".ray/auth_token").is_file() else {}


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ScanError(f"--ray {address}: expected local, off or HOST:PORT of a Ray cluster, as 10.0.0.2:6379")
    return host.strip("[]"), int(port)


def _own(ray: ModuleType, cpus: int, scratch: str) -> None:
    with _hushed():
        ray.init(
            address=LOCAL,
            num_cpus=cpus,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _node_ip_address="127.0.0.1",
            _temp_dir=scratch,
        )


def _join(ray: ModuleType, address: str) -> None:
    """Raises ScanError where the cluster does not answer in time."""
    why = _unanswered(address)
    if why:
        raise ScanError(
            f"--ray {address}: no Ray cluster that takes us in ({why}); "
            "expected one with a node on this machine (ray start)"
        )
    with _hushed():
        ray.init(address=address, log_to_driver=False, logging_level="error")


def _unanswered(address: str) -> str:
    """Why a cluster does not take us in; empty where it does. Tried in a process that can be ended: Ray goes on trying
    for minutes, in compiled code.
    """
    try:
        socket.create_connection(_host_and_port(address), CONNECT_SECONDS).close()
        told = [sys.executable, "-c", _TRIAL, address]
        tried = subprocess.run(told, capture_output=True, text=True, check=False, timeout=JOIN_SECONDS)
    except OSError as error:
        return error.strerror or str(error)
    except subprocess.TimeoutExpired:
        return f"no answer within {JOIN_SECONDS:.0f} s"
    return tried.stdout.strip()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Ray's compiled part writes to standard error until it has a log; what matters is raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _mute(ray: ModuleType) -> None:
    """What nodes tell every driver of processes that died: a scan says itself what matters. Ray has no setting for it;
    a version that has no such place says it all.
    """
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def _on_sigterm(handler: _Handler) -> None:
    with contextlib.suppress(ValueError):  # not the main thread: who has that one decides
        signal.signal(signal.SIGTERM, handler)


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _last_line(error: Exception) -> str:
    """What a traceback from elsewhere comes down to."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else type(error).__name__
