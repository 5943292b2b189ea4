"""Checks of the unknown part of a blind operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plugip.linalg import dot
from plugip.operator import BlindOperator
from plugip.rng import Rng
from plugip.testing.bench import Outcome, random_like
from plugip.testing.report import Report, close, directional

Theta = dict[str, Tensor]
# Warps have kinks at whole pixels: a shorter step meets fewer of them.
STEP = 1e-7


def check_theta(report: Report, operator: BlindOperator[Any], x: Tensor) -> None:
    """Adds the checks of a blind operator's unknown to the report."""
    report.run("theta: one image, one guess", lambda: _split(operator, x))
    report.run("theta: constrained ones are admissible", lambda: _admissible(operator, x))
    report.run("theta: gradient", lambda: _gradient(operator, x))
    report.run("theta: announces its shape", lambda: _announces(operator, x))
    report.run("theta: the truth is hidden", lambda: _hidden(operator))


def first_guess(operator: BlindOperator[Any], rng: Rng, x_shape: tuple[int, ...]) -> Any:
    """Returns the admissible first guess of the unknown, one for each image."""
    like = torch.empty(x_shape, device=_device(operator))
    return operator.constrain(operator.init_theta(rng, like))


def _device(operator: BlindOperator[Any]) -> torch.device:
    return next((t.device for t in operator._tensors()), torch.device("cpu"))


def _free(operator: BlindOperator[Any], x: Tensor, names: list[str]) -> Any:
    like = x.real if x.is_complex() else x
    return operator.init_theta(Rng(0, "check", names), like)


def _names(x: Tensor) -> list[str]:
    return [f"image-{i}" for i in range(x.shape[0])]


def _parts(theta: Any) -> Theta:
    return theta if isinstance(theta, dict) else {"theta": theta}


def _split(operator: BlindOperator[Any], x: Tensor) -> Outcome:
    together = _parts(_free(operator, x, _names(x)))
    rows = [_parts(_free(operator, x[[i]], [n])) for i, n in enumerate(_names(x))]
    for key, value in together.items():
        ok, detail = close(torch.cat([row[key] for row in rows]), value, 0)
        if not ok:
            return False, f"{key}: {detail}"
    return True, f"{', '.join(together)}: rows do not depend on each other"


def _admissible(operator: BlindOperator[Any], x: Tensor) -> Outcome:
    """What is admissible is finite, keeps its dtype, and can be measured with."""
    free = _parts(_free(operator, x, _names(x)))
    made = _parts(operator.constrain(_joined(operator, x, free)))
    bad = [n for n, t in made.items() if not bool(t.isfinite().all()) or t.dtype != free[n].dtype]
    return not bad, f"not finite or another dtype: {', '.join(bad)}" if bad else "finite"


def _joined(operator: BlindOperator[Any], x: Tensor, parts: Theta) -> Any:
    single = not isinstance(_free(operator, x, _names(x)), dict)
    return parts["theta"] if single else parts


def _gradient(operator: BlindOperator[Any], x: Tensor) -> Outcome:
    x = x.to(torch.complex128 if x.is_complex() else torch.float64)
    free = _parts(_free(operator, x, _names(x)))
    for key, value in free.items():
        scalar = _loss(operator, x, free, key)
        with torch.enable_grad():
            leaf = value.clone().requires_grad_()
            (grad,) = torch.autograd.grad(scalar(leaf), leaf)
        ok, detail = directional(scalar, value, grad, STEP)
        if not ok:
            return False, f"{key}: {detail}"
    return True, f"gradients reach {', '.join(free)}"


def _loss(
    operator: BlindOperator[Any], x: Tensor, free: Theta, key: str
) -> Callable[[Tensor], Tensor]:
    def scalar(value: Tensor) -> Tensor:
        theta = _joined(operator, x, {**free, key: value})
        y = operator.at(operator.constrain(theta))(x)
        return dot(random_like(y, "cotangent"), y).sum()

    return scalar


def _announces(operator: BlindOperator[Any], x: Tensor) -> Outcome:
    told = operator.measurement_shape(tuple(x.shape))
    known = operator.at(operator.constrain(_free(operator, x, _names(x))))
    return told == tuple(known(x).shape), f"measurement_shape gives {told}"


def _hidden(operator: BlindOperator[Any]) -> Outcome:
    seen = operator.unknown()
    return getattr(seen, "truth", None) is None, "unknown() has no truth"
