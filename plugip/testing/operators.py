"""check_operator: is it deterministic, batched, differentiable, and is its adjoint the adjoint?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from plugip.linalg import dot
from plugip.operator import LinearOperator, Operator, SpectralOperator
from plugip.rng import Rng
from plugip.testing.report import Report, close, directional, keeps_global_stream, random_images

Outcome = tuple[bool, str]


def check_operator(operator: Operator, x_shape: tuple[int, ...] = (3, 3, 32, 32)) -> Report:
    """Checks an operator in float64 on the CPU; the operator itself is copied, not changed.

    Inner products are real, Re <a, b>, so images and measurements may be complex. Images are
    complex where ``operator.complex_domain`` says so.

    Args:
        operator: The operator; what is random in it is realised with three image ids.
        x_shape: Shape of a batch of images that it can take, (B, *X) with B >= 2.

    Returns:
        A report; ``require()`` raises if a check failed.
    """
    ids = [f"image-{i}" for i in range(x_shape[0])]
    report = Report(f"operator {type(operator).__name__} on images {x_shape}")
    x = _images(operator, x_shape, "x")
    try:
        a = copy.deepcopy(operator).cpu().realise(Rng(0, "check", ids), x_shape).double()
        y = a(x)
    except Exception as error:
        return report.failed("takes images", error)
    report.run("finite", lambda: (bool(torch.isfinite(y).all()), f"y has shape {tuple(y.shape)}"))
    report.run("deterministic", lambda: close(a(x), y, 0))
    report.run("no hidden randomness", lambda: keeps_global_stream(lambda: a(x)))
    report.run("leaves x alone", lambda: _leaves_input(a, x))
    report.run("leaves itself alone", lambda: _leaves_itself(a, x))
    report.run("one image, one answer", lambda: _batch_split(a, x, y))
    report.run("announces its shape", lambda: _announces(a, y, x_shape))
    report.run("keeps dtype", lambda: _keeps_dtype(a, x))
    report.run("gradient", lambda: _gradient(a, x))
    report.run("never detaches", lambda: _never_detaches(a, x))
    if isinstance(a, LinearOperator):
        _check_linear(report, a, x, y)
    if isinstance(a, SpectralOperator):
        _check_spectral(report, a, x, y)
    return report


def _check_linear(report: Report, a: LinearOperator, x: Tensor, y: Tensor) -> None:
    other = _images(a, tuple(x.shape), "other x")
    factor = 2 + 1j if a.complex_domain else 2
    w = _random_like(y, "w")
    report.run(
        "linear", lambda: close(a(factor * x - 3 * other), factor * y - 3 * a(other), 1e-10)
    )
    report.run("adjoint (dot product)", lambda: _dot_test(y, w, x, a.adjoint(w)))
    report.run("solve_normal", lambda: _solve_test(a, x))


def _check_spectral(report: Report, a: SpectralOperator, x: Tensor, y: Tensor) -> None:
    factors = a.spectrum(tuple(x.shape))
    report.run("V is a basis", lambda: close(factors.V(factors.Vt(x)), x, 1e-10))
    report.run("V keeps lengths", lambda: close(_energy(factors.Vt(x)), dot(x, x), 1e-10))
    report.run("A = U s V*", lambda: close(factors.U(factors.s * factors.Vt(x)), y, 1e-10))
    report.run(
        "singular values >= 0",
        lambda: (bool((factors.s >= 0).all()), f"max {factors.s.max():.4g}"),
    )
    report.run("Penrose: A A+ A = A (kept values)", lambda: _penrose(a, y))


def _images(a: Operator, x_shape: tuple[int, ...], purpose: str) -> Tensor:
    x = random_images(x_shape, purpose)
    return torch.complex(x, random_images(x_shape, f"{purpose}, imag")) if a.complex_domain else x


def _random_like(y: Tensor, purpose: str) -> Tensor:
    """Random values of the shape of y, with an imaginary part where y has one."""
    w = random_images(tuple(y.shape), purpose)
    return (
        torch.complex(w, random_images(tuple(y.shape), f"{purpose}, imag"))
        if y.is_complex()
        else w.to(y.dtype)
    )


def _energy(coefficients: Tensor) -> Tensor:
    return coefficients.abs().square().flatten(1).sum(dim=1)


def _leaves_input(a: Operator, x: Tensor) -> Outcome:
    before = x.clone()
    a(x)
    return torch.equal(before, x), "input tensor unchanged"


def _leaves_itself(a: Operator, x: Tensor) -> Outcome:
    before = {k: v.clone() for k, v in a.state_dict().items()}
    a(x + 0.05)
    same = all(torch.equal(before[k], v) for k, v in a.state_dict().items())
    return same, "buffers unchanged by a call"


def _batch_split(a: Operator, x: Tensor, y: Tensor) -> Outcome:
    alone = torch.cat([a.select([i])(x[i : i + 1]) for i in range(x.shape[0])])
    return close(alone, y, 1e-10)


def _announces(a: Operator, y: Tensor, x_shape: tuple[int, ...]) -> Outcome:
    told = copy.deepcopy(a).float().measurement_shape(x_shape)
    return told == tuple(y.shape), f"measurement_shape gives {told}"


def _keeps_dtype(a: Operator, x: Tensor) -> Outcome:
    single = copy.deepcopy(a).float()(x.to(torch.complex64 if x.is_complex() else torch.float32))
    return single.real.dtype == torch.float32, f"float32 in, {single.dtype} out"


def _gradient(a: Operator, x: Tensor) -> Outcome:
    w = _random_like(a(x), "cotangent")
    at = torch.view_as_real(x) if x.is_complex() else x

    def scalar(v: Tensor) -> Tensor:
        return dot(w, a(torch.view_as_complex(v) if x.is_complex() else v)).sum()

    with torch.enable_grad():
        leaf = at.clone().requires_grad_()
        (grad,) = torch.autograd.grad(scalar(leaf), leaf)
    return directional(scalar, at, grad)


def _never_detaches(a: Operator, x: Tensor) -> Outcome:
    with torch.enable_grad():
        y = a(x.clone().requires_grad_())
    return y.requires_grad, "gradients reach x"


def _dot_test(y: Tensor, w: Tensor, x: Tensor, back: Tensor) -> Outcome:
    if (back.shape, back.is_complex()) != (x.shape, x.is_complex()):
        kind = "complex" if back.is_complex() else "real"
        return False, f"A*w is {kind} of shape {tuple(back.shape)}, unlike x {tuple(x.shape)}"
    left, right = dot(y, w), dot(x, back)
    size = float((y.flatten(1).norm(dim=1) * w.flatten(1).norm(dim=1)).max())
    gap = float((left - right).abs().max()) / max(size, 1e-30)
    return gap <= 1e-10, f"<Ax, w> - <x, A*w> is {gap:.1e} of its size, allowed 1e-10"


def _solve_test(a: LinearOperator, x: Tensor) -> Outcome:
    solved = a.solve_normal(x, 0.1)
    return close(a.normal(solved) + 0.1 * solved, x, 1e-5)


def _penrose(a: SpectralOperator, y: Tensor) -> Outcome:
    # Values below rcond are left out on purpose, so the identity holds for what A+ can see.
    seen = a(a.pinv(y))
    return close(a(a.pinv(seen)), seen, 1e-8)
