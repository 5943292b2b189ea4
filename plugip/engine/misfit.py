r"""The objective of plug-in methods: misfit of the image's measurement, plus a penalty.

.. math:: \phi_i(v) = -\log p(y_i \mid A(x(v_i))) + \Omega(v_i)

With Gaussian noise of known level the first term is ‖A(x) - y‖² / (2 std²), so a Gaussian seed
penalty of weight 1 is the MAP estimate under z ~ N(0, I), and tolerances mean something. No
penalty with the mean squared error is what DMPlug published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.engine.objective import Evaluation, Objective
from plugip.engine.unknowns import Unknowns, seeds
from plugip.method import take
from plugip.noise import UnknownNoise
from plugip.options import choose
from plugip.problem import Problem
from plugip.reverse import Generator

LOSSES = {
    "likelihood": "negative log-likelihood of the noise; the mean squared error without a level",
    "mean": "mean squared error over all entries of y",
    "sum": "sum of the squared errors",
}


@dataclass(frozen=True)
class Misfit(Objective):
    """Data misfit of the image that the unknowns stand for, plus their penalty.

    Args:
        problem: The problem.
        unknowns: What is looked for.
        loss: "likelihood", "mean" or "sum".

    Raises:
        ValueError: If the loss is not known, or a penalty cannot be weighed against it.
    """

    problem: Problem
    unknowns: Unknowns
    loss: str = "likelihood"

    def __post_init__(self) -> None:
        choose(LOSSES, self.loss, "loss")
        setting = self.unknowns.weighted
        if setting and self.loss == "likelihood" and _unscaled(self.problem):
            raise ValueError(
                f"a {setting} above 0 needs a known noise level to be weighed against; without "
                f"one set method.{setting}=0 and a rule such as stopping=es_wmv"
            )

    def require_likelihood(self) -> None:
        """Raises the noise model's TypeError if it has no likelihood; makes no network call."""
        if self.loss == "likelihood":
            self.problem.nll(self.problem.y)

    def image(self, v: Tensor) -> Tensor:
        """Returns the images, (B, C, H, W), differentiably."""
        return self.unknowns.image(self.problem, v)

    def known(self, v: Tensor) -> Problem:
        """Returns the problem with its unknown part, if any, at what v says."""
        return self.unknowns.known(self.problem, v)

    def project(self, v: Tensor) -> Tensor:
        return self.unknowns.project(v)

    def rates(self, v: Tensor) -> Tensor | None:
        return self.unknowns.rates(v)

    def data_loss(self, known: Problem, y_clean: Tensor) -> Tensor:
        """Returns the data term per image, (B,)."""
        if self.loss == "likelihood":
            return known.nll(y_clean)
        squared = known.squared_residual(y_clean)
        return squared if self.loss == "sum" else squared / y_clean[0].numel()

    def penalty(self, v: Tensor, x: Tensor) -> Tensor:
        """Returns the penalty of the unknowns v and of their images x, (B,)."""
        return self.unknowns.penalty(v)

    def __call__(self, v: Tensor) -> Tensor:
        """Returns the objective per image, (B,), differentiable in v."""
        x, known = self.image(v), self.known(v)
        return self.data_loss(known, known.operator(x)) + self.penalty(v, x)

    def evaluate(self, v: Tensor) -> Evaluation:
        """Returns value and gradient; costs K forwards and K backwards for K reverse steps."""
        with torch.enable_grad():
            free = v.detach().requires_grad_()
            x, known = self.image(free), self.known(free)
            y_clean = known.operator(x)
            loss = self.data_loss(known, y_clean) + self.penalty(free, x)
            (grad,) = torch.autograd.grad(loss.sum(), free)
        residual = known.residual(y_clean.detach())
        unit = self._unit(residual, y_clean)
        return Evaluation(loss.detach(), grad, x.detach(), residual, unit)

    def evaluate_rows(self, v: Tensor, rows: list[int]) -> Evaluation:
        with self.problem.prior.counter.only(rows):
            return take(self, rows).evaluate(v[rows])

    def _unit(self, residual: Tensor, y_clean: Tensor) -> Tensor | None:
        # sum r^2 = 2 std^2 * (sum r^2 / (2 std^2)), and the residual stands in for std
        if self.loss == "likelihood" and not _unscaled(self.problem):
            return None
        unit = 2 * residual.square()
        if self.loss == "sum":
            return unit
        # A mean is over all entries of y, but that of unknown noise over those observed.
        mean = self.loss == "mean"
        return unit / (y_clean[0].numel() if mean else self.problem.observed_count())

    @property
    def averages(self) -> bool:
        """Whether the data term is a mean over entries of y rather than a sum."""
        unscaled = self.loss == "likelihood" and _unscaled(self.problem)
        return self.loss == "mean" or unscaled


def seed_misfit(
    problem: Problem, generator: Generator, seed_weight: float = 1.0, loss: str = "likelihood"
) -> Misfit:
    """Returns the objective of a plain seed search, such as DMPlug's."""
    return Misfit(problem, seeds(generator, seed_weight), loss)


def _unscaled(problem: Problem) -> bool:
    # Without a level the data term is a mean square, far below the seed prior: z would stay at 0.
    return isinstance(problem.noise, UnknownNoise)
