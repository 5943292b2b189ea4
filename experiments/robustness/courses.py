"""One restoration under noise that the method does not know: quality by step, and the picks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from plugip.data import Item, load_image
from plugip.engine.adam import Adam
from plugip.engine.lbfgs import LBFGS
from plugip.engine.solver import AnySolver
from plugip.engine.start import GaussianStart
from plugip.methods import DMPlug
from plugip.metrics import psnr, to_unit
from plugip.noise import (
    GaussianNoise,
    ImpulseNoise,
    ShotNoise,
    SpeckleNoise,
    UnknownNoise,
)
from plugip.operators import CameraResponseBlur
from plugip.prior import Prior
from plugip.problem import Problem, measure
from plugip.rng import Rng
from plugip.stopping import ESEMV, ESWMV, Rule

# The levels of conf/noise/*_low.yaml and *_high.yaml.
NOISES: dict[str, Any] = {
    "Gaussian, low": GaussianNoise(0.16),
    "Gaussian, high": GaussianNoise(0.36),
    "impulse, low": ImpulseNoise(0.03, per_pixel=False),
    "impulse, high": ImpulseNoise(0.09, per_pixel=False),
    "shot, low": ShotNoise(60, clip=False),
    "shot, high": ShotNoise(12, clip=False),
    "speckle, low": SpeckleNoise(0.15, clip=False),
    "speckle, high": SpeckleNoise(0.35, clip=False),
}


@dataclass(frozen=True)
class Way:
    """A solver with its number of iterations and the rules that watch it."""

    solver: Callable[[], AnySolver]
    iterations: int
    rules: dict[str, Rule[Any]]


def candidates(windows: Sequence[int]) -> dict[str, Rule[Any]]:
    """Returns rules of both kinds by name: each window with a patience of one and of two windows.

    ES-EMV has no window; its mean has the weight 1 / W, and the first W steps are not judged.
    """
    pairs = [(w, p) for w in windows for p in (w, 2 * w)]
    moving: dict[str, Rule[Any]] = {f"ES-WMV {w}, {p}": ESWMV(w, p) for w, p in pairs}
    return moving | {f"ES-EMV {w}, {p}": ESEMV(1 / w, p, w) for w, p in pairs}


WAYS = {
    "L-BFGS": Way(LBFGS, 150, candidates((4, 10, 20))),
    "Adam 0.05": Way(lambda: Adam(0.05), 300, candidates((10, 30, 60))),
}


@dataclass(frozen=True)
class Job:
    """A face under one noise, restored in one way."""

    noise: str
    way: str
    face: Item

    def __str__(self) -> str:
        return f"{self.noise} | {self.way} | {self.face.id} | {WAYS[self.way].iterations}"


class Bench:
    """Does jobs with one prior.

    Args:
        load: Loads the prior.
    """

    def __init__(self, load: Callable[[], Prior]) -> None:
        self.prior = load()

    def __call__(self, job: Job) -> dict[str, Any]:
        shape, name = self.prior.image_shape, job.face.id
        x = load_image(job.face.path, shape[-1], shape[0])[None]
        operator = CameraResponseBlur()
        y = measure(operator, x, NOISES[job.noise], 0, [name])
        # The method gets no model of the noise: it fits the mean square.
        problem = Problem(y, operator, UnknownNoise(), self.prior)
        course, picks = run(problem, WAYS[job.way], x, name)
        return {"noise": job.noise, "way": job.way, "face": name, "psnr": course, "picks": picks}


def run(problem: Problem, way: Way, x: Tensor, name: str) -> tuple[list[float], dict[str, int]]:
    """Restores one image to the end and lets the rules pick.

    Args:
        problem: A problem of one image with unknown noise.
        way: Solver, iterations and rules.
        x: The true image, which only the scores see.
        name: Name of the image; it opens the random stream.

    Returns:
        PSNR of every iterate, and the step of each rule's pick, counted from 1; the last step
        where a rule never picked. Picks after a rule would have stopped do not count.
    """
    method = DMPlug(way.iterations, solver=way.solver(), start=GaussianStart(), seed_weight=0.0)
    state = method.init(problem, Rng(0, "solve", [name]))
    rules = {title: rule.init(problem) for title, rule in way.rules.items()}
    course, picks, over = list[float](), dict[str, int](), set[str]()
    for step in range(1, way.iterations + 1):
        state, info = method.step(problem, state)
        course.append(float(psnr(to_unit(info.x_hat), to_unit(x))))
        for title in rules.keys() - over:
            rules[title], verdict = way.rules[title].update(problem, rules[title], info)
            if bool(verdict.pick):
                picks[title] = step
            if bool(verdict.stop):
                over.add(title)
        if bool(info.done.all()):
            break
    return course, {title: picks.get(title, len(course)) for title in rules}
