r"""Blind deblurring with untrained networks: a scene that reaches beyond the frame, and a kernel.

A blurred frame shows light from outside of it. So the scene is larger than y by the kernel's
reach on each side, and only what needs no boundary rule is compared with y:

.. math:: y = k \star x \text{ (valid)}, \quad x: (C, H + k_h - 1, W + k_w - 1)

Whatever boundary made y is a special case of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from plugip.engine.misfit import Misfit
from plugip.engine.unknowns import Layout, Unknowns
from plugip.engine.untrained import UntrainedPlugIn
from plugip.engine.weights import OwnNetworks, Shakable, counted, signed
from plugip.linalg import norm
from plugip.metrics import SSIM, to_unit
from plugip.operator import Operator, Unknown
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.untrained import Network

Sides = tuple[int, int]


@runtime_checkable
class BlurLike(Protocol):
    """What a blind operator says of its kernel."""

    kernel_size: Sides
    origin: Sides
    learning_rate_hint: float | dict[str, float]


@dataclass(frozen=True)
class Frame:
    """Where y, and the image that it shows, lie in the scene.

    Args:
        sides: Rows and columns of y.
        taps: Rows and columns of the kernel.
        origin: Tap that lies on the pixel itself; the image begins at this place of the scene.
    """

    sides: Sides
    taps: Sides
    origin: Sides

    @staticmethod
    def of(problem: Problem, asker: str) -> Frame:
        """Reads the frame from a problem of blind deblurring.

        Raises:
            TypeError: If the unknown is not one blur kernel, or y has another size than images.
        """
        # Known by what it says of itself: the core does not import operators.
        operator: object = problem.operator
        y_shape = tuple(problem.y.shape[1:])
        if isinstance(operator, BlurLike) and isinstance(operator.learning_rate_hint, float):
            if y_shape == tuple(problem.prior.image_shape):
                return Frame((y_shape[1], y_shape[2]), operator.kernel_size, operator.origin)
        raise TypeError(
            f"{asker} finds one blur kernel and images of y's shape, which does not suit "
            f"{type(operator).__name__}; take operator=blind_blur, or method=dip for others"
        )

    @property
    def scene(self) -> Sides:
        """Rows and columns of the scene."""
        (h, w), (kh, kw) = self.sides, self.taps
        return h + kh - 1, w + kw - 1

    def image(self, scene: Tensor, moves: Tensor | None = None) -> Tensor:
        """Cuts the image out of the scene, (B, C, H, W).

        Args:
            scene: (B, C, H + kh - 1, W + kw - 1).
            moves: By how much the scene is moved before, (down, right), (B, 2), int64.
        """
        start = torch.tensor(self.origin, device=scene.device).expand(scene.shape[0], 2)
        return windows(scene, start if moves is None else start - moves, self.sides)


class Crop(Operator):
    """Keeps a rectangle of an image.

    Args:
        start: Its first row and column.
        sides: Its rows and columns.
    """

    def __init__(self, start: Sides, sides: Sides) -> None:
        super().__init__()
        self.start, self.sides = start, sides

    def forward(self, x: Tensor) -> Tensor:
        (top, left), (h, w) = self.start, self.sides
        return x[..., top : top + h, left : left + w].contiguous()


@dataclass(frozen=True)
class Scene(Shakable):
    """The weights of two networks per image, of the scene and of the kernel, as one vector.

    Args:
        frame: Where y lies in the scene.
        scene: Networks of the scene, (B, C, H + kh - 1, W + kw - 1); counted as the prior's calls.
        kernel: Networks of the kernel's logits, (B, 1, kh, kw); far smaller, not counted.
        layout: Where the weights of both lie.
        kernel_step: Adam's step of the kernel's weights, relative to that of the scene's.
    """

    frame: Frame
    scene: OwnNetworks
    kernel: OwnNetworks
    layout: Layout
    kernel_step: float

    def image(self, problem: Problem, v: Tensor) -> Tensor:
        return counted(problem.prior, signed(self.scene(self.layout.split(v)["scene"])))

    def theta(self, problem: Problem, v: Tensor) -> Tensor:
        logits = self.kernel(self.layout.split(v)["kernel"])
        return logits.flatten(1).softmax(1).reshape(logits.shape)

    def known(self, problem: Problem, v: Tensor) -> Problem:
        known = problem.known(self.theta(problem, v))
        return known.measured_by(Crop(self.frame.origin, self.frame.sides) @ known.operator)

    def rates(self, v: Tensor) -> Tensor:
        return self.layout.spread({"scene": 1.0, "kernel": self.kernel_step}, v)

    def shaken(self, std: float, rng: Rng) -> Self:
        return replace(self, scene=self.scene.shaken(std, rng))


class SceneSearch(UntrainedPlugIn):
    """What blind deblurring methods with two untrained networks share.

    Attributes:
        generator: Network of the scene.
        kernel: Network of the kernel.
        kernel_lr: Adam's step of the kernel's weights.
    """

    generator: Network
    kernel: Network
    kernel_lr: float

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for the weights of both networks."""
        frame, like = Frame.of(problem, type(self).__name__), problem.y.real
        shape = (problem.prior.image_shape[0], *frame.scene)
        scene, v = OwnNetworks.draw(self.generator, shape, rng.child("scene"), like)
        kernel, w = OwnNetworks.draw(self.kernel, (1, *frame.taps), rng.child("kernel"), like)
        layout = Layout.of({"scene": v, "kernel": w})
        unknowns = Scene(frame, scene, kernel, layout, self.kernel_lr / self.solver.lr)
        return unknowns, layout.join({"scene": v, "kernel": w})

    def unknowns(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for nothing else: the operator's unknown part is what the kernel network makes."""
        return self.search(problem, rng)

    def shown(
        self, problem: Problem, x: Tensor, theta: Unknown | None
    ) -> tuple[Tensor, Unknown | None]:
        """Cuts the image out of the scene; the kernel is as it is."""
        return Frame.of(problem, type(self).__name__).image(x), theta


def require_kernel_lr(kernel_lr: float) -> None:
    """Raises a ValueError if the kernel's step is not positive."""
    if kernel_lr <= 0:
        raise ValueError(f"kernel_lr must be positive, got {kernel_lr}")


@dataclass(frozen=True)
class StructuralMisfit(Misfit):
    """One minus the structural similarity of A(x) and y, both images in [-1, 1]."""

    def data_loss(self, known: Problem, y_clean: Tensor) -> Tensor:
        return 1 - SSIM()(to_unit(y_clean), to_unit(known.y))


@dataclass(frozen=True)
class SparseMisfit(Misfit):
    """A data misfit plus a weighted gradient ratio of the scene.

    Args:
        ratio_weight: Weight of the ratio.
    """

    ratio_weight: float = 0.0

    def penalty(self, v: Tensor, x: Tensor) -> Tensor:
        return super().penalty(v, x) + self.ratio_weight * gradient_ratio(x)


def gradient_ratio(x: Tensor) -> Tensor:
    r"""Returns ‖grad x‖_1 / ‖grad x‖_2 of each image, (B, C, H, W) -> (B,).

    Small where few differences between neighbours are large; the same for x and 2 x, so that,
    unlike total variation, it does not favour flat images. Between 1 and the root of the number
    of differences; 0 for constant images.

    Source: Krishnan et al. 2011; Zhuang et al. 2024 for untrained networks.
    """
    down, right = x.diff(dim=-2).flatten(1), x.diff(dim=-1).flatten(1)
    steps = torch.cat([down, right], dim=1)
    # A root of the smallest number keeps the gradient finite where all differences are 0.
    floor = torch.finfo(x.dtype).tiny ** 0.5
    return steps.abs().sum(1) / norm(steps).clamp_min(floor)


def centre_kernel(kernel: Tensor, origin: Sides) -> tuple[Tensor, Tensor]:
    """Moves each kernel by whole pixels, so that its centre of mass comes nearest to the origin.

    Taps below a twentieth of the largest do not count: in an over-large window their sum would
    draw the centre of mass to its middle.

    Args:
        kernel: (B, 1, kh, kw), not negative, with sum 1.
        origin: Row and column.

    Returns:
        Moved kernels with sum 1 again, since what leaves the window is lost; and the moves (down,
        right), (B, 2), int64, by which images must move along.
    """
    mass = torch.where(kernel >= kernel.amax((-2, -1), keepdim=True) / 20, kernel, 0.0)
    rows, columns = (torch.arange(n, device=kernel.device) for n in kernel.shape[-2:])
    total = mass.sum((1, 2, 3))
    down = (mass.sum((1, 3)) * rows).sum(1) / total
    right = (mass.sum((1, 2)) * columns).sum(1) / total
    centre = torch.stack([down, right], dim=1).nan_to_num().round().long()
    moves = torch.tensor(origin, device=kernel.device) - centre
    moved = windows(kernel, -moves, (kernel.shape[-2], kernel.shape[-1]), outside="zero")
    return moved / moved.sum((-2, -1), keepdim=True), moves


def windows(x: Tensor, first: Tensor, sides: Sides, outside: str = "replicate") -> Tensor:
    """Cuts one window out of each image.

    Args:
        x: (B, C, H, W).
        first: Row and column where each window begins, (B, 2), int64; may lie outside.
        sides: Rows and columns of all windows.
        outside: What is seen beyond the edges: replicate or zero.

    Returns:
        (B, C, *sides).
    """
    (h, w), device = x.shape[-2:], x.device
    rows = first[:, :1] + torch.arange(sides[0], device=device)
    columns = first[:, 1:] + torch.arange(sides[1], device=device)
    batch = torch.arange(x.shape[0], device=device)[:, None, None]
    seen = x[batch, :, rows.clamp(0, h - 1)[:, :, None], columns.clamp(0, w - 1)[:, None, :]]
    cut = seen.movedim(-1, 1)
    if outside == "replicate":
        return cut
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
    return cut * inside[:, None].to(x.dtype)
