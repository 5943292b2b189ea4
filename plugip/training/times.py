"""How a batch's uniform numbers become levels, from which training times are made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Times = Callable[[Tensor], Tensor]


def uniform(level: Tensor) -> Tensor:
    """Takes the numbers as they are, (B,) in [0, 1)."""
    return level


def stratified(level: Tensor) -> Tensor:
    """Spreads the first number evenly over the batch: each row uniform, the batch even.

    Source: Kingma et al. 2021 (variational diffusion models), low-discrepancy sampler.
    """
    return (level[0] + torch.arange(len(level)) / len(level)) % 1


def logit_normal(level: Tensor) -> Tensor:
    """Returns sigmoid(n) for standard normal n: more times in the middle.

    Source: Esser et al. 2024 (scaling rectified flow transformers), location 0, scale 1.
    """
    # Away from the ends, where the normal quantile is infinite.
    return torch.special.ndtri(level.clamp(1e-6, 1 - 1e-6)).sigmoid()


TIMES: dict[str, Times] = {
    "stratified": stratified,
    "uniform": uniform,
    "logit_normal": logit_normal,
}
