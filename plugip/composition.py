"""New operators from old: several measurements of one image, and images behind latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from plugip.operator import (
    BlindOperator,
    Composition,
    LinearOperator,
    Operator,
    Shape,
)
from plugip.refusals import OWN, require_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugip.rng import Rng


def stack(*parts: Operator, image_shape: Shape | None = None) -> Stack:
    """Measures the same image in several ways; y is one tensor, (B, m).

    The measurements of the parts are flattened and joined. The stack is linear if all parts are;
    its adjoint is then the sum of theirs. It never has a closed-form SVD or pseudo-inverse.

    Args:
        parts: Two or more operators on the same images, all with real or all with complex y.
        image_shape: Shape of one image, (C, H, W), which the adjoint, ``split`` and ``observed``
            need; ``realise`` fills it in.

    Raises:
        ValueError: If there are fewer than two parts, or they take another number of axes.
        TypeError: If a part is blind; when called, if some y are complex and others real.

    Example:
        ``y = stack(BicubicDownsample(4), Inpaint.random(0.7, 64), image_shape=(3, 64, 64))(x)``
    """
    linear = all(isinstance(part, LinearOperator) for part in parts)
    return (LinearStack if linear else Stack)(parts, image_shape)


class Stack(Operator):
    """Several measurements of one image, joined; arguments as in ``stack``."""

    def __init__(self, parts: Sequence[Operator], image_shape: Shape | None = None) -> None:
        super().__init__()
        _require_parts(parts)
        self.parts = nn.ModuleList(parts)
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self.domain_ndim = parts[0].domain_ndim
        self.complex_domain = parts[0].complex_domain

    @property
    def _operators(self) -> list[Any]:
        return list(self.parts)

    @property
    def observed(self) -> Tensor | None:
        masks = [part.observed for part in self._operators]
        if all(mask is None for mask in masks):
            return None
        rows = max(mask.shape[0] for mask in masks if mask is not None)
        like = next(mask for mask in masks if mask is not None)
        pairs = zip(masks, self._shapes(rows), strict=True)
        full = [like.new_ones(s) if m is None else m.to(like).expand(s) for m, s in pairs]
        return torch.cat([mask.flatten(1) for mask in full], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        flat = [part(x).flatten(1) for part in self._operators]
        if len({y.is_complex() for y in flat}) > 1:
            raise TypeError(
                "stack cannot join real and complex measurements; measure the complex ones as "
                "real and imaginary parts, or the real ones as complex numbers"
            )
        return torch.cat(flat, dim=1)

    def check_domain(self, x_shape: Shape) -> None:
        if self.image_shape is not None and tuple(x_shape[1:]) != self.image_shape:
            raise ValueError(
                f"this stack was built for images of shape {self.image_shape}, got "
                f"{tuple(x_shape[1:])}"
            )
        for part in self._operators:
            part.check_domain(x_shape)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return x_shape[0], sum(_numel(p.measurement_shape(x_shape)) for p in self._operators)

    def split(self, y: Tensor) -> list[Tensor]:
        """Returns the measurements of the parts, (B, *Y_i) each, from a joined one, (B, m).

        Raises:
            ValueError: If ``image_shape`` is not known or y is not (B, m).
        """
        shapes = self._shapes(y.shape[0])
        sizes = [_numel(shape) for shape in shapes]
        if y.ndim != 2 or y.shape[1] != sum(sizes):
            raise ValueError(
                f"images of shape {self.image_shape} give joined measurements of shape "
                f"(B, {sum(sizes)}), but y has shape {tuple(y.shape)}"
            )
        pieces = zip(y.split(sizes, dim=1), shapes, strict=True)
        return [piece.reshape(shape) for piece, shape in pieces]

    def realise(self, rng: Rng, x_shape: Shape) -> Stack:
        named = enumerate(self._operators)
        parts = [p.realise(rng.child(f"part {i}"), x_shape) for i, p in named]
        return stack(*parts, image_shape=tuple(x_shape[1:]))

    def select(self, rows: list[int]) -> Stack:
        parts = [part.select(rows) for part in self._operators]
        return stack(*parts, image_shape=self.image_shape)

    def _shapes(self, batch: int) -> list[Shape]:
        if self.image_shape is None:
            raise ValueError(
                "a joined measurement can be taken apart only when the shape of the images is "
                "known; give stack(..., image_shape=(C, H, W)), or call realise first"
            )
        return [p.measurement_shape((batch, *self.image_shape)) for p in self._operators]


class LinearStack(Stack, LinearOperator):
    """Several linear measurements of one image; the adjoint is the sum of theirs."""

    def domain_shape(self, y_shape: Shape) -> Shape:
        self._shapes(1)  # refuses an unknown image shape
        return (y_shape[0], *(self.image_shape or ()))

    def adjoint(self, y: Tensor) -> Tensor:
        pieces = zip(self._operators, self.split(y), strict=True)
        return torch.stack([part.adjoint(piece) for part, piece in pieces]).sum(0)

    def normal(self, x: Tensor) -> Tensor:
        return torch.stack([part.normal(x) for part in self._operators]).sum(0)


class Decoder(Operator):
    """Maps latents to images, x = decoder(h), in float32 whatever precision surrounds it.

    Half-precision latents and autocast are set aside: operators compare images to a few parts in
    a thousand, which 16 bits do not carry. Float64 latents stay so.

    Args:
        decoder: From latents (B, *H) to images in [-1, 1]: a module, or a function such as
            ``prior.decode``. Its weights must have at least 32 bits; they are not frozen here.
        domain_ndim: Axes of a batch of latents.

    Raises:
        TypeError: If the decoder cannot be called, or its weights have 16 bits.
    """

    def __init__(self, decoder: Callable[[Tensor], Tensor], domain_ndim: int = 4) -> None:
        super().__init__()
        if not callable(decoder):
            raise TypeError(
                f"decoder must be a module or a function, got {type(decoder).__name__}"
            )
        self.decoder, self.domain_ndim = decoder, domain_ndim

    def forward(self, x: Tensor) -> Tensor:
        self._require_precision()
        with torch.autocast(x.device.type, enabled=False):
            return self.decoder(x if x.dtype.itemsize >= 4 else x.float())

    def _require_precision(self) -> None:
        kind = next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)
        if kind.itemsize < 4:
            raise TypeError(f"the decoder's weights are {kind}; load it in float32: .float()")


class LatentOperator(Composition):
    """Measures the image behind a latent, y = A(decoder(h)), as ``operator @ Decoder(decoder)``.

    Decodes in float32 and then measures. Never linear, and gradients reach h.

    Args:
        decoder: As in ``Decoder``.
        operator: A on images.
        domain_ndim: Axes of a batch of latents.

    Raises:
        TypeError: If the operator is blind, or the decoder cannot be called.

    Source: Rout et al. 2023 (PSLD); Song et al. 2024 (ReSample).
    """

    def __init__(
        self, decoder: Callable[[Tensor], Tensor], operator: Operator, domain_ndim: int = 4
    ) -> None:
        if isinstance(operator, BlindOperator):
            raise TypeError(
                f"{type(operator).__name__} is blind; write operator @ Decoder(decoder), which "
                "keeps its unknown"
            )
        super().__init__(operator, Decoder(decoder, domain_ndim))


def require_operator(given: object, what: str = "operator") -> None:
    """Raises a TypeError unless it is an operator."""
    require_part(given, Operator, what, OWN)


def _require_parts(parts: Sequence[Operator]) -> None:
    for part in parts:
        require_operator(part, "each part of a stack")
        if isinstance(part, BlindOperator):
            raise TypeError(
                f"stack cannot hold {type(part).__name__}, which has an unknown part; stack the "
                "known operators that its at(theta) gives"
            )
    if len(parts) < 2:
        raise ValueError(f"stack takes two or more operators, got {len(parts)}")
    axes = sorted({part.domain_ndim for part in parts})
    if len(axes) > 1:
        listed = " and ".join(str(n) for n in axes)
        raise ValueError(
            f"operators of a stack take the same images, but these take {listed} axes"
        )
    if len({part.complex_domain for part in parts}) > 1:
        raise ValueError("operators of a stack take the same images: all real, or all complex")


def _numel(shape: Shape) -> int:
    return int(torch.Size(shape[1:]).numel())
