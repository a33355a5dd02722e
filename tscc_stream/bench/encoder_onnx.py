"""The published encoder in ONNX Runtime, where that is installed (it is none of our dependencies)."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tscc_stream.learn.network import Encoder, pool
from tscc_stream.messages import Float32Array

NEEDED = ("onnxruntime", "onnx", "onnxscript")


class _Pooled(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x_btc: Tensor) -> Tensor:
        return pool(self.encoder(x_btc))


def missing() -> list[str]:
    """Packages that this variant needs and that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def export(encoder: Encoder, samples: int, path: Path) -> Path:
    """The encoder with its maximum over time, for any batch of windows of one channel."""
    example = torch.zeros(2, samples, encoder.shape[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters warn of their own ways, which say nothing of ours
        torch.onnx.export(
            _Pooled(encoder).eval(),
            (example,),
            path,
            input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    return path


def session(path: Path, threads: int) -> Callable[[Float32Array], Float32Array]:
    """[B, samples, channels] -> [B, D] in so many threads."""
    onnxruntime: Any = importlib.import_module(NEEDED[0])
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    loaded: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(x: Float32Array) -> Float32Array:
        result: Float32Array = loaded.run(None, {"x": x})[0]
        return result

    return run
