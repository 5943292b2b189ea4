"""Starts near the measurement and starts from noise, as methods on one flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments.solver_baseline.courses import course, problem_of
from plugip.data import Item, load_image
from plugip.engine.plugin import PlugIn
from plugip.engine.start import GaussianStart
from plugip.methods import DFlow, DMPlug, FMPlug
from plugip.prior import Prior, as_flow
from plugip.reverse import Generator

MANY = 10**6  # iterations; the budget of calls ends a course

WAYS: dict[str, PlugIn] = {
    "FMPlug": FMPlug(MANY),
    "FMPlug, fixed time": FMPlug(MANY, time_step=0.0),
    "FMPlug from noise": FMPlug(MANY, start_time=1.0, time_step=0.0),
    "D-Flow": DFlow(MANY),
    "D-Flow, 3 Euler steps": DFlow(MANY, Generator(3)),
    "D-Flow, 3 Euler steps, from noise": DFlow(MANY, Generator(3), start=GaussianStart()),
    "DMPlug": DMPlug(MANY),
}


@dataclass(frozen=True)
class Job:
    """One course: a way on a task and a face, up to so many forward calls."""

    task: str
    face: Item
    way: str
    nfe: int

    def __str__(self) -> str:
        return f"{self.task} | {self.face.id} | {self.way} | {self.nfe}"


class Bench:
    """Does jobs with one prior, served as a flow.

    Args:
        load: Loads the prior.
    """

    def __init__(self, load: Callable[[], Prior]) -> None:
        self.prior = as_flow(load())

    def __call__(self, job: Job) -> dict[str, Any]:
        shape, name = self.prior.image_shape, job.face.id
        x = load_image(job.face.path, shape[-1], shape[0])[None]
        problem = problem_of(self.prior, job.task, x, name)
        # There are at most as many backward calls as forward calls.
        entries = course(problem, WAYS[job.way], x, name, 2 * job.nfe)
        return {"task": job.task, "face": name, "way": job.way, "course": entries}
