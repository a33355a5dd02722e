"""What training shows the encoder: two random crops of each window that overlap, and its noise.

Every draw comes from a generator that is passed in. Shapes: B windows, T samples, C channels, H hidden channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tscc_stream.learn import fast
from tscc_stream.learn.network import Encoder
from tscc_stream.package import Normalisation

SHORTEST_OVERLAP = 2  # samples
_MAD_TO_SIGMA = 1.4826
_SMALLEST = 1e-12


class Crops(NamedTuple):
    """Two views [B, length, C] of the same windows; the last `overlap` samples of `a` are the first of `b`."""

    a: Tensor
    b: Tensor
    overlap: int


def two_crops(x_btc: Tensor, rng: np.random.Generator) -> Crops:
    """Random overlapping crops (Yue et al. 2022, section 3.2): lengths common to the batch, places per window."""
    batch, length, _ = x_btc.shape
    overlap = int(rng.integers(min(SHORTEST_OVERLAP, length), length + 1))
    left = int(rng.integers(length - overlap + 1))
    right = left + overlap
    a_from, b_to = int(rng.integers(left + 1)), int(rng.integers(right, length + 1))
    shift = rng.integers(-a_from, length - b_to + 1, size=batch)
    a = _slices(x_btc, shift + a_from, right - a_from)
    return Crops(a, _slices(x_btc, shift + left, b_to - left), overlap)


def _slices(x_btc: Tensor, begin: np.ndarray, length: int) -> Tensor:
    at_bt = torch.from_numpy(begin[:, None] + np.arange(length)[None, :]).to(x_btc.device)
    return x_btc[torch.arange(len(x_btc), device=x_btc.device)[:, None], at_bt]


def flipped(x_btc: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the windows upside down: polarity says where a sensor stands, not what happened."""
    sign = torch.from_numpy(rng.choice(np.array([-1.0, 1.0], np.float32), size=len(x_btc))).to(x_btc.device)
    return x_btc * sign[:, None, None]


def standardised(x_btc: Tensor, normalisation: Normalisation) -> Tensor:
    """Normalised windows on a linear scale again, on which signals and noise add up: asinh is undone."""
    return torch.sinh(x_btc) if normalisation == "asinh_mad" else x_btc


def normalised(x_btc: Tensor, normalisation: Normalisation) -> Tensor:
    """What `windows.normalise` does to a window, for batches on a device; a window that is constant becomes 0."""
    if normalisation == "none":
        return x_btc
    if normalisation == "z":
        centred = x_btc - x_btc.mean(dim=1, keepdim=True)
        return centred / centred.std(dim=1, correction=0, keepdim=True).clamp_min(_SMALLEST)
    centred = x_btc - x_btc.quantile(0.5, dim=1, keepdim=True)
    sigma = _MAD_TO_SIGMA * centred.abs().quantile(0.5, dim=1, keepdim=True)
    return torch.asinh(centred / sigma.clamp_min(_SMALLEST))


def surrogates(x_btc: Tensor, rng: np.random.Generator) -> Tensor:
    """Windows with the spectra of x and phases by chance: as loud and as coloured, but with no onset anywhere.

    For windows on a linear scale. All channels of a window get the same phases, so that what they share remains.
    """
    spectrum = torch.fft.rfft(x_btc.float(), dim=1)
    turn = torch.from_numpy(rng.uniform(0.0, 2 * np.pi, (len(x_btc), spectrum.shape[1], 1)).astype(np.float32))
    turned: Tensor = torch.fft.irfft(spectrum * torch.exp(1j * turn.to(x_btc.device)), n=x_btc.shape[1], dim=1)
    return turned


def with_noise(x_btc: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Each window plus the surrogate of another one of the batch, at up to `share` of the window's own sigma.

    Two views of a window then have its signal in common, and not its ratio to the noise. For windows on a linear
    scale in units of their robust sigma.
    """
    if share == 0.0:
        return x_btc
    other = torch.from_numpy(rng.permutation(len(x_btc))).to(x_btc.device)
    noise = normalised(surrogates(x_btc[other], rng), "z")
    amount = torch.from_numpy(rng.uniform(0.0, share, len(x_btc)).astype(np.float32)).to(x_btc.device)
    mixed: Tensor = x_btc + amount[:, None, None] * noise
    return mixed


def represent(encoder: Encoder, x_btc: Tensor, half: bool = False) -> Tensor:
    """Representations [B, T, D] float32 of whole windows; half: the network works in bfloat16, as pays on a graphics
    card.
    """
    return _extracted(encoder, encoder.projection(x_btc), half)


def represent_noisily(
    encoder: Encoder, x_btc: Tensor, generator: torch.Generator, mask: float, dropout: float, half: bool = False
) -> Tensor:
    """Representations [B, T, D] as training sees them.

    mask: share of samples hidden by the binomial mask on the projected input; dropout: on the representation.
    """
    h_bth = encoder.projection(x_btc)
    if mask > 0.0:
        h_bth = h_bth * _kept(h_bth[:, :, :1], mask, generator)
    r_btd = _extracted(encoder, h_bth, half)
    return r_btd * (_kept(r_btd, dropout, generator) / (1.0 - dropout)) if dropout > 0.0 else r_btd


def _extracted(encoder: Encoder, h_bth: Tensor, half: bool) -> Tensor:
    if h_bth.device.type == "cpu" and not half:
        return fast.extract(encoder, h_bth)
    with torch.autocast(h_bth.device.type, torch.bfloat16, enabled=half):
        return encoder.extract(h_bth).float()


def _kept(like: Tensor, lost: float, generator: torch.Generator) -> Tensor:
    """1 with probability 1 - lost, else 0. Drawn on the host, so that a device changes no draw."""
    return (torch.rand(like.shape, generator=generator) >= lost).to(like.device, like.dtype)
