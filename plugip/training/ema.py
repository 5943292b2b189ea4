"""The averaged weights: smoother than the last ones, and the ones that are kept."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Keeps an exponential moving average of a network's weights.

    Args:
        net: The network that is trained; its weights are the start.
        decay: Share of the old average that is kept at each step, in [0, 1).

    Attributes:
        net: A frozen copy with the averaged weights.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay

    def decay_at(self, step: int) -> float:
        """Returns the decay of a step, counted from 0; early ones forget the start quickly."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Moves the average towards the weights of ``net`` after a step, counted from 0."""
        share = 1 - self.decay_at(step)
        mine: list[Tensor] = list(self.net.parameters())
        new: list[Tensor] = list(net.parameters())
        # One call for all of them: as many small kernels would keep a GPU waiting.
        torch._foreach_lerp_(mine, new, share)  # pyright: ignore[reportPrivateImportUsage]
