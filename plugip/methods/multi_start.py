"""Several starts for each image: all make a few steps, the one that fits best goes on alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from plugip.diagnostics import Certificate
from plugip.method import Info, Method, require_method, require_theta, take
from plugip.operator import Unknown
from plugip.options import choose
from plugip.problem import Problem
from plugip.rng import Rng

S = TypeVar("S")
JUDGES = {
    "loss": "the method's own objective, penalties included",
    "residual": "root mean square of A(x) - y, which every method has",
}


@dataclass(frozen=True)
class Wide:
    """A state of several rows for each image: row ``i * starts + s`` is start s of image i.

    Attributes:
        state: The method's state of all rows.
        starts: Rows of each image.
    """

    state: Any
    starts: int

    def select(self, images: list[int]) -> Wide:
        """Returns all rows of some images."""
        rows = [i * self.starts + s for i in images for s in range(self.starts)]
        return replace(self, state=take(self.state, rows))

    def pick(self, which: Tensor) -> Any:
        """Returns the method's state of one start for each image, (B,) int64."""
        return take(self.state, [i * self.starts + s for i, s in enumerate(which.tolist())])


@dataclass(frozen=True)
class MultiStartState:
    """The running starts.

    Attributes:
        run: All starts of all images side by side; the method's state of the winners after the
            choice.
        leader: The start of least loss, (B,) int64; the winner after the choice.
        losses: What the starts are judged by, at their latest common step, (B, S).
        ended: Starts that the method itself called done, (B, S) bool.
        step: Steps made.
    """

    run: Wide | Any
    leader: Tensor
    losses: Tensor
    ended: Tensor
    step: int


@dataclass(frozen=True)
class MultiStart(Generic[S]):
    """A method that tries several starts per image and goes on with the best of them.

    For problems with false minima, such as phase retrieval, where a run is won or lost early. All
    starts make ``trial`` steps; then, image by image, the one of least measured loss goes on, as
    if it had been alone.

    Start 0 draws from the image's own stream, so one start is the bare method, and more starts
    never lose its run; start s > 0 has a stream of its own. A method that starts at a fixed point
    (z = 0) is refused: its starts would be equal.

    All starts of all images are one batch of B S rows in the trial: memory is that of so many
    images, and an image's bill holds S calls for each call of that batch. What is reported in the
    trial is the start that leads at that step.

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
        ValueError: If a count is below 1, or ``by`` is unknown; from ``init``, if the starts of an
            image are equal.
    """

    method: Method[Any]
    starts: int = 8
    trial: int = 20
    by: str = "loss"

    def __post_init__(self) -> None:
        require_method(self.method)
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
        with problem.prior.counter.times(self.starts):
            run = Wide(self.method.init(self._wide(problem), rng.branch(self.starts)), self.starts)
        self._require_differing(run)
        losses = problem.y.real.new_full((problem.batch, self.starts), torch.inf)
        leader = losses.new_zeros(problem.batch, dtype=torch.long)
        return MultiStartState(run, leader, losses, losses < 0, 0)

    def _require_differing(self, run: Wide) -> None:
        function = getattr(self.method, "seed", None)
        seeds = None if function is None or self.starts == 1 else function(run.state)
        if seeds is not None and torch.equal(seeds[0 :: self.starts], seeds[1 :: self.starts]):
            raise ValueError(
                f"all {self.starts} starts of an image are equal, since "
                f"{type(self.method).__name__} begins at one fixed seed; let it draw, for "
                "instance by method.start.scale=1"
            )

    def step(self, problem: Problem, state: MultiStartState) -> tuple[MultiStartState, Info]:
        """Makes one step of every start that still runs; the info is that of the leader."""
        if state.step < self.trial:
            return self._try(problem, state)
        run, info = self.method.step(problem, state.run)
        return replace(state, run=run, step=state.step + 1), info

    def _try(self, problem: Problem, state: MultiStartState) -> tuple[MultiStartState, Info]:
        wide = self._wide(problem)
        with problem.prior.counter.times(self.starts):
            run, info = self.method.step(wide, state.run.state)
        losses = self._judged(wide, run, info).reshape(state.losses.shape)
        ended = state.ended | info.done.reshape(state.ended.shape)
        leader = losses.nan_to_num(nan=torch.inf).argmin(dim=1)
        moved = MultiStartState(Wide(run, self.starts), leader, losses, ended, state.step + 1)
        shown = self._shown(info, leader)
        if moved.step < self.trial:
            return moved, replace(shown, done=ended.all(dim=1))
        won = ended.gather(1, leader[:, None])[:, 0]
        return replace(moved, run=moved.run.pick(leader)), replace(shown, done=won)

    def finish(self, problem: Problem, state: MultiStartState) -> Tensor:
        """Returns the answers of the winners, or of those that lead, (B, C, H, W)."""
        return self.method.finish(problem, self._leading(state))

    def seed(self, state: MultiStartState) -> Tensor | None:
        """Returns the seeds of the answers, if the method has seeds."""
        return self._told("seed", state)

    def theta(self, state: MultiStartState) -> Unknown | None:
        """Returns the values found for a blind operator's unknown, if there is one."""
        return self._told("theta", state)

    def picked_step(self, state: MultiStartState) -> Tensor | None:
        """Returns the steps of the answers where a rule inside picks them, (B,)."""
        return self._told("picked_step", state)

    def certificate(self, state: MultiStartState) -> Certificate | None:
        """Returns the certificates of the answers, if the method has them."""
        return self._told("certificate", state)

    def start_losses(self, state: MultiStartState) -> Tensor:
        """Returns what each start was judged by, (B, S), at the choice; the least one won."""
        return state.losses

    def _wide(self, problem: Problem) -> Problem:
        return problem.select([i for i in range(problem.batch) for _ in range(self.starts)])

    def _shown(self, info: Info, leader: Tensor) -> Info:
        rows = torch.arange(len(leader), device=leader.device) * self.starts + leader
        residual, ending = (None if v is None else v[rows] for v in (info.residual, info.ending))
        return Info(info.x_hat[rows], info.loss[rows], info.done[rows], residual, ending)

    def _leading(self, state: MultiStartState) -> Any:
        return state.run.pick(state.leader) if isinstance(state.run, Wide) else state.run

    def _told(self, name: str, state: MultiStartState) -> Any:
        function = getattr(self.method, name, None)
        return None if function is None else function(self._leading(state))

    def _judged(self, wide: Problem, run: Any, info: Info) -> Tensor:
        if self.by == "loss":
            return info.loss
        if info.residual is not None:
            return info.residual
        told = getattr(self.method, "theta", None)
        known = wide.known(None if told is None else told(run))
        with torch.no_grad():
            return known.residual(known.operator(info.x_hat))
