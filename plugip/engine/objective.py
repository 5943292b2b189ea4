r"""The function of the seed that plug-in methods minimise, one value per image.

.. math:: \phi_i(z) = -\log p(y_i \mid A(R(z_i))) + \tfrac{\lambda}{2} \|z_i\|^2

With Gaussian noise of known level the first term is ‖A(R(z)) - y‖² / (2 std²), so lambda = 1 is
the MAP estimate under z ~ N(0, I), and tolerances mean something. lambda = 0 with the mean squared
error is what DMPlug published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.linalg import dot
from plugip.noise import UnknownNoise
from plugip.options import choose
from plugip.problem import Problem
from plugip.reverse import Generator

LOSSES = {
    "likelihood": "negative log-likelihood of the noise; the mean squared error without a level",
    "mean": "mean squared error over all entries of y",
}


@dataclass(frozen=True)
class Evaluation:
    """The objective at one seed per image; everything is detached.

    Attributes:
        loss: (B,).
        grad: Gradient with respect to the seed, (B, *prior.shape).
        x: Images R(z), (B, C, H, W).
        residual: Root mean square of A(R(z)) - y over observed entries, (B,).
        unit: What one unit of the likelihood's loss would be in this loss, (B,), the residual
            taken for the noise; None where the loss is a likelihood of known level, so 1.
    """

    loss: Tensor
    grad: Tensor
    x: Tensor
    residual: Tensor
    unit: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """Data misfit of R(z) plus the Gaussian seed prior.

    Args:
        problem: The problem.
        generator: The map R.
        seed_weight: lambda, not negative.
        loss: "likelihood" or "mean".
    """

    problem: Problem
    generator: Generator
    seed_weight: float = 1.0
    loss: str = "likelihood"

    def __post_init__(self) -> None:
        choose(LOSSES, self.loss, "loss")
        if self.seed_weight < 0:
            raise ValueError(f"seed_weight must not be negative, got {self.seed_weight}")
        if self.seed_weight > 0 and self.loss == "likelihood" and _unscaled(self.problem):
            raise ValueError(
                f"seed_weight={self.seed_weight:g} needs a known noise level to be weighed "
                "against; without one set method.seed_weight=0 and a rule such as stopping=es_wmv"
            )

    def require_likelihood(self) -> None:
        """Raises the noise model's TypeError if it has no likelihood; makes no network call."""
        if self.loss == "likelihood":
            self.problem.nll(self.problem.y)

    def image(self, z: Tensor) -> Tensor:
        """Returns R(z), (B, C, H, W), differentiably."""
        return self.generator(self.problem.prior, z)

    def data_loss(self, y_clean: Tensor) -> Tensor:
        """Returns the data term per image, (B,)."""
        if self.loss == "mean":
            return self.problem.squared_residual(y_clean) / y_clean[0].numel()
        return self.problem.nll(y_clean)

    def prior_loss(self, z: Tensor) -> Tensor:
        """Returns lambda ‖z‖² / 2 per image, (B,)."""
        return 0.5 * self.seed_weight * dot(z, z)

    def __call__(self, z: Tensor) -> Tensor:
        """Returns the objective per image, (B,), differentiable in z."""
        return self.data_loss(self.problem.operator(self.image(z))) + self.prior_loss(z)

    def evaluate(self, z: Tensor) -> Evaluation:
        """Returns value and gradient; costs K forwards and K backwards for K reverse steps."""
        with torch.enable_grad():
            seed = z.detach().requires_grad_()
            x = self.image(seed)
            y_clean = self.problem.operator(x)
            loss = self.data_loss(y_clean) + self.prior_loss(seed)
            (grad,) = torch.autograd.grad(loss.sum(), seed)
        residual = self.problem.residual(y_clean.detach())
        unit = self._unit(residual, y_clean)
        return Evaluation(loss.detach(), grad, x.detach(), residual, unit)

    def _unit(self, residual: Tensor, y_clean: Tensor) -> Tensor | None:
        # mean r^2 = (2 std^2 / m) * sum r^2 / (2 std^2)
        scaled = self.loss == "likelihood" and not _unscaled(self.problem)
        return None if scaled else 2 * residual.square() / y_clean[0].numel()


def _unscaled(problem: Problem) -> bool:
    # Without a level the data term is a mean square, far below the seed prior: z would stay at 0.
    return isinstance(problem.noise, UnknownNoise)
