"""Forward maps y = A(x): the interfaces that every operator fulfils, and their algebra."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from plugip.linalg import conjugate_gradient, damping_like, products_for
from plugip.refusals import OWN, explain, require_part, rows_of
from plugip.refusals import require_batch as require_batch
from plugip.rng import Rng
from plugip.spectral import Spectrum, multiplies, product

Shape = tuple[int, ...]
# One unknown is a tensor (B, ...); several are a dict of such tensors.
Unknown = Tensor | dict[str, Tensor]
Theta = TypeVar("Theta", Tensor, dict[str, Tensor])


class Operator(nn.Module, ABC):
    """Maps images to noise-free measurements, deterministically, image by image.

    Subclasses write ``forward``. They never draw random numbers there, never detach, and accept
    any batch size. Fixed tensors are buffers, so that ``.to()`` moves them.

    Attributes:
        per_image: Names of buffers that hold one entry for each image of a batch.
        domain_ndim: Number of axes of x with the batch axis, 4 for (B, C, H, W).
        complex_domain: Whether x is complex, as inside a composition. Images are real: then the
            adjoint of complex measurements is the real part, as <A x, y> = Re(y* A x) wants it.
    """

    per_image: tuple[str, ...] = ()
    domain_ndim: int = 4
    complex_domain: bool = False

    @property
    def observed(self) -> Tensor | None:
        """Mask on y, broadcastable to it, 1 where an entry carries information; None: everywhere.

        Residuals, likelihoods and noise levels count observed entries only.
        """
        return None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Applies the operator.

        Args:
            x: Images, (B, *X), in [-1, 1].

        Returns:
            Noise-free measurements, (B, *Y).
        """

    def __call__(self, x: Tensor, *args: Any) -> Tensor:
        # Small images take a few microseconds: the usual case is told by one quick look.
        if not (isinstance(x, Tensor) and x.ndim == self.domain_ndim and x.is_floating_point()):
            require_batch(x, self.domain_ndim, type(self).__name__)
        try:
            return super().__call__(x, *args)
        except RuntimeError as error:
            explain(self, self.per_image, x, error)
            raise

    def check_domain(self, x_shape: Shape) -> None:
        """Raises a ValueError if images of this shape, (B, *X), cannot be taken."""

    def measurement_shape(self, x_shape: Shape) -> Shape:
        """Returns the shape of y for images of shape (B, *X), by one pass over zeros."""
        self.check_domain(x_shape)
        like = next((t for t in self._tensors() if t.is_floating_point()), torch.empty(0))
        dtype = like.dtype.to_complex() if self.complex_domain else like.dtype
        with torch.no_grad():
            return tuple(self(torch.zeros(x_shape, dtype=dtype, device=like.device)).shape)

    def realise(self, rng: Rng, x_shape: Shape) -> Operator:
        """Draws what is random (a mask, a kernel) once per image and returns the fixed operator.

        Operators without a random part return themselves.

        Args:
            rng: Streams of the images of the batch.
            x_shape: Shape of the images, (B, *X).
        """
        return self

    def select(self, rows: list[int]) -> Operator:
        """Returns the operator for some images of the batch."""
        if not any(rows_of(self, name) > 1 for name in self.per_image):
            return self
        chosen = copy.copy(self)
        chosen._buffers = dict(self._buffers)
        for name in self.per_image:
            if rows_of(self, name) > 1:
                chosen._buffers[name] = self._buffers[name][rows]  # type: ignore[index]
        return chosen

    def __matmul__(self, first: Operator) -> Operator:
        """Returns the composition self(first(x)), with what it keeps of both parts' abilities."""
        require_part(first, Operator, "what stands behind @", OWN)
        if isinstance(self, BlindOperator) or isinstance(first, BlindOperator):
            return BlindComposition(self, first)
        if isinstance(self, SpectralOperator) and isinstance(first, SpectralOperator):
            if multiplies(self.spectrum_type, first.spectrum_type):
                return SpectralComposition(self, first)
        linear = isinstance(self, LinearOperator) and isinstance(first, LinearOperator)
        return LinearComposition(self, first) if linear else Composition(self, first)

    def __rmatmul__(self, last: object) -> None:
        require_part(last, Operator, "what stands before @", OWN)

    def _tensors(self) -> list[Tensor]:
        return [*self.buffers(), *self.parameters()]


class LinearOperator(Operator):
    """A linear map, with its adjoint and the solves that follow from it."""

    def domain_shape(self, y_shape: Shape) -> Shape:
        """Returns the shape of images that give measurements of this shape; default: the same."""
        return y_shape

    def adjoint(self, y: Tensor) -> Tensor:
        """Applies A*, exactly: by default the vector-Jacobian product at zero.

        Args:
            y: Measurements, (B, *Y).

        Returns:
            Back-projected images, (B, *X), with <A x, y> = <x, A* y>.

        Raises:
            ValueError: If images of ``domain_shape`` give measurements of another shape than y's.
        """
        dtype = y.dtype if self.complex_domain else y.real.dtype
        zeros = torch.zeros(self.domain_shape(tuple(y.shape)), dtype=dtype, device=y.device)
        pulled = torch.func.vjp(self, zeros)
        y_of_x, vjp = pulled[0], pulled[1]
        if y.shape != y_of_x.shape:
            raise ValueError(
                f"{type(self).__name__} maps images of shape {tuple(zeros.shape)} to "
                f"{tuple(y_of_x.shape)}, but y has shape {tuple(y.shape)}; check y, and that "
                "domain_shape(y.shape) returns the shape of x"
            )
        return vjp(y)[0]

    def normal(self, x: Tensor) -> Tensor:
        """Applies A* A."""
        return self.adjoint(self(x))

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        """Returns (A* A + lam I)^-1 b, by conjugate gradients unless a closed form is known.

        Args:
            b: Right-hand sides, (B, *X).
            lam: Damping, positive; a number or one per image, (B,).

        Raises:
            ValueError: If lam is not positive.
            UnsolvedError: If conjugate gradients do not converge; it carries what they reached.
        """
        damping = damping_like(lam, b)
        return conjugate_gradient(
            lambda v: self.normal(v) + damping * v, b, max_iterations=products_for(damping)
        )

    def pinv(self, y: Tensor) -> Tensor:
        """Returns the pseudo-inverse A+ y, the least-squares image of least norm.

        Raises:
            TypeError: If the operator has no closed form for it.
        """
        raise TypeError(
            f"{type(self).__name__} has no closed-form pseudo-inverse; "
            "use solve_normal(A.adjoint(y), lam) with a small lam instead"
        )


class SpectralOperator(LinearOperator):
    """A linear map A = U diag(s) V* whose factors are cheap functions.

    Subclasses write ``spectrum``; forward, adjoint, pseudo-inverse and damped solve follow from
    it. The factors may be float64 masters on the CPU: ``spectrum(x_shape).to(x)`` fits them to x.

    Attributes:
        rcond: Singular values below rcond times the largest count as zero in ``pinv``.
        spectrum_type: The class of what ``spectrum`` returns, where it is the same for every
            image size; compositions of two operators of one type then stay spectral. None claims
            nothing.
    """

    rcond: float = 1e-3
    spectrum_type: type[Spectrum] | None = None

    @abstractmethod
    def spectrum(self, x_shape: Shape) -> Spectrum:
        """Returns U, s and V for images of shape (B, *X)."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.spectrum(tuple(x.shape)).to(x)
        return a.U(a.s * a.Vt(x))

    def adjoint(self, y: Tensor) -> Tensor:
        a = self.spectrum(self.domain_shape(tuple(y.shape))).to(y)
        return a.V(a.s * a.Ut(y))

    def pinv(self, y: Tensor) -> Tensor:
        a = self.spectrum(self.domain_shape(tuple(y.shape))).to(y)
        # The largest value of each image: a cut shared by the batch would let neighbours leak in.
        axes = tuple(range(max(0, a.s.ndim - self.domain_ndim + 1), a.s.ndim))
        keep = a.s > self.rcond * a.s.amax(axes, keepdim=True)
        return a.V(torch.where(keep, 1 / torch.where(keep, a.s, 1.0), 0.0) * a.Ut(y))

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        a = self.spectrum(tuple(b.shape)).to(b)
        coefficients = a.Vt(b)  # they may have other axes than images
        return a.V(coefficients / (a.s.square() + damping_like(lam, coefficients)))


class BlindOperator(Operator, Generic[Theta]):
    """An operator with an unknown part theta, such as a blur with an unknown kernel.

    Solvers optimise free parameters and measure with admissible ones:
    ``A.at(A.constrain(theta))(x)``. Theta is one tensor, (B, ...), or a dict of them where there
    are several unknowns; ``constrain`` and ``learning_rate_hint`` have the same form.

    Attributes:
        truth: What draws the true theta when measurements are simulated, or None.
        told_by: Names of all attributes that do; methods see None there.
        learning_rate_hint: Step of Adam, in the units of the free parameters, to begin with.
    """

    truth: Any
    told_by: tuple[str, ...] = ("truth",)
    learning_rate_hint: float | dict[str, float]

    def __init__(self, truth: Any = None) -> None:
        super().__init__()
        self.truth = truth

    @abstractmethod
    def init_theta(self, rng: Rng, like: Tensor) -> Theta:
        """Draws a first guess of the free parameters, one per image of ``like`` (B, *X)."""

    @abstractmethod
    def constrain(self, theta: Theta) -> Theta:
        """Maps free parameters to admissible ones, differentiably."""

    @abstractmethod
    def at(self, theta: Theta) -> Operator:
        """Returns the known operator A(.; theta) for admissible parameters."""

    def draw_theta(self, rng: Rng, x_shape: Shape) -> Theta:
        """Draws true, admissible parameters, to simulate measurements.

        Raises:
            TypeError: If nothing says how to draw them.
        """
        raise TypeError(
            f"{type(self).__name__} cannot simulate a measurement: nothing says how to draw its "
            "unknown part; give truth=..., or a measurement"
        )

    def draw(self, rng: Rng, x_shape: Shape) -> Operator:
        """Draws the true unknown and returns the known operator that makes the measurement.

        ``realise`` draws only what a method may know and leaves the operator blind.
        """
        return self.at(self.draw_theta(rng.child("theta"), x_shape))

    def unknown(self) -> BlindOperator[Theta]:
        """Returns the operator as a method may see it: without what draws its true unknown."""
        seen = copy.copy(self)
        for held in ("_modules", "_buffers", "_parameters"):
            setattr(seen, held, dict(getattr(self, held)))
        for name in self.told_by:
            setattr(seen, name, None)
        return seen

    def forward(self, x: Tensor) -> Tensor:
        raise TypeError(
            f"{type(self).__name__} has an unknown part; use A.at(A.constrain(theta))(x) with a "
            "theta of A.init_theta, or A.draw(rng, x.shape)(x) to simulate"
        )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        rng = Rng(0, "shape", [str(i) for i in range(x_shape[0])])
        guess = self.constrain(self.init_theta(rng, torch.empty(x_shape)))
        return self.at(guess).measurement_shape(x_shape)


class Composition(Operator):
    """The operator x -> outer(inner(x)), written ``outer @ inner``."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__()
        self.outer, self.inner = outer, inner
        self.domain_ndim, self.complex_domain = inner.domain_ndim, inner.complex_domain

    @property
    def observed(self) -> Tensor | None:
        return self.outer.observed

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def check_domain(self, x_shape: Shape) -> None:
        self.inner.check_domain(x_shape)
        self.outer.check_domain(self.inner.measurement_shape(x_shape))

    def measurement_shape(self, x_shape: Shape) -> Shape:
        return self.outer.measurement_shape(self.inner.measurement_shape(x_shape))

    def realise(self, rng: Rng, x_shape: Shape) -> Operator:
        # Streams follow the order of the parts, so that (A @ B) @ C draws what A @ (B @ C) draws.
        first, *others = _chain(self)
        made = first.realise(rng.child("part 0"), x_shape)
        for i, part in enumerate(others, 1):
            made = part.realise(rng.child(f"part {i}"), made.measurement_shape(x_shape)) @ made
        return made

    def select(self, rows: list[int]) -> Operator:
        return self.outer.select(rows) @ self.inner.select(rows)


class LinearComposition(Composition, LinearOperator):
    """The composition of two linear operators; its adjoint is theirs, in reverse."""

    def domain_shape(self, y_shape: Shape) -> Shape:
        return self.inner.domain_shape(self.outer.domain_shape(y_shape))  # type: ignore[operator]

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))  # type: ignore[operator]


class SpectralComposition(LinearComposition, SpectralOperator):
    """The composition of two operators whose spectra multiply: its SVD is exact again."""

    def __init__(self, outer: SpectralOperator, inner: SpectralOperator) -> None:
        super().__init__(outer, inner)
        self.spectrum_type = inner.spectrum_type
        self.rcond = min(outer.rcond, inner.rcond)
        self._made: tuple[Spectrum, Spectrum, Spectrum] | None = None

    def spectrum(self, x_shape: Shape) -> Spectrum:
        y_shape = self.inner.measurement_shape(x_shape)
        outer, inner = self.outer.spectrum(y_shape), self.inner.spectrum(x_shape)  # type: ignore[operator]
        if self._made is None or self._made[0] is not outer or self._made[1] is not inner:
            self._made = (outer, inner, product(outer, inner))
        return self._made[2]


class BlindComposition(Composition, BlindOperator[Any]):
    """A composition of which one part is blind; its unknown is that part's."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        if isinstance(outer, BlindOperator) and isinstance(inner, BlindOperator):
            raise TypeError(
                f"{type(outer).__name__} @ {type(inner).__name__} has two unknown parts; write "
                "one BlindOperator whose theta is a dict of both"
            )
        super().__init__(outer, inner)
        self.learning_rate_hint = self._blind.learning_rate_hint

    @property
    def _blind(self) -> BlindOperator[Any]:
        return self.outer if isinstance(self.outer, BlindOperator) else self.inner  # type: ignore[return-value]

    def init_theta(self, rng: Rng, like: Tensor) -> Any:
        return self._blind.init_theta(rng, like.new_empty(self._blind_domain(tuple(like.shape))))

    def constrain(self, theta: Any) -> Any:
        return self._blind.constrain(theta)

    def draw_theta(self, rng: Rng, x_shape: Shape) -> Any:
        return self._blind.draw_theta(rng, self._blind_domain(x_shape))

    def at(self, theta: Any) -> Operator:
        known = self._blind.at(theta)
        return self.outer @ known if self._blind is self.inner else known @ self.inner

    def unknown(self) -> BlindComposition:
        seen = self._blind.unknown()
        inside = self._blind is self.inner
        return BlindComposition(self.outer if inside else seen, seen if inside else self.inner)

    def forward(self, x: Tensor) -> Tensor:
        return BlindOperator.forward(self, x)

    def _blind_domain(self, x_shape: Shape) -> Shape:
        return x_shape if self._blind is self.inner else self.inner.measurement_shape(x_shape)


def _chain(part: Operator) -> list[Operator]:
    """Returns the parts of nested compositions in the order in which they are applied."""
    nested = isinstance(part, Composition)
    return [*_chain(part.inner), *_chain(part.outer)] if nested else [part]
