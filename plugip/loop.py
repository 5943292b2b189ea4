"""The one loop, ``solve``: it steps a method, keeps the books, and drops images that are done."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from plugip.diagnostics import Diagnostics, Ending, diagnose
from plugip.method import (
    Info,
    Method,
    Observer,
    Solution,
    Trace,
    join,
    require_denoiser,
    require_method,
    require_theta,
    take,
)
from plugip.prior import Bill
from plugip.problem import Problem, open_streams
from plugip.refusals import named, require_part
from plugip.rng import Rng

Part = tuple[int, Solution]
# What a method may say of its answers, by optional functions of the state.
TOLD = ("seed", "theta", "certificate", "picked_step", "start_losses")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during ``solve``; carries what was reached.

    Attributes:
        finished: Positions in the batch and solutions of the images that were complete.
        partial: Those of the images that were being solved.
    """

    def __init__(self, finished: list[Part], partial: list[Part]) -> None:
        super().__init__("interrupted")
        self.finished, self.partial = finished, partial


def solve(
    problem: Problem,
    method: Method[Any],
    rng: Rng | int = 0,
    *,
    ids: Sequence[str] | None = None,
    rows: int | None = None,
    observer: Observer | None = None,
) -> Solution:
    """Solves a batch of inverse problems.

    Args:
        problem: Measurements, operator, noise and prior.
        method: The method, possibly wrapped by a stopping rule.
        rng: Random streams of the images, or the integer seed from which they are opened.
        ids: Names of the images when ``rng`` is an integer; "0", "1", ... by default.
        rows: Images solved in one tensor. Default: one at a time on a CPU, all together elsewhere.
            CPU kernels round differently for different batch sizes, and an optimisation amplifies
            the last bit; one at a time, an image's answer is bitwise independent of its
            neighbours.
        observer: Called after each step with (step, positions in the batch, info); it may look,
            and the method cannot see it.

    Returns:
        Answers, costs, traces and diagnostics, in the order of the batch.

    Raises:
        TypeError: If an argument is of another kind, or the method needs something that the
            problem lacks; before the first network call.
        Interrupted: On Ctrl-C, with what was reached.
    """
    require_part(problem, Problem, "problem", "make one with Problem(y, operator, noise, prior)")
    require_method(method)
    _require_rows(rows)
    if observer is not None and not callable(observer):
        raise TypeError(f"observer must be a function (step, rows, info), got {named(observer)}")
    require_theta(problem, method)
    require_denoiser(problem, method)
    streams = open_streams(rng, "solve", problem.batch, ids)
    width = rows or (1 if problem.y.device.type == "cpu" else problem.batch)
    done: list[Part] = []
    for first in range(0, problem.batch, width):
        chunk = list(range(first, min(first + width, problem.batch)))
        run = _Run(problem.select(chunk), method, chunk, observer)
        done += _solve_chunk(run, streams.select(chunk), done)
    return join([solution for _, solution in sorted(done, key=lambda part: part[0])])


def _require_rows(rows: object) -> None:
    if rows is None:
        return
    if isinstance(rows, bool) or not isinstance(rows, int):
        raise TypeError(f"rows must be a whole number or None, got {named(rows)}")
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")


def _solve_chunk(run: _Run, rng: Rng, before: list[Part]) -> list[Part]:
    finished: list[Part] = []
    try:
        run.start(rng)
        while run.rows:
            finished += run.advance()
    except KeyboardInterrupt:
        raise _interrupted(run, before + finished) from None
    return finished


def _interrupted(run: _Run, finished: list[Part]) -> Interrupted:
    try:
        partial = run.close(list(range(len(run.rows))))
    except Exception as error:  # Ctrl-C counts, also where nothing can be told of the step at work
        interrupted = Interrupted(finished, [])
        interrupted.__cause__ = error
        return interrupted
    return Interrupted(finished, partial)


class _Run:
    """A running batch with its books: losses, residuals, costs, memory."""

    def __init__(
        self,
        problem: Problem,
        method: Method[Any],
        rows: list[int],
        observer: Observer | None,
    ) -> None:
        self.problem, self.method, self.observer = problem, method, observer
        self.rows, self.size, self.step = rows, len(rows), 0
        self.limit: int | None = getattr(method, "iterations", None)
        # Reading `done` waits for the GPU, so there it is read every tenth step only; these steps
        # are fixed, so an answer does not depend on who else is in the batch.
        self.every = 1 if problem.y.device.type == "cpu" else 10
        self.course: list[Tensor] = []  # loss and residual of some steps, (steps, 2, rows)
        self.info: Info | None = None
        self.bill = Bill()
        self.memory, self.began = _MemoryGauge(problem.y.device), time.perf_counter()
        self.state: Any = None

    def start(self, rng: Rng) -> None:
        """Makes the first state; its network calls count."""
        with self._billed(self.rows):
            self.state = self.method.init(self.problem, rng)

    def advance(self) -> list[Part]:
        """Makes one step and returns the images that it ended."""
        with self._billed(self.rows):
            self.state, info = self.method.step(self.problem, self.state)
        self.info, self.step = self._complete(info), self.step + 1
        told = self.info.loss.detach(), self.info.residual.detach()  # type: ignore[union-attr]
        self.course.append(torch.stack(told)[None])
        if self.observer is not None:
            self.observer(self.step, self.rows, self.info)
        ended = self._ended()
        closed = self.close(ended)
        self._keep([i for i in range(len(self.rows)) if i not in ended])
        return closed

    def _complete(self, info: Info) -> Info:
        if info.residual is not None:
            return info
        known = self.problem.known(self._told("theta", self.state))
        with torch.no_grad():
            return replace(info, residual=known.residual(known.operator(info.x_hat)))

    def _ended(self) -> list[int]:
        if self.limit is not None and self.step >= self.limit:
            return list(range(len(self.rows)))
        if self.info is None or self.step % self.every:
            return []
        return [i for i, flag in enumerate(self.info.done.tolist()) if flag]

    def close(self, ended: list[int]) -> list[Part]:
        """Returns the solutions of some rows, one by one."""
        if self.info is None or not ended:
            return []
        rows, problem, state, info = self._only(ended)
        with self._billed(rows):
            x_hat = self.method.finish(problem, state)
        told = {name: self._told(name, state) for name in TOLD}
        steps, picked = [self.step] * len(rows), told["picked_step"]
        losses, residuals = torch.cat(self.course)[:, :, ended].cpu().unbind(1)
        shared = Solution(
            x_hat=x_hat,
            last=info.x_hat,
            z=told["seed"],
            steps=steps,
            answer_steps=steps if picked is None else picked.tolist(),
            nfe=[self.bill.nfe[row] for row in rows],
            vjps=[self.bill.vjps[row] for row in rows],
            seconds=[(time.perf_counter() - self.began) / self.size] * len(rows),
            peak_memory=self.memory.peak(),
            trace=[Trace(losses[:, i], residuals[:, i]) for i in range(len(rows))],
            diagnostics=_diagnosed(problem, x_hat, info, told),
            theta=told["theta"],
            start_losses=told["start_losses"],
            picked=picked is not None,
        )
        return [(row, shared.select(i)) for i, row in enumerate(rows)]

    def _told(self, name: str, state: Any) -> Any:
        """Returns what an optional function of the method says of a state, such as its seed."""
        function = getattr(self.method, name, None)
        return None if function is None else function(state)

    def _billed(self, images: list[int]) -> AbstractContextManager[None]:
        """Puts what is called inside on the bill of these images, the rows of what is called."""
        return self.problem.prior.counter.billed_to(self.bill, images)

    def _only(self, ended: list[int]) -> tuple[list[int], Problem, Any, Any]:
        """Returns positions, problem, state and report of some rows; others then pay nothing."""
        if len(ended) == len(self.rows):
            return self.rows, self.problem, self.state, self.info
        rows = [self.rows[i] for i in ended]
        return rows, self.problem.select(ended), *take((self.state, self.info), ended)

    def _keep(self, kept: list[int]) -> None:
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in kept]
        if kept:
            # Ctrl-C may come before the next step: what was reported last is cut as well.
            self.problem, self.state = self.problem.select(kept), take(self.state, kept)
            self.info = take(self.info, kept)
            self.course = [torch.cat(self.course)[:, :, kept]]


def _diagnosed(
    problem: Problem, x_hat: Tensor, info: Info, told: dict[str, Any]
) -> list[Diagnostics]:
    endings = [Ending.OPEN] * problem.batch
    if info.ending is not None:
        endings = [Ending(value) for value in info.ending.tolist()]
    known = problem.known(told["theta"])
    return diagnose(known, x_hat, told["seed"], told["certificate"], endings)


class _MemoryGauge:
    """Peak memory in bytes: of the GPU since construction, of the whole process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> int | None:
        """Returns the highest memory so far; None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _process_peak()


def _process_peak() -> int | None:
    """Returns the highest memory of this process in bytes, if there is a way to know it."""
    try:
        import resource  # POSIX only

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    except ImportError:
        pass
    try:
        import psutil  # comes with some packages; only its Windows part knows a peak

        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    except ImportError:
        return None
