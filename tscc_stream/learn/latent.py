"""Inside a trained encoder: its network out of a package, and its representation of every sample."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from tscc_stream.learn.network import Encoder, encoder_from
from tscc_stream.messages import Float32Array
from tscc_stream.package import Package, PackageError


def encoder_of(package: Package) -> Encoder:
    """The network of a package, its dimensions read off its weights. Raises PackageError where they do not fit."""
    try:
        encoder = encoder_from(torch.load(package.folder / "weights.pt", map_location="cpu", weights_only=True))
    except (KeyError, ValueError, RuntimeError, AttributeError, IndexError, pickle.UnpicklingError) as error:
        raise PackageError(
            f"model package {package.folder}: weights.pt holds no encoder known here: {error}"
        ) from error
    return encoder.eval()


def latent_over_time(encoder: Encoder, normalised: Float32Array) -> Float32Array:
    """[n, samples, D] of normalised windows [n, samples, channels]."""
    with torch.inference_mode():
        representation: Float32Array = encoder(torch.from_numpy(np.ascontiguousarray(normalised))).numpy()
    return representation


def ricker(samples: int, onset: int, peak: float) -> Float32Array:
    """A Ricker wavelet [samples], 1 at its peak one dominant period after `onset`.

    peak: dominant frequency in cycles a sample.
    """
    phase = (np.pi * peak * (np.arange(samples) - onset - 1.0 / peak)) ** 2
    wavelet: Float32Array = ((1.0 - 2.0 * phase) * np.exp(-phase)).astype(np.float32)
    return wavelet


def ricker_above_noise(samples: int, onset: int, peak: float, decibel: float) -> Float32Array:
    """A Ricker wavelet whose mean power over its two periods lies `decibel` above that of noise of variance 1."""
    wavelet = ricker(samples, onset, peak)
    power = float(np.mean(wavelet[onset : onset + round(2.0 / peak)] ** 2))
    return wavelet * np.float32(np.sqrt(10.0 ** (decibel / 10.0) / power))
