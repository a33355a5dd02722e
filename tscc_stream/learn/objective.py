"""What one training step minimises, on windows x [B, T, C]: the terms of the loss, and the judge of four of them.

- contrast: two crops of two views of a window know one another at all time scales (hierarchical contrast).
- surrogate: a window is told from its phase-randomised self, which is as loud and as coloured but has no onset.
- background: a window that was triggered is told from one at a random time, where nothing was. The trigger is a
  machine, not a label: it errs, and what is learnt is what its windows have in common.
- coincidence: the share of other sensors that triggered at the same time is foreseen from the window alone.
- strength: the logarithm of the trigger's peak ratio is foreseen from the window, so that clusters can order onsets by
  how sharp they are where only the trigger has seen the raw stream.
- clustering: fuzzy compactness of the whole, unmasked windows (losses.fuzziness).

Where processes share a batch, each gives what its own windows add to every term.

The judge is one linear layer on pooled representations, with an output for each of the middle four. Every draw comes
from the two generators, whose state is part of a checkpoint. Nothing here waits for a device.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tscc_stream.learn import losses, views
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.network import Encoder, pool
from tscc_stream.learn.part import Part
from tscc_stream.learn.settings import Settings
from tscc_stream.learn.views import Crops, Shown

JUDGED = ("surrogate", "background", "coincidence", "strength")
"""What the judge says, in the order of its outputs."""


class Terms(NamedTuple):
    """The terms of the loss of one step, scalars; 0 where a term has no part in it."""

    contrast: Tensor
    surrogate: Tensor
    background: Tensor
    coincidence: Tensor
    strength: Tensor
    clustering: Tensor

    def total(self, settings: Settings) -> Tensor:
        """Their sum by the weights of the settings."""
        return (
            settings.contrast_share * self.contrast
            + settings.surrogate_share * self.surrogate
            + settings.background_share * self.background
            + settings.coincidence_share * self.coincidence
            + settings.strength_share * self.strength
            + settings.clustering_share * self.clustering
        )


@dataclass(frozen=True, slots=True, eq=False)
class Circumstances:
    """What is known of windows [n] beside their samples, and is no label. None: not known, or the same for all.

    triggered: bool, False for windows from random times; coincidence: share of other sensors, 0 to 1; strength:
    logarithm of the peak ratio, standardised, nan for windows from random times.
    """

    triggered: Tensor | None = None
    coincidence: Tensor | None = None
    strength: Tensor | None = None

    def of(self, rows: Tensor) -> Circumstances:
        """Of some windows."""
        return Circumstances(*(None if part is None else part[rows] for part in self.parts))

    def to(self, device: torch.device) -> Circumstances:
        """The same on a device."""
        return Circumstances(*(None if part is None else part.to(device) for part in self.parts))

    @property
    def parts(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """In the order of JUDGED, without the first."""
        return self.triggered, self.coincidence, self.strength


class Objective:
    """The terms of the loss for batches of windows, normalised as the settings say. judge: trained with the encoder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.judge = _judge(settings.representation).to(settings.device)
        self.rng = np.random.Generator(np.random.PCG64(settings.seed))
        self.generator = torch.Generator(settings.device).manual_seed(settings.seed)

    def terms(
        self, encoder: Encoder, x_btc: Tensor, known: Circumstances, head: Head | None, part: Part | None = None
    ) -> Terms:
        """For one batch. known: of all its windows. head: the clusters, None before there are any. part: what x_btc is
        of the batch; None: all of it.
        """
        chosen, used, part = self.settings, self._used(known), part or Part(len(x_btc))
        nothing = torch.zeros((), device=x_btc.device)
        crops = self._crops(x_btc, part) if chosen.contrast_share else None
        against = self._beside_surrogates(x_btc, part) if chosen.surrogate_share else None
        whole = self._whole(x_btc, part) if used or head else None
        shown = [] if crops is None else [Shown(crops.a), Shown(crops.b, begin=crops.a.shape[1] - crops.overlap)]
        shown += [] if against is None else [Shown(against)]
        shown += [] if whole is None else [Shown(whole, plain=True)]
        seen = iter(self._represent(encoder, shown, x_btc.shape[1], part))
        contrast = nothing if crops is None else _contrast(next(seen), next(seen), crops.overlap, part)
        surrogate = nothing if against is None else part.weight() * self._told_from_surrogates(next(seen))
        if whole is None:
            return Terms(contrast, surrogate, nothing, nothing, nothing, nothing)
        r_bd = pool(next(seen))
        background, coincidence, strength = self._foreseen(r_bd, known, used, part)
        clustering = nothing if head is None else self._clustering(r_bd, known, head, part)
        return Terms(contrast, surrogate, background, coincidence, strength, clustering)

    def judges(self, known: Circumstances) -> bool:
        """Whether the judge has part in every step."""
        return self.settings.surrogate_share > 0.0 or bool(self._used(known))

    def _used(self, known: Circumstances) -> list[int]:
        """Which outputs of the judge, beside the one for surrogates, have something to learn."""
        chosen = self.settings
        shares = (chosen.background_share, chosen.coincidence_share, chosen.strength_share)
        return [1 + i for i, part in enumerate(known.parts) if part is not None and shares[i] > 0.0]

    def _crops(self, x_btc: Tensor, part: Part) -> Crops:
        """Two crops, each of another view."""
        channels = x_btc.shape[2]
        both = torch.cat([self._view(x_btc, part), self._view(x_btc, part)], dim=2)
        crops = views.two_crops(both, self.rng, part)
        return crops._replace(a=crops.a[:, :, :channels], b=crops.b[:, :, channels:])

    def _beside_surrogates(self, x_btc: Tensor, part: Part) -> Tensor:
        """Windows with noise, and then their surrogates."""
        how = self.settings.normalisation
        seen = views.with_noise(views.standardised(x_btc, how), self.settings.noise, self.rng, part)
        both = torch.cat([seen, views.surrogates(seen, self.rng, part)])
        if self.settings.flip:
            both = views.flipped(both, self.rng, part, 2)
        return views.normalised(both, how)

    def _told_from_surrogates(self, r_btd: Tensor) -> Tensor:
        says_b = self.judge(pool(r_btd))[:, 0]
        return _telling(says_b, torch.arange(len(says_b), device=says_b.device) < len(says_b) // 2)

    def _whole(self, x_btc: Tensor, part: Part) -> Tensor:
        """Whole windows as they will be clustered, without noise, but for the polarity."""
        return views.flipped(x_btc, self.rng, part) if self.settings.flip else x_btc

    def _foreseen(self, r_bd: Tensor, known: Circumstances, used: list[int], part: Part) -> list[Tensor]:
        """The terms of what is known of windows, in the order of JUDGED."""
        says_bj = self.judge(r_bd)
        foreseen = [r_bd.new_zeros(())] * len(known.parts)
        for output in used:
            truth_b = known.parts[output - 1]
            assert truth_b is not None  # noqa: S101 what _used says
            strong = JUDGED[output] == "strength"
            apart, weight = (_missing, part.weight_of(~truth_b.isnan())) if strong else (_telling, part.weight())
            foreseen[output - 1] = weight * apart(says_bj[:, output], truth_b[part.mine])
        return foreseen

    def _clustering(self, r_bd: Tensor, known: Circumstances, head: Head, part: Part) -> Tensor:
        """Of the windows that clusters were found among; 0 where a batch has none."""
        counted_b = known.triggered if self.settings.among == "triggered" else None
        if counted_b is None:
            return part.weight() * head.fuzziness(r_bd, self.settings.fuzzifier)
        return part.weight_of(counted_b) * head.fuzziness(r_bd, self.settings.fuzzifier, counted_b[part.mine])

    def _view(self, x_btc: Tensor, part: Part) -> Tensor:
        """A window as it might have been recorded: other noise, other polarity."""
        chosen = self.settings
        if chosen.noise:
            linear = views.with_noise(views.standardised(x_btc, chosen.normalisation), chosen.noise, self.rng, part)
            x_btc = views.normalised(linear, chosen.normalisation)
        return views.flipped(x_btc, self.rng, part) if chosen.flip else x_btc

    def _represent(self, encoder: Encoder, shown: Sequence[Shown], length: int, part: Part) -> list[Tensor]:
        """Representations [B, T, D] of each."""
        chosen = self.settings
        noise = views.Losses(self.generator, chosen.mask, chosen.dropout, part)
        return views.represent_all(encoder, shown, length, noise, chosen.half)

    def directions(self, known: Circumstances) -> Tensor | None:
        """[D, J]: the directions in a representation by which the judge tells from one another what was recorded; by
        which it knows surrogates, where nothing else was to be learnt; None where it has learnt nothing.
        """
        chosen = self.judge.weight.detach().cpu()[self._used(known) or [0]]
        return chosen.T.clone() if bool(chosen.any()) else None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "judge": self.judge.state_dict(),
            "generator": self.generator.get_state(),
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.judge.load_state_dict(state["judge"])
        self.generator.set_state(state["generator"])
        self.rng.bit_generator.state = json.loads(state["rng"])


def _contrast(a_btd: Tensor, b_btd: Tensor, overlap: int, part: Part) -> Tensor:
    """Where the two crops overlap."""
    return losses.hierarchical_contrastive_loss(a_btd[:, -overlap:], b_btd[:, :overlap], part=part)


def _telling(says_b: Tensor, truth_b: Tensor) -> Tensor:
    """Cross-entropy of logits with truths, or shares, from 0 to 1."""
    return functional.binary_cross_entropy_with_logits(says_b, truth_b.to(says_b.dtype))


def _missing(says_b: Tensor, truth_b: Tensor) -> Tensor:
    """Mean squared difference where the truth is known; 0 where it nowhere is."""
    known = ~truth_b.isnan()
    return (says_b - truth_b).where(known, 0.0).square().sum() / known.sum().clamp_min(1)


def _judge(representation: int) -> nn.Linear:
    """An output for each of JUDGED, of the pooled representation; undecided at first."""
    judge = nn.utils.skip_init(nn.Linear, representation, len(JUDGED))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert isinstance(judge, nn.Linear)  # noqa: S101 what skip_init was asked for
    nn.init.zeros_(judge.weight)
    nn.init.zeros_(judge.bias)
    return judge
