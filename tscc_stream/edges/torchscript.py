"""The compiled encoder of a model package: one of the two files that touch TorchScript (the other writes it)."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from tscc_stream.calibration import calibration_scores, self_check
from tscc_stream.edges.encoder_cuda import (
    MOST_AT_ONCE,
    GraphedEncoder,
    agreement,
    check_windows,
    sizes_for,
    tensor_float_32,
)
from tscc_stream.edges.encoder_loops import EncoderLoops, fits
from tscc_stream.edges.encoder_threads import EncoderThreads, choose, counts_to_try, piece_size
from tscc_stream.messages import Float32Array
from tscc_stream.package import Package, PackageError, PackageUnavailableError
from tscc_stream.stages.infer import Encoded

PIECE = 4
"""Windows of a batch that a thread takes at a time; the compiled encoder takes no more at a time, either."""
TRIAL_WINDOWS = 16
LOWER = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}
"""Precisions below float32, the fastest first and of those the finer one; the type of the network's weights."""
NO_MEMORY = re.compile(r"(?i)out of memory|can't allocate memory|not enough memory")
"""In torch's words; for the CPU's it has no type of its own."""
Results = tuple[Tensor, Tensor, Tensor, Tensor]


class TorchScriptEncoder:
    """A package's encoder on one device, self-checked when made.

    device: "auto" (cuda where there is one), "cpu", "cuda" or "cuda:N". threads: of the CPU; "auto": as a short trial
    says. precision: of products on a CUDA device: "float32", "tf32", "bf16" or "fp16", or "auto" for the fastest whose
    clusters and p-values agree with float32's; one that does not agree is not used.
    `told` says what came of all that. Raises PackageError where the package cannot be run as it was recorded, and of
    those PackageUnavailableError where the device or the memory for it is missing at present.
    """

    def __init__(
        self, package: Package, device: str = "auto", threads: int | str = "auto", precision: str = "float32"
    ) -> None:
        self.device = _device(device)
        self.told: list[str] = []
        self._package = package
        torch.set_num_threads(1)  # those of torch wait for one another too often: see encoder_threads
        module = _read(package, self.device)
        self._module = _frozen(module)
        self._loops: EncoderLoops | None = None
        self._threads = EncoderThreads(threads if isinstance(threads, int) else 1)
        self._graphed: GraphedEncoder | None = None
        self._tf32 = False
        self._check()
        if self.device.type == "cpu":
            self._use_loops(_loops_of(module, package.spec.samples))
        if self.device.type == "cuda":
            self._lower_precision(precision)
        elif precision not in ("auto", "float32"):
            self.told.append(f"inference.precision {precision}: for a CUDA device alone, the CPU takes float32")
        if threads == "auto" and self.device.type == "cpu":
            self._choose_threads()

    def _check(self) -> None:
        try:
            self_check(self._package, self.encode, f"on {self.device}")
        except PackageError as error:
            if self.device.type == "cpu":
                raise
            raise PackageUnavailableError(str(error)) from error  # another start may find the card in order

    @property
    def threads(self) -> int:
        return self._threads.count

    def encode(self, normalised: Float32Array) -> Encoded:
        """[B, samples, channels] float32 -> results on the host."""
        x_btc = torch.from_numpy(np.require(normalised, np.float32, ["C", "W"]))
        return _encoded(self._on_cuda(x_btc) if self.device.type == "cuda" else self._on_cpu(x_btc))

    def warm_up(self, max_batch: int) -> None:
        """The first calls of a shape compile: make them before anything waits for an answer."""
        spec = self._package.spec
        if self.device.type == "cuda":
            self._record_graphs(max_batch, (spec.samples, spec.channels))
        for size in sorted({1, 2, max_batch}):
            for _ in range(2):
                self.encode(np.zeros((size, spec.samples, spec.channels), np.float32))

    def _record_graphs(self, max_batch: int, window: tuple[int, int]) -> None:
        """Where that fails, as for want of memory, it goes on without."""
        try:
            with tensor_float_32(self._tf32):
                self._graphed = GraphedEncoder(self._run, window, sizes_for(max_batch), self.device)
        except RuntimeError as error:
            self.told.append(f"no graphs could be recorded, batches run without: {_first_line(error)}")

    def _run(self, x_btc: Tensor) -> Results:
        with torch.inference_mode():
            results: Results = self._module(x_btc)
        return results

    def _on_cpu(self, x_btc: Tensor) -> Sequence[Tensor]:
        pieces = torch.split(x_btc, piece_size(len(x_btc), self._threads.count, PIECE))
        if self._loops is None:
            return _joined(self._threads.each(self._run, pieces))
        embedding_bd = torch.cat(self._threads.each(self._loops, pieces))
        with torch.inference_mode():
            results: Results = self._module.assign(embedding_bd)  # type: ignore[operator]  # torch thinks it a weight
        return results

    def _on_cuda(self, x_btc: Tensor) -> Sequence[Tensor]:
        if self._graphed is not None:
            return self._graphed(x_btc)
        with tensor_float_32(self._tf32):
            parts = [self._run(part.to(self.device)) for part in torch.split(x_btc, MOST_AT_ONCE)]
            return [part.cpu() for part in _joined(parts)]

    def _use_loops(self, loops: EncoderLoops | None) -> None:
        """Where they give what the package recorded; TorchScript runs it else."""
        self._loops = loops
        try:
            self_check(self._package, self.encode, "by compiled loops")
        except PackageError as error:
            self._loops = None
            self.told.append(f"compiled loops are not used: {error}")

    def _choose_threads(self) -> None:
        crews = {count: EncoderThreads(count) for count in counts_to_try(len(os.sched_getaffinity(0)))}
        spec = self._package.spec
        x_btc = torch.zeros(TRIAL_WINDOWS, spec.samples, spec.channels)

        def trial(count: int) -> None:
            self._threads = crews[count]
            self._on_cpu(x_btc)

        trial(1)  # the first calls compile
        chosen, seconds = choose(trial, list(crews))
        self._threads = crews[chosen]
        tried = ", ".join(f"{count}: {1000 * some:.3g} ms" for count, some in seconds.items())
        self.told.append(f"inference.threads auto: {chosen} ({TRIAL_WINDOWS} windows with {tried})")

    def _lower_precision(self, wanted: str) -> None:
        """Take the precision that is wanted if its results agree with those of float32, which are in use so far."""
        if wanted == "float32":
            return
        with np.load(self._package.folder / "selfcheck.npz", allow_pickle=False) as recorded:
            x = check_windows(recorded["x"])
        exact, exact_module, scores = self.encode(x), self._module, calibration_scores(self._package)
        for name in LOWER if wanted == "auto" else (wanted,):
            try:
                self._take(name)
                agreed = agreement(exact, self.encode(x), scores)
            except (RuntimeError, PackageError) as error:
                self.told.append(f"inference.precision {name}: this package cannot be run in it: {_first_line(error)}")
            else:
                self.told.append(f"inference.precision {name}: {'' if agreed.enough else 'not used, '}{agreed}")
                if agreed.enough:
                    return
            self._module, self._tf32 = exact_module, False

    def _take(self, precision: str) -> None:
        self._tf32 = precision == "tf32"
        if precision != "tf32":
            self._module = _load(self._package, self.device, LOWER[precision])


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PackageUnavailableError(f"inference.device {name}: this machine has no CUDA device that torch can use")
    return device


def _load(package: Package, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Load, move, then freeze: a frozen module silently ignores being moved. dtype: of the network, not of its head."""
    module = _read(package, device)
    if dtype is not torch.float32:
        _network_of(module).to(dtype)
    return _frozen(module)


def _read(package: Package, device: torch.device) -> torch.nn.Module:
    payload = (package.folder / "encoder.ts").read_bytes()
    try:
        return _loaded(payload, device)
    except RuntimeError as error:
        kind = PackageUnavailableError if _may_pass(error, payload, device) else PackageError
        where = "" if device.type == "cpu" else f" on {device}"
        raise kind(
            f"model package {package.folder}: encoder.ts cannot be loaded{where}: {_first_line(error)}"
        ) from error


def _loaded(payload: bytes, device: torch.device) -> torch.nn.Module:
    with _without_announcements():
        module: torch.nn.Module = torch.jit.load(io.BytesIO(payload), map_location=device).eval()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return module


def _may_pass(error: RuntimeError, payload: bytes, device: torch.device) -> bool:
    """Whether it was for want of memory, or of a device that is in order: what the CPU can load is as it should be."""
    if NO_MEMORY.search(str(error)):
        return True
    if device.type == "cpu":
        return False
    try:
        _loaded(payload, torch.device("cpu"))
    except RuntimeError as of_cpu:
        return NO_MEMORY.search(str(of_cpu)) is not None
    return True


def _frozen(module: torch.nn.Module) -> torch.nn.Module:
    with _without_announcements():
        frozen: torch.nn.Module = torch.jit.freeze(module, ["assign"] if hasattr(module, "assign") else None)
    return frozen


@contextmanager
def _without_announcements() -> Iterator[None]:
    """Of TorchScript's end by torch; the seam is Encoder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _loops_of(module: torch.nn.Module, samples: int) -> EncoderLoops | None:
    """The network of a module by compiled loops, where it has the form for it and the processor the instructions."""
    if not (fits(samples) and hasattr(module, "assign")):
        return None
    try:
        return EncoderLoops(_network_of(module).state_dict())
    except (KeyError, ValueError, RuntimeError):  # another network, which TorchScript runs
        return None


def _network_of(module: torch.nn.Module) -> torch.nn.Module:
    found = dict(module.named_children()).get("encoder")
    if found is None:
        raise RuntimeError("no part of it is called encoder")
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _joined(parts: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
    return [torch.cat(some) for some in zip(*parts, strict=True)] if len(parts) > 1 else parts[0]


def _encoded(results: Sequence[Tensor]) -> Encoded:
    embedding, membership, cluster, squared_distance = (part.numpy() for part in results)
    return Encoded(embedding, membership, cluster, squared_distance)
