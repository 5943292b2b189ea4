"""Several starts for each image: all make a few steps, the one that fits best goes on alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from plugip.method import Info, Method, require_theta
from plugip.operator import Operator, Unknown
from plugip.options import choose
from plugip.problem import Problem
from plugip.rng import Rng

S = TypeVar("S")
JUDGES = {
    "loss": "the method's own objective, penalties included",
    "residual": "root mean square of A(x) - y, which every method has",
}


@dataclass(frozen=True)
class MultiStartState:
    """The running starts.

    Attributes:
        runs: The method's state of each start; a single one after the choice.
        leader: The start of least loss, (B,) int64; the winner after the choice.
        losses: What the starts are judged by, at their latest common step, (B, S).
        ended: Starts that the method itself called done, (B, S) bool.
        step: Steps made.
    """

    runs: tuple[Any, ...]
    leader: Tensor
    losses: Tensor
    ended: Tensor
    step: int


@dataclass(frozen=True)
class MultiStart(Generic[S]):
    """A method that tries several starts per image and goes on with the best of them.

    For problems with false minima, such as phase retrieval, where a run is won or lost early. All
    starts make ``trial`` steps; then, image by image, the one of least measured loss goes on. It
    goes on as if it had been alone, bit for bit.

    Start 0 draws from the image's own stream, so one start is the bare method, and more starts
    never lose its run; start s > 0 draws from the child stream "start s". A method that starts at
    a fixed point (``ZeroStart``) has equal starts, and gains nothing.

    Starts are stepped one after the other, not as one larger batch: network calls are counted as
    they are made, S to a step of the trial, memory holds one graph at a time, and an answer does
    not depend on how many starts or images share a batch. What is reported in the trial is the
    start that leads at that step.

    With a stopping rule around it (as on the command line), the rule watches the leader, and may
    end an image before the choice. A rule inside judges each start by itself; an image ends in
    the trial only when all its starts have.

    Args:
        method: The method; its starts must draw from ``rng`` to differ.
        starts: Starts per image, S.
        trial: Steps before the choice; as many as the method makes runs all of them to the end.
        by: What starts are compared by, "loss" or "residual". Losses that change their meaning
            between steps (DMILO) are still comparable here, at the same step.

    Raises:
        ValueError: If a count is below 1, or ``by`` is unknown.
    """

    method: Method[Any]
    starts: int = 8
    trial: int = 20
    by: str = "loss"

    def __post_init__(self) -> None:
        choose(JUDGES, self.by, "by")
        if self.starts < 1 or self.trial < 1:
            raise ValueError(
                f"starts and trial must be at least 1, got {self.starts} and {self.trial}"
            )

    @property
    def iterations(self) -> int | None:
        """Steps after which the method itself ends, if it is known."""
        return getattr(self.method, "iterations", None)

    def init(self, problem: Problem, rng: Rng) -> MultiStartState:
        """Returns the first state of every start."""
        require_theta(problem, self.method)
        children = [rng.child(f"start {s}") for s in range(1, self.starts)]
        runs = tuple(self.method.init(problem, stream) for stream in (rng, *children))
        like = problem.y.real
        losses = torch.full((problem.batch, self.starts), torch.inf, device=like.device)
        leader = losses.new_zeros(problem.batch, dtype=torch.long)
        return MultiStartState(runs, leader, losses.to(like.dtype), losses < 0, 0)

    def step(self, problem: Problem, state: MultiStartState) -> tuple[MultiStartState, Info]:
        """Makes one step of every start that still runs; the info is that of the leader."""
        stepped = [self.method.step(problem, run) for run in state.runs]
        runs, infos = tuple(run for run, _ in stepped), [info for _, info in stepped]
        if state.step >= self.trial:
            return replace(state, runs=runs, step=state.step + 1), infos[0]
        losses = torch.stack([self._judged(problem, *pair) for pair in stepped], dim=1)
        ended = state.ended | torch.stack([info.done for info in infos], dim=1)
        leader = losses.nan_to_num(nan=torch.inf).argmin(dim=1)
        shown: Info = gather(infos, leader)
        moved = MultiStartState(runs, leader, losses, ended, state.step + 1)
        if moved.step < self.trial:
            return moved, replace(shown, done=ended.all(dim=1))
        won = ended.gather(1, leader[:, None])[:, 0]
        return replace(moved, runs=(gather(runs, leader),)), replace(shown, done=won)

    def finish(self, problem: Problem, state: MultiStartState) -> Tensor:
        """Returns the answers of the winners, or of those that lead, (B, C, H, W)."""
        return self.method.finish(problem, self._of_leaders(state, state.runs))

    def seed(self, state: MultiStartState) -> Tensor | None:
        """Returns the seeds of the answers, if the method has seeds."""
        return self._told("seed", state)

    def theta(self, state: MultiStartState) -> Unknown | None:
        """Returns the values found for a blind operator's unknown, if there is one."""
        return self._told("theta", state)

    def picked_step(self, state: MultiStartState) -> Tensor | None:
        """Returns the steps of the answers where a rule inside picks them, (B,)."""
        return self._told("picked_step", state)

    def start_losses(self, state: MultiStartState) -> Tensor:
        """Returns what each start was judged by, (B, S), at the choice; the least one won."""
        return state.losses

    def _told(self, name: str, state: MultiStartState) -> Any:
        function = getattr(self.method, name, None)
        if function is None:
            return None
        return self._of_leaders(state, [function(run) for run in state.runs])

    def _of_leaders(self, state: MultiStartState, parts: Sequence[Any]) -> Any:
        return gather(parts, state.leader) if len(parts) > 1 else parts[0]

    def _judged(self, problem: Problem, run: Any, info: Info) -> Tensor:
        if self.by == "loss":
            return info.loss
        if info.residual is not None:
            return info.residual
        told = getattr(self.method, "theta", None)
        known = problem.known(None if told is None else told(run))
        with torch.no_grad():
            return known.residual(known.operator(info.x_hat))


def gather(parts: Sequence[Any], which: Tensor) -> Any:
    """Returns one state whose image i is that of ``parts[which[i]]``.

    The states are of one method after equally many steps, in the form that ``plugip.method.take``
    asks for: dataclasses and containers of tensors whose first axis is the batch. What is shared
    by all images, and operators, are the same in all parts.

    Args:
        parts: The states.
        which: Index of a state for each image, (B,) int64.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        rows = torch.arange(len(which), device=first.device)
        return torch.stack(tuple(parts))[which, rows] if first.ndim else first
    if isinstance(first, Rng):
        return Rng.choose(parts, which.tolist())
    if isinstance(first, (Operator, Problem)):
        return first
    if is_dataclass(first) and not isinstance(first, type):
        names = [f.name for f in fields(first) if f.init]
        return replace(first, **{n: gather([getattr(p, n) for p in parts], which) for n in names})
    if isinstance(first, (list, tuple)):
        taken = [gather(part, which) for part in zip(*parts, strict=True)]
        return type(first)(*taken) if hasattr(first, "_fields") else type(first)(taken)
    if isinstance(first, dict):
        return {key: gather([part[key] for part in parts], which) for key in first}
    return first
