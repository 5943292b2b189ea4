"""One experiment: for each batch measure, solve, score and record, resuming what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from plugip.composition import require_operator
from plugip.data import ImageFolder, Item
from plugip.experiment.fit import require_fit
from plugip.experiment.observers import Align, Progress
from plugip.experiment.problems import Problems
from plugip.experiment.scoring import Judge
from plugip.experiment.scribe import Scribe
from plugip.experiment.share import Share
from plugip.experiment.signals import Signals
from plugip.experiment.summary import Summary
from plugip.experiment.team import Team, join_team
from plugip.method import Method, require_method
from plugip.metrics import NamedMetric
from plugip.noise import Noise
from plugip.operator import Operator
from plugip.prior import Prior
from plugip.problem import require_noise, require_prior
from plugip.record import Record
from plugip.record.provenance import file_digest, weights_digest
from plugip.refusals import named, require_part
from plugip.rng import require_seed

GPU_BATCH = 16


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
        solver_seed: Another integer for the solver's own stream: other starts or samples of the
            same measurements. None: ``rng_seed``.
        oracle: Keep the best iterate by true PSNR, as a row of its own.
        title: Heads figures and tables.
        progress: Show a progress bar on terminals, and one line for each finished image elsewhere.
        debug: Let the first exception through instead of writing it into a row.
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
    solver_seed: int | None = None
    debug: bool = False

    def __post_init__(self) -> None:
        _require_parts(self)
        size = self.batch_size
        if size is not None and (require_seed(size, "batch_size") < 1):
            raise ValueError(f"batch_size must be at least 1, or null, got {size!r}")

    def run(self) -> Summary:
        """Solves what is not finished yet, and writes tables and figures.

        Whatever one image meets (a damaged file, an exception in any part, too little memory)
        ends in a row of that image that says why; the others go on, and the same command tries it
        again. Ctrl-C and termination signals end the run in order: what was reached is written,
        and the summary says so.

        Returns:
            All rows.

        Raises:
            ValueError, TypeError: If the parts do not fit each other; before any solving.
            OSError: If results cannot be written, another run is at work in the folder, or
                another process of this run is gone before the first image.
        """
        with self.record:  # its folder is this run's alone until the end
            team = join_team(self.device)
            with Signals() as signals:
                return self._run(team, signals)

    def _run(self, team: Team, signals: Signals) -> Summary:
        self.operator.to(team.device)
        self.prior.to(team.device)
        require_fit(self.operator, self.prior, self.real)
        items, judge = self.data.items(), Judge(self.metrics, self.align, self.debug)
        ids = [item.id for item in items]
        if team.leads:
            self.record.begin(team.device, weights_digest(self.prior))
        digests = {item.id: file_digest(item.path) for item in items}
        finished = [i for i in ids if self.record.finished(i, digests[i])]
        done = set(finished)
        if team.leads:
            self.record.write_scores(finished)
        if not team.wait():  # nobody solves before everybody knows what is left
            raise ConnectionError("another process of this run has ended; its message says why")
        todo = [(i, digests[i.id]) for i in team.share(items) if i.id not in done]
        try:
            interrupted = self._solve_all(todo, judge, team, signals)
        except Exception:
            team.wait()  # the others finish what they can
            raise
        signals.hold()  # all that is left is to sum up, which takes seconds
        if not interrupted:
            team.wait()  # what a lost process leaves undone shows in what is missing
        if team.leads:
            said = {"noise": f"noise: {self.noise}"}
            self.record.end(ids, said | judge.conventions, self.title)
        team.leave()
        rows, ended = self.record.rows(ids), interrupted or signals.received
        title = f"{self.title}, {type(self.prior).__name__}"
        return Summary(self.record.folder, rows, finished, judge.conventions, ended, ids, title)

    def _solve_all(
        self, todo: list[tuple[Item, str]], judge: Judge, team: Team, signals: Signals
    ) -> bool:
        """Solves batch by batch; returns whether a signal ended it."""
        alone = team.device.type == "cpu"  # there ``solve`` takes the images one by one
        width = self.batch_size or (1 if alone else GPU_BATCH)
        progress = self._progress(len(todo), 1 if alone else width, team)
        share = self._share(judge, progress, signals, team.device, width)
        try:
            for first in range(0, len(todo), width):
                share.work(todo[first : first + width])
        except KeyboardInterrupt:
            return True
        finally:
            progress.close()
        return False

    def _progress(self, images: int, together: int, team: Team) -> Progress:
        return Progress(
            -(-images // together),
            getattr(self.method, "iterations", None),
            self.noise.std,
            images if self.progress else None,
            None if team.size == 1 else team.index,
            self.progress and team.leads,
        )

    def _share(
        self,
        judge: Judge,
        progress: Progress,
        signals: Signals,
        device: torch.device,
        width: int,
    ) -> Share:
        solver_seed = self.rng_seed if self.solver_seed is None else self.solver_seed
        seeds = self.rng_seed, solver_seed
        return Share(
            data=self.data,
            real=self.real,
            problems=Problems(self.operator, self.noise, self.prior, *seeds),
            method=self.method,
            scribe=Scribe(self.record, judge, self.noise.std, *seeds, self.debug),
            progress=progress,
            signals=signals,
            device=device,
            width=width,
            oracle=self.oracle,
            align=self.align,
            debug=self.debug,
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
    if given.solver_seed is not None:
        require_seed(given.solver_seed, "solver_seed")
