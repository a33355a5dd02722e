"""`train` on a Ray cluster: Ray Train places the processes, starts all of them again where one was lost, and each does
what it does under torchrun.

Ray (`pip install "tscc-stream[ray]"`) is loaded here alone. Data, --runs and --out are on file systems that every node
has; a run that was started again goes on from its last epoch, as any other.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tscc_stream import package
from tscc_stream.learn.commands import train_model
from tscc_stream.learn.group import WAIT_SECONDS, Group
from tscc_stream.learn.settings import TrainingError
from tscc_stream.package import Package

LOCAL = "local"
_STORE_BYTES = 100 << 20
"""Of Ray's object store on this machine; nothing passes through it but these arguments."""
_RESTARTS = 3


def train(address: str, options: Mapping[str, Any], processes: int, wait_seconds: float = WAIT_SECONDS) -> Package:
    """train_model(**options) by so many processes of the cluster at `address`, or of one that is started on this
    machine for it (LOCAL). Raises TrainingError where Ray is not installed, or with what a process said.
    """
    try:
        import ray  # noqa: PLC0415 an extra, and seconds to load
        import ray.train.torch  # noqa: PLC0415 an extra
    except ImportError as error:
        raise TrainingError('--ray: Ray Train is not installed; expected pip install "tscc-stream[ray]"') from error
    begun = _here(processes) if address == LOCAL else {"address": address}
    Path(options["runs"]).mkdir(parents=True, exist_ok=True)
    ray.init(**begun, log_to_driver=False, logging_level=logging.ERROR)
    try:
        _fit(_absolute(options), processes, wait_seconds)
    finally:
        ray.shutdown()
    return package.load(Path(options["out"]))


def _here(processes: int) -> dict[str, Any]:
    """A cluster on this machine, which nobody else can reach."""
    cards = torch.cuda.device_count()
    return {
        "address": "local",  # whatever else of Ray runs here
        "num_cpus": processes,
        "num_gpus": cards,
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }


def _absolute(options: Mapping[str, Any]) -> dict[str, Any]:
    """Workers have folders of their own."""
    return {name: value.resolve() if isinstance(value, Path) else value for name, value in options.items()}


def _fit(options: dict[str, Any], processes: int, wait_seconds: float) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415 an extra
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415 an extra

    cards = str(options["device"]) != "cpu" and torch.cuda.is_available()
    with tempfile.TemporaryDirectory(prefix="tscc-ray-", dir=options["runs"]) as folder:
        said = Path(folder) / "said"
        trainer = TorchTrainer(
            _each,
            train_loop_config={"options": options, "said": str(said)},
            torch_config=TorchConfig(backend="nccl" if cards else "gloo", timeout_s=int(wait_seconds)),
            scaling_config=ScalingConfig(num_workers=processes, use_gpu=cards),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=_RESTARTS)),
        )
        try:
            trainer.fit()
        except Exception as error:
            if said.is_file():
                raise TrainingError(said.read_text(encoding="utf-8")) from error
            raise TrainingError(f"Ray: {str(error).strip().splitlines()[-1]}") from error
        if said.is_file():
            raise TrainingError(said.read_text(encoding="utf-8"))


def _each(config: dict[str, Any]) -> None:
    """What each process does. What is wrong with data or settings is no reason for Ray to start it again."""
    group = Group(distributed.get_rank(), distributed.get_world_size())
    try:
        train_model(**config["options"], group=group)
    except ValueError as error:
        with suppress(FileExistsError), Path(config["said"]).open("x", encoding="utf-8") as file:
            file.write(str(error))  # by whoever met it: the others only miss that one
