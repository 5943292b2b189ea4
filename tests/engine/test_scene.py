"""Frames, windows, centring of kernels and the gradient ratio, by known answers."""

import pytest
import torch
from torch.testing import assert_close

from plugip.engine.misfit import Misfit
from plugip.engine.scene import (
    Frame,
    Scene,
    SparseMisfit,
    StructuralMisfit,
    centre_kernel,
    gradient_ratio,
    windows,
)
from plugip.methods import SelfDeblur
from plugip.metrics import SSIM
from plugip.noise import GaussianNoise
from plugip.operators import BlindBlur, BlindTurbulence, Blur, Denoise
from plugip.priors import Untrained
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.testing.report import random_images
from plugip.untrained import MLP, Skip

SIDE = 14


def kernels(rows: int, columns: int) -> torch.Tensor:
    drawn = random_images((2, 1, rows, columns), "kernel") + 0.9
    return drawn / drawn.sum((-2, -1), keepdim=True)


def problem(operator) -> Problem:
    y = random_images((2, 2, SIDE, SIDE), "y")
    return Problem(y, operator, GaussianNoise(0.1), Untrained((2, SIDE, SIDE)))


def scene_of(p: Problem) -> tuple[Scene, torch.Tensor]:
    method = SelfDeblur(1, Skip(channels=3, code_channels=2), MLP(3, 4))
    unknowns, v = method.search(p, Rng(0, "solve", ["a", "b"]))
    assert isinstance(unknowns, Scene)
    return unknowns, v


@pytest.mark.parametrize(
    "operator",
    [
        BlindBlur(5),
        BlindBlur((3, 7), boundary="circular"),
        BlindBlur((4, 6), boundary="reflect", origin=(1, 4)),
    ],
)
def test_y_is_the_valid_part_of_the_blurred_scene(operator: BlindBlur):
    p = problem(operator)
    unknowns, v = scene_of(p)
    scene, kernel = unknowns.image(p, v), unknowns.theta(p, v)
    expected = Blur(kernel, "valid", origin=operator.origin)(scene)
    y = unknowns.known(p, v).operator(scene)
    assert y.shape == p.y.shape
    assert_close(y, expected, rtol=1e-9, atol=1e-9)


def test_the_image_lies_where_the_origin_says():
    p = problem(BlindBlur((4, 6), origin=(1, 4)))
    frame = Frame.of(p, "SelfDeblur")
    delta = torch.zeros(2, 1, 4, 6, dtype=torch.float64)
    delta[:, :, 1, 4] = 1
    scene = random_images((2, 2, *frame.scene), "scene")
    assert_close(Blur(delta, "valid", origin=(1, 4))(scene), frame.image(scene))


def test_kernels_are_not_negative_and_sum_to_one():
    p = problem(BlindBlur(5))
    unknowns, v = scene_of(p)
    kernel = unknowns.theta(p, v)
    assert kernel.shape == (2, 1, 5, 5)
    assert (kernel >= 0).all()
    assert_close(kernel.sum((1, 2, 3)), torch.ones(2).double())


@pytest.mark.parametrize("moves", [(0, 0), (1, -2), (-3, 2)])
def test_centring_moves_kernel_and_image_together(moves: tuple[int, int]):
    small = kernels(3, 3)
    kernel = torch.zeros(2, 1, 9, 9, dtype=torch.float64)
    kernel[:, :, 3 - moves[0] : 6 - moves[0], 3 - moves[1] : 6 - moves[1]] = small
    middle = torch.nn.functional.pad(small, (3, 3, 3, 3))
    expected, own = centre_kernel(middle, (4, 4))
    found, undone = centre_kernel(kernel, (4, 4))
    assert_close(found, expected)
    assert (undone - own).tolist() == [list(moves)] * 2
    p = problem(BlindBlur(9))
    frame = Frame.of(p, "BlindDIP")
    scene = random_images((2, 2, *frame.scene), "scene")
    y = Blur(kernel, "valid")(scene)
    again = Blur(found, "zero")(frame.image(scene, undone))
    assert_close(again[..., 4:-4, 4:-4], y[..., 4:-4, 4:-4])


def test_faint_taps_do_not_draw_the_centre():
    kernel = torch.full((1, 1, 21, 21), 1e-3)
    kernel[0, 0, 2, 3] = 1
    moves = centre_kernel(kernel / kernel.sum(), (10, 10))[1]
    assert moves.tolist() == [[8, 7]]


def test_windows_may_lie_outside():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    first = torch.tensor([[-1, 1]])
    assert windows(x, first, (2, 3)).tolist() == [[[[1, 2, 2], [1, 2, 2]]]]
    assert windows(x, first, (2, 3), "zero").tolist() == [[[[0, 0, 0], [1, 2, 0]]]]


def test_gradient_ratio_of_known_images():
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1
    assert_close(gradient_ratio(step), torch.tensor([2.0]))  # 4 / sqrt 4
    assert_close(gradient_ratio(3 * step), gradient_ratio(step))
    flat = torch.ones(1, 1, 4, 4, requires_grad=True)
    assert gradient_ratio(flat).item() == 0
    (grad,) = torch.autograd.grad(gradient_ratio(flat).sum(), flat)
    assert torch.isfinite(grad).all()


def test_sparse_misfit_adds_the_weighted_ratio():
    p = problem(BlindBlur(5))
    unknowns, v = scene_of(p)
    plain = Misfit(p, unknowns, "mean").evaluate(v)
    sparse = SparseMisfit(p, unknowns, "mean", 0.01)
    expected = plain.loss + 0.01 * gradient_ratio(plain.x)
    assert_close(sparse.evaluate(v).loss, expected)
    assert_close(sparse(v), expected)


def test_structural_misfit_is_one_minus_ssim():
    p = problem(BlindBlur(5))
    unknowns, v = scene_of(p)
    y_clean = unknowns.known(p, v).operator(unknowns.image(p, v))
    expected = 1 - SSIM()((y_clean + 1) / 2, (p.y + 1) / 2)
    assert_close(StructuralMisfit(p, unknowns, "mean").evaluate(v).loss, expected)


@pytest.mark.parametrize("operator", [Denoise(), BlindTurbulence(5)])
def test_other_operators_are_refused(operator):
    with pytest.raises(TypeError, match="SelfDeblur finds one blur kernel"):
        scene_of(problem(operator))
