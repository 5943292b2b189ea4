"""A small fully connected network: SelfDeblur's generator of kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from plugip.rng import Rng
from plugip.untrained.network import Network, Shape, uniform_code


@dataclass(frozen=True)
class MLP(Network):
    """One hidden layer of ReLU6 units that makes an array of any shape from a fixed vector.

    Args:
        inputs: Length of the fixed vector, published 200.
        hidden: Hidden units, published 1000.
        code_scale: The vector is uniform in [0, code_scale), published 0.1.

    Raises:
        ValueError: If an argument is out of range.

    Source: Ren et al. 2020 (SelfDeblur), and its code.
    """

    inputs: int = 200
    hidden: int = 1000
    code_scale: float = 0.1

    def __post_init__(self) -> None:
        if min(self.inputs, self.hidden) < 1 or self.code_scale <= 0:
            raise ValueError(
                "inputs and hidden must be at least 1 and code_scale positive, got "
                f"{self.inputs}, {self.hidden} and {self.code_scale}"
            )

    def build(self, shape: Shape) -> nn.Module:
        last = nn.Linear(self.hidden, math.prod(shape))
        return nn.Sequential(
            nn.Linear(self.inputs, self.hidden), nn.ReLU6(), last, nn.Unflatten(-1, shape)
        )

    def code(self, shape: Shape, rng: Rng, like: Tensor) -> Tensor:
        return uniform_code((self.inputs,), self.code_scale, rng, like)
