"""Which encoder a scan uses: the same for all of its windows, so that the rows do not depend on how it was cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tscc_stream.config import Config
from tscc_stream.edges.numpy_encoder import NumpyEncoder
from tscc_stream.messages import Float32Array
from tscc_stream.package import Package
from tscc_stream.stages.infer import Encoded, Encoder

EncoderOf = Callable[[Config, Package, bool], Encoder]
"""Makes the encoder of a model; told whether there are few windows, for which torch is not worth its second."""


class EncoderLostError(Exception):
    """An encoder elsewhere died while it was asked: the same may go well another time."""


class Singly:
    """One window at a time, as products of matrices round by how many there are: any batches give the same bits."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def encode(self, normalised: Float32Array) -> Encoded:
        """As Encoder has it."""
        each = [self._encoder.encode(normalised[place : place + 1]) for place in range(len(normalised))]
        return Encoded(
            np.concatenate([one.embedding for one in each]),
            np.concatenate([one.membership for one in each]),
            np.concatenate([one.cluster for one in each]),
            np.concatenate([one.squared_distance for one in each]),
        )


def encoder_of(config: Config, loaded: Package, few: bool) -> Encoder:
    """On this machine, in one thread: workers are beside one another. On a graphics card in batches, else singly.

    Raises PackageError.
    """
    inference = config.inference
    if few and inference.device in ("auto", "cpu"):
        return Singly(NumpyEncoder(loaded))
    from tscc_stream.edges.torchscript import TorchScriptEncoder  # noqa: PLC0415 torch takes a second

    encoder = TorchScriptEncoder(loaded, inference.device, 1, inference.precision)
    return encoder if encoder.device.type == "cuda" else Singly(encoder)
