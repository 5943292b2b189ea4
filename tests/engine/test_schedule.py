"""Milestones equal torch's own scheduler, in Adam."""

import pytest
import torch

from plugip.engine.adam import Adam
from plugip.engine.objective import Evaluation, Objective
from plugip.engine.schedule import Milestones


class Bowl(Objective):
    def evaluate(self, v: torch.Tensor) -> Evaluation:
        loss = v.square().flatten(1).sum(1)
        return Evaluation(loss, 2 * v, v, loss)


def test_iterates_equal_torch_with_multi_step_lr():
    z = torch.linspace(0.5, 1, 6, dtype=torch.float64).reshape(2, 3)
    reference = z.clone().requires_grad_()
    optimiser = torch.optim.Adam([reference], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [3, 5], 0.5)
    solver = Adam(lr=0.1, schedule=Milestones((3, 5), 0.5))
    state = solver.init(z)
    for _ in range(8):
        state, seed, _, _ = solver.step(Bowl(), state)
        torch.testing.assert_close(seed, reference.detach(), rtol=1e-12, atol=1e-12)
        optimiser.zero_grad()
        reference.square().sum().backward()
        optimiser.step()
        scheduler.step()


def test_published_halving():
    factor = Milestones()
    assert [factor(n) for n in (0, 1999, 2000, 3000, 4000, 9000)] == [
        1,
        1,
        0.5,
        0.25,
        0.125,
        0.125,
    ]


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"factor must lie in \(0, 1\]"):
        Milestones(factor=2)
    for at in ((0,), (0, 5), (5, 0)):
        with pytest.raises(ValueError, match="milestones be at least 1"):
            Milestones(at=at)
    assert Milestones((1, 2))(1) == 0.5
