"""From a solved image to what is recorded of it: rows, pictures, trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from plugip.diagnostics import Ending, diagnose
from plugip.experiment.failure import Failure, reason
from plugip.experiment.pictures import drawn, naive, named_parts
from plugip.experiment.scoring import Judge
from plugip.method import Solution, Trace
from plugip.operator import Unknown
from plugip.pictures import show
from plugip.problem import Problem
from plugip.record import Parts, Record, RecordError, Row
from plugip.terminal import encodable

T = TypeVar("T")
ANSWERS = ("last", "stopped")  # the kinds of rows whose message says what to think of them
NEVER_FIRED = "the stopping rule never fired: this is the last iterate"


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


@dataclass
class Margin:
    """Does what stands beside an answer: a part that raises is left out, and the reason noted.

    Args:
        debug: Let exceptions through.
        notes: What is missing, and why.
    """

    debug: bool
    notes: list[str] = field(default_factory=list)

    def attempt(self, what: str, part: Callable[..., T], *given: Any) -> T | None:
        """Returns a part; None if it raises."""
        try:
            return part(*given)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self.debug:
                raise
            self.notes.append(f"no {what}: {reason(error)}")
            return None

    def finite(self, pictures: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the pictures that a file can hold."""
        whole = {name: p for name, p in pictures.items() if torch.isfinite(p).all()}
        lost = [name for name in pictures if name not in whole]
        self.notes += [f"no picture {name}: it holds NaN or infinite values" for name in lost]
        return whole


@dataclass(frozen=True)
class Scribe:
    """Writes each image's parts as soon as they are known.

    What goes wrong beside an answer, in a score, a picture or a diagnosis, costs that part only,
    and the row says why.

    Args:
        record: Where to.
        judge: Scores against the truth.
        std: Noise level, if known.
        rng_seed: The integer of reproducibility, for the rows.
        solver_seed: The integer behind the solver's own stream, for the rows.
        debug: Let exceptions through.
    """

    record: Record
    judge: Judge
    std: float | None
    rng_seed: int
    solver_seed: int
    debug: bool = False

    def fail(self, image_id: str, digest: str, failure: Failure) -> list[Row]:
        """Records an image that could not be solved, with the reason; returns its row."""
        rows = [self._row(image_id, "", "failed", failure.advice)]
        self.record.write_parts(Parts(image_id, digest, rows, error=_printable(failure.trace)))
        return rows

    def keep(
        self,
        case: Case,
        problem: Problem,
        solution: Solution,
        status: str,
        best: tuple[int, Tensor] | None = None,
        notes: Sequence[str] = (),
    ) -> list[Row]:
        """Scores and records one solved image.

        Args:
            case: The image.
            problem: Its problem.
            solution: Its solution.
            status: "ok" or "interrupted".
            best: Step and image of the oracle's iterate.
            notes: What is missing already, and why.

        Returns:
            Its rows.
        """
        margin = Margin(self.debug, list(notes))
        view, pictures = self._given(case, problem, margin)
        if torch.isfinite(solution.x_hat).all():
            baseline = self._baseline(case, problem, margin)
            bench = _Bench(self.judge, case, problem, margin)
            rows = list(self._rows(bench, solution, status, best, baseline))
            pictures |= self._answers(case, solution, baseline, margin)
        else:
            rows = [self._row(case.id, "", "failed", _diverged(solution.steps[0]))]
        arrays = {"measurement": case.y[0]}
        for name, theta in (("theta", solution.theta), ("theta_true", case.theta)):
            arrays |= named_parts(name, theta)
        pictures |= self._unknowns(arrays, margin)
        if solution.start_losses is not None:
            arrays["start_losses"] = solution.start_losses[0]
        trace = _columns(solution.trace[0], self.std)
        pictures = margin.finite(pictures)
        return self._write(
            Parts(case.id, case.digest, rows, pictures, arrays, view, trace), margin
        )

    def _write(self, parts: Parts, margin: Margin) -> list[Row]:
        """Writes the parts; without their pictures if one cannot be encoded."""
        rows = _noted(parts.rows, margin.notes)
        try:
            self.record.write_parts(replace(parts, rows=rows))
        except Exception as error:
            if self.debug or isinstance(error, RecordError):
                raise
            rows = _noted(parts.rows, [*margin.notes, f"no pictures: {reason(error)}"])
            self.record.write_parts(replace(parts, rows=rows, pictures={}))
        return rows

    def _given(
        self, case: Case, problem: Problem, margin: Margin
    ) -> tuple[str, dict[str, Tensor]]:
        """Returns how y is shown, and the pictures that there are before any answer."""
        truth = {} if case.x is None else {"truth": case.x[0]}
        # On the CPU: not every device has the float64 that logarithms are drawn from.
        y, side = case.y[0].cpu(), max(problem.prior.image_shape[-2:])
        shown = margin.attempt("picture of the measurement", show, y, side)
        return ("", truth) if shown is None else (shown[1], {"measurement": shown[0], **truth})

    def _unknowns(self, arrays: dict[str, Tensor], margin: Margin) -> dict[str, Tensor]:
        pictures = {}
        for name, theta in arrays.items():
            if name != "measurement":
                shown = margin.attempt(f"picture {name}", drawn, theta.cpu())
                pictures |= {name: shown[0]} if shown else {}
        return pictures

    def _baseline(self, case: Case, problem: Problem, margin: Margin) -> Tensor | None:
        if case.x is None:
            return None
        given = case.y, problem.prior.image_shape, problem.operator
        return margin.attempt("baseline", naive, *given)

    def _answers(
        self, case: Case, solution: Solution, baseline: Tensor | None, margin: Margin
    ) -> dict[str, Tensor]:
        pictures = {"reconstruction": solution.last[0]}
        if _fired(solution):
            pictures["stopped"] = solution.x_hat[0]
        if case.x is None:
            return pictures
        if baseline is not None and baseline.shape != case.y.shape:
            pictures["input"] = baseline[0]
        if self.judge.align is not None:
            found = solution.x_hat, case.x
            aligned = margin.attempt("picture aligned", self.judge.aligned, *found)
            pictures |= {} if aligned is None else {"aligned": aligned[0]}
        return pictures

    def _rows(
        self,
        bench: _Bench,
        solution: Solution,
        status: str,
        best: tuple[int, Tensor] | None,
        baseline: Tensor | None,
    ) -> Iterator[Row]:
        image_id = bench.case.id
        cost = {
            "nfe": solution.nfe[0],
            "vjps": solution.vjps[0],
            "seconds": solution.seconds[0],
            "peak_memory": solution.peak_memory,
        }
        if baseline is not None:
            yield bench.judged(self._row(image_id, "input", status), baseline)
        checks = solution.diagnostics[0]  # a method's own certificate is known to it alone
        certified = {"stationarity": checks.stationarity, "violation": checks.violation}
        # Seed, unknown and certificate of a solution are those of its answer, which is the last
        # iterate where no rule has picked another.
        fired, step = _fired(solution), solution.answer_steps[0] or solution.steps[0]
        same, answer = step == solution.steps[0], (solution.z, solution.theta)
        z, theta = answer if same else (None, None)
        last = self._row(image_id, "last", status, step=solution.steps[0], **cost)
        last = replace(last, **certified) if same else last
        last = bench.judged(last, solution.last, z, theta, checks.ending)
        yield _noted([last], [] if fired or not solution.picked else [NEVER_FIRED])[0]
        if fired:
            row = self._row(image_id, "stopped", status, step=step, **cost)
            row = replace(row, **certified)
            yield bench.judged(row, solution.x_hat, *answer, checks.ending)
        if best is not None:
            row = self._row(image_id, "oracle", status, step=best[0], **cost)
            yield bench.judged(row, best[1])

    def _row(self, image_id: str, kind: str, status: str, message: str = "", **values: Any) -> Row:
        seeds = {"rng_seed": self.rng_seed, "solver_seed": self.solver_seed}
        said, name = _printable(message), self.record.hash
        return Row(image_id, kind, status, said, config_hash=name, **seeds, **values)


@dataclass(frozen=True)
class _Bench:
    """Judges the iterates of one image."""

    judge: Judge
    case: Case
    problem: Problem
    margin: Margin

    def judged(
        self,
        row: Row,
        x_hat: Tensor,
        z: Tensor | None = None,
        theta: Unknown | None = None,
        ending: Ending = Ending.OPEN,
    ) -> Row:
        """Returns the row with all that can be said of an iterate, with and without the truth."""
        if not torch.isfinite(x_hat).all():
            return replace(row, message="the last iterate holds NaN or infinite values")
        # An iterate whose unknown was not kept can be scored, but not be held against y.
        if not self.problem.blind or theta is not None:
            given = row, self.problem, x_hat, z, theta, ending
            row = self.margin.attempt(f"diagnosis of {row.kind}", _described, *given) or row
        if self.case.x is None:
            return row
        metrics, notes = self.judge.scores(x_hat, self.case.x)
        notes = {name: _printable(note) for name, note in notes.items()}
        return replace(row, metrics=metrics, metric_notes=notes)


def _described(
    row: Row,
    problem: Problem,
    x_hat: Tensor,
    z: Tensor | None,
    theta: Unknown | None,
    ending: Ending,
) -> Row:
    """Adds what can be said without the truth: residual, chi-square, seed norm, saturation."""
    known = problem.known(theta)
    with torch.no_grad():
        residual = float(known.residual(known.operator(x_hat))[0])
    d = diagnose(known, x_hat, z, endings=[ending])[0]
    d = replace(d, stationarity=row.stationarity, violation=row.violation)
    return replace(
        row,
        residual=residual,
        residual_to_noise=d.residual_to_noise,
        chi_square=d.chi_square,
        seed_norm=d.seed_norm,
        saturation=d.saturation,
        explains_y=d.explains_y,
        message="; ".join(d.sentences()) if row.kind in ANSWERS else "",
    )


def _fired(solution: Solution) -> bool:
    """Tells whether a stopping rule picked the answer, wherever it stands among the wrappers."""
    return solution.picked and solution.answer_steps[0] > 0


def _noted(rows: Sequence[Row], notes: Sequence[str]) -> list[Row]:
    """Adds notes to what the answers' rows say."""
    return [
        replace(row, message=_printable("; ".join(filter(None, (row.message, *notes)))))
        if row.kind in ANSWERS
        else row
        for row in rows
    ]


def _printable(text: str) -> str:
    """Returns a text that any file can hold; paths may hold bytes that are no text."""
    return encodable(text, "utf-8")


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
