"""The whitened residual and its Jacobian products, for Gauss-Newton and Krylov solvers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.engine.misfit import Misfit
from plugip.linalg import norm, per_image
from plugip.noise import GaussianNoise, UnknownNoise
from plugip.options import choose

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Linearization:
    """The residual rho at a seed with its Jacobian J; the data loss is ‖rho‖² / 2 per image.

    Attributes:
        value: rho(z), (B, *Y), zero where nothing is observed.
        image: R(z), (B, C, H, W).
        jvp: v -> J v, (B, *prior.shape) -> (B, *Y).
        vjp: w -> J* w, (B, *Y) -> (B, *prior.shape).
    """

    value: Tensor
    image: Tensor
    jvp: Product
    vjp: Product


def whitened_residual(objective: Misfit, z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rho(z) and R(z); the data loss is ‖rho‖² / 2 per image.

    Raises:
        TypeError: If the data loss is no sum of squares.
    """
    problem = objective.problem
    x = objective.image(z)
    difference = problem.operator(x) - problem.y
    observed = problem.operator.observed
    rho = difference if observed is None else difference * observed
    return _scale(objective, rho) * rho, x


def linearize(objective: Misfit, z: Tensor, backend: str = "double_backward") -> Linearization:
    """Linearises the whitened residual around a seed and keeps what repeated products need.

    Args:
        objective: The objective, a sum of squares: loss "mean" or "sum", or a likelihood of
            Gaussian or unknown noise.
        z: Seeds, (B, *prior.shape).
        backend: How J v is made. "double_backward" is exact and reuses the graph; "forward_mode"
            is exact and slower on CPUs; "finite_difference" costs one forward, relative error
            about 2 %.

    Returns:
        The residual, the image and both products. The graph lives as long as the result.

    Raises:
        ValueError: If the backend is unknown.
        TypeError: If the data loss is no sum of squares.
    """
    make_jvp = choose(JVPS, backend, "linearize backend")
    counter = objective.problem.prior.counter
    before = counter.nfe
    with torch.enable_grad():
        seed = z.detach().requires_grad_()
        rho, x = whitened_residual(objective, seed)
    calls, product = counter.nfe - before, make_jvp(objective, seed, rho)

    def jvp(v: Tensor) -> Tensor:
        counter.jvps += calls
        return product(v)

    def vjp(w: Tensor) -> Tensor:
        return torch.autograd.grad(rho, seed, w, retain_graph=True)[0]

    return Linearization(rho.detach(), x.detach(), jvp, vjp)


def _scale(objective: Misfit, rho: Tensor) -> Tensor | float:
    noise = objective.problem.noise
    if type(objective).data_loss is not Misfit.data_loss:
        raise TypeError(
            f"linearize needs a sum of squares for its data loss; {type(objective).__name__} has "
            "another one"
        )
    if objective.loss == "mean":
        return math.sqrt(2 / rho[0].numel())
    if objective.loss == "sum":
        return math.sqrt(2)
    if isinstance(noise, GaussianNoise):
        return 1 / noise.std
    if isinstance(noise, UnknownNoise):
        count = torch.as_tensor(objective.problem.observed_count(), device=rho.device)
        return per_image((2 / count).sqrt().to(rho.real.dtype), rho)
    raise TypeError(
        f"linearize needs a sum-of-squares likelihood; {type(noise).__name__} has none; take "
        "loss=mean"
    )


def _double_backward(objective: Misfit, seed: Tensor, rho: Tensor) -> Product:
    # J v is the gradient of <J* w, v> in the dummy w; J* w is linear in w, so any w serves.
    with torch.enable_grad():
        dummy = torch.zeros_like(rho, requires_grad=True)
        (pulled,) = torch.autograd.grad(rho, seed, dummy, create_graph=True)
    return lambda v: torch.autograd.grad(pulled, dummy, v, retain_graph=True)[0]


def _forward_mode(objective: Misfit, seed: Tensor, rho: Tensor) -> Product:
    def residual(z: Tensor) -> Tensor:
        return whitened_residual(objective, z)[0]

    return lambda v: torch.func.jvp(residual, (seed.detach(),), (v,))[1]


def _finite_difference(objective: Misfit, seed: Tensor, rho: Tensor) -> Product:
    base, start = rho.detach(), seed.detach()

    @torch.no_grad()
    def jvp(v: Tensor) -> Tensor:
        # A step of 1e-2 per coordinate of a unit-variance seed balances curvature and rounding.
        length = 1e-2 * math.sqrt(v[0].numel()) / norm(v).clamp_min(1e-30)
        step = per_image(length, v)
        moved = whitened_residual(objective, start + step * v)[0]
        return (moved - base) / per_image(length, base)

    return jvp


JVPS: dict[str, Callable[[Misfit, Tensor, Tensor], Product]] = {
    "double_backward": _double_backward,
    "forward_mode": _forward_mode,
    "finite_difference": _finite_difference,
}
