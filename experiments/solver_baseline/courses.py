"""One solver on one image: what it has reached after so many network passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plugip.data import Item, load_image
from plugip.engine.adam import Adam
from plugip.engine.lbfgs import LBFGS
from plugip.engine.nesterov import Nesterov
from plugip.engine.plugin import PlugIn
from plugip.engine.solver import AnySolver
from plugip.engine.start import GaussianStart, ZeroStart
from plugip.linalg import norm
from plugip.methods import DMPlug
from plugip.metrics import SSIM, psnr, to_unit
from plugip.noise import GaussianNoise
from plugip.operator import Operator
from plugip.operators import (
    BicubicDownsample,
    CameraResponseBlur,
    GaussianBlur,
    Inpaint,
    RandomMask,
)
from plugip.prior import Prior
from plugip.problem import Problem, measure
from plugip.reverse import Generator
from plugip.rng import Rng

STD = 0.01  # of the noise, on [-1, 1]
BUDGETS = (75, 150, 300, 600, 1200)  # network passes, forward and backward
SOLVED = 1.1  # chi-square at which a measurement counts as explained

TASKS: dict[str, Callable[[], Operator]] = {
    "super-resolution": BicubicDownsample,
    "inpainting": lambda: Inpaint(RandomMask(0.7)),
    "camera blur": CameraResponseBlur,
    "Gaussian blur": lambda: GaussianBlur(1.5, 13),
}
SOLVERS: dict[str, Callable[[float], AnySolver]] = {
    "Adam": lambda lr: Adam(lr),
    "Nesterov": lambda lr: Nesterov(lr),
    "L-BFGS": lambda history: LBFGS(int(history), tolerance=1e-6),
}
RATES = {"Adam": (0.01, 0.03, 0.1), "Nesterov": (1e-6, 3e-6, 1e-5), "L-BFGS": (10, 20, 100)}


@dataclass(frozen=True)
class Setting:
    """A solver with its one number, where it starts, and the weight of the seed prior.

    Attributes:
        solver: Adam, Nesterov or L-BFGS.
        rate: Its step length, or the length of its history.
        start: zero or gaussian.
        seed_weight: lambda.
        published: Whether all is as DMPlug published it: leading grid, hard clip, mean loss.
    """

    solver: str
    rate: float
    start: str
    seed_weight: float
    published: bool = False

    @property
    def family(self) -> tuple[str, str, float]:
        """What is left when the rate is tuned away."""
        return self.solver, self.start, self.seed_weight

    def method(self) -> DMPlug:
        """Returns the method."""
        solver = SOLVERS[self.solver](self.rate)
        start = ZeroStart() if self.start == "zero" else GaussianStart()
        if self.published:
            generator = Generator(3, "leading", clip="hard")
            return DMPlug(10**6, generator, solver, start, 0.0, "mean")
        return DMPlug(10**6, Generator(3), solver, start, self.seed_weight)


PUBLISHED = Setting("Adam", 0.01, "gaussian", 0.0, published=True)


@dataclass(frozen=True)
class Job:
    """One course: a setting on a task and a face, up to so many passes."""

    task: str
    face: Item
    setting: Setting
    passes: int

    def __str__(self) -> str:
        s = self.setting
        name = "published" if s.published else f"{s.solver} {s.rate:g} {s.start} {s.seed_weight:g}"
        return f"{self.task} | {self.face.id} | {name} | {self.passes}"


class Bench:
    """Does jobs with one prior.

    Args:
        load: Loads the prior.
    """

    def __init__(self, load: Callable[[], Prior]) -> None:
        self.prior = load()

    def __call__(self, job: Job) -> dict[str, Any]:
        shape = self.prior.image_shape
        x = load_image(job.face.path, shape[-1], shape[0])[None]
        problem = problem_of(self.prior, job.task, x, job.face.id)
        return {
            "task": job.task,
            "face": job.face.id,
            "setting": vars(job.setting),
            "course": course(problem, job.setting.method(), x, job.face.id, job.passes),
        }


def problem_of(prior: Prior, task: str, x: Tensor, name: str) -> Problem:
    """Measures a face; every solver gets the same y."""
    operator = TASKS[task]().realise(Rng(0, "operator", [name]), tuple(x.shape))
    noise = GaussianNoise(STD)
    return Problem(measure(operator, x, noise, 0, [name]), operator, noise, prior)


def course(
    problem: Problem, method: PlugIn, x: Tensor, name: str, passes: int
) -> list[dict[str, float]]:
    """Runs a plug-in method until its passes are spent.

    Args:
        problem: A problem of one image.
        method: The method; its own iteration limit is ignored.
        x: The true image, which only the scores see.
        name: Name of the image; it opens the random stream.
        passes: Forward and backward calls of the network that it may spend; the step that crosses
            the limit is not counted.

    Returns:
        One entry a step: nfe, passes, seconds, psnr, ssim, chi_square, seed_rms.
    """
    counter, entries = problem.prior.counter, []
    nfe, vjps, began = counter.nfe, counter.vjps, time.perf_counter()
    scored = 0.0  # seconds spent on scores, which no solver pays for
    state = method.init(problem, Rng(0, "solve", [name]))
    while True:
        state, info = method.step(problem, state)
        calls, now = counter.nfe - nfe, time.perf_counter()
        spent = calls + counter.vjps - vjps
        if spent > passes:
            return entries
        seconds, z = now - began - scored, method.seed(state)
        assert z is not None and info.residual is not None
        a, b = to_unit(info.x_hat), to_unit(x)
        entries.append(
            {
                "nfe": calls,
                "passes": spent,
                "seconds": seconds,
                "psnr": float(psnr(a, b)),
                "ssim": float(SSIM()(a, b)),
                "chi_square": float(info.residual) ** 2 / STD**2,
                "seed_rms": float(norm(z)) / z[0].numel() ** 0.5,
            }
        )
        scored += time.perf_counter() - now
        if bool(info.done.all()):
            return entries


def at(entries: list[dict[str, float]], spent: float, of: str = "passes") -> dict[str, float]:
    """Returns the last entry within so many passes, or "nfe"; the first if there is none."""
    within = [e for e in entries if e[of] <= spent]
    return within[-1] if within else entries[0]


def stopped(entries: list[dict[str, float]]) -> dict[str, float]:
    """Returns the first entry that explains y, else the last one."""
    return next((e for e in entries if e["chi_square"] <= SOLVED), entries[-1])


def passes_to(entries: list[dict[str, float]], level: float) -> float:
    """Returns the passes after which the PSNR first reaches a level; infinite if never."""
    return next((e["passes"] for e in entries if e["psnr"] >= level), torch.inf)
