"""Settings for the whole suite."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""For all that tests start, too: networks as small as theirs are slower on several threads, beside other tests."""

settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    max_examples=int(os.environ.get("TSCC_EXAMPLES", "25")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("suite")

COVERING = (
    *("acquire", "acquire_runs", "assemble", "coincidence", "components", "condition", "detect", "extract"),
    *("inference", "interpret", "journal", "lanes", "pipeline", "publish", "recovery", "shard"),
)
"""What covers the stages, branch by branch: files whose coverage is measured. Measuring takes half as long again as
running, and slows all that a process runs.
"""
COVER_NO_MORE = (
    "test_by_the_run_or_packet_by_packet_it_is_the_same",
    "test_a_batch_gives_what_its_records_give_one_by_one",
    "test_a_snapshot_between_batches_goes_on_as_if_nothing_were",
    "test_a_model_with_a_fault_loses_that_window_only",
)
"""Long tests of these files that reach nothing which others do not."""


LONG = (
    *("documents", "wheelhouse", "scan_ray", "kills", "ddp_runs", "scan", "console_health", "ddp_ray", "scan_troubles"),
    *("bridge", "shard_daemons", "swap", "faults", "train", "inference", "scan_bad_input", "daemon", "alert_process"),
)
"""Files that take a minute or so: they begin first, lest the end waits for one of them alone."""

COMPILE = """
from tscc_stream import lanes, package
from tscc_stream.stages import acquire
acquire.warm_up()
lanes.warm_up()
from tscc_stream.edges.torchscript import TorchScriptEncoder
TorchScriptEncoder(package.load_live(package.find("models/demo")), "cpu").warm_up(1)
"""


def pytest_configure(config: pytest.Config) -> None:
    """What a fresh installation has to compile is compiled once, while the tests are collected, and not by all.

    A shell that starts the suite in the background has it ignore SIGINT, and so would every process that it starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        process = subprocess.Popen([sys.executable, "-P", "-c", COMPILE])
        config.add_cleanup(process.wait)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _name(item) not in COVERING or item.name.partition("[")[0] in COVER_NO_MORE:
            item.add_marker("no_cover")
    items.sort(key=lambda item: LONG.index(_name(item)) if _name(item) in LONG else len(LONG))


def _name(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Carries out a command as made_site.finished does, in this process, which has loaded what it needs."""

    def carried_out(*arguments: object) -> subprocess.CompletedProcess[str]:
        from tscc_stream import cli  # noqa: PLC0415  # which most tests do without

        told = [str(argument) for argument in arguments]
        capsys.readouterr()
        try:
            status = cli.main(told)
        except SystemExit as ended:  # of the parser of arguments
            status = int(ended.code or 0)
        return subprocess.CompletedProcess(told, status, *capsys.readouterr())

    return carried_out


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Networks as small as those of the tests only wait for one another on several."""
    import torch  # noqa: PLC0415  # which most tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
