"""Checks of linear operators: superposition, the adjoint, damped solves, SVD and A+."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plugip.linalg import dot, norm, per_image
from plugip.operator import LinearOperator, SpectralOperator
from plugip.spectral import Spectrum
from plugip.testing.bench import (
    Bench,
    Outcome,
    cast,
    images,
    random_like,
)
from plugip.testing.report import Report, close


def check_linear(report: Report, bench: Bench) -> None:
    """Adds the checks of a linear operator to the report."""
    report.run("linear", lambda: _superposition(bench))
    report.run("adjoint (dot product)", lambda: _dot_test(bench))
    report.run("solve_normal", lambda: _solve_test(bench))
    if "A+ y" in bench.due:
        report.run("Penrose: A A+ A = A (kept values)", lambda: _penrose(bench))
        report.run("Penrose: A+ A A+ = A+", lambda: _penrose_back(bench))
        report.run("Penrose: A A+ and A+ A are projections", lambda: _projections(bench))


def check_spectral(report: Report, bench: Bench) -> None:
    """Adds the checks of a singular value decomposition to the report."""
    a, x, y, law = _linear(bench), bench.x, bench.y, bench.limits.law
    try:
        factors = a.spectrum(bench.shape).to(x)  # type: ignore[attr-defined]
    except Exception as error:
        report.failed("spectrum", error)
        return
    w = random_like(y, "w")
    report.run("V is a basis", lambda: close(factors.V(factors.Vt(x)), x, law))
    report.run("V keeps lengths", lambda: close(_energy(factors.Vt(x)), dot(x, x), law))
    report.run("U keeps lengths", lambda: _u_keeps_lengths(bench, factors))
    report.run("A = U s V*", lambda: close(factors.U(factors.s * factors.Vt(x)), y, law))
    report.run(
        "A* = V s U*", lambda: close(factors.V(factors.s * factors.Ut(w)), a.adjoint(w), law)
    )
    report.run(
        "singular values >= 0",
        lambda: (bool((factors.s >= 0).all()), f"max {factors.s.max():.4g}"),
    )
    report.run("A+ = V s^-1 U*", lambda: _pinv_by_svd(bench))


def _linear(bench: Bench) -> LinearOperator:
    return bench.a  # type: ignore[return-value]


def _linear_rows(bench: Bench, rows: list[int]) -> LinearOperator:
    return bench.a.select(rows)  # type: ignore[return-value]


def _superposition(bench: Bench) -> Outcome:
    a, x, y = _linear(bench), bench.x, bench.y
    other, v, w = _others(bench)
    factor = 2 + 1j if a.complex_domain else 2
    told = {"A": close(a(factor * x - 3 * other), factor * y - 3 * a(other), bench.limits.law)}
    # Only real factors: for real images A* and A+ take the real part of complex measurements.
    back = {"A*": a.adjoint} | ({"A+": a.pinv} if "A+ y" in bench.due else {})
    for name, f in back.items():
        told[name] = close(f(2 * v - 3 * w), 2 * f(v) - 3 * f(w), bench.limits.law)
    bad = [f"{name}: {detail}" for name, (ok, detail) in told.items() if not ok]
    return not bad, "; ".join(bad) or f"{', '.join(told)} to {bench.limits.law:.0e}"


def _others(bench: Bench) -> tuple[Tensor, Tensor, Tensor]:
    other = cast(images(bench.a, bench.shape, "other x"), bench.dtype).to(bench.x.device)
    return other, random_like(bench.y, "w"), random_like(bench.y, "other w")


def _dot_test(bench: Bench) -> Outcome:
    x, y, w = bench.x, bench.y, random_like(bench.y, "w")
    back = _linear(bench).adjoint(w)
    if (back.shape, back.is_complex()) != (x.shape, x.is_complex()):
        kind = "complex" if back.is_complex() else "real"
        return False, f"A*w is {kind} of shape {tuple(back.shape)}, unlike x {tuple(x.shape)}"
    left, right = dot(y, w), dot(x, back)
    gap = float(((left - right).abs() / (norm(y) * norm(w)).clamp_min(1e-30)).max())
    allowed = bench.limits.law
    return gap <= allowed, f"<Ax, w> - <x, A*w> is {gap:.1e} of its size, allowed {allowed:.0e}"


def _solve_test(bench: Bench) -> Outcome:
    """The residual of (A*A + lam) z = x, with one lam for each image and with one for all."""
    a, x = _linear(bench), bench.x
    before, lam = x.clone(), 0.3 * _gain(bench)
    solved = a.solve_normal(x, lam)
    if not torch.equal(x, before):
        return False, "the right-hand side was changed"
    if solved.shape != x.shape:
        return False, f"one lam per image gives shape {tuple(solved.shape)} for {tuple(x.shape)}"
    # One image is enough to see whether a plain number does as well.
    alone = _linear_rows(bench, [0]).solve_normal(x[:1], float(lam[0]))
    ok, detail = close(alone, solved[:1], bench.limits.solve)
    if not ok:
        return False, f"lam as a number: {detail}"
    return close(a.normal(solved) + per_image(lam, solved) * solved, x, bench.limits.solve)


def _gain(bench: Bench) -> Tensor:
    """Estimates the largest eigenvalue of A*A for each image, (B,): lam must be a part of it."""
    a = _linear(bench)
    v = a.normal(bench.x)
    gain = norm(a.normal(v)) / norm(v).clamp_min(1e-30)
    return torch.where(gain > 0, gain, 1.0)


def _penrose(bench: Bench) -> Outcome:
    # Values below rcond are left out on purpose, so the identity holds for what A+ can see.
    a = _linear(bench)
    seen = a(a.pinv(bench.y))
    return close(a(a.pinv(seen)), seen, bench.limits.pinv)


def _penrose_back(bench: Bench) -> Outcome:
    a, inverse = _linear(bench), bench.due["A+ y"]
    return close(a.pinv(a(inverse)), inverse, bench.limits.pinv)


def _projections(bench: Bench) -> Outcome:
    """Both products are self-adjoint: <P u, v> = <u, P v>."""
    a, (other, v, w) = _linear(bench), _others(bench)
    gaps = [
        _asymmetry(lambda u: a(a.pinv(u)), v, w),
        _asymmetry(lambda u: a.pinv(a(u)), bench.x, other),
    ]
    return max(gaps) <= bench.limits.pinv, f"off by {max(gaps):.1e}"


def _asymmetry(project: Callable[[Tensor], Tensor], u: Tensor, v: Tensor) -> float:
    gap = dot(project(u), v) - dot(u, project(v))
    return float((gap.abs() / (norm(u) * norm(v)).clamp_min(1e-30)).max())


def _u_keeps_lengths(bench: Bench, factors: Spectrum) -> Outcome:
    """On coefficients that A sees, U is an isometry and U* its inverse."""
    seen = torch.where(factors.s > 0, factors.Vt(bench.x), 0.0)
    spread = factors.U(seen)
    ok, detail = close(_energy(spread), _energy(seen), bench.limits.law)
    return (ok, detail) if not ok else close(factors.Ut(spread), seen, bench.limits.law)


def _pinv_by_svd(bench: Bench) -> Outcome:
    a = _linear(bench)
    plain = SpectralOperator.pinv(a, bench.y)  # type: ignore[arg-type]
    return close(bench.due["A+ y"], plain, bench.limits.pinv)


def _energy(coefficients: Tensor) -> Tensor:
    return coefficients.abs().square().flatten(1).sum(dim=1)
