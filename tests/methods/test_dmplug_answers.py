"""DMPlug against closed forms: MAP estimates by every solver, least squares, and blind kernels."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from toys import close, normal

from plugip.engine.adam import Adam
from plugip.engine.lbfgs import LBFGS
from plugip.engine.nesterov import Nesterov
from plugip.engine.solver import AnySolver
from plugip.engine.start import GaussianStart, ZeroStart
from plugip.loop import solve
from plugip.methods import DMPlug
from plugip.noise import GaussianNoise, UnknownNoise
from plugip.operators.blind_blur import BlindBlur, find_shift, move
from plugip.priors.low_rank import LowRankGaussian
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.testing.methods import toy_problem

STD = 0.05  # of the toy problem's noise
SOLVERS = {
    "lbfgs": (LBFGS(tolerance=1e-9), 60, 1e-5),
    "nesterov": (Nesterov(0.02, 0.85), 200, 1e-6),
    "adam": (Adam(0.05), 300, 1e-2),
}


def affine_map(problem: Problem, generator: Generator) -> tuple[Tensor, Tensor]:
    """Offset and pixel-wise slope of z -> A(R(z)), affine for a Gaussian prior."""
    with torch.no_grad():
        ends = [torch.full((1, *problem.prior.shape), v).double() for v in (0.0, 1.0)]
        offset, end = (problem.operator(generator(problem.prior, z)) for z in ends)
    return offset, end - offset


def ridge(problem: Problem, damping: float) -> Tensor:
    """The least of ‖slope z + offset - y‖² + damping ‖z‖², pixel by pixel."""
    offset, slope = affine_map(problem, Generator(2))
    return slope * (problem.y - offset) / (slope.square() + damping)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("start", [ZeroStart(), GaussianStart()])
def test_every_solver_ends_at_the_map_estimate_wherever_it_starts(name: str, start):
    solver, iterations, tolerance = SOLVERS[name]
    found = solve(toy_problem(), DMPlug(iterations, Generator(2), solver, start)).z
    assert found is not None
    close(found, ridge(toy_problem(), STD**2), tolerance)


@pytest.mark.parametrize("weight", [0.0, 4.0])
def test_the_seed_weight_is_the_damping_in_units_of_the_noise(weight: float):
    method = DMPlug(80, Generator(2), LBFGS(tolerance=1e-9), seed_weight=weight)
    found = solve(toy_problem(), method).z
    assert found is not None
    close(found, ridge(toy_problem(), weight * STD**2), 1e-5)


@pytest.mark.parametrize(("loss", "weight"), [("sum", 0.3), ("sum", 0.0), ("mean", 1e-3)])
def test_without_a_noise_level_plain_losses_give_plain_ridges(loss: str, weight: float):
    # sum r² + w ‖z‖² / 2 has damping w / 2; a mean over m entries has m w / 2.
    p = toy_problem()
    unknown = Problem(p.y, p.operator, UnknownNoise(), p.prior)
    method = DMPlug(150, Generator(2), LBFGS(tolerance=1e-10), seed_weight=weight, loss=loss)
    found = solve(unknown, method).z
    assert found is not None
    m = p.y[0].numel() if loss == "mean" else 1
    close(found, ridge(p, m * weight / 2), 1e-4)


# blind


def low_rank_prior(moved: bool) -> LowRankGaussian:
    """Few directions, 16 x 16; with ``moved``, each of them one pixel to the left as well."""
    mean, parts = 0.25 * normal(3, 16, 16), normal(8, 3, 16, 16, seed=1)
    mean, parts = (0 * mean, torch.cat([parts, parts.roll(-1, -1)])) if moved else (mean, parts)
    variances = torch.full((len(parts),), 0.08**2, dtype=torch.float64)
    return LowRankGaussian(mean, parts, variances, 0.02).double()


def blind_problem(moved: bool = False) -> tuple[Problem, Tensor, Tensor]:
    """Two images of the prior, blurred by kernels of 5 x 5; and images and kernels themselves."""
    prior = low_rank_prior(moved)
    weights = 0.08 * normal(2, 8, seed=2)
    x = prior.mean + torch.einsum("br,rchw->bchw", weights, prior.components[:8])
    kernel = normal(2, 1, 5, 5, seed=3).abs() ** 3
    kernel[..., [0, -1]] *= not moved  # then one can move inside its window
    kernel = kernel / kernel.sum((-2, -1), keepdim=True)
    operator = BlindBlur(5, boundary="circular").double()
    y = operator.at(kernel)(x) + 0.01 * normal(2, 3, 16, 16, seed=4)
    return Problem(y, operator, GaussianNoise(0.01), prior), x, kernel


def gap(found: Tensor, kernel: Tensor) -> Tensor:
    """The sum of absolute errors of each kernel, whose taps sum to 1."""
    return (found - kernel).abs().sum((1, 2, 3))


@pytest.mark.parametrize(("solver", "iterations"), [(LBFGS(), 150), (Adam(0.03), 150)])
def test_the_true_kernel_is_found(solver: AnySolver, iterations: int):
    p, x, kernel = blind_problem()
    solution = solve(p, DMPlug(iterations, Generator(2), solver))
    assert isinstance(solution.theta, Tensor)
    assert (find_shift(solution.x_hat, x) == 0).all()  # this prior knows where things are
    assert float(gap(torch.full_like(kernel, 1 / 25), kernel).min()) > 0.7
    assert float(gap(solution.theta, kernel).max()) < 0.05
    assert all(0.9 < d.residual_to_noise < 1.1 for d in solution.diagnostics)  # type: ignore[operator]


@dataclass(frozen=True)
class At:
    """Starts at given seeds."""

    z: Tensor

    def __call__(self, problem: Problem, rng: Rng) -> Tensor:
        return self.z


def test_a_moved_answer_has_its_kernel_moved_along_and_the_shift_is_reported():
    p, x, kernel = blind_problem(moved=True)
    left = move(kernel, torch.tensor([[0, -1]] * 2), "zero")
    close(left.sum((1, 2, 3)), kernel.sum((1, 2, 3)))  # nothing fell off
    fixed = replace(p, operator=p.operator.at(left))  # type: ignore[attr-defined]
    z = solve(fixed, DMPlug(25, Generator(2))).z
    assert z is not None
    # Begun at the image that is one pixel further left, the blind search stays with it.
    solution = solve(p, DMPlug(60, Generator(2), start=At(z)), rows=2)
    assert isinstance(solution.theta, Tensor)
    shift = find_shift(solution.x_hat, x)
    assert shift.tolist() == [[0, 1]] * 2
    raw, aligned = gap(solution.theta, kernel), gap(move(solution.theta, shift, "zero"), kernel)
    assert (raw > 1).all()
    assert (aligned < 0.25).all()  # this prior likes mixtures of an image and its copy, too
