"""What is measured of a reverse process: truncation, samples, range, restoration.

And how the times of a grid are learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise, product
from typing import Any, cast

import torch
from torch import Tensor

from plugip import GaussianNoise, Info, Problem, UnknownNoise, measure, solve
from plugip.engine.lbfgs import LBFGS
from plugip.engine.start import ZeroStart
from plugip.methods import DMPlug
from plugip.metrics import psnr, to_unit
from plugip.operators import BicubicDownsample, Denoise
from plugip.prior import Prior
from plugip.reverse import GRIDS, Generator
from plugip.rng import Rng
from plugip.stopping import Stopped, Verdict

Times = tuple[float, ...]

BATCH = 16  # seeds in one call of the network
COMPONENTS = 64
WIDEST, FINEST = 0.1, 0.01  # of the moves in the search for times


@dataclass(frozen=True)
class Setting:
    """A reverse process under study; a grid of given times is a learned one."""

    steps: int = 3
    grid: str | Times = "uniform"
    solver: str = "ddim"
    clip: str = "none"

    @property
    def generator(self) -> Generator:
        """The map R."""
        return Generator(self.steps, self.grid, self.solver, self.clip)

    @property
    def nfe(self) -> int:
        """Network calls of one image."""
        return {"ddim": self.steps, "heun": 2 * self.steps - 1, "midpoint": 2 * self.steps}[
            self.solver
        ]

    @property
    def grid_name(self) -> str:
        """Name of the grid, ``learned`` if it is a list of times."""
        return self.grid if isinstance(self.grid, str) else "learned"


DEFAULT = Setting()  # what others are compared with

# -----------------------------------------------------------------------------------------------
# samples and their error


def seeds(prior: Prior, purpose: str, first: int, last: int) -> Tensor:
    """Returns seeds number first to last - 1 of a stream, (last - first, *prior.shape)."""
    ids = [str(i) for i in range(first, last)]
    return Rng(0, f"reverse_steps/{purpose}", ids).normal(prior.shape)


@torch.no_grad()
def images_of(prior: Prior, generator: Generator, z: Tensor) -> Tensor:
    """Returns R(z), (B, C, H, W), not clamped, some seeds at a time."""
    return torch.cat([generator(prior, part) for part in z.split(BATCH)])


def fine(steps: int) -> Generator:
    """Returns the reference solution: Heun steps on the uniform grid."""
    return Generator(steps, "uniform", "heun")


def rmse(x: Tensor, reference: Tensor) -> float:
    """Returns the root mean square difference over all images, in the units of [-1, 1]."""
    return float((x - reference).double().square().mean().sqrt())


def learned_times(prior: Prior, z: Tensor, reference: Tensor, steps: int) -> Times:
    """Finds times that bring R(z) of Euler steps near a reference solution; no image is seen.

    A pattern search: it starts at the best named grid and moves one time at a time by a width that
    halves when no move helps, so the result is never worse than a named grid on these seeds.

    Args:
        prior: The prior.
        z: Seeds to fit the times to, (B, *prior.shape).
        reference: What a fine solver makes of them, (B, C, H, W).
        steps: Number of steps K.

    Returns:
        K decreasing times in (0, 1], rounded to four decimals.
    """

    @cache
    def error(times: Times) -> float:
        return rmse(images_of(prior, Generator(steps, times), z), reference)

    named = {_rounded(Generator(steps, name).times(prior.path).tolist()[:-1]) for name in GRIDS}
    least, times = min((error(t), t) for t in sorted(named) if _falls(t))
    width = WIDEST
    while width > FINEST:
        before = least
        for i, move in product(range(steps), (width, -width)):
            trial = _rounded([t + move * (i == j) for j, t in enumerate(times)])
            if _falls(trial):
                least, times = min((least, times), (error(trial), trial))
        width = width if least < before else width / 2
    return times


def _rounded(times: Sequence[float]) -> Times:
    return tuple(round(t, 4) for t in times)


def _falls(times: Times) -> bool:
    return times[0] <= 1 and all(t > s for t, s in pairwise((*times, 0.0)))


# -----------------------------------------------------------------------------------------------
# how real samples look


@dataclass(frozen=True)
class Look:
    """Statistics of real images; no image can be had back from a mean of thousands.

    Attributes:
        mean: Mean image, flattened, (d,).
        axes: Principal components, (d, r).
        covariance: Covariance along them, (r, r), float64.
        high: Share of power at high frequencies.
        floor: Fréchet distance, as a share, of as many other real images.
    """

    mean: Tensor
    axes: Tensor
    covariance: Tensor
    high: float
    floor: float = 0.0

    @staticmethod
    def of(real: Tensor, apart: Tensor) -> Look:
        """Takes statistics of real images (n, C, H, W); ``apart`` are others, for the floor."""
        flat = real.flatten(1)
        rank = min(COMPONENTS, len(flat) - 1, flat.shape[1])
        with torch.random.fork_rng(devices=[]):  # the sketch draws from the global stream
            torch.manual_seed(0)
            axes = torch.pca_lowrank(flat, rank, niter=4)[2]
        mean = flat.mean(0)
        covariance = torch.cov(((flat - mean) @ axes).double().T).reshape(rank, rank)
        look = Look(mean, axes, covariance, high_share(real))
        return Look(mean, axes, covariance, look.high, look.distance(apart))

    def distance(self, x: Tensor) -> float:
        """Returns the squared Fréchet distance of images (n, C, H, W) over the real variance.

        0 is a perfect likeness, 1 as far off as the mean image alone. Gaussians are compared along
        the principal components of real images: this is not FID, which uses an ImageNet network.
        """
        scores = ((x.flatten(1) - self.mean) @ self.axes).double()
        covariance = torch.cov(scores.T).reshape(self.covariance.shape)
        mean = scores.new_zeros(len(covariance))
        squared = frechet(scores.mean(0), covariance, mean, self.covariance)
        return squared / float(self.covariance.trace())


def frechet(mean: Tensor, covariance: Tensor, other: Tensor, other_covariance: Tensor) -> float:
    r"""Returns the squared Fréchet distance of two Gaussians.

    .. math:: \|m_1 - m_2\|^2 + \mathrm{tr}(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

    Args:
        mean: (r,).
        covariance: (r, r), symmetric, positive semi-definite.
        other: (r,).
        other_covariance: (r, r).

    Source: Dowson and Landau 1982.
    """
    values, axes = torch.linalg.eigh(covariance)
    root = axes @ (values.clamp_min(0).sqrt()[:, None] * axes.T)
    cross = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp_min(0).sqrt().sum()
    traces = covariance.trace() + other_covariance.trace()
    return float((mean - other).square().sum() + traces - 2 * cross)


def high_share(x: Tensor) -> float:
    """Returns which share of the power of images lies above half the highest frequency.

    Args:
        x: Images, (B, C, H, W); each channel's mean is taken off, edges are faded by a Hann
            window, and the shares are of the power of all images together.
    """
    rows, columns = (torch.hann_window(n, periodic=False, device=x.device) for n in x.shape[-2:])
    faded = (x - x.mean((-2, -1), keepdim=True)) * rows[:, None] * columns
    power = torch.fft.fft2(faded).abs().double().square().sum((0, 1))
    high = torch.fft.fftfreq(x.shape[-2])[:, None].hypot(torch.fft.fftfreq(x.shape[-1])) > 0.25
    return float(power[high].sum() / power.sum())


# -----------------------------------------------------------------------------------------------
# fits


@dataclass(frozen=True)
class PassBudget:
    """Ends an image when the network was passed through so often; one image at a time."""

    passes: int

    def init(self, problem: Problem) -> int:
        """Returns the passes before the first step."""
        return passes_of(problem.prior)

    def update(self, problem: Problem, state: int, info: Info) -> tuple[int, Verdict]:
        """Picks every iterate and ends when the budget is spent."""
        spent = torch.full_like(info.done, passes_of(problem.prior) - state >= self.passes)
        return state, Verdict(torch.ones_like(info.done), spent)


def passes_of(prior: Prior) -> int:
    """Returns all passes so far: forward calls and backward passes count alike."""
    return prior.counter.nfe + prior.counter.vjps


def search(setting: Setting, iterations: int) -> DMPlug:
    """Returns DMPlug from z = 0, so that no draw stands between the settings."""
    return DMPlug(iterations, setting.generator, LBFGS(history=20), ZeroStart())


def range_fit(prior: Prior, setting: Setting, x: Tensor, budgets: Sequence[int]) -> dict[str, Any]:
    """Fits R(z) to an image (1, C, H, W) itself, from z = 0, with no term for the seed."""
    operator = Denoise()
    method = replace(search(setting, max(budgets)), seed_weight=0.0, loss="mean")
    return fit(Problem(operator(x), operator, UnknownNoise(), prior), method, x, budgets)


def restoration(
    prior: Prior, setting: Setting, x: Tensor, name: str, budgets: Sequence[int]
) -> dict[str, Any]:
    """Restores an image (1, C, H, W) from a quarter of its side, noise 0.01, by DMPlug's MAP."""
    operator, noise = BicubicDownsample(4), GaussianNoise(0.01)
    y = measure(operator, x, noise, rng=0, ids=[name])
    method = search(setting, max(budgets))
    return fit(Problem(y, operator, noise, prior), method, x, budgets)


def fit(problem: Problem, method: DMPlug, x: Tensor, budgets: Sequence[int]) -> dict[str, Any]:
    """Solves one problem and scores it from outside.

    Returns:
        ``psnr``: in dB, of the last iterate within each budget of passes, None if there is none;
        ``passes``: those made in all; fewer than the largest budget if the solver had converged.
    """
    start, course = passes_of(problem.prior), list[tuple[int, float]]()

    def watch(step: int, rows: list[int], info: Info) -> None:
        score = float(psnr(to_unit(info.x_hat), to_unit(x)))
        course.append((passes_of(problem.prior) - start, score))

    solve(problem, cast(Any, Stopped(method, PassBudget(max(budgets)))), observer=watch, rows=1)
    reached = [[score for spent, score in course if spent <= b] for b in budgets]
    return {"psnr": [s[-1] if s else None for s in reached], "passes": course[-1][0]}
