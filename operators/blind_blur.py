"""Blind deblurring: the kernel is unknown as well; and the shift that it cannot tell apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from plugip.operator import BlindOperator, Shape
from plugip.operators._options import as_sides
from plugip.operators.blur import Blur, Origin, tap_origin
from plugip.operators.correlation import require_fit
from plugip.operators.separable import BOUNDARIES, fold
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng


class KernelDraw(Protocol):
    """Draws true kernels, one for each image."""

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws kernels for images (B, C, H, W): (B, rows, columns) or (B, 1, rows, columns)."""
        ...


@dataclass(frozen=True)
class Constraint:
    """How free parameters become a kernel.

    Attributes:
        apply: Maps (B, C, rows, columns) to kernels, not negative, with sum 1.
        guess: Turns standard normal numbers into first free parameters.
        step: Step of Adam in the units of the free parameters.
    """

    apply: Callable[[Tensor], Tensor]
    guess: Callable[[Tensor], Tensor]
    step: float


def _simplex(theta: Tensor) -> Tensor:
    return theta.flatten(-2).softmax(-1).reshape(theta.shape)


def _nonneg(theta: Tensor) -> Tensor:
    kept = theta.clamp_min(0)
    total = kept.sum((-2, -1), keepdim=True)
    return kept / total.clamp_min(torch.finfo(theta.dtype).tiny)


CONSTRAINTS = {
    # Logits have no unit; 0.1 and the normal guess are DMPlug's.
    "simplex": Constraint(_simplex, lambda n: n, 0.1),
    # Free values matter up to a factor; they begin at 1 with a spread of 0.1.
    "nonneg": Constraint(_nonneg, lambda n: 1 + 0.1 * n, 0.01),
}


class BlindBlur(BlindOperator[Tensor]):
    r"""Blind deblurring: blur with a kernel that is to be found together with the image.

    .. math:: y = k \star x, \qquad k \ge 0, \quad \sum k = 1

    for every channel; the kernel is not flipped. Bilinear in k and x. Theta are logits, or free
    values, (B, 1|C, rows, columns); ``constrain`` makes kernels of them, and ``at(kernel)`` the
    known blur. A kernel and an image moved by the same distance give the same y up to the edges:
    see ``align_shift``. The scale is fixed by the sum.

    Args:
        kernel_size: Taps per side, or (rows, columns); may be larger than the true kernel. 64 at
            256 in DMPlug; the default, 33, is half the side at 64.
        constraint: simplex (softmax over all taps, DMPlug) or nonneg (clamp and normalise).
        boundary: zero (DMPlug, BlindDPS), circular, reflect, symmetric or replicate.
        origin: Tap that lies on the pixel itself, as in ``Blur``; None: the middle, for odd
            sizes. DMPlug's 64 taps have their origin at (31, 31) and their peak at (32, 32), which
            moves its images by one pixel.
        per_channel: One kernel for each channel, instead of one for all.
        truth: Draws true kernels to simulate measurements; smaller ones, of odd size, are put on
            the origin.

    Raises:
        ValueError: If an argument is out of range, or a true kernel does not fit.

    Source: Wang et al. 2024 (DMPlug) and Chung et al. 2023 (BlindDPS), code.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int] = 33,
        constraint: str = "simplex",
        boundary: str = "zero",
        origin: Origin = None,
        per_channel: bool = False,
        truth: KernelDraw | None = None,
    ) -> None:
        super().__init__(truth)
        self.kernel_size = as_sides(kernel_size, "kernel_size")
        self.constraint = require_choice(constraint, CONSTRAINTS, "constraint")
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")
        self.origin = tap_origin(self.kernel_size, origin)
        self.per_channel = per_channel
        self.learning_rate_hint = CONSTRAINTS[constraint].step

    def init_theta(self, rng: Rng, like: Tensor) -> Tensor:
        channels = like.shape[1] if self.per_channel else 1
        return first_guess(self.constraint, rng, (channels, *self.kernel_size), like)

    def constrain(self, theta: Tensor) -> Tensor:
        return CONSTRAINTS[self.constraint].apply(theta)

    def at(self, theta: Tensor) -> Blur:
        return Blur(theta, self.boundary, origin=self.origin)

    def draw_theta(self, rng: Rng, x_shape: Shape) -> Tensor:
        if self.truth is None:
            return super().draw_theta(rng, x_shape)
        return drawn_kernel(self.truth, rng, x_shape, self.kernel_size, self.origin)

    def check_domain(self, x_shape: Shape) -> None:
        require_fit(self.kernel_size, self.origin, x_shape, self.boundary)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, constraint={self.constraint!r}, "
            f"boundary={self.boundary!r}, origin={self.origin}, per_channel={self.per_channel}"
        )


def first_guess(constraint: str, rng: Rng, shape: Shape, like: Tensor) -> Tensor:
    """Draws free parameters of a kernel, (B, *shape)."""
    return CONSTRAINTS[constraint].guess(rng.child("kernel").normal(shape, like=like))


def drawn_kernel(
    truth: KernelDraw,
    rng: Rng,
    x_shape: Shape,
    size: tuple[int, int],
    origin: tuple[int, int],
) -> Tensor:
    """Draws true kernels and places them in a window of ``size``, (B, 1, *size)."""
    drawn = truth.draw(rng, x_shape)
    kernel = drawn[:, None] if drawn.ndim == 3 else drawn
    given = kernel.shape[-2], kernel.shape[-1]
    if given == size:
        return kernel
    before = [o - n // 2 for o, n in zip(origin, given, strict=True)]
    after = [m - n - b for m, n, b in zip(size, given, before, strict=True)]
    if min(*before, *after) < 0 or any(n % 2 == 0 for n in given):
        raise ValueError(
            f"a true kernel of {given[0]} x {given[1]} does not fit the unknown one of "
            f"{size[0]} x {size[1]} with its middle on {origin}; raise kernel_size, use odd sizes"
        )
    return torch.nn.functional.pad(kernel, (before[1], after[1], before[0], after[0]))


def find_shift(estimate: Tensor, reference: Tensor, max_shift: int | None = None) -> Tensor:
    """Finds how far each estimate must move to lie on its reference.

    Maximises the cross-correlation, means removed, over whole pixels and all channels.

    Args:
        estimate: (B, C, H, W).
        reference: Same shape.
        max_shift: Longest move along an axis in pixels; None: half of the shorter side.

    Returns:
        Moves (down, right) in pixels, (B, 2), int64.

    Raises:
        ValueError: If the shapes differ or max_shift is not in [0, shorter side).
    """
    if estimate.ndim != 4 or estimate.shape != reference.shape:
        shapes = f"{tuple(estimate.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"take two (B, C, H, W) batches of the same shape, got {shapes}")
    h, w = estimate.shape[-2:]
    reach = min(h, w) // 2 if max_shift is None else max_shift
    if not 0 <= reach < min(h, w):
        raise ValueError(f"max_shift must lie in [0, {min(h, w)}), got {max_shift}")
    c = _cross_correlation(estimate, reference)
    moves = torch.arange(-reach, reach + 1, device=c.device)
    window = c[:, moves % c.shape[1]][:, :, moves % c.shape[2]].flatten(1)
    best = window.argmax(1)
    return torch.stack([best // len(moves) - reach, best % len(moves) - reach], dim=1)


def align_shift(
    estimate: Tensor, reference: Tensor, max_shift: int | None = None, boundary: str = "replicate"
) -> Tensor:
    """Moves each estimate by whole pixels onto its reference, as blind deblurring allows.

    Use it before metrics, and report the raw figure too. ``move(kernel, find_shift(...), "zero")``
    moves the kernel along: both together leave the measurement as it was, up to the edges.

    Args:
        estimate: (B, C, H, W).
        reference: Same shape.
        max_shift: As in ``find_shift``.
        boundary: What comes in at the edges: replicate, circular, reflect, symmetric or zero.

    Returns:
        Moved estimates, (B, C, H, W).
    """
    return move(estimate, find_shift(estimate, reference, max_shift), boundary)


def move(x: Tensor, shift: Tensor, boundary: str = "replicate") -> Tensor:
    """Moves images or kernels (B, C, H, W) by whole pixels, (B, 2) = (down, right)."""
    return torch.stack(
        [_moved(_moved(a, int(d), boundary, -2), int(r), boundary, -1)
         for a, (d, r) in zip(x, shift, strict=True)]
    )  # fmt: skip


def _moved(x: Tensor, by: int, boundary: str, dim: int) -> Tensor:
    index = torch.from_numpy(fold(np.arange(x.shape[dim]) - by, x.shape[dim], boundary))
    index = index.to(x.device)
    shape = (-1, 1) if dim == -2 else (-1,)
    return x.index_select(dim, index.clamp_min(0)) * (index >= 0).to(x.dtype).reshape(shape)


def _cross_correlation(estimate: Tensor, reference: Tensor) -> Tensor:
    """Sums over channels of e[i] r[i + t] at t modulo twice the sides, (B, 2 H, 2 W)."""
    size = [2 * n for n in estimate.shape[-2:]]
    e, r = (a - a.mean((-2, -1), keepdim=True) for a in (estimate, reference))
    return torch.fft.irfft2(
        (torch.fft.rfft2(e, size).conj() * torch.fft.rfft2(r, size)).sum(1), size
    )
