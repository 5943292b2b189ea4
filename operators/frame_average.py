"""Blur by motion during the exposure: the light of several sharp frames adds up."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from plugip.operator import Operator, Shape
from plugip.operators._complex import not_drawn, require_streams, with_buffers
from plugip.operators._options import require_count, require_positive, require_sampler
from plugip.operators.camera_blur import signed_power
from plugip.operators.correlation import extend
from plugip.operators.kernels import MotionKernel
from plugip.operators.separable import BOUNDARIES
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng

Margins = tuple[tuple[int, int], tuple[int, int]]


class PathSampler(Protocol):
    """Draws paths of a camera, one for each image."""

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws T places of the camera for images of shape (B, C, H, W), (B, T, ...), float64."""
        ...


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


class MovedFrames(Operator):
    """What blurs by a moving camera share: a path, drawn once per image, and frames that add up.

    Subclasses write ``reach`` and ``frames``, and name in ``per_image`` the buffer of the path,
    (1|B, T, ...).

    Args:
        path: The path, or a sampler that draws one per image.
        gamma: Exponent of the response curve.
        boundary: reflect, circular, zero, replicate or symmetric.
        epsilon: Light level, on [0, 1], below which the gradient of g no longer grows.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, path: Tensor | PathSampler, gamma: float, boundary: str, epsilon: float
    ) -> None:
        super().__init__()
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")
        self.gamma = require_positive(gamma, "gamma")
        self.epsilon = require_positive(epsilon, "epsilon")
        self.sampler = None if isinstance(path, Tensor) else path
        # Without a path yet, an empty one keeps the device.
        fixed = path if isinstance(path, Tensor) else torch.empty(0, dtype=torch.float64)
        self.register_buffer(self._what, fixed)
        self._known: dict[tuple[int, int], tuple[Tensor, int, Margins]] = {}

    @property
    def _what(self) -> str:
        return self.per_image[0]

    @abstractmethod
    def reach(self, path: Tensor, h: int, w: int) -> Margins:
        """Returns how far a path, on the CPU, makes frames reach beyond images of h x w pixels."""

    @abstractmethod
    def frames(self, x: Tensor) -> Tensor:
        """Returns the moved images, (B, C, T, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        return average_in_light(self.frames(x), self.gamma, self.epsilon)

    def check_domain(self, x_shape: Shape) -> None:
        if self.sampler is not None:
            raise not_drawn(type(self).__name__, self._what, self.sampler)
        paths = self.get_buffer(self._what).shape[0]
        if paths not in (1, x_shape[0]):
            raise ValueError(
                f"there are {paths} paths for a batch of {x_shape[0]} images; give one path, or "
                "one per image"
            )
        h, w = x_shape[-2:]
        most = max(max(pair) for pair in self.margins(h, w))
        if most >= min(h, w):
            raise ValueError(
                f"a frame reaches {most} pixels beyond images of {h} x {w} pixels; use smaller "
                "motions, or larger images"
            )

    def margins(self, h: int, w: int) -> Margins:
        """Returns the pixels (above, below) and (left, right) of the image that frames need."""
        # Found once for each size, unless the path was changed, so that no call waits for a GPU.
        path = self.get_buffer(self._what)
        version = -1 if path.is_inference() else path._version
        kept = self._known.get((h, w))
        # The path itself is kept: the number of a freed tensor may be given to the next one.
        if kept is None or kept[0] is not path or kept[1] != version:
            kept = (path, version, self.reach(path.detach().cpu().double(), h, w))
            self._known[h, w] = kept
        return kept[2]

    def measurement_shape(self, x_shape: Shape) -> Shape:
        if self.sampler is None:
            self.check_domain(x_shape)
        return tuple(x_shape)

    def realise(self, rng: Rng, x_shape: Shape) -> Self:
        if self.sampler is None:
            return self
        require_streams(rng, x_shape)
        path = self.sampler.draw(rng.child(self._what), x_shape).to(self.get_buffer(self._what))
        fixed = with_buffers(self, {self._what: path})
        fixed.sampler, fixed._known = None, {}
        return fixed

    def extra_repr(self) -> str:
        source = tuple(self.get_buffer(self._what).shape) if self.sampler is None else self.sampler
        return f"{self._what}={source}, gamma={self.gamma}, boundary={self.boundary!r}"


class FrameAverageBlur(MovedFrames):
    r"""Blurs an image by moving it during the exposure, in light: frames add up, then are bent.

    .. math:: y = 2\, g\Big(\frac1T \sum_t g^{-1}\big((W_t x + 1) / 2\big)\Big) - 1, \quad
        g(u) = u^{1/\gamma}

    W_t moves x by shifts[t] pixels, bilinearly between pixels. x and y are (B, C, H, W) in
    [-1, 1]; constants map to themselves but at a zero boundary (mid-grey outside). The gradient
    of g is bounded as in ``CameraResponseBlur``. For turns of the camera see ``HomographyBlur``,
    for frames of a video ``FrameAverage``.

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
        given = isinstance(shifts, Tensor)
        path = _require_shifts(shifts) if given else _drawn_by(shifts)
        super().__init__(path, gamma, boundary, epsilon)

    def reach(self, path: Tensor, h: int, w: int) -> Margins:
        down, right = (math.ceil(float(part.abs().max())) for part in path.unbind(-1))
        return (down, down), (right, right)

    def frames(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        margins = self.margins(h, w)
        wide, shifts = ringed(x, margins, self.boundary), self.shifts.to(x)
        down, right = shifts[..., 0, None, None], shifts[..., 1, None, None]
        rows = _lerp(wide[:, :, None], down, h, margins[0][0] + 1, -2)
        return _lerp(rows, right, w, margins[1][0] + 1, -1)


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
        return average_in_light(x, self.gamma, self.epsilon)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, epsilon={self.epsilon}"


def average_in_light(frames: Tensor, gamma: float, epsilon: float) -> Tensor:
    """Averages frames as a sensor does, (B, C, T, H, W) -> (B, C, H, W), both in [-1, 1].

    Args:
        frames: Images in display values.
        gamma: Exponent of the response curve, by which they become light.
        epsilon: Light level, on [0, 1], below which the gradient of the curve no longer grows.
    """
    light = signed_power((frames + 1) / 2, gamma, epsilon).mean(2)
    return 2 * signed_power(light, 1 / gamma, epsilon) - 1


def ringed(x: Tensor, margins: Margins, boundary: str) -> Tensor:
    """Extends images by the boundary rule, and then by a ring of one pixel of zeros.

    Whoever reads between pixels gives the ring the weight 0: it only keeps indices legal.

    Args:
        x: (..., H, W).
        margins: Pixels (above, below) and (left, right), without the ring.
        boundary: reflect, circular, zero, replicate or symmetric.
    """
    wide = x
    for margin, dim in zip(margins, (-2, -1), strict=True):
        wide = extend(extend(wide, margin, boundary, dim), (1, 1), "zero", dim)
    return wide


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


def _drawn_by(shifts: object) -> PathSampler:
    return require_sampler(shifts, ShiftSampler, "shifts", "PathShifts(9)")


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
