"""check_operator: is it deterministic, batched, differentiable, and is its adjoint the adjoint?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from plugip.linalg import dot
from plugip.operator import BlindOperator, LinearOperator, Operator, SpectralOperator
from plugip.rng import Rng
from plugip.testing.bench import (
    LIMITS,
    Answers,
    Bench,
    Outcome,
    answers,
    cast,
    images,
    in_precision,
    random_like,
)
from plugip.testing.blind import check_theta, first_guess
from plugip.testing.linear import check_linear, check_spectral
from plugip.testing.moves import check_moves
from plugip.testing.report import Report, close, directional, keeps_global_stream


def check_operator(
    operator: Operator,
    x_shape: tuple[int, ...] = (3, 3, 32, 32),
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Report:
    """Checks whether an operator keeps the rules of ``Operator`` and, if linear, those of algebra.

    The operator itself is copied, not changed; what is random in it is realised with image ids of
    the check's own. A blind operator is checked at its first guess. Inner products are real,
    Re <a, b>, so images and measurements may be complex. Images are complex where
    ``operator.complex_domain`` says so. Without a GPU, moves between devices are watched on
    torch's "meta" device, which knows shapes and devices but no values.

    Args:
        operator: The operator.
        x_shape: Shape of a batch of images that it can take, (B, *X) with B >= 2.
        dtype: float64, or float32, where tolerances are wider, gradients are compared with those
            in float64 instead of finite differences, and moves and copies are left out.
        device: Where to compute, "cpu" or "cuda".

    Returns:
        A report; ``require()`` raises if a check failed.

    Raises:
        ValueError: If dtype is neither float32 nor float64, or there are fewer than two images.
    """
    if dtype not in LIMITS or len(x_shape) < 2 or x_shape[0] < 2:
        raise ValueError(
            "check_operator takes float32 or float64 and a shape (B, *X) of two or more images, "
            f"got {dtype} and {tuple(x_shape)}"
        )
    report = Report(f"operator {type(operator).__name__} on images {x_shape}")
    start = copy.deepcopy(operator).to(device)
    try:
        fresh, other = (
            in_precision(_known(start, _ids(x_shape), x_shape, n), dtype) for n in (0, 1)
        )
        x = cast(images(fresh, x_shape, "x"), dtype).to(device)
        bench = Bench.of(fresh, other, x)
    except Exception as error:
        return report.failed("takes images", error)
    if isinstance(start, BlindOperator):
        check_theta(report, start, bench.x)
    _check_purity(report, start, bench)
    _check_batch(report, start, bench)
    check_moves(report, bench)
    _check_gradient(report, bench)
    if isinstance(bench.a, LinearOperator):
        check_linear(report, bench)
    if isinstance(bench.a, SpectralOperator):
        check_spectral(report, bench)
    return report


def _check_purity(report: Report, start: Operator, bench: Bench) -> None:
    a, x, y = bench.a, bench.x, bench.y
    report.run("finite", lambda: _finite(bench))
    report.run("deterministic", lambda: _deterministic(bench))
    report.run(
        "no hidden randomness",
        lambda: keeps_global_stream(
            lambda: (_known(start, _ids(bench.shape), bench.shape), answers(a, x, y))
        ),
    )
    report.run("leaves x alone", lambda: _leaves_inputs(bench))
    report.run("leaves itself alone", lambda: _leaves_itself(bench))


def _check_batch(report: Report, start: Operator, bench: Bench) -> None:
    report.run("one image, one answer", lambda: _batch_split(bench))
    report.run("one image, one draw", lambda: _same_draw(start, bench))
    report.run("announces its shape", lambda: _announces(bench))
    report.run("observed fits y", lambda: _observed(bench))


def _check_gradient(report: Report, bench: Bench) -> None:
    report.run("gradient", lambda: _gradient(bench))
    report.run("never detaches", lambda: _never_detaches(bench))


def _known(
    operator: Operator, ids: list[str], x_shape: tuple[int, ...], rng_seed: int = 0
) -> Operator:
    """Draws what is random; of a blind operator returns the known one of the first guess."""
    rng = Rng(rng_seed, "check", ids)
    known = copy.deepcopy(operator).realise(rng, x_shape)
    return (
        known.at(first_guess(known, rng, x_shape)) if isinstance(known, BlindOperator) else known
    )


def _ids(x_shape: tuple[int, ...]) -> list[str]:
    return [f"image-{i}" for i in range(x_shape[0])]


def _finite(bench: Bench) -> Outcome:
    bad = [name for name, value in bench.due.items() if not bool(torch.isfinite(value).all())]
    return not bad, f"not finite: {', '.join(bad)}" if bad else f"y has shape {_shape(bench.y)}"


def _deterministic(bench: Bench) -> Outcome:
    # On GPUs scattered sums come in any order, so that last digits change.
    return bench.agree(answers(bench.a, bench.x, bench.y), exactly=bench.x.device.type == "cpu")


def _leaves_inputs(bench: Bench) -> Outcome:
    x, y = bench.x.clone(), bench.y.clone()
    answers(bench.a, x, y)
    same = torch.equal(x, bench.x), torch.equal(y, bench.y)
    changed = " and ".join(name for name, ok in zip("xy", same, strict=True) if not ok)
    return all(same), f"{changed} was changed" if changed else "input tensors unchanged"


def _leaves_itself(bench: Bench) -> Outcome:
    before = {k: v.clone() for k, v in bench.a.state_dict().items()}
    answers(bench.a, bench.x + 0.05, bench.y)
    same = all(torch.equal(before[k], v) for k, v in bench.a.state_dict().items())
    return same, "buffers unchanged by a call"


def _batch_split(bench: Bench) -> Outcome:
    rows = range(bench.shape[0])
    parts = [answers(bench.a.select([i]), bench.x[[i]], bench.y[[i]]) for i in rows]
    alone: Answers = {name: torch.cat([part[name] for part in parts]) for name in bench.due}
    return bench.agree(alone)


def _same_draw(start: Operator, bench: Bench) -> Outcome:
    """An image gets the same mask, kernel or guess alone as in the batch."""
    one = (1, *bench.shape[1:])
    alone = [
        # What was given for each image is selected, what is random is drawn.
        in_precision(_known(start.select([i]), [name], one), bench.dtype)(bench.x[[i]])
        for i, name in enumerate(_ids(bench.shape))
    ]
    return close(torch.cat(alone), bench.y, bench.limits.law)


def _announces(bench: Bench) -> Outcome:
    told = bench.a.measurement_shape(bench.shape)
    return told == tuple(bench.y.shape), f"measurement_shape gives {told}"


def _observed(bench: Bench) -> Outcome:
    mask = bench.a.observed
    if mask is None:
        return True, "everywhere"
    binary = bool(((mask == 0) | (mask == 1)).all())
    fits = torch.broadcast_shapes(mask.shape, bench.y.shape) == bench.y.shape
    return binary and fits, f"a mask of shape {_shape(mask)} for y of shape {_shape(bench.y)}"


def _gradient(bench: Bench) -> Outcome:
    if bench.dtype != torch.float64:
        return _gradient_as_in_double(bench)
    at = torch.view_as_real(bench.x) if bench.x.is_complex() else bench.x
    ok, detail = directional(lambda v: _scalar(bench.a, v, bench), at, _backward(bench.a, bench))
    if not ok:
        return ok, detail
    one, x = bench.a.select([0]), bench.x[:1].clone().requires_grad_()
    with torch.enable_grad():
        torch.autograd.gradcheck(
            one, (x,), rtol=1e-4, fast_mode=True, check_undefined_grad=False, nondet_tol=1e-10
        )
    return True, f"{detail}; gradcheck passes"


def _gradient_as_in_double(bench: Bench) -> Outcome:
    wide = in_precision(copy.deepcopy(bench.a), torch.float64)
    exact = _backward(wide, bench, torch.float64)
    return close(_backward(bench.a, bench).double(), exact, 10 * bench.limits.law)


def _backward(a: Operator, bench: Bench, dtype: torch.dtype | None = None) -> Tensor:
    """Returns the gradient of Re <w, A x> by autograd, complex images as pairs of reals."""
    x = cast(bench.x, dtype or bench.dtype)
    with torch.enable_grad():
        leaf = (torch.view_as_real(x) if x.is_complex() else x).clone().requires_grad_()
        return torch.autograd.grad(_scalar(a, leaf, bench), leaf)[0]


def _scalar(a: Operator, v: Tensor, bench: Bench) -> Tensor:
    w = cast(random_like(bench.y, "cotangent"), v.dtype)
    return dot(w, a(torch.view_as_complex(v) if bench.x.is_complex() else v)).sum()


def _never_detaches(bench: Bench) -> Outcome:
    with torch.enable_grad():
        y = bench.a(bench.x.clone().requires_grad_())
    return y.requires_grad, "gradients reach x"


def _shape(t: Tensor) -> tuple[int, ...]:
    return tuple(t.shape)
