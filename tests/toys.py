"""Toys with known answers: small operators, an exact prior, and dense matrices to compare with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.method import Info
from plugip.operator import LinearOperator, Operator, SpectralOperator
from plugip.path import SIGNED, FlowPath
from plugip.prior import Prior
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.spectral import Spectrum

Shape = tuple[int, ...]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Reproducible Gaussian numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def dense(operator: Operator, image_shape: Shape) -> Tensor:
    """The matrix of a linear operator, column by column, (numel y, numel x)."""
    n = int(torch.Size(image_shape).numel())
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *image_shape)
    return operator(basis).flatten(1).T


class Identity(LinearOperator):
    """y = x."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Matrix(LinearOperator):
    """y = M x for flattened images; its adjoint is the default one."""

    matrix: Tensor

    def __init__(self, matrix: Tensor, image_shape: Shape) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.image_shape = image_shape

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (y_shape[0], *self.image_shape)


class Scale(LinearOperator):
    """y = s x with one s per image, (B, 1, 1, 1); drawn by ``realise`` if none is given."""

    per_image = ("s",)
    s: Tensor

    def __init__(self, s: Tensor | None = None) -> None:
        super().__init__()
        self.drawn = s is not None
        self.register_buffer("s", torch.ones(0, 1, 1, 1) if s is None else s)

    def forward(self, x: Tensor) -> Tensor:
        return self.s * x if self.drawn else x

    def realise(self, rng: Rng, x_shape: Shape) -> Operator:
        return self if self.drawn else Scale(1 + rng.uniform((1, 1, 1)).double())


class Shrink(LinearOperator):
    """Means of 2 x 2 blocks; refuses odd sizes."""

    def check_domain(self, x_shape: Shape) -> None:
        if x_shape[-1] % 2 or x_shape[-2] % 2:
            raise ValueError(f"Shrink needs even sizes, got {x_shape[-2]} x {x_shape[-1]}")

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        return torch.nn.functional.avg_pool2d(x, 2)

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (*y_shape[:-2], 2 * y_shape[-2], 2 * y_shape[-1])


class Square(Operator):
    """y = x², not linear."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


class Fourier(LinearOperator):
    """The orthonormal Fourier transform, complex."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x, norm="ortho")


class Masked(LinearOperator):
    """y = m x, observed where m is 1; one mask per image, shared by its channels."""

    per_image = ("mask",)
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    @property
    def observed(self) -> Tensor:
        return self.mask

    def forward(self, x: Tensor) -> Tensor:
        return self.mask * x


class Fixed(SpectralOperator):
    """A spectral operator with given factors; measurements belong to images of one size."""

    def __init__(self, spectrum: Spectrum, size: tuple[int, int], rcond: float = 1e-3) -> None:
        super().__init__()
        self.factors, self.size, self.rcond = spectrum, size, rcond

    def spectrum(self, x_shape: Shape) -> Spectrum:
        return self.factors

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (*y_shape[:-2], *self.size)


class ExactPrior(Prior):
    """Images are mean + std n: E[x_0 | x_t] in closed form, on the path of a flow."""

    mean: Tensor

    def __init__(self, mean: Tensor, std: float = 0.3) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.std, self.shape = std, tuple(mean.shape)
        self.path, self.value_range = FlowPath(), SIGNED

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        a, s = self.path.coefficients(t, x_t)
        gain = a * self.std**2 / (a**2 * self.std**2 + s**2)
        return self.mean + gain * (x_t - a * self.mean)


@dataclass(frozen=True)
class JointState:
    """Images, free parameters by name, and the admissible ones that belong to the last report."""

    x: Tensor
    free: dict[str, Tensor]
    theta: dict[str, Tensor] | Tensor | None


@dataclass(frozen=True)
class JointDescent:
    """Gradient descent on the image and the unknown of a blind operator at once."""

    iterations: int = 5
    rate: float = 0.1

    def init(self, problem: Problem, rng: Rng) -> JointState:
        x = torch.zeros(problem.batch, *problem.prior.image_shape, dtype=problem.y.dtype)
        free = problem.operator.init_theta(rng, x)  # type: ignore[operator]
        return JointState(x, free if isinstance(free, dict) else {"": free}, None)

    def step(self, problem: Problem, state: JointState) -> tuple[JointState, Info]:
        x = state.x.detach().requires_grad_()
        free = {name: part.detach().requires_grad_() for name, part in state.free.items()}
        theta = problem.operator.constrain(free.get("", free))  # type: ignore[operator]
        known = problem.known(theta)
        loss = known.squared_residual(known.operator(x)) + x.square().flatten(1).sum(1) * 0.01
        grads = torch.autograd.grad(loss.sum(), [x, *free.values()])
        moved = [
            p.detach() - self.rate * g for p, g in zip([x, *free.values()], grads, strict=True)
        ]
        seen = {n: p.detach() for n, p in theta.items()} if isinstance(theta, dict) else theta
        seen = seen.detach() if isinstance(seen, Tensor) else seen
        state = JointState(moved[0], dict(zip(free, moved[1:], strict=True)), seen)
        done = torch.zeros(problem.batch, dtype=torch.bool)
        return state, Info(x.detach().clamp(-1, 1), loss.detach(), done)

    def finish(self, problem: Problem, state: JointState) -> Tensor:
        return state.x.clamp(-1, 1)

    def theta(self, state: JointState) -> dict[str, Tensor] | Tensor | None:
        return state.theta
