import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from plugip import Rng
from plugip.building import build
from plugip.operators.frame_average import FrameAverageBlur, PathShifts
from plugip.operators.homography import (
    CameraRotations,
    HomographyBlur,
    HomographySampler,
    ProjectiveBlur,
    rotations,
)
from plugip.operators.separable import BOUNDARIES
from plugip.testing import check_operator

SHAPE = (2, 3, 9, 11)
SHIFTS = torch.tensor([[0.3, -1.2], [0.0, 2.5], [-3.0, 0.25], [2.0, -4.0]]).double()
# A turn, a stretch, a keystone, and all of them with a shift; points are (down, right, 1).
MATRICES = torch.tensor(
    [
        [[0.98, -0.19, 0.0], [0.19, 0.98, 0.0], [0.0, 0.0, 1.0]],
        [[0.9, 0.05, 0.0], [0.0, 1.2, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.02, -0.015, 1.0]],
        [[1.9, 0.1, -1.0], [-0.2, 2.1, 1.3], [0.01, 0.03, 2.0]],
    ]
).double()


def moved_by(shifts):
    matrices = torch.eye(3, dtype=torch.float64).repeat(*shifts.shape[:-1], 1, 1)
    matrices[..., :2, 2] = shifts
    return matrices


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_identity_changes_nothing(tools, boundary):
    x, still = tools.hash_image(*SHAPE), torch.eye(3).repeat(4, 1, 1)
    tools.close(ProjectiveBlur(still, boundary)(x), x, 0)
    tools.close(ProjectiveBlur(-2 * still, boundary)(x), x, 0)  # the scale means nothing
    tools.close(HomographyBlur(still, boundary=boundary)(x), x, 1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_shifts_agree_with_the_shift_path(tools, boundary, gamma):
    x = tools.hash_image(*SHAPE)
    A = HomographyBlur(moved_by(SHIFTS), gamma, boundary)
    tools.close(A(x), FrameAverageBlur(SHIFTS, gamma, boundary)(x), 1e-12)
    paths = torch.stack([SHIFTS, 0.3 * SHIFTS])
    A = HomographyBlur(moved_by(paths), gamma, boundary)
    tools.close(A(x), FrameAverageBlur(paths, gamma, boundary)(x), 1e-12)


@pytest.mark.parametrize("side", [8, 9])
def test_a_quarter_turn_carries_down_to_the_right(tools, side):
    x = tools.hash_image(1, 2, side, side)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])[None]
    tools.close(ProjectiveBlur(turn)(x), x.rot90(1, (-2, -1)), 1e-13)


def test_an_enlargement_is_about_the_middle(tools):
    x = tools.hash_image(1, 1, 5, 5)
    y = ProjectiveBlur(torch.diag(torch.tensor([2.0, 2, 1]))[None])(x)
    tools.close(y[..., ::2, ::2], x[..., 1:4, 1:4], 1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_frames_agree_with_scipy(tools, boundary):
    modes = {"reflect": "mirror", "symmetric": "reflect", "replicate": "nearest"}
    modes |= {"circular": "grid-wrap", "zero": "grid-constant"}
    x = tools.hash_image(1, 1, 9, 11)
    frames = HomographyBlur(MATRICES, boundary=boundary).frames(x)
    rows, columns = np.meshgrid(np.arange(9) - 4, np.arange(11) - 5, indexing="ij")
    points = np.stack([rows, columns, np.ones_like(rows)]).reshape(3, -1)
    for t, matrix in enumerate(MATRICES.numpy()):
        seen = np.linalg.solve(matrix, points)
        places = (seen[:2] / seen[2] + [[4], [5]]).reshape(2, 9, 11)
        want = map_coordinates(x[0, 0].numpy(), places, order=1, mode=modes[boundary])
        tools.close(frames[0, 0, t], torch.from_numpy(want), 1e-10)
    y = ProjectiveBlur(MATRICES, boundary)(x)
    tools.close(y, frames.mean(2), 1e-14)
    tools.close(y, HomographyBlur(MATRICES, 1.0, boundary)(x), 1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (2, 1, 8, 11)])
def test_operator_checks(tools, boundary, shape):
    check_operator(HomographyBlur(MATRICES, boundary=boundary), shape).require()
    check_operator(ProjectiveBlur(MATRICES, boundary), shape).require()
    tools.adjoint(ProjectiveBlur(MATRICES, boundary), shape)


@pytest.mark.parametrize("boundary", sorted(set(BOUNDARIES) - {"zero"}))
def test_constants_are_preserved(tools, boundary):
    x = torch.full(SHAPE, -0.3, dtype=torch.float64)
    tools.close(HomographyBlur(MATRICES, boundary=boundary)(x), x, 1e-12)


def test_corners_are_blurred_and_the_middle_is_not_by_a_roll(tools):
    x = tools.hash_image(1, 1, 33, 33)
    angles = torch.linspace(-0.05, 0.05, 5, dtype=torch.float64)
    still = torch.zeros_like(angles)
    y = ProjectiveBlur(rotations(still, still, angles, 40.0))(x)
    change = (y - x).abs()
    assert float(change[..., 16, 16]) < 1e-12
    assert float(change[..., :4, :4].mean()) > 3 * float(change[..., 15:18, 15:18].mean())


def test_rotations_are_those_of_a_camera(tools):
    angles = torch.tensor([0.1, -0.02, 0.3]).double()
    zero = torch.zeros_like(angles)
    tools.close(rotations(zero, zero, zero, 50.0), torch.eye(3).double().expand(3, 3, 3), 0)
    H = rotations(angles, zero, zero, 50.0)
    middle = H[..., :2, 2] / H[..., 2:, 2]
    tools.close(middle, torch.stack([50 * angles.tan(), zero], 1), 1e-12)
    middle = rotations(zero, angles, zero, 50.0)
    tools.close(middle[..., 1, 2] / middle[..., 2, 2], 50 * angles.tan(), 1e-12)
    lens = torch.diag(torch.tensor([50.0, 50.0, 1.0]).double())
    turn = torch.linalg.inv(lens) @ rotations(angles, 0.5 * angles, -angles, 50.0) @ lens
    tools.close(turn @ turn.mT, torch.eye(3).double().expand(3, 3, 3), 1e-12)
    tools.close(torch.linalg.det(turn), torch.ones(3).double(), 1e-12)
    turned = rotations(zero, zero, angles, 50.0)[:, :2, 0]  # where "down" goes
    tools.close(turned, torch.stack([angles.cos(), angles.sin()], 1), 1e-12)


def test_drawn_cameras_move_the_middle_along_the_shift_path(tools):
    assert isinstance(CameraRotations(), HomographySampler)
    rng = Rng(0, "operator", ["a", "b"])
    H = CameraRotations(7, 9, roll=0.0, focal=50.0).draw(rng, (2, 3, 40, 64))
    path = PathShifts(7, 9).draw(Rng(0, "operator", ["a", "b"]), (2, 3, 40, 64))
    assert H.shape == (2, 7, 3, 3) and float(path.abs().max()) > 1
    tools.close(H[..., :2, 2] / H[..., 2:, 2], path, 1e-4)  # tan(path / f) f, f of 3200 pixels
    many = Rng(0, "operator", [str(i) for i in range(50)])
    H = CameraRotations(5, 3, roll=3.0).draw(many, SHAPE)
    roll = torch.atan2(H[..., 1, 0], H[..., 0, 0]).rad2deg()
    assert 2.5 < float(roll.abs().max()) < 3.5 and bool((roll[:, 2].abs() < 0.5).all())


def test_each_image_has_its_path(tools):
    A, x = HomographyBlur(CameraRotations(5, 5)), tools.hash_image(*SHAPE)
    assert A.measurement_shape(SHAPE) == SHAPE and A.homographies.numel() == 0
    fixed = A.realise(Rng(0, "operator", ["a", "b"]), SHAPE)
    alone = A.realise(Rng(0, "operator", ["b"]), (1, 3, 9, 11))
    assert fixed.homographies.shape == (2, 5, 3, 3)
    assert fixed.realise(Rng(1, "x", ["a"]), SHAPE) is fixed
    assert torch.equal(fixed.homographies[1:], alone.homographies)
    tools.close(fixed(x)[1:], alone(x[1:]), 1e-12)
    tools.close(fixed.select([1])(x[1:]), alone(x[1:]), 1e-12)
    check_operator(A, SHAPE).require()
    check_operator(ProjectiveBlur(CameraRotations(5, 5), "circular"), SHAPE).require()


def test_gradients_reach_the_image_and_the_path(tools):
    x = (0.9 * tools.hash_image(1, 1, 5, 6)).requires_grad_()
    turns = MATRICES[[0, 3]].requires_grad_()
    assert torch.autograd.gradcheck(lambda v, m: HomographyBlur(m)(v), (x, turns))
    black = torch.full((1, 1, 5, 6), -1.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(HomographyBlur(MATRICES)(black).sum(), black)
    assert bool(gradient.isfinite().all())


def test_a_loaded_path_counts(tools):
    x, A = tools.hash_image(1, 1, 9, 11), ProjectiveBlur(moved_by(0.1 * SHIFTS))
    first = A(x)
    A.load_state_dict({"homographies": moved_by(SHIFTS)[None]})
    tools.close(A(x), ProjectiveBlur(moved_by(SHIFTS))(x), 0)
    assert not torch.equal(A(x), first)


def test_function_transforms_reach_the_path(tools):
    x = tools.hash_image(1, 1, 5, 6)
    jacobian = torch.func.jacrev(lambda m: HomographyBlur(m)(x).sum())(MATRICES)
    leaf = MATRICES.clone().requires_grad_()
    HomographyBlur(leaf)(x).sum().backward()
    assert leaf.grad is not None
    tools.close(jacobian, leaf.grad, 1e-12)


@pytest.mark.parametrize("kind", ["HomographyBlur", "ProjectiveBlur"])
def test_config_round_trip(tools, kind):
    where = "plugip.operators.homography"
    node = {"_target_": f"{where}.CameraRotations", "frames": 5, "size": 5, "roll": 1.0}
    A = build({"_target_": f"{where}.{kind}", "homographies": node, "boundary": "zero"})
    want = {"HomographyBlur": HomographyBlur, "ProjectiveBlur": ProjectiveBlur}[kind](
        CameraRotations(5, 5, roll=1.0), boundary="zero"
    )
    x = tools.hash_image(*SHAPE)
    first, again = (a.realise(Rng(0, "operator", ["a", "b"]), SHAPE)(x) for a in (A, want))
    tools.close(first, again, 0)


def test_errors():
    with pytest.raises(TypeError, match=r"a sampler such as CameraRotations\(9\), got int"):
        HomographyBlur(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"homographies must be \(T, 3, 3\) .* shape \(3, 3\)"):
        HomographyBlur(torch.eye(3))
    with pytest.raises(ValueError, match="floating point and finite"):
        ProjectiveBlur(torch.eye(3)[None] / 0)
    with pytest.raises(ValueError, match="no inverse: its determinant is 0"):
        ProjectiveBlur(torch.ones(1, 3, 3))
    with pytest.raises(ValueError, match=r"reaches 5 pixels beyond images of 4 x 9 pixels"):
        ProjectiveBlur(moved_by(torch.tensor([[0.0, 4.5]])))(torch.zeros(1, 1, 4, 9))
    tilted = torch.eye(3)[None].clone()
    tilted[0, 2, 0] = 0.5
    with pytest.raises(ValueError, match="sends a part of images of 9 x 11 pixels to infinity"):
        HomographyBlur(tilted)(torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="2 paths for a batch of 3 images"):
        HomographyBlur(torch.eye(3).repeat(2, 4, 1, 1))(torch.zeros(3, 1, 8, 8))
    with pytest.raises(RuntimeError, match=r"no homographies yet.*CameraRotations.*realise"):
        ProjectiveBlur(CameraRotations())(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="one stream per image"):
        HomographyBlur(CameraRotations()).realise(Rng(0, "operator", ["a"]), SHAPE)
    with pytest.raises(ValueError, match="frames must be a whole number, at least 2"):
        CameraRotations(1)
    with pytest.raises(ValueError, match=r"roll must lie in \[0, 45\] degrees, got -1"):
        CameraRotations(roll=-1)
    with pytest.raises(ValueError, match="focal must be a positive, finite number"):
        CameraRotations(focal=math.inf)
    with pytest.raises(ValueError, match="gamma must be a positive"):
        HomographyBlur(MATRICES, 0)
