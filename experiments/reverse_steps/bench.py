"""Doing the jobs of the study, and what they share."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from experiments.ledger import Inline, Ledger, Row, Workers, work_off
from experiments.prior import load_prior
from experiments.reverse_steps.measures import (
    BATCH,
    Look,
    Times,
    fine,
    high_share,
    images_of,
    learned_times,
    range_fit,
    restoration,
    rmse,
    seeds,
)
from experiments.reverse_steps.study import (
    Job,
    Study,
    learning_jobs,
    main_jobs,
    shared_jobs,
    sheet_columns,
)
from plugip.data import load_image
from plugip.fitting.pictures import Pictures
from plugip.prior import Prior
from plugip.record.files import write_atomic
from plugip.record.provenance import file_digest, weights_digest

SHEET_SEEDS = 6


class Bench:
    """The prior in one process, and what jobs share through files in the study's folder."""

    def __init__(self, prior: Prior, study: Study) -> None:
        self.prior, self.study = prior, study
        digest = weights_digest(prior)
        if digest is None:
            raise ValueError("the prior has more than 1 GiB of weights; take a smaller one")
        self.name = digest[:8]
        self.train = (file_digest(study.train) or study.train.name)[:8]  # a folder has no digest

    def key(self, job: Job) -> str:
        """Names a row by all that decides it: the job, its sizes, its images and the prior."""
        s = self.study
        face = "" if job.face is None else file_digest(job.face.path)[:8]
        sizes = {
            "look": (s.samples, s.real, self.train),
            "judged": (s.fine,),
            "fitted": (s.fine,),
            "learned": (s.fitted, s.fine),
            "samples": (s.samples, s.judged, s.fine, s.real, self.train),
            "restoration": s.budgets,
            "range": s.budgets,
        }
        return f"{job} {job.setting.grid} {face} {sizes.get(job.kind, ())} {self.name}"

    def __call__(self, job: Job) -> Row:
        """Does a job and returns its row, without the key."""
        face = None if job.face is None else job.face.id
        row = {"kind": job.kind, "face": face, "setting": asdict(job.setting)}
        return row | KINDS[job.kind](self, job)

    def solution(self, purpose: str, first: int, last: int) -> Tensor:
        """Returns the fine solution of one batch of seeds, made once."""
        steps = self.study.fine
        name = f"{purpose}-{first}-{last}-{steps}-{self.name}.pt"
        z = seeds(self.prior, purpose, first, last)
        return self._once(name, lambda: {"x": images_of(self.prior, fine(steps), z)})["x"]

    def solutions(self, purpose: str, count: int) -> Tensor:
        """Returns the fine solutions of the first seeds of a stream, (count, C, H, W)."""
        ends = [(i, min(i + BATCH, count)) for i in range(0, count, BATCH)]
        return torch.cat([self.solution(purpose, *ends) for ends in ends])

    def look(self) -> Look:
        """Returns the statistics of real images, taken once."""
        s = self.study
        side = self.prior.image_shape[-1]
        name = f"look-{side}-{s.samples}-{s.real}-{self.train}.pt"
        return Look(**self._once(name, lambda: vars(self._look())))

    def sheet(self, learned: Times) -> Tensor:
        """Returns samples of the same seeds by column, (rows, columns, C, H, W), made once."""
        z = seeds(self.prior, "sheet", 0, SHEET_SEEDS)
        columns = [s.generator for s in sheet_columns(learned)]
        return self._once(
            f"sheet-{'-'.join(map(str, learned))}-{self.name}.pt",
            lambda: {"x": torch.stack([images_of(self.prior, g, z) for g in columns], 1)},
        )["x"]

    def _look(self) -> Look:
        shape, apart = self.prior.image_shape, self.study.samples
        with Pictures(str(self.study.train), shape[-1], shape[0], self.study.real) as pictures:
            x = torch.cat(list(pictures.batches("reading"))).view(-1, *shape)
        if len(x) < 2 * apart:
            raise ValueError(
                f"{self.study.train} has {len(x)} readable images; {2 * apart} are needed, "
                "twice as many as samples"
            )
        return Look.of(x[apart:], x[:apart])

    def _once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self.study.out / "shared" / name
        if not file.exists():
            buffer = io.BytesIO()
            torch.save(make(), buffer)
            write_atomic(file, buffer.getvalue())
        return torch.load(file, weights_only=True)


def _solution(bench: Bench, job: Job) -> Row:
    count = bench.study.judged if job.kind == "judged" else bench.study.fitted
    bench.solution(job.kind, job.seed, min(job.seed + BATCH, count))
    return {}


def _look(bench: Bench, job: Job) -> Row:
    look = bench.look()
    return {"floor": look.floor, "high": look.high, "variance": float(look.covariance.trace())}


def _sheet(bench: Bench, job: Job) -> Row:
    assert not isinstance(job.setting.grid, str)
    return {"samples": list(bench.sheet(job.setting.grid).shape[:2])}


def _learned(bench: Bench, job: Job) -> Row:
    count, steps = bench.study.fitted, job.setting.steps
    z, reference = seeds(bench.prior, "fitted", 0, count), bench.solutions("fitted", count)
    return {"times": learned_times(bench.prior, z, reference, steps)}


def _samples(bench: Bench, job: Job) -> Row:
    judged, look = bench.study.judged, bench.look()
    z = seeds(bench.prior, "judged", 0, max(judged, bench.study.samples))
    x = images_of(bench.prior, job.setting.generator, z)
    error = rmse(x[:judged], bench.solutions("judged", judged))
    x = x[: bench.study.samples].clamp(-1, 1)
    return {"rmse": error, "frechet": look.distance(x), "high": high_share(x) / look.high}


def _range(bench: Bench, job: Job) -> Row:
    return range_fit(bench.prior, job.setting, _face(bench, job), bench.study.budgets)


def _restoration(bench: Bench, job: Job) -> Row:
    x, name = _face(bench, job), job.face.id if job.face else ""
    return restoration(bench.prior, job.setting, x, name, bench.study.budgets)


def _face(bench: Bench, job: Job) -> Tensor:
    assert job.face is not None
    channels, side = bench.prior.image_shape[0], bench.prior.image_shape[-1]
    return load_image(job.face.path, side, channels)[None]


KINDS: dict[str, Callable[[Bench, Job], Row]] = {
    "judged": _solution,
    "fitted": _solution,
    "look": _look,
    "sheet": _sheet,
    "learned": _learned,
    "samples": _samples,
    "restoration": _restoration,
    "range": _range,
}


def open_bench(folder: str | None, study: Study) -> Bench:
    """Loads a prior and puts it to the study; other processes find this by its name."""
    return Bench(load_prior(folder), study)


def run(bench: Bench, ledger: Ledger, workers: Workers | Inline) -> None:
    """Does all jobs of the study that have no row yet, those first that others wait for.

    Args:
        bench: Names the rows.
        ledger: Finished rows.
        workers: Who does the jobs.
    """
    work_off(shared_jobs(bench.study), bench.key, ledger, workers)
    work_off(learning_jobs(), bench.key, ledger, workers)
    work_off(main_jobs(bench.study, learned_of(bench, ledger)), bench.key, ledger, workers)


def learned_of(bench: Bench, ledger: Ledger) -> dict[int, Times]:
    """Returns the learned times by number of steps."""
    rows = [ledger.rows[bench.key(job)] for job in learning_jobs()]
    return {row["setting"]["steps"]: tuple(row["times"]) for row in rows}
