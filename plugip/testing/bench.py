"""What the checks of operators share: an operator with its images, and how to compare answers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plugip.linalg import norm
from plugip.operator import LinearOperator, Operator, SpectralOperator
from plugip.testing.report import close, random_images

Outcome = tuple[bool, str]
Answers = dict[str, Tensor]
SOLVE = "(A* A + 0.1)^-1 x"


@dataclass(frozen=True)
class Limits:
    """How far results may lie apart, relative to their size.

    Attributes:
        law: Two ways to compute the same thing.
        solve: The residual of a damped solve, which may iterate.
        pinv: Identities of the pseudo-inverse, which amplifies rounding by up to 1 / rcond.
    """

    law: float
    solve: float
    pinv: float


LIMITS = {torch.float64: Limits(1e-10, 1e-5, 1e-8), torch.float32: Limits(1e-4, 1e-3, 2e-2)}


@dataclass(frozen=True)
class Bench:
    """A known operator, with the images that it takes and what it answers.

    Attributes:
        fresh: The operator before its first call, so that it holds no caches yet.
        other: The same with another random part, if it has one.
        a: The operator; the checks call it.
        x: Images, (B, *X), in one of the precisions of ``LIMITS``.
        y: Measurements a(x), (B, *Y).
        due: All answers of the operator, by name.
    """

    fresh: Operator
    other: Operator
    a: Operator
    x: Tensor
    y: Tensor
    due: Answers = field(repr=False)

    @staticmethod
    def of(fresh: Operator, other: Operator, x: Tensor) -> Bench:
        """Calls a known operator, first in inference mode: its caches must not suffer by that."""
        a = copy.deepcopy(fresh)
        with torch.inference_mode():
            answers(a, x, a(x))
        y = a(x)
        return Bench(fresh, other, a, x, y, answers(a, x, y))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of x."""
        return tuple(self.x.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Real precision of x."""
        return self.x.real.dtype

    @property
    def limits(self) -> Limits:
        """Tolerances in the precision of x."""
        return LIMITS[self.dtype]

    def agree(self, found: Answers, exactly: bool = False) -> Outcome:
        """Compares answers with those of the operator; the detail names the ones that differ."""
        told = {
            n: close(v, self.due[n], 0 if exactly else self._limit(n)) for n, v in found.items()
        }
        bad = [f"{name}: {detail}" for name, (ok, detail) in told.items() if not ok]
        return not bad, "; ".join(bad) or f"the same {', '.join(told)}"

    def _limit(self, name: str) -> float:
        return self.limits.solve if name == SOLVE else self.limits.law


def applied(a: Operator, x: Tensor, y: Tensor) -> Answers:
    """Returns A x and, where the operator is linear, A* y."""
    found = {"A x": a(x)}
    return found | {"A* y": a.adjoint(y)} if isinstance(a, LinearOperator) else found


def answers(a: Operator, x: Tensor, y: Tensor) -> Answers:
    """Returns all that the operator answers: what it applies, and what it solves itself."""
    return applied(a, x, y) | solved(a, x, y)


def solved(a: Operator, x: Tensor, y: Tensor) -> Answers:
    """Returns A+ y and a damped solve, where the operator has its own way to find them."""
    found: Answers = {}
    if not isinstance(a, LinearOperator):
        return found
    if (inverse := pinv_if_any(a, y)) is not None:
        found["A+ y"] = inverse
    if type(a).solve_normal is not LinearOperator.solve_normal:
        found[SOLVE] = a.solve_normal(x, 0.1)
    return found


def pinv_if_any(a: LinearOperator, y: Tensor) -> Tensor | None:
    """Returns A+ y, or None if there is no closed form; spectral operators must have one."""
    if isinstance(a, SpectralOperator):
        return a.pinv(y)
    try:
        return a.pinv(y)
    except TypeError:
        return None


def distance(a: Tensor, b: Tensor) -> float:
    """Returns the largest Euclidean distance of an image from its partner, relative to that."""
    wide = torch.complex128 if b.is_complex() else torch.float64
    a, b = a.to(b.device, wide), b.to(wide)
    return float((norm(a - b) / norm(b).clamp_min(1e-30)).max())


def images(a: Operator, x_shape: tuple[int, ...], purpose: str) -> Tensor:
    """Draws images in [-0.9, 0.9], float64, complex where the operator takes complex ones."""
    x = random_images(x_shape, purpose)
    return torch.complex(x, random_images(x_shape, f"{purpose}, imag")) if a.complex_domain else x


def random_like(y: Tensor, purpose: str) -> Tensor:
    """Draws values like those of y, with an imaginary part where y has one."""
    w = random_images(tuple(y.shape), purpose)
    if y.is_complex():
        w = torch.complex(w, random_images(tuple(y.shape), f"{purpose}, imag"))
    return w.to(y)


def in_precision(a: Operator, dtype: torch.dtype) -> Operator:
    """Casts the operator itself to float32 or float64."""
    return a.double() if dtype == torch.float64 else a.float()


def cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts real or complex values to a real precision."""
    return values.to(dtype.to_complex() if values.is_complex() else dtype)
