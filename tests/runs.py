"""Tiny experiments: three images of 8 x 8, an exact prior, two iterations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from toys import ExactPrior, Identity

from plugip.data import ImageFolder
from plugip.engine.adam import Adam
from plugip.experiment import Experiment
from plugip.methods import DMPlug
from plugip.metrics import PSNR
from plugip.noise import GaussianNoise
from plugip.record import Record
from plugip.reverse import Generator

SIDE = 8
NAMES = ["a.png", "b.png", "c.png"]
GUILTY = 1  # position of the image at which parts misbehave; it is the bright one
METHOD = DMPlug(iterations=2, generator=Generator(steps=2), solver=Adam(lr=0.1))


def photos(folder: Path, names: list[str] = NAMES) -> Path:
    """Writes pictures of noise around grey; the guilty one is around white."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        low = 210 if i == GUILTY else 60
        pixels = np.random.default_rng(i).integers(low, low + 40, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def experiment(place: Path, run: str = "run", **changes: Any) -> Experiment:
    """Returns an experiment on the pictures in ``place``; keywords replace its parts."""
    tiny = Experiment(
        data=ImageFolder(photos(place / "photos")),
        operator=Identity(),
        noise=GaussianNoise(0.05),
        prior=ExactPrior(torch.zeros(3, SIDE, SIDE), 0.5),
        method=METHOD,
        metrics=[PSNR()],
        record=Record(place / run, {}),
        device="cpu",
        progress=False,
    )
    return replace(tiny, **changes)


def is_guilty(x: torch.Tensor) -> bool:
    """Tells whether a batch of images or measurements holds the bright one."""
    return bool((x.detach().flatten(1).mean(1) > 0.5).any())


@dataclass(frozen=True)
class Wrapped:
    """A method with something before each step."""

    method: Any
    iterations: int = METHOD.iterations

    def before(self, problem: Any, state: Any) -> None:
        raise NotImplementedError

    def init(self, problem: Any, rng: Any) -> Any:
        return self.method.init(problem, rng)

    def step(self, problem: Any, state: Any) -> Any:
        self.before(problem, state)
        return self.method.step(problem, state)

    def finish(self, problem: Any, state: Any) -> Any:
        return self.method.finish(problem, state)

    def seed(self, state: Any) -> Any:
        return self.method.seed(state)
