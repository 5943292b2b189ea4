"""Seed spaces: nearest points against a numerical minimiser, what stays, and empty seeds."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from toys import close, normal

from plugip.engine.spaces import Free, Shell, Sphere, White
from plugip.linalg import norm

SHAPE = (3, 16, 16)
SPACES = [Free(), Shell(), Shell(0.2), Sphere(), White(), White(rings=4, block=5, rounds=1)]


def seeds(*scales: float, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """One white seed for each standard deviation."""
    return normal(len(scales), *shape) * torch.tensor(scales, dtype=torch.float64).reshape(
        -1, 1, 1, 1
    )


def coloured(batch: int = 1, side: int = 32) -> Tensor:
    """Smooth seeds: noise whose spectrum falls with the cube of the frequency."""
    frequency = torch.fft.fftfreq(side)
    radius = torch.hypot(frequency[:, None], frequency)
    spectrum = torch.fft.fft2(normal(batch, 3, side, side)) / (0.03 + radius) ** 3
    z = torch.fft.ifft2(spectrum).real
    return z * math.sqrt(z[0].numel()) / norm(z).reshape(-1, 1, 1, 1)


def ring_norms(z: Tensor, rings: int = 8) -> tuple[Tensor, Tensor]:
    """Norms of rings of spatial frequency, (B, rings), and their numbers of entries; by loops."""
    spectrum = np.fft.fft2(z.numpy()) / z.shape[-1]
    frequency = np.fft.fftfreq(z.shape[-1])
    energy, count = np.zeros((len(z), rings)), np.zeros(rings)
    for i, down in enumerate(frequency):
        for j, across in enumerate(frequency):
            k = min(
                int(math.hypot(down, across) / (math.hypot(0.5, 0.5) + 1e-6) * rings), rings - 1
            )
            energy[:, k] += (np.abs(spectrum[:, :, i, j]) ** 2).sum(axis=1)
            count[k] += z.shape[1]
    return torch.from_numpy(energy).sqrt(), torch.from_numpy(count)


def block_norms(z: Tensor, block: int = 8) -> Tensor:
    tiles = z.unfold(2, block, block).unfold(3, block, block)  # (B, C, rows, columns, 8, 8)
    return tiles.square().sum((1, 4, 5)).sqrt().flatten(1)


@pytest.mark.parametrize("space", [Shell(), Shell(0.2), Sphere()])
def test_the_norm_is_that_of_noise_to_within_the_margin(space):
    epsilon = getattr(space, "epsilon", 0.0)
    size = norm(space(seeds(0.1, 0.9, 1.0, 7.0))) / math.sqrt(768)
    assert ((size >= 1 - epsilon - 1e-12) & (size <= 1 + epsilon + 1e-12)).all()
    close(size[[0, 3]], torch.tensor([1 - epsilon, 1 + epsilon], dtype=torch.float64))


@pytest.mark.parametrize("space", [Shell(0.1), Sphere()])
@pytest.mark.parametrize("scale", [0.3, 2.5])
def test_the_shell_gives_the_nearest_point(space, scale):
    z = scale * normal(1, 1, 1, 5)
    epsilon = getattr(space, "epsilon", 0.0)
    squared = 5 * (1 - epsilon) ** 2, 5 * (1 + epsilon) ** 2
    limits = [
        {"type": "ineq", "fun": lambda v: v @ v - squared[0] + 1e-12},
        {"type": "ineq", "fun": lambda v: squared[1] - v @ v + 1e-12},
    ]
    found = minimize(
        lambda v: ((v - z.flatten().numpy()) ** 2).sum(),
        normal(5, seed=3).numpy(),
        constraints=limits,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    close(space(z).flatten(), torch.from_numpy(found.x), 1e-5)


@pytest.mark.parametrize("scale", [3.0, 0.1])
def test_scaling_each_block_gives_the_nearest_point_with_these_block_norms(scale):
    space, z = White(block=2, margin=0.3), scale * normal(1, 1, 2, 4)
    least, most = 2 - 0.3 * math.sqrt(0.5), 2 + 0.3 * math.sqrt(0.5)

    def blocks(v: np.ndarray) -> np.ndarray:
        return (v.reshape(2, 2, 2) ** 2).sum(axis=(0, 2))

    limits = [
        {"type": "ineq", "fun": lambda v: blocks(v) - least**2},
        {"type": "ineq", "fun": lambda v: most**2 - blocks(v)},
    ]
    found = minimize(
        lambda v: ((v - z.flatten().numpy()) ** 2).sum(),
        normal(8, seed=4).numpy(),
        constraints=limits,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    close(space._blocks(z).flatten(), torch.from_numpy(found.x), 1e-5)


def test_the_spectral_half_moves_by_the_gaps_of_the_ring_norms():
    # Rings are orthogonal subspaces: the distance to the set is that of the norms, ring by ring.
    space, z = White(), coloured(2)
    size, count = ring_norms(z)
    margin = 3 * math.sqrt(0.5)
    wanted = size.clamp_min((count.sqrt() - margin).clamp_min(0)).minimum(count.sqrt() + margin)
    close(norm(space._spectrum(z) - z), (size - wanted).square().sum(1).sqrt())
    close(ring_norms(space._spectrum(z))[0], wanted)


@pytest.mark.parametrize("space", [Free(), Shell(), White(margin=5.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_admissible_seeds_stay_bit_for_bit(space, dtype):
    z = normal(4, 3, 64, 64, seed=5, dtype=dtype)
    assert torch.equal(space(z), z)


def test_true_noise_is_nearly_left_alone():
    z = normal(20, 3, 64, 64)  # of 72 norms each, one in 370 is beyond three deviations
    assert (norm(White()(z) - z) < 0.005 * norm(z)).all()


@pytest.mark.parametrize("space", [Free(), Shell(), Shell(0.2), Sphere()])
def test_projecting_twice_changes_nothing_more(space):
    once = space(seeds(0.2, 1.0, 3.0))
    close(space(once), once, 1e-14)


@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_scaled_noise_is_projected_once_and_for_all_by_white_too(scale):
    once = White(rounds=20)(seeds(scale))
    close(White(rounds=20)(once), once, 1e-6)


def test_a_coloured_seed_becomes_white():
    z = coloured(3)
    size, count = ring_norms(z)
    before = ((size - count.sqrt()).abs() / math.sqrt(0.5)).amax(1)
    size, _ = ring_norms(White()(z))
    after = ((size - count.sqrt()).abs() / math.sqrt(0.5)).amax(1)
    assert (before > 30).all()
    assert (after < 4.5).all()  # in standard deviations; the margin is 3, and blocks come last
    size, _ = ring_norms(White(rounds=30)(z))
    assert ((size - count.sqrt()).abs() / math.sqrt(0.5) < 3.1).all()
    assert (((block_norms(White()(z)) - math.sqrt(192)).abs() / math.sqrt(0.5)) < 3 + 1e-9).all()


@pytest.mark.parametrize("space", SPACES)
def test_each_image_is_projected_for_itself(space):
    z = torch.cat([seeds(0.1, 1.0, 4.0), coloured(1, 16), torch.zeros(1, *SHAPE).double()])
    together = space(z)
    for i in range(len(z)):
        assert torch.equal(space(z[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("space", [Shell(), Sphere(), White()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30])
def test_flat_and_empty_seeds_become_admissible(space, dtype, value):
    z = torch.full((1, 3, 32, 32), value, dtype=dtype)
    moved = space(z).double()
    assert 0.9 < float(norm(moved)) / math.sqrt(3072) < 1.1
    if isinstance(space, White):
        size, count = ring_norms(moved)
        assert ((size - count.sqrt()).abs() < 5 * math.sqrt(0.5)).all()


@pytest.mark.parametrize("space", SPACES)
def test_gradients_stay_finite_at_zero_and_beside_it(space):
    z = torch.cat([torch.zeros(1, *SHAPE), 1e-20 * normal(1, *SHAPE), normal(1, *SHAPE)])
    leaf = z.double().requires_grad_()
    (grad,) = torch.autograd.grad(space(leaf).sum(), leaf)
    assert grad.isfinite().all()


def test_a_seed_without_a_mean_is_white_enough():
    z = normal(1, 3, 32, 32, seed=5)
    z = z - z.mean((2, 3), keepdim=True)  # three entries may well be zero
    moved = White()(z)
    assert float(moved.mean((2, 3)).abs().max()) < 2e-3  # noise has 0.03


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1\), got 1"):
        Shell(1.0)
    with pytest.raises(ValueError, match="rings, block and rounds must be at least 1, got 0, 8"):
        White(rings=0)
    with pytest.raises(ValueError, match="margin must not be negative, got -1"):
        White(margin=-1.0)
    with pytest.raises(ValueError, match=r"White needs seeds \(B, C, H, W\), got shape \(2, 7\)"):
        White()(normal(2, 7))
