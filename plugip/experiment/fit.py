"""Refusals before any solving: parts that no image could suit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from plugip.method import Method, require_denoiser, require_theta
from plugip.operator import BlindOperator, Operator
from plugip.prior import Prior
from plugip.problem import Problem
from plugip.rng import Rng


class _NetworkReachedError(Exception):
    """Says that a method has come as far as its first network call."""


def require_fit(operator: Operator, prior: Prior, real: bool) -> None:
    """Raises a ValueError or TypeError if the operator cannot take the prior's images.

    Args:
        operator: The forward map, not realised.
        prior: The prior.
        real: Whether measurements are given, which no random part can explain.
    """
    image, name = tuple(prior.image_shape), type(operator).__name__
    rngs = [Rng(0, "operator", [i]) for i in ("a", "b")]
    realised = [operator.realise(rng, (1, *image)) for rng in rngs]
    if isinstance(realised[0], BlindOperator) and not real:
        realised[0].draw_theta(rngs[0].child("theta"), (1, *image))
    try:
        shapes = [operator.measurement_shape((1, *image)) for operator in realised]
    except RuntimeError as error:
        refusal = f"{name} cannot take the prior's images of shape {image}"
        raise ValueError(f"{refusal}: {error}") from error
    if real and (shapes[0] != shapes[1] or not _same(realised, image)):
        raise ValueError(
            f"{name} draws a random part for each image, which cannot be the one behind a "
            "given measurement; give it fixed: operator=inpaint_mask operator.mask.path=..."
        )


def require_method(problem: Problem, method: Method[Any]) -> None:
    """Raises the ValueError or TypeError with which a method refuses every problem of this kind.

    Its first state is made, as far as that goes without the network. Any other exception says
    nothing about the images to come.

    Args:
        problem: A problem of the same parts, with any measurement.
        method: The method.
    """
    require_theta(problem, method)
    require_denoiser(problem, method)
    networks = set(problem.prior.modules())

    def refuse(module: nn.Module, given: Any) -> None:
        if module in networks:
            raise _NetworkReachedError

    hook = register_module_forward_pre_hook(refuse)
    try:
        method.init(problem, Rng(0, "solve", [str(i) for i in range(problem.batch)]))
    except (ValueError, TypeError, KeyboardInterrupt):
        raise
    except BaseException:
        return
    finally:
        hook.remove()


def guessed(operator: Operator, x: Tensor) -> Operator:
    """Returns an operator; one with an unknown part at a guess that is the same each time."""
    if not isinstance(operator, BlindOperator):
        return operator
    return operator.at(operator.constrain(operator.init_theta(Rng(0, "fit", ["0"]), x)))


def _same(operators: list[Operator], image: tuple[int, ...]) -> bool:
    like = next((t for o in operators for t in o.buffers()), torch.zeros(()))
    probe = torch.linspace(-0.9, 0.9, torch.Size(image).numel(), device=like.device)
    probe = probe.reshape(1, *image)
    with torch.no_grad():
        first, second = (guessed(operator, probe)(probe) for operator in operators)
    return torch.equal(first, second)
