"""Operators on images, applied channel by channel or to every frame of a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from plugip.composition import require_operator
from plugip.linalg import UnsolvedError
from plugip.operator import BlindOperator, LinearOperator, Operator, Shape, SpectralOperator
from plugip.spectral import Spectrum

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True)
class Layout:
    """How a batch of large items becomes a longer batch of small images, and back.

    Attributes:
        name: The function that makes such operators, for messages.
        axis: Axis of x and of y, in (B, C, ...), whose entries are taken one by one.
        keep: Whether an image keeps a channel axis of length 1.
    """

    name: str
    axis: int
    keep: bool

    def fold(self, x: Tensor) -> Tensor:
        """Returns (B * n, *small) for (B, ..., n, ...)."""
        small = x.movedim(self.axis, 1).flatten(0, 1)
        return small[:, None] if self.keep else small

    def unfold(self, y: Tensor, batch: int) -> Tensor:
        """Returns (B, ..., n, ...) for (B * n, *small)."""
        if self.keep and y.shape[1] != 1:
            raise ValueError(
                f"{self.name} needs an operator that gives one channel for one channel, but it "
                f"gives measurements of shape {tuple(y.shape)}"
            )
        small = y[:, 0] if self.keep else y
        return small.unflatten(0, (batch, -1)).movedim(1, self.axis)

    def small_shape(self, shape: Shape) -> Shape:
        """Returns the shape of the images inside, with the batch axis B."""
        rest = [n for i, n in enumerate(shape) if i not in (0, self.axis)]
        return (shape[0], *([1] if self.keep else []), *rest)


CHANNELS = Layout("per_channel", 1, True)
FRAMES = Layout("on_frames", 2, False)


def per_channel(operator: Operator) -> Folded:
    """Applies an operator on one-channel images to each channel, with the same random part.

    Args:
        operator: Takes and gives (B, 1, H, W).

    Returns:
        An operator on (B, C, H, W), linear or spectral if the given one is.
    """
    return _folded(operator, CHANNELS)


def on_frames(operator: Operator) -> Folded:
    """Applies an operator on images to each frame of a video.

    What is random (a mask, a kernel) is drawn once per video and shared by its frames.

    Args:
        operator: Takes (B, C, H, W) and gives (B, C', ...).

    Returns:
        An operator from videos (B, C, T, H, W) to (B, C', T, ...), linear, spectral or blind if
        the given one is.
    """
    return _folded(operator, FRAMES)


def _folded(operator: Operator, layout: Layout) -> Folded:
    require_operator(operator, f"what {layout.name} takes")
    if isinstance(operator, BlindOperator):
        return BlindFolded(operator, layout)
    if isinstance(operator, SpectralOperator):
        return SpectralFolded(operator, layout)
    return (LinearFolded if isinstance(operator, LinearOperator) else Folded)(operator, layout)


class Folded(Operator):
    """An operator applied to every channel or frame; see ``per_channel`` and ``on_frames``."""

    def __init__(self, operator: Operator, layout: Layout) -> None:
        super().__init__()
        if operator.domain_ndim != 4:
            raise ValueError(
                f"{layout.name} takes an operator on images of 4 axes, but "
                f"{type(operator).__name__} takes {operator.domain_ndim}"
            )
        self.operator, self.layout = operator, layout
        self.domain_ndim = 4 if layout.keep else 5
        self.complex_domain = operator.complex_domain

    @property
    def observed(self) -> Tensor | None:
        mask = self.operator.observed
        if mask is None:
            return None
        return mask if self.layout.keep else mask.unsqueeze(self.layout.axis)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        return self.layout.unfold(self._each(x)(self.layout.fold(x)), batch)

    def check_domain(self, x_shape: Shape) -> None:
        self.operator.check_domain(self.layout.small_shape(x_shape))

    def realise(self, rng: Rng, x_shape: Shape) -> Folded:
        small = self.layout.small_shape(x_shape)
        return _folded(self.operator.realise(rng, small), self.layout)

    def select(self, rows: list[int]) -> Folded:
        return _folded(self.operator.select(rows), self.layout)

    def _each(self, large: Tensor) -> Any:
        # A mask or kernel of each item serves all its channels or frames.
        batch, n = large.shape[0], large.shape[self.layout.axis]
        return self.operator.select([i for i in range(batch) for _ in range(n)])


class LinearFolded(Folded, LinearOperator):
    """A linear operator applied to every channel or frame, with its own closed forms."""

    def domain_shape(self, y_shape: Shape) -> Shape:
        small = self.operator.domain_shape(self.layout.small_shape(y_shape))  # type: ignore[operator]
        rest = list(small[2:] if self.layout.keep else small[1:])
        rest.insert(self.layout.axis - 1, y_shape[self.layout.axis])
        return (y_shape[0], *rest)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.layout.unfold(self._each(y).adjoint(self.layout.fold(y)), y.shape[0])

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        n = b.shape[self.layout.axis]
        many = isinstance(lam, Tensor) and lam.ndim and lam.shape[0] == b.shape[0]
        damping = lam.reshape(-1).repeat_interleave(n) if many else lam  # type: ignore[union-attr]
        try:
            solved = self._each(b).solve_normal(self.layout.fold(b), damping)
        except UnsolvedError as error:
            solution = self.layout.unfold(error.solution, b.shape[0])
            worst = error.residual.reshape(b.shape[0], -1).amax(dim=1)
            raise UnsolvedError(str(error), solution, worst) from error
        return self.layout.unfold(solved, b.shape[0])

    def pinv(self, y: Tensor) -> Tensor:
        return self.layout.unfold(self._each(y).pinv(self.layout.fold(y)), y.shape[0])


class SpectralFolded(LinearFolded, SpectralOperator):
    """A spectral operator applied to every channel or frame; its SVD is exact again.

    ``pinv`` leaves out small singular values channel by channel or frame by frame.
    """

    def __init__(self, operator: SpectralOperator, layout: Layout) -> None:
        super().__init__(operator, layout)
        self.rcond = operator.rcond

    def spectrum(self, x_shape: Shape) -> Spectrum:
        batch, n = x_shape[0], x_shape[self.layout.axis]
        each = self.operator.select([i for i in range(batch) for _ in range(n)])
        small = (batch * n, *self.layout.small_shape(x_shape)[1:])
        return FoldedSpectrum.of(each.spectrum(small), self.layout, batch)  # type: ignore[operator]


class BlindFolded(Folded, BlindOperator[Any]):
    """A blind operator applied to every channel or frame, with one unknown for all of them."""

    def __init__(self, operator: BlindOperator[Any], layout: Layout) -> None:
        super().__init__(operator, layout)
        self.learning_rate_hint = operator.learning_rate_hint

    def init_theta(self, rng: Rng, like: Tensor) -> Any:
        small = like.new_empty(self.layout.small_shape(tuple(like.shape)))
        return self.operator.init_theta(rng, small)  # type: ignore[operator]

    def constrain(self, theta: Any) -> Any:
        return self.operator.constrain(theta)  # type: ignore[operator]

    def draw_theta(self, rng: Rng, x_shape: Shape) -> Any:
        return self.operator.draw_theta(rng, self.layout.small_shape(x_shape))  # type: ignore[operator]

    def at(self, theta: Any) -> Folded:
        return _folded(self.operator.at(theta), self.layout)  # type: ignore[operator]

    def unknown(self) -> BlindFolded:
        return BlindFolded(self.operator.unknown(), self.layout)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        return BlindOperator.forward(self, x)


@dataclass(frozen=True)
class FoldedSpectrum(Spectrum):
    """The spectrum of each channel or frame, on coefficients in the layout of the whole."""

    s: Tensor
    each: Spectrum
    layout: Layout
    batch: int

    @staticmethod
    def of(each: Spectrum, layout: Layout, batch: int) -> FoldedSpectrum:
        """Wraps the spectrum of the operator inside for ``batch`` items."""
        s = each.s
        if s.ndim == 4 and s.shape[0] > 1:  # one row for every small image
            s = layout.unfold(s, batch)
        elif not layout.keep and s.ndim >= 3:
            s = s.unsqueeze(-3)  # the frames share it
        return FoldedSpectrum(s, each, layout, batch)

    def Vt(self, x: Tensor) -> Tensor:
        return self._map(self.each.Vt, x)

    def V(self, coefficients: Tensor) -> Tensor:
        return self._map(self.each.V, coefficients)

    def Ut(self, y: Tensor) -> Tensor:
        return self._map(self.each.Ut, y)

    def U(self, coefficients: Tensor) -> Tensor:
        return self._map(self.each.U, coefficients)

    def to(self, like: Tensor) -> FoldedSpectrum:
        return FoldedSpectrum.of(self.each.to(like), self.layout, self.batch)

    def _map(self, function: Callable[[Tensor], Tensor], large: Tensor) -> Tensor:
        return self.layout.unfold(function(self.layout.fold(large)), large.shape[0])
