"""The residual that is reported, and judged by rules, is that of the image that is reported."""

from typing import Any

import pytest
import torch
from toys import close

from plugip.engine.adam import Adam
from plugip.engine.augmented_lagrangian import AugmentedLagrangian
from plugip.engine.start import GaussianStart
from plugip.loop import solve
from plugip.method import Info, Method
from plugip.methods import (
    DMILO,
    DPS,
    ILO,
    BlindDIP,
    ConstrainedSeed,
    DFlow,
    DMPlug,
    FMPlug,
    MultiStart,
    SelfDeblur,
)
from plugip.noise import GaussianNoise
from plugip.operators import BlindBlur, GaussianKernel
from plugip.priors import Untrained
from plugip.problem import Problem, measure
from plugip.rng import Rng
from plugip.stopping import Discrepancy, Stopped
from plugip.testing.methods import wide
from plugip.untrained import MLP, Skip

METHODS: list[Method[Any]] = [
    DMPlug(3),
    DMPlug(3, solver=Adam(0.05)),
    FMPlug(3),
    DFlow(3),
    ILO(steps=(2, 2)),
    DMILO(outer=1, inner=1),
    DPS(4, clip="none"),
    ConstrainedSeed(3, solver=AugmentedLagrangian(2), start=GaussianStart()),
    MultiStart(DMPlug(3), 2, 2),
    MultiStart(DMPlug(3), 2, 2, by="residual"),
    Stopped(DMPlug(3), Discrepancy()),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{type(m).__name__}")
def test_residuals_are_those_of_clamped_images(method: Method[Any]):
    p, seen = wide(), []

    def note(step: int, rows: list[int], info: Info) -> None:
        part = p.select(rows)
        assert info.residual is not None
        close(info.residual, part.residual(part.operator(info.x_hat)), 1e-9)
        seen.append(bool((info.x_hat.abs() == 1).any()))

    solution = solve(p, method, rows=3, observer=note)
    assert any(seen)  # the clamp acts somewhere, or this test would see nothing
    right = p.residual(p.operator(solution.last))
    close(torch.stack([trace.residual[-1] for trace in solution.trace]), right, 1e-9)


def test_the_discrepancy_rule_stops_at_an_answer_that_explains_y():
    solution = solve(wide(), Stopped(DMPlug(100), Discrepancy()))
    assert all(solution.answer_steps)  # the rule has fired
    assert all(d.explains_y for d in solution.diagnostics)


TINY = Skip(scales=1, channels=4, skip_channels=2, code_channels=2)


@pytest.mark.parametrize("boundary", ["zero", "reflect", "circular"])
@pytest.mark.parametrize(
    "method",
    [
        SelfDeblur(3, TINY, MLP(4, 6), structural_after=None),
        SelfDeblur(3, TINY, MLP(4, 6), structural_after=1),
        BlindDIP(3, TINY, MLP(4, 6)),
    ],
    ids=["self_deblur", "structural", "blind_dip"],
)
def test_blind_networks_report_the_answer_and_not_the_padded_scene(
    method: Method[Any], boundary: str
):
    blur = BlindBlur(5, boundary=boundary, truth=GaussianKernel(1.0, 5))
    x, noise = Rng(0, "x", ["a", "b"]).uniform((1, 16, 16)) * 2 - 1, GaussianNoise(0.05)
    true = blur.draw(Rng(0, "operator", ["a", "b"]), tuple(x.shape))
    y = measure(true, x, noise, 0, ["a", "b"])
    p = Problem(y, blur.unknown(), noise, Untrained((1, 16, 16)))
    solution = solve(p, method, rows=2)
    known = p.known(solution.theta)
    right = known.residual(known.operator(solution.x_hat))
    told = torch.stack([trace.residual[-1] for trace in solution.trace])
    close(told, right, 1e-5)
