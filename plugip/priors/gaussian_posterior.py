"""The exact posterior of a Gaussian prior under a linear measurement: Wiener's answer."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from plugip.linalg import conjugate_gradient
from plugip.noise import GaussianNoise
from plugip.operator import LinearOperator
from plugip.priors.gaussian import GaussianPrior
from plugip.priors.low_rank import LowRankGaussian
from plugip.problem import Problem
from plugip.rng import Rng

T = TypeVar("T")
TOLERANCE = 1e-7
ITERATIONS = 20_000  # far more than any problem took that was tried; each costs A, A* and C once


class GaussianPosterior:
    r"""The Gaussian p(x | y) of a linear problem; its mean is the MAP and the Wiener estimate.

    .. math:: \hat x = m + C A^* (A C A^* + \sigma^2 I)^{-1} (y - A m)

    for a prior with mean m and covariance C, and noise of level sigma. A strong baseline without a
    network and without tuning. The system is solved by conjugate gradients in float64 on copies of
    the parts, preconditioned by what the prior's directions alone would answer; it takes the more
    steps the lower the noise is. Answers are not clamped: a Gaussian reaches beyond [-1, 1].

    Args:
        problem: A linear operator, Gaussian noise, and a ``GaussianPrior`` or ``LowRankGaussian``.

    Raises:
        TypeError: If a part of the problem is of another kind.

    Source: Bishop 2006, eqs. 2.116 and 2.117.
    """

    def __init__(self, problem: Problem) -> None:
        self._noise = _require(problem.noise, (GaussianNoise,), "noise")
        operator = _require(problem.operator, (LinearOperator,), "operator")
        prior = _require(problem.prior, (LowRankGaussian, GaussianPrior), "prior")
        self._operator = copy.deepcopy(operator).double()
        self._prior = copy.deepcopy(prior).double()
        self._like = problem.y.real
        self._y = problem.y.to(torch.promote_types(problem.y.dtype, torch.float64))

    def mean(self) -> Tensor:
        """Returns E[x | y], (B, C, H, W)."""
        mean = self._prior.decode(self._prior.mean[None]).expand(len(self._y), -1, -1, -1)
        return (mean + self._answer(self._y - self._operator(mean))).to(self._like)

    def sample(self, rng: Rng) -> Tensor:
        """Draws one image from p(x | y) for each measurement, (B, C, H, W).

        An image and its measurement are drawn from the prior, and the image moves by the mean's
        answer to what its measurement lacks to y (Matheron's rule); that is exact.

        Args:
            rng: One stream per measurement.
        """
        x = self._prior.decode(self._prior.sample(rng.child("prior")))
        y = self._noise.sample(self._operator(x), rng.child("noise"))
        return (x + self._answer(self._y - y)).to(self._like)

    def _answer(self, rest: Tensor) -> Tensor:
        """Returns C A* (A C A* + sigma² I)^-1 rest, (B, *Y) -> (B, C, H, W)."""
        if self._operator.select([0]) is self._operator:
            return self._answer_by(self._operator, rest)
        # Each image has a map of its own, so each has a preconditioner of its own.
        parts = [(self._operator.select([i]), rest[i : i + 1]) for i in range(len(rest))]
        return torch.cat([self._answer_by(a, part) for a, part in parts])  # type: ignore[arg-type]

    def _answer_by(self, a: LinearOperator, rest: Tensor) -> Tensor:
        variance = self._noise.std**2
        halves = _Whitening(a(self._directions()), variance)

        def spread(u: Tensor) -> Tensor:
            w = halves(u)
            return halves(a(self._covariance(a.adjoint(w))) + variance * w)

        u = conjugate_gradient(
            spread, halves(rest), tolerance=TOLERANCE, max_iterations=ITERATIONS
        )
        return self._covariance(a.adjoint(halves(u)))

    def _directions(self) -> Tensor:
        """Returns images whose outer products are most of the prior's covariance, (r, C, H, W)."""
        if isinstance(self._prior, GaussianPrior):
            return self._prior.mean.new_zeros(1, *self._prior.shape)
        scales = self._prior.variances.sqrt().view(-1, 1, 1, 1)
        return torch.cat([scales * self._prior.components, 0 * self._prior.mean[None]])

    def _covariance(self, x: Tensor) -> Tensor:
        # Images are affine in the prior's states.
        one = torch.ones_like(self._prior.mean[None])
        slope = (self._prior.decode(one) - self._prior.decode(0 * one)).mean()
        return slope**2 * self._prior.covariance_times(x)


class _Whitening:
    """The inverse square root of W W^T + variance I, for columns W of measurements, (r, *Y)."""

    def __init__(self, columns: Tensor, variance: float) -> None:
        q, s, _ = torch.linalg.svd(_real(columns).T, full_matrices=False)
        self._axes, self._rest = q, variance**-0.5
        self._gains = (s.square() + variance).rsqrt() - self._rest

    def __call__(self, y: Tensor) -> Tensor:
        flat = _real(y)
        white = self._rest * flat + (self._gains * (flat @ self._axes)) @ self._axes.T
        if not y.is_complex():
            return white.view_as(y)
        return torch.view_as_complex(white.view(*y.shape, 2))


def _real(y: Tensor) -> Tensor:
    """Returns measurements as lists of real numbers, (B, *Y) -> (B, n)."""
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1)


def _require(part: Any, kinds: tuple[type[T], ...], name: str) -> T:
    if isinstance(part, kinds):
        return part
    names = " or ".join(kind.__name__ for kind in kinds)
    raise TypeError(
        f"the exact posterior needs a {names} as the {name}, got {type(part).__name__}; "
        "a method such as DMPlug or DPS takes any"
    )
