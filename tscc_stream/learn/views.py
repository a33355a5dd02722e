"""What training shows the encoder: two random crops of each window that overlap, and its noise.

Every draw comes from a generator that is passed in, and is made for all windows of the batch: where several processes
share it (`part`), each uses what was drawn for its own. Shapes: B windows, T samples, C channels, H hidden channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tscc_stream.learn import fast
from tscc_stream.learn.network import Encoder
from tscc_stream.learn.part import Part
from tscc_stream.package import Normalisation

SHORTEST_OVERLAP = 2  # samples
_MAD_TO_SIGMA = 1.4826
_SMALLEST = 1e-12


class Crops(NamedTuple):
    """Two views [B, length, C] of the same windows; the last `overlap` samples of `a` are the first of `b`."""

    a: Tensor
    b: Tensor
    overlap: int


def two_crops(x_btc: Tensor, rng: np.random.Generator, part: Part | None = None) -> Crops:
    """Random overlapping crops (Yue et al. 2022, section 3.2): lengths common to the batch, places per window."""
    part = part or Part(len(x_btc))
    length = x_btc.shape[1]
    overlap = int(rng.integers(min(SHORTEST_OVERLAP, length), length + 1))
    left = int(rng.integers(length - overlap + 1))
    right = left + overlap
    a_from, b_to = int(rng.integers(left + 1)), int(rng.integers(right, length + 1))
    shift = part.own(rng.integers(-a_from, length - b_to + 1, size=part.total))
    a = _slices(x_btc, shift + a_from, right - a_from)
    return Crops(a, _slices(x_btc, shift + left, b_to - left), overlap)


def _slices(x_btc: Tensor, begin: np.ndarray, length: int) -> Tensor:
    at_bt = _placed(begin[:, None], x_btc.device) + torch.arange(length, device=x_btc.device)
    return x_btc[torch.arange(len(x_btc), device=x_btc.device)[:, None], at_bt]


def flipped(x_btc: Tensor, rng: np.random.Generator, part: Part | None = None, times: int = 1) -> Tensor:
    """Half of the windows upside down: polarity says where a sensor stands, not what happened.

    times: how often x_btc has each window of the batch, one batch after the other.
    """
    total = len(x_btc) if part is None else times * part.total
    drawn = rng.choice(np.array([-1.0, 1.0], np.float32), size=total)
    sign = _placed(drawn if part is None else part.own(drawn), x_btc.device)
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


def surrogates(x_btc: Tensor, rng: np.random.Generator, part: Part | None = None) -> Tensor:
    """Windows with the spectra of x and phases by chance: as loud and as coloured, but with no onset anywhere.

    For windows on a linear scale. All channels of a window get the same phases, so that what they share remains.
    """
    part = part or Part(len(x_btc))
    spectrum = torch.fft.rfft(x_btc.float(), dim=1)
    turn = part.own(rng.uniform(0.0, 2 * np.pi, (part.total, spectrum.shape[1], 1))).astype(np.float32)
    turned: Tensor = torch.fft.irfft(spectrum * torch.exp(1j * _placed(turn, x_btc.device)), n=x_btc.shape[1], dim=1)
    return turned


def with_noise(x_btc: Tensor, share: float, rng: np.random.Generator, part: Part | None = None) -> Tensor:
    """Each window plus the surrogate of another one of the batch, at up to `share` of the window's own sigma.

    Two views of a window then have its signal in common, and not its ratio to the noise. For windows on a linear
    scale in units of their robust sigma.
    """
    if share == 0.0:
        return x_btc
    part = part or Part(len(x_btc))
    other = _placed(part.own(rng.permutation(part.total)), x_btc.device)
    noise = normalised(surrogates(part.gathered(x_btc)[other], rng, part), "z")
    amount = _placed(part.own(rng.uniform(0.0, share, part.total)).astype(np.float32), x_btc.device)
    mixed: Tensor = x_btc + amount[:, None, None] * noise
    return mixed


class Shown(NamedTuple):
    """Windows or parts of them [B, T, C] that the encoder shall see. plain: without mask and dropout.

    begin: where in a whole window they may be laid down.
    """

    x_btc: Tensor
    begin: int = 0
    plain: bool = False


class Losses(NamedTuple):
    """What training hides. mask: share of samples hidden by the binomial mask on the projected input; dropout: on the
    representation. generator: whose device draws it. part: of the batch; None: all of it.
    """

    generator: torch.Generator
    mask: float
    dropout: float
    part: Part | None = None


def represent(encoder: Encoder, x_btc: Tensor, half: bool = False) -> Tensor:
    """Representations [B, T, D] float32 of whole windows; half: the network works in bfloat16, as pays on a graphics
    card.
    """
    h_bth = encoder.projection(x_btc)
    return fast.extract(encoder, h_bth) if _on_processor(h_bth, half) else _extracted(encoder, h_bth, None, half)


def represent_all(
    encoder: Encoder, shown: Sequence[Shown], length: int, hidden: Losses, half: bool = False
) -> list[Tensor]:
    """Representations [B, T, D] of each as training sees them; length: of a whole window.

    A processor takes one after the other. For a device all go through the network at once, each laid down in whole
    windows, beyond whose ends there is nothing: one shape for all steps, and each kernel started once.
    """
    if not shown or _on_processor(shown[0].x_btc, half):
        return [_thinned(fast.extract(encoder, _projected(encoder, part, hidden)), part, hidden) for part in shown]
    projected = [_projected(encoder, part, hidden) for part in shown]
    found = _at_once(encoder, projected, [part.begin for part in shown], length, half)
    return [_thinned(r_btd, part, hidden) for r_btd, part in zip(found, shown, strict=True)]


def _projected(encoder: Encoder, part: Shown, hidden: Losses) -> Tensor:
    h_bth: Tensor = encoder.projection(part.x_btc)
    if part.plain or hidden.mask == 0.0:
        return h_bth
    return h_bth * _kept(h_bth[:, :, :1], hidden.mask, hidden)


def _thinned(r_btd: Tensor, part: Shown, hidden: Losses) -> Tensor:
    if part.plain or hidden.dropout == 0.0:
        return r_btd
    return r_btd * (_kept(r_btd, hidden.dropout, hidden) / (1.0 - hidden.dropout))


def _at_once(encoder: Encoder, parts: Sequence[Tensor], begins: Sequence[int], length: int, half: bool) -> list[Tensor]:
    """Representations of projected parts [B, T, H] of windows, each T its own."""
    laid = [_laid(h_bth, begin, length) for h_bth, begin in zip(parts, begins, strict=True)]
    there = [_laid(torch.ones_like(h[:, :, :1]), begin, length) for h, begin in zip(parts, begins, strict=True)]
    r_btd = _extracted(encoder, torch.cat(laid), torch.cat(there), half)
    found = torch.split(r_btd, [len(h_bth) for h_bth in parts])
    return [r[:, begin : begin + h.shape[1]] for r, h, begin in zip(found, parts, begins, strict=True)]


def _laid(part_bth: Tensor, begin: int, length: int) -> Tensor:
    """Zeros before and after, up to the length of a window."""
    return functional.pad(part_bth, (0, 0, begin, length - begin - part_bth.shape[1]))


def _on_processor(like: Tensor, half: bool) -> bool:
    return like.device.type == "cpu" and not half


def _extracted(encoder: Encoder, h_bth: Tensor, there_bt1: Tensor | None, half: bool) -> Tensor:
    if there_bt1 is not None and half:
        there_bt1 = there_bt1.bfloat16()  # else every product with it would be float32 again
    with torch.autocast(h_bth.device.type, torch.bfloat16, enabled=half):
        return fast.extract_laid(encoder, h_bth, there_bt1).float()


def _kept(like: Tensor, lost: float, hidden: Losses) -> Tensor:
    """1 with probability 1 - lost, else 0; for windows of the batch, or several times those."""
    part = hidden.part or Part(len(like))
    times = len(like) // (part.mine.stop - part.mine.start)
    shape = (times * part.total, *like.shape[1:])
    drawn = part.own(torch.rand(shape, generator=hidden.generator, device=hidden.generator.device))
    return (drawn >= lost).to(like.device, like.dtype)


def _placed(values: np.ndarray, device: torch.device) -> Tensor:
    """Small arrays of draws on a device, without waiting for what it does."""
    return torch.from_numpy(values).to(device, non_blocking=True)
