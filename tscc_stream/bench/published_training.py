"""The training loop as the TSCC authors published it, restated in plain eager torch, to measure against.

Sources: the authors' program for the order of work (two crops a step, dropout 0.2; in fine-tuning, for every batch, k
poolings by the averaged network, then for each of the k clusters two crops, one more pooling and a step of its own);
Yue et al. 2022 for the contrast. What it does wrong is kept, since that is what it costs: no gradient runs through the
pooled representation. Only what has no price is left out: labels, files, plots.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from tscc_stream.learn import views
from tscc_stream.learn.network import Encoder
from tscc_stream.learn.settings import Settings


class PublishedLoop:
    """The published loop on windows x [n, T, C] with the network and the draws of ours.

    centres [K, D]: where fine-tuning starts from.
    """

    def __init__(self, encoder: Encoder, settings: Settings, centres_kd: Tensor) -> None:
        self.encoder = encoder
        self.dropout = nn.Dropout(settings.dropout)
        self.mask = settings.mask
        self.fuzzifier = settings.fuzzifier
        self.centres_kd = centres_kd
        self.averaged = AveragedModel(encoder)
        self.optimiser = torch.optim.AdamW(encoder.parameters(), lr=settings.rate_pretrain)
        self.rng = np.random.Generator(np.random.PCG64(settings.seed))

    def pretrain(self, x_btc: Tensor) -> None:
        """One batch of pre-training."""
        a_btd, b_btd = self._crops(x_btc)
        self._descend(contrastive_loss(a_btd, b_btd))

    def finetune(self, x_btc: Tensor) -> None:
        """One batch of fine-tuning."""
        pooled_kbd = torch.stack([self._pooled(x_btc) for _ in self.centres_kd])
        squared_bk = torch.stack(
            [(r_bd - centre_d).square().sum(dim=1) for r_bd, centre_d in zip(pooled_kbd, self.centres_kd, strict=True)],
            dim=1,
        )
        share_bk = squared_bk.pow(-1.0 / (self.fuzzifier - 1.0))
        weight_bk = (share_bk / share_bk.sum(dim=1, keepdim=True)).pow(self.fuzzifier)
        drawn = self.rng.bit_generator.state
        for k, centre_d in enumerate(self.centres_kd):
            self.rng.bit_generator.state = drawn  # crops of one length for all k, so that ours can have the same
            a_btd, b_btd = self._crops(x_btc)
            distance_b = (self._pooled(x_btc) - centre_d).square().sum(dim=1)
            self._descend(contrastive_loss(a_btd, b_btd) + 0.1 * (weight_bk[:, k] @ distance_b))

    def _descend(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimiser.step()
        self.averaged.update_parameters(self.encoder)

    def _crops(self, x_btc: Tensor) -> tuple[Tensor, Tensor]:
        crops = views.two_crops(x_btc, self.rng)
        return self._noisily(crops.a)[:, -crops.overlap :], self._noisily(crops.b)[:, : crops.overlap]

    def _noisily(self, x_btc: Tensor) -> Tensor:
        h_bth = self.encoder.projection(x_btc)
        kept_bt = torch.bernoulli(torch.full(h_bth.shape[:2], 1.0 - self.mask, device=h_bth.device)).bool()
        dropped: Tensor = self.dropout(self.encoder.extract(h_bth * kept_bt[:, :, None]))
        return dropped

    def _pooled(self, x_btc: Tensor) -> Tensor:
        with torch.no_grad():
            pooled: Tensor = self.averaged(x_btc).transpose(1, 2).amax(dim=2)
        return pooled


def contrastive_loss(a_btd: Tensor, b_btd: Tensor) -> Tensor:
    """Hierarchical contrast in plain operations; its value is that of losses.hierarchical_contrastive_loss."""
    loss, scales = a_btd.new_zeros(()), 0
    while a_btd.shape[1] > 1:
        loss = loss + 0.5 * _instance(a_btd, b_btd) + 0.5 * _temporal(a_btd, b_btd)
        scales += 1
        a_btd, b_btd = (functional.max_pool1d(z.transpose(1, 2), 2).transpose(1, 2) for z in (a_btd, b_btd))
    return (loss + 0.5 * _instance(a_btd, b_btd)) / (scales + 1)


def _instance(a_btd: Tensor, b_btd: Tensor) -> Tensor:
    return _pairs(torch.cat([a_btd, b_btd], dim=0).transpose(0, 1))


def _temporal(a_btd: Tensor, b_btd: Tensor) -> Tensor:
    return _pairs(torch.cat([a_btd, b_btd], dim=1))


def _pairs(z_nmd: Tensor) -> Tensor:
    """Similarities of each with all others but itself, then the cross-entropy of its partner half the rows on."""
    similar = torch.matmul(z_nmd, z_nmd.transpose(1, 2))
    others = torch.tril(similar, diagonal=-1)[:, :, :-1] + torch.triu(similar, diagonal=1)[:, :, 1:]
    unlikely = -functional.log_softmax(others, dim=-1)
    half = z_nmd.shape[1] // 2
    first = torch.arange(half)
    return 0.5 * (unlikely[:, first, half + first - 1].mean() + unlikely[:, half + first, first].mean())
