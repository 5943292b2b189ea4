"""The public checks pass on sound plugs and catch planted faults."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import normal

from plugip.engine.adam import Adam
from plugip.linalg import norm
from plugip.method import Info
from plugip.methods import DPS, DMPlug
from plugip.operator import LinearOperator, Operator
from plugip.path import SIGNED, FlowPath
from plugip.prior import Prior
from plugip.priors.gaussian import GaussianPrior
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.testing import Report, check_method, check_operator, check_prior
from plugip.testing.methods import Attenuate

SHAPE = (3, 3, 8, 8)


def failures(report: Report) -> set[str]:
    return {check.name for check in report.checks if not check.ok}


def gaussian() -> GaussianPrior:
    return GaussianPrior(torch.zeros(3, 8, 8), 0.3, FlowPath())


# --- operators


class Roll(LinearOperator):
    """A sound operator: a shift by one pixel, with its adjoint written out."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, -1)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.roll(-1, -1)


class WrongAdjoint(Roll):
    """Shifts back in the wrong direction."""

    def adjoint(self, y: Tensor) -> Tensor:
        return y.roll(1, -1)


class NotLinear(Roll):
    """Claims to be linear."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, -1) + 0.01 * x**2


class MovingKernel(Operator):
    """Draws a new blur on each call, as the DPS lineage did."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(()) * x.roll(1, -1)


class BatchNorm(Operator):
    """Lets a neighbour leak in."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm()


class Detaching(Operator):
    """Cuts the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.detach() + 0 * x


class InPlace(Operator):
    """Edits its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(1.0) if x.requires_grad else x.mul_(0.5)


class Drifting(Operator):
    """Changes its own buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.gain = self.gain * 1.1
        return self.gain * x


class Coil(LinearOperator):
    """A sound operator with complex measurements of real images."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, x.roll(1, -1))

    def adjoint(self, y: Tensor) -> Tensor:
        return y.real + y.imag.roll(-1, -1)


class ForgetsConjugate(Coil):
    """Takes the imaginary part with the wrong sign."""

    def adjoint(self, y: Tensor) -> Tensor:
        return y.real - y.imag.roll(-1, -1)


class ComplexAdjoint(Coil):
    """Leaves an imaginary part on real images."""

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.complex(super().adjoint(y), y.imag)


class Turn(LinearOperator):
    """A sound operator on complex images."""

    complex_domain = True

    def forward(self, x: Tensor) -> Tensor:
        return (0.6 + 0.8j) * x.roll(1, -1)


class Conjugates(Turn):
    """Is linear in real numbers only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.conj()


class WrongTurnBack(Turn):
    """Turns the phase the wrong way."""

    def adjoint(self, y: Tensor) -> Tensor:
        return (0.6 + 0.8j) * y.roll(-1, -1)


def test_sound_complex_operators_pass():
    check_operator(Coil(), SHAPE).require()
    check_operator(Turn(), SHAPE).require()


@pytest.mark.parametrize(
    ("operator", "fault"),
    [
        (ForgetsConjugate(), "adjoint (dot product)"),
        (ComplexAdjoint(), "adjoint (dot product)"),
        (WrongTurnBack(), "adjoint (dot product)"),
        (Conjugates(), "linear"),
    ],
)
def test_faulty_complex_operators_are_caught(operator: Operator, fault: str):
    assert fault in failures(check_operator(operator, SHAPE))


def test_sound_operators_pass():
    check_operator(Roll(), SHAPE).require()
    check_operator(Attenuate(), SHAPE).require()


@pytest.mark.parametrize(
    ("operator", "fault"),
    [
        (WrongAdjoint(), "adjoint (dot product)"),
        (NotLinear(), "linear"),
        (MovingKernel(), "deterministic"),
        (MovingKernel(), "no hidden randomness"),
        (BatchNorm(), "one image, one answer"),
        (Detaching(), "gradient"),
        (InPlace(), "leaves x alone"),
        (Drifting(), "leaves itself alone"),
    ],
)
def test_faulty_operators_are_caught(operator: Operator, fault: str):
    assert fault in failures(check_operator(operator, SHAPE))


# --- priors


class Wrapped(Prior):
    """Answers like a sound prior, with a fault added by the subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = gaussian()
        self.shape, self.path, self.value_range = (3, 8, 8), FlowPath(), self.inner.value_range
        self.freeze()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.inner(x_t, t)


class DetachedPrior(Wrapped):
    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.inner(x_t.detach(), t)


class WrongSign(Wrapped):
    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return 2 * x_t - self.inner(x_t, t)


class LeakyPrior(Wrapped):
    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.inner(x_t, t) + 0.1 * x_t.mean()


class Trainable(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.weight * self.inner(x_t, t)


def test_a_sound_prior_passes():
    check_prior(gaussian()).require()


@pytest.mark.parametrize(
    ("prior", "fault"),
    [
        (DetachedPrior(), "gradient reaches x_t"),
        (WrongSign(), "denoises"),
        (LeakyPrior(), "one image, one answer"),
        (Trainable(), "frozen"),
    ],
)
def test_faulty_priors_are_caught(prior: Prior, fault: str):
    assert fault in failures(check_prior(prior))


# --- methods


@dataclass(frozen=True)
class DetachedGenerator(Generator):
    """Forgets the gradient of the first reverse step."""

    def __call__(self, prior: Prior, z: Tensor) -> Tensor:
        first = prior(z, torch.tensor(1.0, dtype=torch.float64))
        with torch.no_grad():
            half = 0.5 * prior(z, torch.tensor(1.0, dtype=torch.float64)) + 0.5 * z
        return prior.decode(prior(half + 0 * first, torch.tensor(0.5, dtype=torch.float64)))


@dataclass(frozen=True)
class BatchNormDPS(DPS):
    """Divides every step by a norm that runs over the whole batch, as azula and DPS do."""

    def step(self, problem: Problem, state: Any) -> tuple[Any, Info]:
        moved, info = super().step(problem, state)
        pull = 0.1 * (moved.x_t - state.x_t) / (problem.y - problem.operator(info.x_hat)).norm()
        return replace(moved, x_t=moved.x_t - pull), info


@dataclass(frozen=True)
class UnclampedDPS(DPS):
    """Reports the residual of an image that it has clamped since."""

    def step(self, problem: Problem, state: Any) -> tuple[Any, Info]:
        moved, info = super().step(problem, state)
        return moved, replace(info, residual=problem.residual(problem.operator(2 * info.x_hat)))


@dataclass(frozen=True)
class SplitBillDPS(DPS):
    """Asks the network once more where images come in a batch, as a shared line search would."""

    def init(self, problem: Problem, rng: Rng) -> Any:
        state = super().init(problem, rng)
        for _ in range(problem.batch - 1):
            problem.prior(state.x_t, torch.tensor(0.5, dtype=torch.float64))
        return state


@dataclass(frozen=True)
class BackDoorDPS(DPS):
    """Calls the network behind the counter's back."""

    def step(self, problem: Problem, state: Any) -> tuple[Any, Info]:
        problem.prior.forward(state.x_t, torch.tensor(0.5, dtype=torch.float64))
        return super().step(problem, state)


@dataclass(frozen=True)
class EditingDPS(DPS):
    """Writes into the measurement."""

    def step(self, problem: Problem, state: Any) -> tuple[Any, Info]:
        problem.y.mul_(0.999)
        return super().step(problem, state)


@dataclass(frozen=True)
class GlobalNoiseDPS(DPS):
    """Draws its start from the global stream."""

    def init(self, problem: Problem, rng: Rng) -> Any:
        state = super().init(problem, rng)
        return replace(state, x_t=torch.randn_like(state.x_t))


@dataclass(frozen=True)
class MeanLoss(DPS):
    """Reports one loss for the whole batch."""

    def step(self, problem: Problem, state: Any) -> tuple[Any, Info]:
        moved, info = super().step(problem, state)
        return moved, replace(info, loss=norm(info.x_hat).mean().expand(1))


def test_sound_methods_pass():
    check_method(DMPlug(iterations=5)).require()
    check_method(DPS(steps=5)).require()


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        (DMPlug(4, DetachedGenerator(), Adam()), "gradient of the objective"),
        (BatchNormDPS(steps=5), "one image, one answer"),
        (UnclampedDPS(steps=5), "reports the residual of its image"),
        (SplitBillDPS(steps=5), "one image, one bill"),
        (BackDoorDPS(steps=5), "network calls are counted"),
        (EditingDPS(steps=5), "leaves y alone"),
        (GlobalNoiseDPS(steps=5), "no hidden randomness"),
        (GlobalNoiseDPS(steps=5, eta=0.0, grid="trailing"), "same seed, same answer"),
        (MeanLoss(steps=1), "solves"),
    ],
)
def test_faulty_methods_are_caught(method: Any, fault: str):
    assert fault in failures(check_method(method))


def test_a_report_can_be_read():
    report = check_operator(WrongAdjoint(), SHAPE)
    assert "FAIL  adjoint (dot product)" in report.text()
    assert report.text().endswith(f"2 of {len(report.checks)} checks failed")
    with pytest.raises(AssertionError, match="dot product"):
        report.require()


@pytest.mark.parametrize("seed", range(4))
def test_kinks_are_no_wrong_gradient(seed):
    class Kinked(Prior):
        def __init__(self):
            super().__init__()
            self.shape, self.path, self.value_range = (3, 16, 16), FlowPath(), SIGNED
            self.net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.ConvTranspose2d(64, 3, 3))
            for i, w in enumerate(self.net.parameters()):
                w.data = 0.3 * normal(*w.shape, seed=9 * seed + i).float()
            self.freeze()

        def forward(self, x_t, t):
            return self.net(x_t)

    report = check_prior(Kinked(), denoises=False)
    assert all(check.ok for check in report.checks)
