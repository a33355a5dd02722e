"""A package's encoder in numpy, out of its weights: for so few windows that to load torch would take longer.

The same products in the same order as the compiled one has them (learn/time_major); results agree within 1e-5. It is
also an independent look at a package: weights.pt and encoder.ts must say the same of the self-check.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tscc_stream.calibration import self_check
from tscc_stream.kernels.gelu import gelu_and_slope
from tscc_stream.messages import Float32Array
from tscc_stream.package import Package, PackageError
from tscc_stream.pickled import PickledError, StoredTensor, read
from tscc_stream.stages.infer import Encoded, Encoder

FEW = 4096
"""Windows up to which torch is not worth its second."""
_PIECE = 4
"""Windows at a time, whose arrays stay in a core's cache."""
_SMALLEST_SQUARED_DISTANCE = np.float32(1e-12)

Weights = dict[str, Float32Array]


class NumpyEncoder:
    """Self-checked when made. Raises PackageError where weights.pt is not what encoder.ts was made of."""

    def __init__(self, package: Package) -> None:
        self._sharpness = np.float32(1.0 / (package.spec.fuzzifier - 1.0))
        self._weights = _weights_of(package)
        try:
            self._blocks = list(_blocks_of(self._weights))
            self_check(package, self.encode, "in numpy")
        except KeyError as error:
            raise PackageError(f"model package {package.folder}: weights.pt has no {error.args[0]}") from error
        except (ValueError, IndexError) as error:  # other shapes, or names without numbers
            raise PackageError(f"model package {package.folder}: weights.pt does not fit: {error}") from error

    def encode(self, normalised: Float32Array) -> Encoded:
        """[B, samples, channels] float32 -> results."""
        pieces = [self._embedding(normalised[at : at + _PIECE]) for at in range(0, len(normalised), _PIECE)]
        embedding = np.concatenate(pieces)
        squared = self._squared_distances(embedding)
        return Encoded(embedding, *self._assigned(squared), squared)

    def _embedding(self, x_btc: Float32Array) -> Float32Array:
        """[B, T, C] -> [B, D]"""
        batch, time, channels = x_btc.shape
        x = x_btc.transpose(1, 0, 2).reshape(time * batch, channels)
        h = x @ self._weights["projection.weight"].T + self._weights["projection.bias"]
        for block in self._blocks:
            h = block(h, batch)
        pooled: Float32Array = h.reshape(time, batch, -1).max(axis=0)
        return pooled

    def _squared_distances(self, embedding_bd: Float32Array) -> Float32Array:
        """[B, K], as learn.clusters.Head sees the embedding."""
        axes, bounds, metric = (self._weights.get(name) for name in ("axes", "bounds", "metric"))
        seen = embedding_bd if axes is None else embedding_bd @ axes
        if bounds is not None:
            seen = np.tanh((seen - bounds[0]) / bounds[1])
        difference = seen[:, np.newaxis, :] - self._weights["centres"][np.newaxis]
        if metric is not None:
            difference = (difference[:, :, np.newaxis, :] @ metric)[:, :, 0, :]
        squared: Float32Array = np.square(difference).sum(axis=2)
        return squared

    def _assigned(self, squared_bk: Float32Array) -> tuple[Float32Array, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """Membership [B, K] and cluster [B]."""
        log_weight = self._weights.get("log_weight")
        if log_weight is not None:
            membership = _softmax(log_weight - np.float32(0.5) * squared_bk)
            return membership, membership.argmax(axis=1)
        closeness = -np.log(np.maximum(squared_bk, _SMALLEST_SQUARED_DISTANCE)) * self._sharpness
        return _softmax(closeness), squared_bk.argmin(axis=1)


class UntilMany:
    """A few windows by one encoder, and all after them by the one that `load` gives."""

    def __init__(self, few: Encoder, load: Callable[[], Encoder], most: int = FEW) -> None:
        self._encoder, self._load = few, load
        self._left = most

    def encode(self, normalised: Float32Array) -> Encoded:
        """As Encoder has it. Raises what `load` does."""
        if 0 <= self._left < len(normalised):
            self._encoder, self._left = self._load(), -1
        self._left -= len(normalised) if self._left >= 0 else 0
        return self._encoder.encode(normalised)


class _Block:
    """One residual block over time-major rows, taps [3, inputs, outputs]."""

    def __init__(self, weights: Weights, name: str, number: int) -> None:
        self._reach = 1 << number
        self._taps = [np.ascontiguousarray(weights[f"{name}.conv{i}.weight"].transpose(2, 1, 0)) for i in (1, 2)]
        self._offsets = [weights[f"{name}.conv{i}.bias"] for i in (1, 2)]
        adapting = weights.get(f"{name}.residual.weight")
        self._residual = None if adapting is None else np.ascontiguousarray(adapting[:, :, 0].T)
        self._residual_offset = weights.get(f"{name}.residual.bias", np.float32(0.0))

    def __call__(self, h: Float32Array, batch: int) -> Float32Array:
        """[T * B, I] -> [T * B, O]"""
        shift = self._reach * batch
        inner = _gelu(_convolved(_gelu(h), self._taps[0], self._offsets[0], shift))
        added = _convolved(inner, self._taps[1], self._offsets[1], shift)
        added += h if self._residual is None else h @ self._residual + self._residual_offset
        return added


def _blocks_of(weights: Weights) -> list[_Block]:
    numbers = {int(name.split(".")[1]) for name in weights if name.startswith("blocks.")}
    return [_Block(weights, f"blocks.{number}", number) for number in sorted(numbers)]


def _convolved(x: Float32Array, taps_3io: Float32Array, offset_o: Float32Array, shift: int) -> Float32Array:
    """y[t] = x[t - reach] W0 + x[t] W1 + x[t + reach] W2 + offset; shift: rows from one sample to the other."""
    y: Float32Array = x @ taps_3io[1]
    y += offset_o
    rest = len(x) - shift
    if rest > 0:
        y[shift:] += x[:rest] @ taps_3io[0]
        y[:rest] += x[shift:] @ taps_3io[2]
    return y


def _gelu(x: Float32Array) -> Float32Array:
    seen, slope = np.empty_like(x), np.empty_like(x)
    gelu_and_slope(np.ascontiguousarray(x).reshape(-1), seen.reshape(-1), slope.reshape(-1))
    return seen


def _softmax(x_bk: Float32Array) -> Float32Array:
    shares: Float32Array = np.exp(x_bk - x_bk.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _weights_of(package: Package) -> Weights:
    """weights.pt by name. Raises PackageError where it is no dictionary of tensors."""
    try:
        stored = read(package.folder / "weights.pt")
        if not isinstance(stored.value, dict):
            raise PickledError("not a dictionary of tensors")
        tensors = {name: value for name, value in stored.value.items() if isinstance(value, StoredTensor)}
        return {str(name): stored.array(tensor).astype(np.float32) for name, tensor in tensors.items()}
    except PickledError as error:
        raise PackageError(f"model package {package.folder}: weights.pt: {error}") from error
