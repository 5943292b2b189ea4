"""One experiment: for each batch measure, solve, score and record, resuming what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugip.composition import require_operator
from plugip.data import ImageError, ImageFolder, Item
from plugip.experiment.observers import Align, Oracle, Progress
from plugip.experiment.scoring import Judge
from plugip.experiment.scribe import Case, Scribe
from plugip.experiment.team import Team, join_team
from plugip.loop import Interrupted, solve
from plugip.method import Info, Method, Solution, require_method
from plugip.metrics import NamedMetric
from plugip.noise import Noise
from plugip.operator import BlindOperator, Operator, Unknown
from plugip.prior import Prior
from plugip.problem import Problem, measure, require_noise, require_prior
from plugip.record import Record, Row
from plugip.record.provenance import file_digest, weights_digest
from plugip.refusals import named, require_part
from plugip.rng import Rng, require_seed
from plugip.stopping import Stopped

GPU_BATCH = 16


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
        batch_size: Images per batch; no answer depends on it. None: 1 on a CPU, 16 elsewhere.
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
    batch_size: int | None = None
    device: str = "auto"
    oracle: bool = True
    title: str = "plugip"
    progress: bool = True

    def __post_init__(self) -> None:
        _require_parts(self)
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, or null, got {self.batch_size}")

    def run(self) -> Summary:
        """Solves what is not finished yet, and writes tables and figures.

        Returns:
            All rows. An image that cannot be read or does not fit has a row that says why; the
            others go on. After Ctrl-C the summary says so, and what was reached is written.

        Raises:
            ValueError, TypeError: If the parts do not fit each other; before any solving.
            OSError: If results cannot be written, or another run is at work in the folder.
        """
        with self.record:  # its folder is this run's alone until the end
            return self._run()

    def _run(self) -> Summary:
        team = join_team(self.device)
        self.operator.to(team.device)
        self.prior.to(team.device)
        self._require_fit()
        items, judge = self.data.items(), Judge(self.metrics, self.align)
        ids = [item.id for item in items]
        if team.leads:
            self.record.begin(team.device, weights_digest(self.prior))
        digests = {item.id: file_digest(item.path) for item in items}
        finished = [i for i in ids if self.record.finished(i, digests[i])]
        if team.leads:
            self.record.write_scores(finished)
        team.wait()  # nobody solves before everybody knows what is left
        done = set(finished)
        todo = [(i, digests[i.id]) for i in team.share(items) if i.id not in done]
        scribe = Scribe(self.record, judge, self.noise.std, self.rng_seed)
        interrupted = self._solve_all(todo, scribe, team)
        if not interrupted:
            team.wait()
        if team.leads:
            said = {"noise": f"noise: {self.noise}"} | judge.conventions
            self.record.end(ids, said, self.title)
        team.leave()
        rows = self.record.rows(ids)
        return Summary(self.record.folder, rows, finished, judge.conventions, interrupted)

    def _solve_all(self, todo: list[tuple[Item, str]], scribe: Scribe, team: Team) -> bool:
        """Solves batch by batch; returns whether Ctrl-C ended it."""
        alone = team.device.type == "cpu"  # there ``solve`` takes the images one by one
        width = self.batch_size or (1 if alone else GPU_BATCH)
        runs = len(todo) if alone else -(-len(todo) // width)
        steps = getattr(self.method, "iterations", None)
        progress = Progress(runs, steps, self.noise.std, self.progress and team.leads)
        try:
            for first in range(0, len(todo), width):
                self._solve_batch(todo[first : first + width], scribe, progress, team.device)
        except KeyboardInterrupt:
            return True
        finally:
            progress.close()
        return False

    def _solve_batch(
        self,
        batch: list[tuple[Item, str]],
        scribe: Scribe,
        progress: Progress,
        device: torch.device,
    ) -> None:
        prepared = [self._prepare(item, digest, device, scribe) for item, digest in batch]
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
                best = None if oracle is None else oracle.of(i)
                stopped = isinstance(self.method, Stopped)
                scribe.keep(cases[i], problem.select([i]), solution, status, best, stopped)

        try:
            solution = solve(problem, self.method, self._rng("solve", ids), observer=observe)
        except Interrupted as stop:
            keep(stop.finished, "ok")
            keep(stop.partial, "interrupted")
            raise
        keep([(i, solution.select(i)) for i in range(len(cases))], "ok")

    def _prepare(
        self, item: Item, digest: str, device: torch.device, scribe: Scribe
    ) -> Case | None:
        """Loads and measures one image, alone, so that y depends on nothing else."""
        try:
            loaded = self.data.load(item).to(device)[None]
            y, theta = (loaded, None) if self.real else self._measure(item.id, loaded)
            self._problem([item.id], y)
        except ValueError as error:
            scribe.fail(item.id, digest, str(error))
            return None
        return Case(item.id, digest, None if self.real else loaded, y, theta)

    def _measure(self, image_id: str, x: Tensor) -> tuple[Tensor, Unknown | None]:
        """Returns y, and the true unknown where the operator has one."""
        wanted, given = tuple(self.prior.image_shape), tuple(x.shape[1:])
        if given != wanted:
            raise ImageError(_misfit(given, wanted))
        rng, theta = self._rng("operator", [image_id]), None
        operator = self.operator.realise(rng, tuple(x.shape))
        if isinstance(operator, BlindOperator):
            theta = operator.draw_theta(rng.child("theta"), tuple(x.shape))
            operator = operator.at(theta).to(x.device)
        return measure(operator, x, self.noise, self._rng("measure", [image_id])), theta

    def _problem(self, ids: list[str], y: Tensor) -> Problem:
        x_shape = (len(ids), *self.prior.image_shape)
        operator = self.operator.realise(self._rng("operator", ids), x_shape)
        return Problem(y, operator, self.noise, self.prior)

    def _oracle(self, cases: list[Case]) -> Oracle | None:
        truths = [case.x for case in cases if case.x is not None]
        return Oracle(torch.cat(truths), self.align) if truths and self.oracle else None

    def _rng(self, purpose: str, ids: list[str]) -> Rng:
        return Rng(self.rng_seed, purpose, ids)

    def _require_fit(self) -> None:
        """Refuses parts that no image could suit, before the first one is read."""
        image, name = tuple(self.prior.image_shape), type(self.operator).__name__
        rngs = [self._rng("operator", [i]) for i in ("a", "b")]
        realised = [self.operator.realise(rng, (1, *image)) for rng in rngs]
        if isinstance(realised[0], BlindOperator) and not self.real:
            realised[0].draw_theta(rngs[0].child("theta"), (1, *image))
        try:
            shapes = [operator.measurement_shape((1, *image)) for operator in realised]
        except RuntimeError as error:
            refusal = f"{name} cannot take the prior's images of shape {image}"
            raise ValueError(f"{refusal}: {error}") from error
        if self.real and (shapes[0] != shapes[1] or not _same(realised, image)):
            raise ValueError(
                f"{name} draws a random part for each image, which cannot be the one behind a "
                "given measurement; give it fixed: operator=inpaint_mask operator.mask.path=..."
            )


def _require_parts(given: Experiment) -> None:
    require_part(given.data, ImageFolder, "data", "list files with ImageFolder(path)")
    require_operator(given.operator)
    require_noise(given.noise)
    require_prior(given.prior)
    require_method(given.method)
    require_part(given.metrics, Sequence, "metrics", "give a list, such as [PSNR()]")
    for metric in given.metrics:
        require_part(metric, NamedMetric, "a metric", "take one of plugip.metrics, such as PSNR()")
    require_part(given.record, Record, "record", "make one with Record(folder, config)")
    if given.align is not None and not callable(given.align):
        raise TypeError(f"align must be a function (x_hat, x), got {named(given.align)}")
    require_seed(given.rng_seed)


def _same(operators: list[Operator], image: tuple[int, ...]) -> bool:
    like = next((t for o in operators for t in o.buffers()), torch.zeros(()))
    probe = torch.linspace(-0.9, 0.9, torch.Size(image).numel(), device=like.device)
    probe = probe.reshape(1, *image)
    with torch.no_grad():
        first, second = (_guessed(operator, probe)(probe) for operator in operators)
    return torch.equal(first, second)


def _guessed(operator: Operator, x: Tensor) -> Operator:
    """Returns the operator; one with an unknown part at a guess that is the same each time."""
    if not isinstance(operator, BlindOperator):
        return operator
    return operator.at(operator.constrain(operator.init_theta(Rng(0, "fit", ["0"]), x)))


def _misfit(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if given[0] != wanted[0]:
        return (
            f"the image has {given[0]} channels, but the prior's have {wanted[0]}; "
            f"set data.channels={wanted[0]}"
        )
    if wanted[1] == wanted[2]:
        advice = f"set data.size={wanted[1]} to crop and resize"
    else:
        advice = "data.size makes squares only, so crop and resize the file to that size itself"
    return (
        f"the image has {given[2]} x {given[1]} pixels, but the prior's have "
        f"{wanted[2]} x {wanted[1]}; {advice}"
    )
