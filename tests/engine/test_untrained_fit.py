"""Running mean and rollback, by their formulas, and per image."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from plugip.engine.adam import Adam
from plugip.engine.untrained import FitState, Rollback, Saved
from plugip.method import Info
from plugip.methods import DIP
from plugip.noise import GaussianNoise
from plugip.operator import Operator
from plugip.operators import Denoise
from plugip.priors import Untrained
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.testing.report import random_images
from plugip.untrained import Network

SHAPE = (1, 4, 4)


@dataclass(frozen=True)
class Table(Network):
    """One weight and one bias per pixel: images of any kind, without a prior."""

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Linear(1, torch.Size(shape).numel()), nn.Unflatten(-1, shape))

    def code(self, shape: tuple[int, ...], rng: Rng, like: Tensor) -> Tensor:
        return like.new_ones(len(rng), 1)


def problem(batch: int = 2) -> Problem:
    y = random_images((batch, *SHAPE), "y")
    return Problem(y, Denoise(), GaussianNoise(0.1), Untrained(SHAPE))


def dip(steps: int, average: float = 0.0, rollback: Rollback | None = None) -> DIP:
    return DIP(steps, Table(), Adam(0.05), jitter=0.02, average=average, rollback=rollback)


def residual(info: Info) -> Tensor:
    assert info.residual is not None
    return info.residual


def saved(state: FitState) -> Tensor:
    assert state.saved is not None
    return state.saved.v


def run(method: DIP, p: Problem, steps: int) -> tuple[FitState, list[Info]]:
    state, infos = method.init(p, Rng(0, "solve", [str(i) for i in range(p.batch)])), []
    for _ in range(steps):
        state, info = method.step(p, state)
        infos.append(info)
    return state, infos


def test_a_network_without_a_prior_fits_every_image():
    p = problem()
    _, infos = run(replace(dip(300), jitter=0.0), p, 300)
    assert residual(infos[0]).min() > 0.2
    assert residual(infos[-1]).max() < 1e-3
    torch.testing.assert_close(infos[-1].x_hat, p.y, rtol=0, atol=5e-3)


def test_the_answer_is_the_running_mean_of_the_images():
    p = problem()
    _, raw = run(dip(5), p, 5)
    state, averaged = run(dip(5, average=0.7), p, 5)
    mean = raw[0].x_hat
    for info, smooth in zip(raw, averaged, strict=True):
        mean = 0.7 * mean + 0.3 * info.x_hat if info is not raw[0] else mean
        torch.testing.assert_close(smooth.x_hat, mean)
        assert smooth.residual is None
    torch.testing.assert_close(dip(5, average=0.7).finish(p, state), mean)


def test_a_spike_restores_the_saved_weights_of_its_image_bit_for_bit():
    p, method = problem(), dip(8, rollback=Rollback(drop=5.0, every=3))
    third, _ = run(method, p, 3)
    spoilt = third.solver.z.clone()
    spoilt[0] += 20
    # Its jitter goes on where that of the undisturbed run does.
    spoiled, calm = replace(third, solver=replace(third.solver, z=spoilt)), run(method, p, 3)[0]
    for _ in range(2):
        spoiled, calm = method.step(p, spoiled)[0], method.step(p, calm)[0]
    (spoiled, high), (calm, low) = method.step(p, spoiled), method.step(p, calm)
    assert residual(high)[0] > 2 * residual(low)[0]
    assert torch.equal(spoiled.solver.z[0], saved(third)[0])
    assert torch.equal(saved(spoiled)[0], third.v[0])
    assert torch.equal(spoiled.solver.z[1], calm.solver.z[1])
    assert torch.equal(saved(spoiled)[1], saved(calm)[1])
    assert torch.equal(method.step(p, spoiled)[0].v[0], saved(third)[0])


@pytest.mark.parametrize(("fall", "back"), [(4.9, False), (5.1, True), (float("nan"), True)])
def test_five_decibels_are_the_limit(fall: float, back: bool):
    before = Saved(torch.zeros(1, 3), torch.tensor([0.1]))
    now = Saved(torch.ones(1, 3), torch.tensor([0.1 * 10 ** (fall / 20)]))
    fell, kept = Rollback().look(now, before)
    assert fell.item() is back
    assert torch.equal(kept.v, before.v if back else now.v)
    assert torch.equal(kept.residual, before.residual if back else now.residual)


class Glitch(Operator):
    """Passes images on, but for one call that returns NaN."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * (float("nan") if self.calls == self.at else 1.0)


def glitching(at: int, every: int, **options: float) -> tuple[FitState, list[bool]]:
    """Runs twelve steps of a fit that sees one NaN; says which residuals were numbers."""
    p, operator = problem(), Glitch(0)
    p, method = p.measured_by(operator), dip(12, rollback=Rollback(5.0, every), **options)
    state, sound = method.init(p, Rng(0, "solve", [str(i) for i in range(p.batch)])), []
    operator.at = operator.calls + at
    for _ in range(12):
        state, info = method.step(p, state)
        sound.append(info.residual is not None and bool(torch.isfinite(info.residual).all()))
    return state, sound


@pytest.mark.parametrize(("at", "bad"), [(8, [8]), (6, [6, 7, 8]), (2, [2, 3, 4]), (4, [4])])
def test_one_nan_is_over_at_the_next_look(at: int, bad: list[int]):
    state, sound = glitching(at, every=4)
    assert [step for step, fine in enumerate(sound, 1) if not fine] == bad
    assert torch.isfinite(state.solver.z).all() and torch.isfinite(state.solver.second).all()


def test_one_nan_does_not_stay_in_the_running_mean():
    state, _ = glitching(2, every=4, average=0.5)
    assert state.mean is not None and torch.isfinite(state.mean).all()


def test_looks_are_made_every_so_many_steps():
    method = dip(5, rollback=Rollback(every=3))
    assert run(method, problem(), 2)[0].saved is None
    state, _ = run(method, problem(), 4)
    assert torch.equal(saved(state), run(method, problem(), 3)[0].v)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="drop > 0 dB and every >= 1"):
        Rollback(drop=0)
    with pytest.raises(ValueError, match=r"jitter >= 0 and average in \[0, 1\)"):
        DIP(average=1.0)
