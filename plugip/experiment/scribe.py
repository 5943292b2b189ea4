"""From a solved image to what is recorded of it: rows, pictures, trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from plugip.diagnostics import Ending, diagnose
from plugip.experiment.pictures import drawn, naive, named_parts
from plugip.experiment.scoring import Judge
from plugip.method import Solution, Trace
from plugip.operator import Unknown
from plugip.pictures import show
from plugip.problem import Problem
from plugip.record import Parts, Record, Row


@dataclass(frozen=True)
class Case:
    """One image ready to be solved.

    Attributes:
        id: The image.
        digest: sha256 of its file.
        x: The truth, (1, C, H, W) in [-1, 1], if there is one.
        y: The measurement, (1, *Y).
        theta: The true unknown of a blind operator, if y was simulated; never shown to a method.
    """

    id: str
    digest: str
    x: Tensor | None
    y: Tensor
    theta: Unknown | None = None


@dataclass(frozen=True)
class Scribe:
    """Writes each image's parts as soon as they are known.

    Args:
        record: Where to.
        judge: Scores against the truth.
        std: Noise level, if known.
        rng_seed: The integer of reproducibility, for the rows.
    """

    record: Record
    judge: Judge
    std: float | None
    rng_seed: int

    def fail(self, image_id: str, digest: str, message: str) -> None:
        """Records an image that could not be solved, with the reason."""
        self.record.write_parts(
            Parts(image_id, digest, [self._row(image_id, "", "failed", message)])
        )

    def keep(
        self,
        case: Case,
        problem: Problem,
        solution: Solution,
        status: str,
        best: tuple[int, Tensor] | None = None,
        stopped: bool = False,
    ) -> None:
        """Scores and records one solved image.

        Args:
            case: The image.
            problem: Its problem.
            solution: Its solution.
            status: "ok" or "interrupted".
            best: Step and image of the oracle's iterate.
            stopped: Whether a stopping rule picked the answer.
        """
        shown, view = show(case.y[0], max(problem.prior.image_shape[-2:]))
        pictures = {"measurement": shown}
        if case.x is not None:
            pictures["truth"] = case.x[0]
        if torch.isfinite(solution.last).all() and torch.isfinite(solution.x_hat).all():
            rows = list(self._rows(case, problem, solution, status, best, stopped))
            pictures |= self._answers(case, problem, solution, stopped)
        else:
            rows = [self._row(case.id, "", "failed", _diverged(solution.steps[0]))]
        arrays = {"measurement": case.y[0]}
        for name, theta in (("theta", solution.theta), ("theta_true", case.theta)):
            arrays |= named_parts(name, theta)
        unknowns = {name: array for name, array in arrays.items() if name != "measurement"}
        pictures |= {name: p for name, theta in unknowns.items() for p in drawn(theta)}
        if solution.start_losses is not None:
            arrays["start_losses"] = solution.start_losses[0]
        trace = _columns(solution.trace[0], self.std)
        self.record.write_parts(Parts(case.id, case.digest, rows, pictures, arrays, view, trace))

    def _answers(
        self, case: Case, problem: Problem, solution: Solution, stopped: bool
    ) -> dict[str, Tensor]:
        pictures = {"reconstruction": solution.last[0]}
        if stopped:
            pictures["stopped"] = solution.x_hat[0]
        if case.x is None:
            return pictures
        baseline = self._baseline(case, problem)
        if baseline is not None and baseline.shape != case.y.shape:
            pictures["input"] = baseline[0]
        if self.judge.align is not None:
            pictures["aligned"] = self.judge.aligned(solution.x_hat, case.x)[0]
        return pictures

    @staticmethod
    def _baseline(case: Case, problem: Problem) -> Tensor | None:
        return naive(case.y, problem.prior.image_shape, problem.operator)

    def _rows(
        self,
        case: Case,
        problem: Problem,
        solution: Solution,
        status: str,
        best: tuple[int, Tensor] | None,
        stopped: bool,
    ) -> Iterator[Row]:
        cost = {
            "nfe": solution.nfe[0],
            "vjps": solution.vjps[0],
            "seconds": solution.seconds[0],
            "peak_memory": solution.peak_memory,
        }
        baseline = None if case.x is None else self._baseline(case, problem)
        if baseline is not None:
            yield self._judged(self._row(case.id, "input", status), case, problem, baseline)
        checks = solution.diagnostics[0]  # a method's own certificate is known to it alone
        certified = {"stationarity": checks.stationarity, "violation": checks.violation}
        # Seed, unknown and certificate of a solution are those of its answer, which is the last
        # iterate where no rule has picked another.
        step = solution.answer_steps[0] or solution.steps[0]  # 0: the rule never fired
        same, answer = step == solution.steps[0], (solution.z, solution.theta)
        z, theta = answer if same else (None, None)
        last = self._row(case.id, "last", status, step=solution.steps[0], **cost)
        last = replace(last, **certified) if same else last
        yield self._judged(last, case, problem, solution.last, z, theta, checks.ending)
        if stopped:
            row = self._row(case.id, "stopped", status, step=step, **cost)
            row = replace(row, **certified)
            yield self._judged(row, case, problem, solution.x_hat, *answer, checks.ending)
        if best is not None:
            row = self._row(case.id, "oracle", status, step=best[0], **cost)
            yield self._judged(row, case, problem, best[1])

    def _judged(
        self,
        row: Row,
        case: Case,
        problem: Problem,
        x_hat: Tensor,
        z: Tensor | None = None,
        theta: Unknown | None = None,
        ending: Ending = Ending.OPEN,
    ) -> Row:
        # An iterate whose unknown was not kept can be scored, but not be held against y.
        judgeable = not problem.blind or theta is not None
        if judgeable:
            row = _described(row, problem.known(theta), x_hat, z, ending)
        if case.x is None:
            return row
        metrics, notes = self.judge.scores(x_hat, case.x)
        return replace(row, metrics=metrics, metric_notes=notes)

    def _row(self, image_id: str, kind: str, status: str, message: str = "", **values: Any) -> Row:
        known = {"rng_seed": self.rng_seed, "config_hash": self.record.hash}
        return Row(image_id, kind, status, message, **known, **values)


def _described(row: Row, problem: Problem, x_hat: Tensor, z: Tensor | None, ending: Ending) -> Row:
    """Adds what can be said without the truth: residual, chi-square, seed norm, saturation."""
    with torch.no_grad():
        residual = float(problem.residual(problem.operator(x_hat))[0])
    d = diagnose(problem, x_hat, z, endings=[ending])[0]
    d = replace(d, stationarity=row.stationarity, violation=row.violation)
    return replace(
        row,
        residual=residual,
        residual_to_noise=d.residual_to_noise,
        chi_square=d.chi_square,
        seed_norm=d.seed_norm,
        saturation=d.saturation,
        explains_y=d.explains_y,
        message="; ".join(d.sentences()) if row.kind in ("last", "stopped") else "",
    )


def _columns(trace: Trace, std: float | None) -> dict[str, list[float]]:
    """Returns one image's trace as columns: step, loss, residual and residual / noise."""
    residual = trace.residual.double()
    ratio = residual / std if std is not None else torch.full_like(residual, math.nan)
    return {
        "step": list(range(1, len(residual) + 1)),
        "loss": trace.loss.double().tolist(),
        "residual": residual.tolist(),
        "residual_to_noise": ratio.tolist(),
    }


def _diverged(steps: int) -> str:
    return (
        f"the answer holds NaN or infinite values after {steps} steps: the method diverged; "
        "a smaller step size may help"
    )
