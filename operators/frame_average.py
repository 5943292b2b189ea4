"""Blur by motion during the exposure: the light of several sharp frames adds up."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from plugip.operator import Operator, Shape
from plugip.operators._options import require_count, require_positive
from plugip.operators.camera_blur import signed_power
from plugip.operators.correlation import extend
from plugip.operators.kernels import MotionKernel
from plugip.operators.separable import BOUNDARIES
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng


@runtime_checkable
class ShiftSampler(Protocol):
    """Draws paths of a camera, one for each image."""

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws shifts (down, right) in pixels, (B, T, 2), float64."""
        ...


@dataclass(frozen=True)
class PathShifts:
    """Draws the path of a shaken camera, sampled at equal times: frames of a ``MotionKernel``.

    Args:
        frames: Frames per exposure, T; 7 to 13 in GoPro.
        size: Extent in pixels: the paths are those of motion kernels of this size.
        intensity: 0 for straight lines, 1 for wild paths.

    Raises:
        ValueError: If an argument is out of range.

    Source: Nah et al. 2017 (GoPro) for the frames; LeviBorodenko/motionblur for the paths.
    """

    frames: int = 9
    size: int = 15
    intensity: float = 0.5

    def __post_init__(self) -> None:
        require_count(self.frames, 2, "frames")
        MotionKernel(self.size, self.intensity)

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws shifts (down, right) in pixels with mean zero, (B, T, 2), float64."""
        paths = MotionKernel(self.size, self.intensity).paths(rng)
        return torch.stack([torch.from_numpy(self._sampled(path)) for path in paths])

    def _sampled(self, path: np.ndarray) -> np.ndarray:
        times = np.linspace(0, len(path) - 1, self.frames)
        across, down = (np.interp(times, np.arange(len(path)), line) for line in path.T)
        shifts = np.stack([down, across], axis=1) / 2  # the canvas is twice the kernel
        return shifts - shifts.mean(0)


class FrameAverageBlur(Operator):
    r"""Blurs an image by moving it during the exposure, in light: frames add up, then are bent.

    .. math:: y = 2\, g\Big(\frac1T \sum_t g^{-1}\big((W_t x + 1) / 2\big)\Big) - 1, \quad
        g(u) = u^{1/\gamma}

    W_t moves x by shifts[t] pixels, bilinearly between pixels. x and y are (B, C, H, W) in
    [-1, 1]; constants map to themselves but at a zero boundary (mid-grey outside). The gradient
    of g is bounded as in ``CameraResponseBlur``. For frames of a video see ``FrameAverage``.

    Args:
        shifts: (down, right) in pixels, (T, 2), or one path per image, (B, T, 2); or a sampler
            such as ``PathShifts(9)``: then call ``realise(rng, x_shape)`` first.
        gamma: Exponent of the response curve; 2.2 approximates cameras, 1 averages pixel values.
        boundary: reflect, circular, zero, replicate or symmetric.
        epsilon: Light level, on [0, 1], below which the gradient of g no longer grows.

    Raises:
        TypeError: If shifts are neither tensor nor sampler.
        ValueError: If an argument is out of range; when called, if a shift exceeds the image.
        RuntimeError: When used before ``realise``.

    Source: Nah et al. 2017 (GoPro).
    """

    per_image = ("shifts",)
    shifts: Tensor

    def __init__(
        self,
        shifts: Tensor | ShiftSampler,
        gamma: float = 2.2,
        boundary: str = "reflect",
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__()
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")
        self.gamma = require_positive(gamma, "gamma")
        self.epsilon = require_positive(epsilon, "epsilon")
        self.sampler = None if isinstance(shifts, Tensor) else _require_sampler(shifts)
        empty = torch.empty(0, 0, 2, dtype=torch.float64)
        self._hold(_require_shifts(shifts) if isinstance(shifts, Tensor) else empty)

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        frames = self._frames(x)
        light = signed_power((frames + 1) / 2, self.gamma, self.epsilon).mean(2)
        return 2 * signed_power(light, 1 / self.gamma, self.epsilon) - 1

    def check_domain(self, x_shape: Shape) -> None:
        if self.sampler is not None:
            raise RuntimeError(
                f"FrameAverageBlur has no shifts yet, it draws one path per image from "
                f"{self.sampler}; call operator = operator.realise(rng, x.shape) first"
            )
        if self.shifts.shape[0] not in (1, x_shape[0]):
            raise ValueError(
                f"there are {self.shifts.shape[0]} paths for a batch of {x_shape[0]} images; "
                "give one path, or one per image"
            )
        if self._margin >= min(x_shape[-2:]):
            raise ValueError(
                f"a shift of {self._margin} pixels leaves images of {x_shape[-2]} x {x_shape[-1]} "
                "pixels; use smaller shifts, or larger images"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        if self.sampler is None:
            self.check_domain(x_shape)
        return tuple(x_shape)

    def realise(self, rng: Rng, x_shape: Shape) -> FrameAverageBlur:
        if self.sampler is None:
            return self
        if len(rng) != x_shape[0]:
            raise ValueError(f"need one stream per image, got {len(rng)} for {x_shape[0]} images")
        fixed = copy.copy(self)
        fixed._buffers, fixed.sampler = dict(self._buffers), None
        fixed._hold(self.sampler.draw(rng.child("shifts"), x_shape).to(self.shifts))
        return fixed

    def _hold(self, shifts: Tensor) -> None:
        self.register_buffer("shifts", shifts)
        # A number on the host, so that no call waits for the GPU.
        self._margin = math.ceil(float(shifts.abs().max())) if shifts.numel() else 0

    def _frames(self, x: Tensor) -> Tensor:
        """Returns the moved images, (B, C, T, H, W)."""
        m = self._margin + 1
        padded = x
        for dim in (-2, -1):
            # One more row and column of zeros: their weight is 0, they only keep indices legal.
            inner = extend(padded, (m - 1, m - 1), self.boundary, dim)
            padded = extend(inner, (1, 1), "zero", dim)
        shifts = self.shifts.to(x)
        down, right = shifts[..., 0, None, None], shifts[..., 1, None, None]
        rows = _lerp(padded[:, :, None], down, x.shape[-2], m, -2)
        return _lerp(rows, right, x.shape[-1], m, -1)

    def extra_repr(self) -> str:
        source = tuple(self.shifts.shape) if self.sampler is None else self.sampler
        return f"shifts={source}, gamma={self.gamma}, boundary={self.boundary!r}"


class FrameAverage(Operator):
    r"""Makes one blurred photograph of the sharp frames of a video.

    .. math:: y = 2\, g\Big(\frac1T \sum_t g^{-1}\big((x_t + 1) / 2\big)\Big) - 1, \quad
        g(u) = u^{1/\gamma}

    x is (B, C, T, H, W), y is (B, C, H, W), both in [-1, 1].

    Args:
        gamma: Exponent of the response curve; 2.2 approximates cameras, 1 averages pixel values.
        epsilon: Light level, on [0, 1], below which the gradient of g no longer grows.

    Raises:
        ValueError: If an argument is not positive.

    Source: Nah et al. 2017 (GoPro): 7 to 13 frames at 240 per second.
    """

    domain_ndim = 5

    def __init__(self, gamma: float = 2.2, epsilon: float = 1e-4) -> None:
        super().__init__()
        self.gamma = require_positive(gamma, "gamma")
        self.epsilon = require_positive(epsilon, "epsilon")

    def forward(self, x: Tensor) -> Tensor:
        light = signed_power((x + 1) / 2, self.gamma, self.epsilon).mean(2)
        return 2 * signed_power(light, 1 / self.gamma, self.epsilon) - 1

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, epsilon={self.epsilon}"


def _lerp(x: Tensor, shift: Tensor, side: int, margin: int, dim: int) -> Tensor:
    """Moves one axis of (B, C, T or 1, h, w) by ``shift`` (B or 1, T, 1, 1), and crops it."""
    whole = shift.floor()
    part = (shift - whole)[:, None]
    line = torch.arange(side, device=x.device) + margin
    line = line[:, None] if dim == -2 else line
    # A move by +d looks d pixels back: between i - floor(d) and the pixel before.
    index = (line - whole.to(torch.int64))[:, None]
    near, far = (x.take_along_dim(index - k, dim) for k in (0, 1))
    return (1 - part) * near + part * far


def _require_sampler(shifts: object) -> ShiftSampler:
    if isinstance(shifts, ShiftSampler):
        return shifts
    raise TypeError(
        f"shifts must be a tensor or a sampler such as PathShifts(9), got {type(shifts).__name__}"
    )


def _require_shifts(shifts: Tensor) -> Tensor:
    paths = shifts[None] if shifts.ndim == 2 else shifts
    if paths.ndim != 3 or paths.shape[-1] != 2 or paths.shape[1] == 0:
        raise ValueError(
            "shifts must be (T, 2) or (B, T, 2), each (down, right) in pixels, "
            f"got shape {tuple(shifts.shape)}"
        )
    if not paths.is_floating_point() or not bool(paths.isfinite().all()):
        raise ValueError("shifts must be floating point and finite")
    return paths
