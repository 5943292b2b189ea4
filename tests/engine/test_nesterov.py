"""Nesterov's momentum equals torch's own, image by image."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from toys import close

from plugip.engine.nesterov import Nesterov
from plugip.engine.objective import Evaluation, Objective
from plugip.engine.spaces import Sphere
from plugip.linalg import norm

START = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)


@dataclass(frozen=True)
class Bowl(Objective):
    """An objective with known gradient."""

    step_rates: Tensor | None = None
    space: object = field(default=lambda v: v)

    def evaluate(self, v: Tensor) -> Evaluation:
        weights = torch.arange(1.0, v[0].numel() + 1, dtype=v.dtype).reshape(v[0].shape)
        loss = (weights * v**2).flatten(1).sum(1)
        return Evaluation(loss, 2 * weights * v, v, loss)

    def project(self, v: Tensor) -> Tensor:
        return self.space(v)  # type: ignore[operator]

    def rates(self, v: Tensor) -> Tensor | None:
        return self.step_rates


def iterates(solver: Nesterov, objective: Objective, z: Tensor, count: int = 20) -> list[Tensor]:
    state, seen = solver.init(z), []
    for _ in range(count):
        state, v, _, done = solver.step(objective, state)
        assert not done.any()
        seen.append(v)
    return seen


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_twenty_iterates_equal_torch_sgd(momentum):
    reference = START.clone().requires_grad_()
    optimiser = torch.optim.SGD([reference], lr=0.03, momentum=momentum, nesterov=True)
    for v in iterates(Nesterov(0.03, momentum), Bowl(), START):
        close(v, reference.detach(), 1e-12)
        optimiser.zero_grad()
        Bowl().evaluate(reference).loss.sum().backward()
        optimiser.step()


def test_without_momentum_it_is_gradient_descent():
    weights = torch.arange(1.0, 7).double()
    for k, v in enumerate(iterates(Nesterov(0.03, 0.0), Bowl(), START)):
        close(v, START * (1 - 0.06 * weights) ** k, 1e-12)


def test_the_gradient_is_clipped_image_by_image():
    z = START * torch.tensor(
        [[1.0], [0.01]], dtype=torch.float64
    )  # a long gradient and a short one
    first, second = iterates(Nesterov(0.1, 0.0, clip=0.5), Bowl(), z, 2)
    close(norm(first - second), torch.stack([slope(z)[0] * 0 + 0.05, 0.1 * slope(z)[1]]))
    close(second[1], iterates(Nesterov(0.1, 0.0), Bowl(), z, 2)[1][1])


def slope(z: Tensor) -> Tensor:
    return norm(Bowl().evaluate(z).grad)


def test_clipping_one_image_leaves_its_neighbour_alone():
    solver = Nesterov(0.05, clip=1.0)
    together = iterates(solver, Bowl(), START * torch.tensor([[50.0], [0.1]], dtype=torch.float64))
    alone = iterates(solver, Bowl(), 0.1 * START[1:])
    for both, one in zip(together, alone, strict=True):
        assert torch.equal(both[1:], one)


def test_rates_scale_the_step_of_each_coordinate():
    rates = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 0.5]).double()
    first, second = iterates(Nesterov(0.01), Bowl(rates), START, 2)
    plain = iterates(Nesterov(0.01), Bowl(), START, 2)[1]
    close(second - first, rates * (plain - first), 1e-12)


def test_every_move_is_projected():
    for v in iterates(Nesterov(0.05), Bowl(space=Sphere()), Sphere()(START)):
        close(norm(v), torch.full((2,), 6**0.5, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, "lr must be positive, got 0"),
        ({"lr": 1, "momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1"),
        ({"lr": 1, "clip": 0.0}, "clip must be positive, or null for no limit, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Nesterov(**settings)
