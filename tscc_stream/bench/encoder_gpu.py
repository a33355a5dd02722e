"""The encoder on a CUDA device: `python -m tscc_stream.bench.encoder_gpu --json FILE`, in about two minutes.

Windows a second of several orders of work in several precisions, eager and as recorded graphs, beside the published
network in eager float32, and on the exact count as a share of a large product of bf16 matrices in the same run; the
encoder in one Triton kernel; the live path's encoder from host to host, and how its clusters agree with those of
float32. A part that fails is told with its traceback, the others go on, and the status is then 1.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from tscc_stream import package
from tscc_stream.bench import encoder_fused
from tscc_stream.bench.encoder_orders import ORDERS, weights_of
from tscc_stream.bench.measure import FIELD, Figure, Results, table
from tscc_stream.bench.published_encoder import gigaflop, published
from tscc_stream.edges.encoder_cuda import check_windows, tensor_float_32
from tscc_stream.learn.network import Encoder, encoder_from, make_encoder, pool

SAMPLES = 500
BATCHES = (32, 128, 512, 2048, 8192)
MOST_IN_A_GRAPH = 2048
SECONDS, ROUNDS = 0.03, 3
"""How long a variant is repeated within one timing, and how many timings the median is taken of."""
PRODUCT = 8192
"""Rows, inner dimension and columns of the product that tells what the device can do."""
PRECISIONS = {
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
}
"""Type of the convolutions' products, and whether TF32 is allowed."""
PROGRAMS, WARPS = (1, 2, 3, 4), (4, 8)
"""Of the fused kernel that are tried: windows at work for each multiprocessor, and warps a window."""
DEVICE = "cuda"
Forward = Callable[[Tensor], Tensor]


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of one call, the device waited for: the median over rounds of as many calls as fill SECONDS."""
    for _ in range(2):
        work()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    times = max(1, int(SECONDS / max(1e-6, time.perf_counter() - begin)))
    spent = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(times):
            work()
        torch.cuda.synchronize()
        spent.append((time.perf_counter() - begin) / times)
    return median(spent)


def graphed(work: Callable[[], object]) -> Callable[[], object]:
    """The same as a recorded graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


def limits() -> Results:
    """TFLOP/s of the large product in each precision."""
    results = {}
    for name, (dtype, tf32) in PRECISIONS.items():
        a = torch.randn(PRODUCT, PRODUCT, device=DEVICE, dtype=dtype)
        with tensor_float_32(tf32):
            results[name] = 2e-12 * PRODUCT**3 / seconds_of(lambda a=a: a @ a)  # type: ignore[misc]  # the lambda keeps its own value
    field = results["float32"]
    return {"gpu_gemm": {_of(name): Figure(value, "TFLOP/s", value / field) for name, value in results.items()}}


def _of(name: str) -> str:
    return FIELD if name == "float32" else name


def orders(network: Encoder, peak: float) -> Iterator[Results]:
    """For each batch and precision: every order of work, eager and as a graph. peak: TFLOP/s of the bf16 product."""
    gflop = gigaflop(network, SAMPLES, padded=False)
    plain = network.to(DEVICE)
    weights = {name: weights_of(network, DEVICE, dtype) for name, (dtype, _) in PRECISIONS.items()}
    for batch in BATCHES:
        x_btc = torch.randn(batch, SAMPLES, 1, device=DEVICE)
        with tensor_float_32(False):
            field = batch / seconds_of(partial(published, plain, x_btc))
        speeds = {FIELD: field}
        for (precision, (_, tf32)), order in product(PRECISIONS.items(), ORDERS):
            with tensor_float_32(tf32):
                work = partial(ORDERS[order], weights[precision], x_btc)
                speeds[f"{precision}_{order}"] = batch / seconds_of(work)
                if batch <= MOST_IN_A_GRAPH:
                    speeds[f"{precision}_{order}_graph"] = batch / seconds_of(graphed(work))
        yield _told(batch, speeds, gflop, peak)


def _told(batch: int, speeds: dict[str, float], gflop: float, peak: float, bench: str = "gpu_encoder") -> Results:
    field = speeds[FIELD]
    return {
        f"{bench}_b{batch}": {name: Figure(v, "windows/s", v / field) for name, v in speeds.items()},
        f"{bench}_share_b{batch}": {
            name: Figure(0.1 * gflop * v / peak, "% of bf16 gemm", v / field) for name, v in speeds.items()
        },
    }


def fused(network: Encoder, peak: float) -> Iterator[Results]:
    """The one-kernel form, in half precisions, with several numbers of programs and warps."""
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    plain, batch = network.to(DEVICE), BATCHES[-1]
    x_btc = torch.randn(batch, SAMPLES, 1, device=DEVICE)
    exact = pool(plain(x_btc[:64]))
    with tensor_float_32(False):
        speeds = {FIELD: batch / seconds_of(partial(published, plain, x_btc))}
    for precision, programs, warps in product(("bf16", "fp16"), PROGRAMS, WARPS):
        run = encoder_fused.fused(network, PRECISIONS[precision][0], DEVICE, programs * multiprocessors, warps)
        error = float((run(x_btc[:64]) - exact).abs().max())
        name = f"{precision}_{programs}x{warps}"
        print(f"fused {name}: largest error of a representation {error:.2g}", flush=True)  # noqa: T201  # said to people
        speeds[name] = batch / seconds_of(partial(run, x_btc))
    yield _told(batch, speeds, gigaflop(network, SAMPLES, padded=False), peak, "gpu_fused")


def representations() -> Iterator[Results]:
    """Largest error of a representation of the shipped packages' self-check windows, and what they become (see
    check_windows), in each precision, relative to the largest representation.
    """
    for name in ("demo", "rutford"):
        network = encoder_from(torch.load(package.find(f"models/{name}") / "weights.pt", weights_only=True)).eval()
        with np.load(package.find(f"models/{name}") / "selfcheck.npz") as recorded:
            x_btc = torch.from_numpy(check_windows(recorded["x"])).to(DEVICE)
        plain = network.to(DEVICE)
        with tensor_float_32(False):
            exact = pool(plain(x_btc))
        errors = {}
        for precision, (dtype, tf32) in PRECISIONS.items():
            with tensor_float_32(tf32):
                got = ORDERS["products"](weights_of(network, DEVICE, dtype), x_btc)
            errors[_of(precision)] = max(1e-9, float((got - exact).abs().max() / exact.abs().max()))
        figures = {key: Figure(value, "relative error", errors[FIELD] / value) for key, value in errors.items()}
        yield {f"gpu_error_{name}": figures}


def live() -> Iterator[Results]:
    """What the daemon runs, host to host, with what it says of threads and precision. Needs pydantic."""
    from tscc_stream.edges.torchscript import TorchScriptEncoder  # noqa: PLC0415  # the same

    for name in ("demo", "rutford"):
        loaded = package.load(package.find(f"models/{name}"))
        for batch in (32, 2048):
            x = np.random.default_rng(0).standard_normal((batch, SAMPLES, 1)).astype(np.float32)
            speeds = {}
            for precision in ("float32", "tf32", "bf16", "fp16"):
                encoder = TorchScriptEncoder(loaded, DEVICE, precision=precision)
                if batch == 32:
                    print(f"{name}: {'; '.join(encoder.told) or 'float32'}", flush=True)  # noqa: T201  # said to people
                if precision == "float32":
                    speeds[FIELD] = batch / seconds_of(partial(encoder.encode, x))
                encoder.warm_up(batch)
                speeds[f"{precision}_graph"] = batch / seconds_of(partial(encoder.encode, x))
            field = speeds[FIELD]
            yield {f"gpu_live_{name}_b{batch}": {k: Figure(v, "windows/s", v / field) for k, v in speeds.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description="The encoder on a CUDA device, measured.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="{bench: {variant: {value, unit, ratio}}}")
    parser.add_argument("--only", metavar="PART", help="representations, orders, fused or live")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)  # noqa: T201  # said to people
    network = make_encoder(0, 1).eval()
    with torch.inference_mode():
        results = limits()
    print(table(results), flush=True)  # noqa: T201  # said to people
    peak = results["gpu_gemm"]["bf16"].value
    parts: dict[str, Callable[[], Iterator[Results]]] = {
        "representations": representations,
        "orders": partial(orders, network, peak),
        "fused": partial(fused, network, peak),
        "live": live,
    }
    chosen = {name: part for name, part in parts.items() if options.only in (None, name)}
    failed = [name for name, part in chosen.items() if not _done(name, part, results, options.json)]
    if failed:
        print(f"failed: {', '.join(failed)}")  # noqa: T201  # said to people
    return 1 if failed else 0


def _done(name: str, part: Callable[[], Iterator[Results]], results: Results, file: Path | None) -> bool:
    """Whether a part went through; its results are told and written as they come."""
    begin = time.perf_counter()
    try:
        with torch.inference_mode():
            for some in part():
                results.update(some)
                print(table(some), flush=True)  # noqa: T201  # said to people
                _write(results, file)
    except Exception:  # noqa: BLE001 the device is lent for minutes: what else can be measured, is
        traceback.print_exc()
        return False
    finally:
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)  # noqa: T201  # said to people
    return True


def _write(results: Results, file: Path | None) -> None:
    if file is not None:
        document = {bench: {k: f.document() for k, f in variants.items()} for bench, variants in results.items()}
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
