"""Methods as values with init, step and finish, and what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from plugip.diagnostics import Diagnostics
from plugip.operator import Unknown
from plugip.prior import lacks_denoiser
from plugip.problem import Problem
from plugip.refusals import require_part
from plugip.rng import Rng

S = TypeVar("S")


@dataclass(frozen=True)
class Info:
    """What one step reports.

    Attributes:
        x_hat: Current estimate, (B, C, H, W), in [-1, 1], detached.
        loss: The method's own objective per image, (B,).
        done: Images that need no further step, (B,) bool.
        residual: Root mean square of A(x_hat) - y per image, (B,), in the units of y; None if the
            method does not have it at hand.
        ending: How the search stands, ``diagnostics.Ending`` per image, (B,) int64; None where the
            method has nothing to say but ``done``.
    """

    x_hat: Tensor
    loss: Tensor
    done: Tensor
    residual: Tensor | None = None
    ending: Tensor | None = None


@runtime_checkable
class Method(Protocol[S]):
    """A way of solving problems: a frozen dataclass of hyperparameters with three functions.

    A method may also have ``iterations`` (its fixed number of steps), and ``seed(state)`` and
    ``theta(state)``: the latent seed of the answer, and the admissible value found for the
    unknown part of a blind operator. One without ``theta`` is not given blind problems. One that
    solves a constrained problem may have ``certificate(state)``, a ``diagnostics.Certificate``.
    Wrappers may have ``picked_step(state)`` and ``start_losses(state)`` as well.
    """

    def init(self, problem: Problem, rng: Rng) -> S:
        """Returns the first state; checks what the method needs, before any network call."""
        ...

    def step(self, problem: Problem, state: S) -> tuple[S, Info]:
        """Makes one seed update or one reverse transition."""
        ...

    def finish(self, problem: Problem, state: S) -> Tensor:
        """Returns the answer, (B, C, H, W), in [-1, 1]."""
        ...


@dataclass(frozen=True)
class Trace:
    """The course of one image: loss and residual of every step, 1-D CPU tensors."""

    loss: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Solution:
    """Answers and costs, one entry per image.

    Attributes:
        x_hat: The method's answer, (B, C, H, W), in [-1, 1]: the stopping rule's pick if there is
            one.
        last: The last iterate, (B, C, H, W).
        z: Latent seed of ``x_hat`` where the method has one, (B, ...).
        steps: Steps made per image.
        answer_steps: Step of each answer: of the stopping rule's pick, 0 where it never fired.
        nfe: Forward calls of the prior per image.
        vjps: Backward passes through the prior per image.
        seconds: Wall-clock time per image; images solved in one batch share it equally.
        peak_memory: Highest memory in bytes: of the GPU's allocator, or of the process on a CPU;
            None where the system does not tell.
        trace: Loss and residual by step, per image.
        diagnostics: Checks that need no true image, per image.
        theta: Admissible value found for a blind operator's unknown, that of ``x_hat``; a tensor
            (B, ...) or a dict of them.
        start_losses: What each of several starts was judged by, (B, S); the least one won.
        picked: Whether a stopping rule, anywhere among the wrappers, picks the answers.
    """

    x_hat: Tensor
    last: Tensor
    z: Tensor | None
    steps: list[int]
    answer_steps: list[int]
    nfe: list[int]
    vjps: list[int]
    seconds: list[float]
    peak_memory: int | None
    trace: list[Trace]
    diagnostics: list[Diagnostics]
    theta: Unknown | None = None
    start_losses: Tensor | None = None
    picked: bool = False

    def select(self, i: int) -> Solution:
        """Returns the solution of one image, as a batch of one."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        cut = {n: v[i : i + 1] for n, v in parts.items() if isinstance(v, (Tensor, list))}
        return replace(self, **cut | {"theta": take(self.theta, [i])})


@runtime_checkable
class Selectable(Protocol):
    """Part of a state that knows by itself what belongs to an image."""

    def select(self, rows: list[int], /) -> Any:
        """Returns the part of some images."""
        ...


Observer = Callable[[int, list[int], Info], None]


def join(parts: list[Solution]) -> Solution:
    """Joins solutions of single images into one batch, in the order given."""
    return Solution(
        x_hat=torch.cat([p.x_hat for p in parts]),
        last=torch.cat([p.last for p in parts]),
        z=_cat([p.z for p in parts]),
        steps=[v for p in parts for v in p.steps],
        answer_steps=[v for p in parts for v in p.answer_steps],
        nfe=[v for p in parts for v in p.nfe],
        vjps=[v for p in parts for v in p.vjps],
        seconds=[v for p in parts for v in p.seconds],
        peak_memory=max((p.peak_memory for p in parts if p.peak_memory is not None), default=None),
        trace=[v for p in parts for v in p.trace],
        diagnostics=[v for p in parts for v in p.diagnostics],
        theta=_cat([p.theta for p in parts]),
        start_losses=_cat([p.start_losses for p in parts]),
        picked=any(p.picked for p in parts),
    )


def _cat(parts: list[Any]) -> Any:
    if any(p is None for p in parts):
        return None
    if isinstance(parts[0], dict):
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    return torch.cat(parts)


def residual_of(known: Problem, x_hat: Tensor, x: Tensor, residual: Tensor) -> Tensor:
    """Returns the root mean square of A(x_hat) - y per image, (B,), for ``Info``.

    Args:
        known: The problem, at the values of its unknown part that belong to x_hat.
        x_hat: What is reported, (B, C, H, W).
        x: What it was made of, by clamping or cutting.
        residual: That of A(x) - y, (B,), which is the answer wherever x_hat is x: one more pass
            of A is made only where it is not.
    """
    changed = torch.ones_like(residual, dtype=torch.bool)
    if x_hat.shape == x.shape:
        changed = (x_hat != x).flatten(1).any(dim=1)
    # To look at a flag waits for a GPU; there the pass of A is cheaper.
    if x.device.type == "cpu" and not bool(changed.any()):
        return residual
    with torch.no_grad():
        return torch.where(changed, known.residual(known.operator(x_hat)), residual)


def require_method(method: object) -> None:
    """Raises a TypeError unless it is a method."""
    advice = "make one, such as plugip.methods.DPS(steps=100)"
    require_part(method, Method, "method", advice)


def require_theta(problem: Problem, method: Method[Any]) -> None:
    """Raises a TypeError if the operator has an unknown part that the method cannot find."""
    if problem.blind and not hasattr(method, "theta"):
        operator = type(problem.operator).__name__
        raise TypeError(
            f"{type(method).__name__} needs a known operator, but {operator} has an unknown part; "
            "fix it with operator.at(theta), or take a method that has theta(state)"
        )


def require_denoiser(problem: Problem, method: Method[Any]) -> None:
    """Raises a TypeError if the prior only maps seeds to images and the method asks for more.

    Methods that reach the prior through a ``generator`` alone, wrapped or not, need no more.
    """
    inner: Any = method
    while hasattr(inner, "method"):  # a wrapper, such as a stopping rule, keeps it there
        inner = inner.method
    if not problem.prior.denoises and not hasattr(inner, "generator"):
        raise lacks_denoiser(problem.prior, type(inner).__name__)


def take(state: Any, rows: list[int]) -> Any:
    """Returns a state with some images only: tensors by their first axis, streams, and containers.

    States are dataclasses (or tuples, lists, dicts) of tensors whose first axis is the batch;
    numbers and 0-d tensors are shared by all images. What has ``select(rows)``, such as streams,
    operators and problems, selects its own rows.
    """
    if isinstance(state, Tensor):
        return state[rows] if state.ndim else state
    if isinstance(state, Selectable):
        return state.select(rows)
    if is_dataclass(state) and not isinstance(state, type):
        parts = {f.name: take(getattr(state, f.name), rows) for f in fields(state) if f.init}
        return replace(state, **parts)
    if isinstance(state, (list, tuple)):
        taken = [take(part, rows) for part in state]
        return type(state)(*taken) if hasattr(state, "_fields") else type(state)(taken)
    if isinstance(state, dict):
        return {key: take(part, rows) for key, part in state.items()}
    return state
