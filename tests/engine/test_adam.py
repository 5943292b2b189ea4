"""Adam on seeds equals torch's own."""

import pytest
import torch
from torch import Tensor

from plugip.engine.adam import Adam
from plugip.engine.objective import Evaluation, Objective


class Bowl(Objective):
    """An objective with known gradient."""

    def evaluate(self, v: Tensor) -> Evaluation:
        weights = torch.arange(1.0, v[0].numel() + 1, dtype=v.dtype).reshape(v[0].shape)
        loss = (weights * v**2).flatten(1).sum(1)
        return Evaluation(loss, 2 * weights * v, v, loss)


def test_twenty_iterates_equal_torch_adam():
    z = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)
    reference = z.clone().requires_grad_()
    optimiser = torch.optim.Adam([reference], lr=0.03)
    solver, state = Adam(lr=0.03), Adam(lr=0.03).init(z)
    for _ in range(20):
        state, seed, _, _ = solver.step(Bowl(), state)
        torch.testing.assert_close(seed, reference.detach(), rtol=1e-12, atol=1e-12)
        optimiser.zero_grad()
        Bowl().evaluate(reference).loss.sum().backward()
        optimiser.step()


class RatedBowl(Bowl):
    """Coordinates with steps of their own, as a learned time beside a seed."""

    def rates(self, v: Tensor) -> Tensor:
        return torch.tensor([1.0, 3.0], dtype=v.dtype).expand_as(v)


def test_rates_are_the_steps_of_parameter_groups():
    z = torch.tensor([[0.5, -0.4], [0.3, 0.9]], dtype=torch.float64)
    columns = [z[:, :1].clone().requires_grad_(), z[:, 1:].clone().requires_grad_()]
    groups = [{"params": [c], "lr": lr} for c, lr in zip(columns, (0.01, 0.03), strict=True)]
    optimiser = torch.optim.Adam(groups)
    solver, state = Adam(), Adam().init(z)
    for _ in range(5):
        state, seed, _, done = solver.step(RatedBowl(), state)
        torch.testing.assert_close(seed, torch.cat(columns, 1).detach(), rtol=1e-12, atol=1e-12)
        assert not done.any()
        optimiser.zero_grad()
        Bowl().evaluate(torch.cat(columns, 1)).loss.sum().backward()
        optimiser.step()


def test_learning_rate_must_be_positive():
    with pytest.raises(ValueError, match="lr must be positive, got 0"):
        Adam(lr=0)
