"""The mean of an encoder's weights over the steps of training, which is what is clustered and saved."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from tscc_stream.learn.network import Encoder


class AveragedEncoder:
    """What torch's AveragedModel computes, counted on the host, so that no step waits for a device.

    kept: what of the averaged weights stays at each step; 0: their plain mean. Before the first step: the start.
    """

    def __init__(self, encoder: Encoder, kept: float) -> None:
        self.encoder = deepcopy(encoder).requires_grad_(requires_grad=False)
        self._kept = kept
        self._steps = 0

    @torch.no_grad()
    def update(self, encoder: Encoder) -> None:
        """After a step of `encoder`."""
        averaged: list[Tensor] = list(self.encoder.parameters())
        stepped: list[Tensor] = list(encoder.parameters())
        share = 1.0 if self._steps == 0 else 1.0 - self._kept if self._kept else 1.0 / (self._steps + 1)
        torch._foreach_lerp_(averaged, stepped, share)
        self._steps += 1

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"n_averaged": torch.tensor(self._steps)} | {
            f"module.{name}": weight for name, weight in self.encoder.state_dict().items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self._steps = int(state["n_averaged"])
        weights = {name.removeprefix("module."): part for name, part in state.items() if name != "n_averaged"}
        self.encoder.load_state_dict(weights)
