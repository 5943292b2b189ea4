"""Noise in a run: what the method sees of it, and what every printout says of it."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from toys import ExactPrior, Identity

from plugip import build
from plugip.cli.text import opening
from plugip.data import ImageFolder
from plugip.experiment import Experiment
from plugip.method import Info
from plugip.metrics import PSNR
from plugip.noise import (
    IMAGENET_C,
    GaussianNoise,
    Hidden,
    PoissonNoise,
    SpeckleNoise,
    UnknownNoise,
)
from plugip.problem import Problem
from plugip.record import Record
from plugip.rng import Rng

SIDE = 8
CONF = Path(__file__).resolve().parents[1] / "conf" / "noise"
STUDIES = [f"{kind}_{word}" for kind in IMAGENET_C for word in ("low", "high")]


@dataclass(frozen=True)
class Spy:
    """Answers with y, and keeps the problems that it was given."""

    iterations: int = 1
    seen: list[Problem] = field(default_factory=list)

    def init(self, problem: Problem, rng: Rng) -> torch.Tensor:
        self.seen.append(problem)
        return problem.y.clamp(-1, 1)

    def step(self, problem: Problem, state: torch.Tensor) -> tuple[torch.Tensor, Info]:
        done = torch.ones(problem.batch, dtype=torch.bool)
        return state, Info(state, problem.nll(state), done)

    def finish(self, problem: Problem, state: torch.Tensor) -> torch.Tensor:
        return state


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Headings of the figures of a run, which are not drawn."""
    found: list[str] = []
    for name in ("comparison", "curves"):
        monkeypatch.setattr(
            f"plugip.record.figures.{name}", lambda _, title: found.append(title) or b""
        )
    return found


@pytest.fixture
def experiment(tmp_path: Path, titles: list[str]) -> Experiment:
    (tmp_path / "photos").mkdir()
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(tmp_path / "photos/a.png")
    return Experiment(
        data=ImageFolder(tmp_path / "photos"),
        operator=Identity(),
        noise=GaussianNoise(0.05),
        prior=ExactPrior(torch.zeros(3, SIDE, SIDE)),
        method=Spy(),
        metrics=[PSNR()],
        record=Record(tmp_path / "run", {"rng_seed": 0}),
        device="cpu",
        title="a task",
    )


def preset(name: str) -> Any:
    hints = {"hints": {"noise": {"std": 0.01, "scale": "signed"}}}
    merged = OmegaConf.merge(hints, {"noise": OmegaConf.load(CONF / f"{name}.yaml")})
    return build(OmegaConf.to_container(merged, resolve=True)["noise"])  # type: ignore[index, call-overload]


@pytest.mark.parametrize("name", [*STUDIES, "imagenet_c", "compound", "uniform"])
def test_a_method_sees_nothing_of_hidden_noise(experiment: Experiment, name: str):
    run = replace(experiment, noise=preset(name))
    summary = run.run()
    (problem,) = run.method.seen  # type: ignore[attr-defined]
    assert type(problem.noise) is UnknownNoise and not vars(problem.noise)
    clean = run.data.load(run.data.items()[0])[None]
    assert isinstance(run.noise, Hidden)
    drawn = run.noise.noise.sample(clean, Rng(0, "measure", ["a.png"]))
    assert torch.equal(problem.y, drawn) and not torch.equal(drawn, clean)
    assert [row.explains_y for row in summary.rows] == [None] * len(summary.rows)


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        (GaussianNoise(0.05), "GaussianNoise(std=0.05 on [-1, 1] = 0.025 on [0, 1])"),
        (GaussianNoise(0.05, "other"), "GaussianNoise(std=0.05 in units of y)"),
        (
            Hidden(SpeckleNoise(0.15)),
            "Hidden(SpeckleNoise(relative_std=0.15 of the intensity, y on [-1, 1]))",
        ),
    ],
)
def test_a_run_prints_the_level_with_its_scale(
    experiment: Experiment, titles: list[str], noise: Any, text: str
):
    run = replace(experiment, noise=noise)
    assert f"1 image, Identity, {text}, Spy, ExactPrior" in opening(run)
    folder = run.run().folder
    assert titles == [f"a task, noise: {text}"] * 2
    assert f"- noise: {text}\n" in (folder / "summary.md").read_text("utf-8")
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["conventions"]["noise"] == f"noise: {text}"


def test_photon_noise_of_a_run_is_judged(experiment: Experiment):
    summary = replace(experiment, noise=PoissonNoise(0.1)).run()
    (last,) = (row for row in summary.rows if row.kind == "last")
    assert last.residual_to_noise is not None and last.residual_to_noise < 0.5  # the answer is y
    assert last.explains_y and "fits the noise as well" in last.message
