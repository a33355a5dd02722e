"""`bench encoder`: windows a second through the published network, ours beside its plain form in eager torch.

All variants give the pooled representation of the same windows with the same weights; ours gives the memberships, too.
They take turns in every round, on one thread and on two. Beside them a product of large matrices says what the machine
can do in the same minute, so that GFLOP/s on the exact count can be told as a share of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from tscc_stream.bench import encoder_onnx
from tscc_stream.bench.measure import FIELD, Figure, Results, rates, seconds_of
from tscc_stream.bench.published_encoder import gigaflop, published
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.dataset import WindowShape
from tscc_stream.learn.export import Trained, export
from tscc_stream.learn.network import Encoder, make_encoder, pool
from tscc_stream.messages import Float32Array

SAMPLES = 500
BATCHES, THREADS, ROUNDS = (1, 8, 32, 128, 512), (1, 2), 9
FEWER_ROUNDS, LARGE = 3, 128
"""Rounds of batches of so many windows and more, which take long enough to be timed in fewer."""
TOGETHER = 16
"""Windows that a turn classifies at least, so that it can be timed."""
REST = 0.02
"""Seconds before a turn: torch's threads spin for some time after their last product, on the core of who is next."""
OURS, EAGER, ONNX, GEMM = "ours", "eager_trimmed", "onnxruntime", "gemm"
ERROR = 1e-5
"""Largest error of a representation that the bench accepts from a variant."""
_CLUSTERS = 4
PRODUCTS = ((2048, 2048, 2048), (4 * SAMPLES, 192, 64))
"""Shapes of the product, rows, inner and columns: a large one, and all taps of a convolution. The faster one counts."""


class BenchError(RuntimeError):
    """A variant whose results are not those of the others."""


def run(
    batches: Sequence[int] = BATCHES,
    threads: Sequence[int] = THREADS,
    rounds: int = ROUNDS,
    samples: int = SAMPLES,
    depth: int = 10,
) -> Results:
    """encoder_b<batch>_t<threads>: windows a second; encoder_gflops_...: on the exact count, and as a share of the
    product's. ours_best: of the fastest rounds, its ratio to the field's fastest.
    """
    network = make_encoder(0, 1, depth=depth).eval()
    results: Results = {"encoder_gflop": _counts(network, samples)}
    with tempfile.TemporaryDirectory() as folder, _threads_restored():
        package = export(_trained(network, samples), Path(folder) / "published")
        onnx = _onnx(network, samples, Path(folder) / "published.onnx")
        for batch, count in product(batches, threads):
            x = _windows(batch, samples)
            variants = _variants(network, TorchScriptEncoder(package, "cpu", count), x)
            if onnx is not None:
                variants[ONNX] = partial(encoder_onnx.session(onnx, count), x)
            with torch.inference_mode():
                _check(variants)
                spent = _spent(variants, batch, count, rounds if batch < LARGE else min(rounds, FEWER_ROUNDS))
            results |= _figures(spent, batch, count, gigaflop(network, samples, padded=False))
    return results


def _counts(network: Encoder, samples: int) -> dict[str, Figure]:
    padded, exact = (gigaflop(network, samples, padded) for padded in (True, False))
    return {FIELD: Figure(padded, "GFLOP/window", 1.0), OURS: Figure(exact, "GFLOP/window", padded / exact)}


def _onnx(network: Encoder, samples: int, path: Path) -> Path | None:
    if absent := encoder_onnx.missing():
        print(f"{ONNX} is left out: {', '.join(absent)} not installed", flush=True)  # noqa: T201  # said to people
        return None
    return encoder_onnx.export(network, samples, path)


@contextmanager
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained(network: Encoder, samples: int) -> Trained:
    with torch.no_grad():
        centres = pool(network(torch.from_numpy(_windows(_CLUSTERS, samples))))
    return Trained(
        name="published",
        encoder=network,
        head=Head(centres),
        fuzzifier=1.5,
        shape=WindowShape(100.0, samples, samples // 5, (2.0, 40.0), 4, 1.0),
        normalisation="z",
        selfcheck_x=_windows(16, samples),
        calibration_x=None,
        training_data={"origin": "none: untrained weights of the published shape"},
        metrics={},
        card="",
    )


def _windows(n: int, samples: int) -> Float32Array:
    """What they hold does not matter to speed: noise."""
    return np.random.Generator(np.random.PCG64(n)).standard_normal((n, samples, 1)).astype(np.float32)


Variant = Callable[[], Float32Array]


def _variants(network: Encoder, ours: TorchScriptEncoder, x: Float32Array) -> dict[str, Variant]:
    x_btc = torch.from_numpy(x)
    return {
        FIELD: lambda: published(network, x_btc).numpy(),
        EAGER: lambda: pool(network(x_btc)).numpy(),
        OURS: lambda: ours.encode(x).embedding,
    }


def _check(variants: dict[str, Variant]) -> None:
    expected = variants[FIELD]()
    for name, variant in variants.items():
        error = float(np.abs(variant() - expected).max())
        if not error <= ERROR:
            raise BenchError(f"bench encoder: {name} differs from {FIELD} by {error:.2g}, expected at most {ERROR:g}")


Spent = dict[str, list[float]]


def _spent(variants: dict[str, Variant], batch: int, threads: int, rounds: int) -> Spent:
    """Seconds of each for one batch, and of one product (per 10^9 operations), in each round."""
    times = max(1, TOGETHER // batch)

    def turn(variant: Callable[[], object], torch_threads: int, times: int) -> None:
        torch.set_num_threads(torch_threads)
        for _ in range(times):
            variant()

    turns = {name: partial(turn, variant, 1 if name == OURS else threads, times) for name, variant in variants.items()}
    products = {f"{GEMM} {shape}": partial(turn, _product(shape), threads, 1) for shape in PRODUCTS}
    spent = seconds_of({**turns, **products}, rounds, warm_up=False, rest=REST)
    each = {name: [seconds / times for seconds in spent[name]] for name in turns}
    for shape in PRODUCTS:
        each[f"{GEMM} {shape}"] = [seconds * 1e9 / (2.0 * np.prod(shape)) for seconds in spent[f"{GEMM} {shape}"]]
    return each


def _product(shape: tuple[int, int, int]) -> Callable[[], Tensor]:
    rows, inner, columns = shape
    a, b, out = torch.ones(rows, inner), torch.ones(inner, columns), torch.empty(rows, columns)
    return lambda: torch.mm(a, b, out=out)


def _figures(spent: Spent, batch: int, threads: int, gigaflop_a_window: float) -> Results:
    """Of medians, but for ours_best."""
    named = {name: some for name, some in spent.items() if not name.startswith(GEMM)}
    speed = rates(named, batch, "windows/s")
    best = min(spent[OURS])
    speed[f"{OURS}_best"] = Figure(batch / best, "windows/s", min(spent[FIELD]) / best)
    done = {name: Figure(gigaflop_a_window * speed[name].value, "GFLOP/s", speed[name].ratio) for name in (FIELD, OURS)}
    limit = max(1.0 / median(spent[f"{GEMM} {shape}"]) for shape in PRODUCTS)
    done[GEMM] = Figure(limit, "GFLOP/s", limit / done[FIELD].value)
    done[f"{OURS}_share"] = Figure(100.0 * done[OURS].value / limit, "% of gemm", done[OURS].ratio)
    at = f"b{batch}_t{threads}"
    return {f"encoder_{at}": speed, f"encoder_gflops_{at}": done}
