"""One experiment: for each batch measure, solve, score and record, resuming what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugip.data import ImageError, ImageFolder, Item
from plugip.experiment.observers import Align, Oracle, Progress
from plugip.experiment.scoring import Judge, describe, naive, picture_of, trace_columns
from plugip.experiment.team import Team, join_team
from plugip.loop import Interrupted, solve
from plugip.method import Info, Method, Solution
from plugip.metrics import NamedMetric
from plugip.noise import Noise
from plugip.operator import Operator
from plugip.prior import Prior
from plugip.problem import Problem, measure
from plugip.record import Parts, Record, Row
from plugip.record.provenance import file_digest, weights_digest
from plugip.rng import Rng
from plugip.stopping import Stopped


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        folder: The run folder.
        rows: All rows of its images, in the order of the data.
        skipped: Images that an earlier run had finished.
        conventions: What each metric means, or why it is missing.
        interrupted: Whether Ctrl-C ended it.
    """

    folder: Path
    rows: list[Row]
    skipped: list[str]
    conventions: dict[str, str]
    interrupted: bool

    @property
    def failed(self) -> dict[str, str]:
        """Reasons by id of the images that could not be solved."""
        return {row.id: row.message for row in self.rows if row.status == "failed"}

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 1 if an image failed, else 0."""
        return 130 if self.interrupted else 1 if self.failed else 0


@dataclass(frozen=True)
class _Case:
    """One image ready to be solved: x (1, C, H, W) or None, y (1, *Y)."""

    id: str
    digest: str
    x: Tensor | None
    y: Tensor


@dataclass(frozen=True)
class Experiment:
    """Solves one inverse problem for every image of a list and records everything.

    Args:
        data: True images; measurements are simulated from them. Or, with ``real``, measurements.
        operator: The forward map; what is random in it is drawn per image.
        noise: The noise model.
        prior: The prior.
        method: The method, possibly ``Stopped``.
        metrics: Scores against the truth.
        record: Where results go.
        real: ``data`` lists measurements, read as they are; then there is no truth and no score.
        align: Resolves symmetries of the answer before scoring.
        rng_seed: The integer of reproducibility.
        batch_size: Images per batch; no answer depends on it.
        device: "auto", or a torch device.
        oracle: Keep the best iterate by true PSNR, as a row of its own.
        title: Heads figures and tables.
        progress: Show a progress bar on terminals.
    """

    data: ImageFolder
    operator: Operator
    noise: Noise
    prior: Prior
    method: Method[Any]
    metrics: Sequence[NamedMetric]
    record: Record
    real: bool = False
    align: Align | None = None
    rng_seed: int = 0
    batch_size: int = 16
    device: str = "auto"
    oracle: bool = True
    title: str = "plugip"
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def run(self) -> Summary:
        """Solves what is not finished yet, and writes tables and figures.

        Returns:
            All rows. An image that cannot be read or does not fit has a row that says why; the others
            go on. After Ctrl-C the summary says so, and what was reached is written.

        Raises:
            ValueError, TypeError: If the parts do not fit each other; before any solving.
            OSError: If results cannot be written.
        """
        team = join_team(self.device)
        self.operator.to(team.device)
        self.prior.to(team.device)
        self._require_fit()
        items, judge = self.data.items(), Judge(self.metrics, self.align)
        if team.leads:
            self.record.begin(team.device, weights_digest(self.prior))
        ids = [item.id for item in items]
        mine = [(item, file_digest(item.path)) for item in team.share(items)]
        todo = [case for case in mine if not self.record.finished(case[0].id, case[1])]
        interrupted = self._solve_all(todo, ids, judge, team)
        if not interrupted:
            team.wait()
        if team.leads:
            self.record.end(ids, judge.conventions, self.title)
        team.leave()
        waiting = {item.id for item, _ in todo}
        skipped = [item.id for item, _ in mine if item.id not in waiting]
        rows = self.record.rows(ids)
        return Summary(self.record.folder, rows, skipped, judge.conventions, interrupted)

    def _solve_all(
        self, todo: list[tuple[Item, str]], ids: list[str], judge: Judge, team: Team
    ) -> bool:
        """Solves batch by batch; returns whether Ctrl-C ended it."""
        alone = team.device.type == "cpu"  # there ``solve`` takes the images one by one
        runs = len(todo) if alone else -(-len(todo) // self.batch_size)
        steps = getattr(self.method, "iterations", None)
        progress = Progress(runs, steps, self.noise.std, self.progress and team.leads)
        try:
            for first in range(0, len(todo), self.batch_size):
                batch = todo[first : first + self.batch_size]
                self._solve_batch(batch, judge, progress, team.device)
                if team.leads:
                    self.record.write_scores(ids)
        except KeyboardInterrupt:
            return True
        finally:
            progress.close()
        return False

    def _solve_batch(
        self,
        batch: list[tuple[Item, str]],
        judge: Judge,
        progress: Progress,
        device: torch.device,
    ) -> None:
        prepared = [self._prepare(item, digest, device) for item, digest in batch]
        cases = [case for case in prepared if case is not None]
        if not cases:
            return
        ids = [case.id for case in cases]
        problem = self._problem(ids, torch.cat([case.y for case in cases]))
        oracle = self._oracle(cases)
        progress.begin(ids)

        def observe(step: int, rows: list[int], info: Info) -> None:
            progress(step, rows, info)
            if oracle is not None:
                oracle(step, rows, info)

        def keep(parts: Sequence[tuple[int, Solution]], status: str) -> None:
            for i, solution in parts:
                self._keep(cases[i], problem.select([i]), solution, oracle, i, status, judge)

        try:
            solution = solve(problem, self.method, self._rng("solve", ids), observer=observe)
        except Interrupted as stop:
            keep(stop.finished, "ok")
            keep(stop.partial, "interrupted")
            raise
        keep([(i, solution.select(i)) for i in range(len(cases))], "ok")

    def _prepare(self, item: Item, digest: str, device: torch.device) -> _Case | None:
        """Loads and measures one image, alone, so that y depends on nothing else."""
        try:
            loaded = self.data.load(item).to(device)[None]
            y = loaded if self.real else self._measure(item.id, loaded)
            self._problem([item.id], y)
        except ValueError as error:
            row = self._row(item.id, "", "failed", message=str(error))
            self.record.write_parts(Parts(item.id, digest, [row]))
            return None
        return _Case(item.id, digest, None if self.real else loaded, y)

    def _measure(self, image_id: str, x: Tensor) -> Tensor:
        wanted, given = tuple(self.prior.image_shape), tuple(x.shape[1:])
        if given != wanted:
            raise ImageError(_misfit(given, wanted))
        operator = self.operator.realise(self._rng("operator", [image_id]), tuple(x.shape))
        return measure(operator, x, self.noise, self._rng("measure", [image_id]))

    def _problem(self, ids: list[str], y: Tensor) -> Problem:
        x_shape = (len(ids), *self.prior.image_shape)
        operator = self.operator.realise(self._rng("operator", ids), x_shape)
        return Problem(y, operator, self.noise, self.prior)

    def _oracle(self, cases: list[_Case]) -> Oracle | None:
        truths = [case.x for case in cases if case.x is not None]
        return Oracle(torch.cat(truths), self.align) if truths and self.oracle else None

    def _keep(
        self,
        case: _Case,
        problem: Problem,
        solution: Solution,
        oracle: Oracle | None,
        i: int,
        status: str,
        judge: Judge,
    ) -> None:
        """Scores and writes one image."""
        shape = tuple(self.prior.image_shape)
        baseline = None if case.x is None else naive(case.y, shape)
        last, answer = solution.last, solution.x_hat
        shown, view = picture_of(case.y[0], shape)
        pictures = {"measurement": shown}
        if case.x is not None:
            pictures["truth"] = case.x[0]
        if baseline is not None:
            pictures["input"] = baseline[0]
        rows = self._rows(case, problem, solution, baseline, oracle, i, status, judge)
        if bool(torch.isfinite(last).all() and torch.isfinite(answer).all()):
            pictures["reconstruction"] = last[0]
            if isinstance(self.method, Stopped):
                pictures["stopped"] = answer[0]
            if self.align is not None and case.x is not None:
                pictures["aligned"] = judge.aligned(answer, case.x)[0]
        else:
            rows = [self._row(case.id, "", "failed", message=_diverged(solution.steps[0]))]
        trace = trace_columns(solution.trace[0], self.noise.std)
        self.record.write_parts(
            Parts(case.id, case.digest, rows, pictures, case.y[0], view, trace)
        )

    def _rows(
        self,
        case: _Case,
        problem: Problem,
        solution: Solution,
        baseline: Tensor | None,
        oracle: Oracle | None,
        i: int,
        status: str,
        judge: Judge,
    ) -> list[Row]:
        cost = {
            "nfe": solution.nfe[0],
            "vjps": solution.vjps[0],
            "seconds": solution.seconds[0],
            "peak_memory": solution.peak_memory,
        }
        found: list[tuple[Row, Tensor, Tensor | None]] = []
        if baseline is not None:
            found.append((self._row(case.id, "input", status), baseline, None))
        last = self._row(case.id, "last", status, step=solution.steps[0], **cost)
        found.append((last, solution.last, solution.z))
        if isinstance(self.method, Stopped):
            step = _picked_step(solution)
            found.append(
                (self._row(case.id, "stopped", status, step=step, **cost), solution.x_hat, None)
            )
        if oracle is not None and int(oracle.step[i]):
            row = self._row(case.id, "oracle", status, step=int(oracle.step[i]), **cost)
            found.append((row, oracle.best[i : i + 1], None))
        return [_judged(row, case, problem, x_hat, z, judge) for row, x_hat, z in found]

    def _row(self, image_id: str, kind: str, status: str, **values: Any) -> Row:
        known = {"rng_seed": self.rng_seed, "config_hash": self.record.hash}
        return Row(image_id, kind, status, **known, **values)

    def _rng(self, purpose: str, ids: list[str]) -> Rng:
        return Rng(self.rng_seed, purpose, ids)

    def _require_fit(self) -> None:
        """Refuses parts that no image could suit, before the first one is read."""
        image, name = tuple(self.prior.image_shape), type(self.operator).__name__
        realised = [
            self.operator.realise(self._rng("operator", [i]), (1, *image)) for i in ("a", "b")
        ]
        try:
            shapes = [operator.measurement_shape((1, *image)) for operator in realised]
        except RuntimeError as error:
            raise ValueError(f"{name} cannot take the prior's images of {image}: {error}") from error
        if self.real and (shapes[0] != shapes[1] or not _same(realised, image)):
            raise ValueError(
                f"{name} draws a random part for each image, which cannot be the one behind a given "
                "measurement; give it fixed, such as operator=inpaint_mask operator.mask.path=..."
            )


def _judged(
    row: Row, case: _Case, problem: Problem, x_hat: Tensor, z: Tensor | None, judge: Judge
) -> Row:
    described = describe(row, problem, x_hat, z)
    if case.x is None:
        return described
    metrics, notes = judge.scores(x_hat, case.x)
    return replace(described, metrics=metrics, metric_notes=notes)


def _same(operators: list[Operator], image: tuple[int, ...]) -> bool:
    like = next((t for o in operators for t in o.buffers()), torch.zeros(()))
    probe = torch.linspace(-0.9, 0.9, torch.Size(image).numel(), device=like.device)
    with torch.no_grad():
        first, second = (operator(probe.reshape(1, *image)) for operator in operators)
    return torch.equal(first, second)


def _misfit(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if given[0] != wanted[0]:
        return (
            f"the image has {given[0]} channels, but the prior's have {wanted[0]}; "
            f"set data.channels={wanted[0]}"
        )
    return (
        f"the image has {given[2]} x {given[1]} pixels, but the prior's have {wanted[2]} x {wanted[1]}; "
        f"set data.size={wanted[1]} to crop and resize"
    )


def _diverged(steps: int) -> str:
    return (
        f"the answer holds NaN or infinite values after {steps} steps: the method diverged; "
        "a smaller step size may help"
    )


def _picked_step(solution: Solution) -> int | None:
    steps = getattr(solution, "answer_steps", None)
    return None if steps is None else int(steps[0])
