import pytest
import torch
from scipy.ndimage import shift as scipy_shift

from plugip import Rng
from plugip.building import build
from plugip.operators.camera_blur import CameraResponseBlur
from plugip.operators.frame_average import FrameAverage, FrameAverageBlur, PathShifts
from plugip.operators.separable import BOUNDARIES
from plugip.testing import check_operator

SHAPE = (2, 3, 9, 11)
STEPS = torch.arange(-2, 3, dtype=torch.float64)
ROLLS = torch.stack([STEPS, 2 * STEPS], 1)


@pytest.mark.parametrize(("name", "gamma"), [("crf", 2.2), ("linear", 1.0)])
def test_golden_frame_average(tools, name, gamma):
    case = tools.golden("nonlinear_and_varying")["cases"][f"frame_average_{name}"]
    x = tools.hash_image(1, 3, 8, 8)
    tools.case((FrameAverageBlur(ROLLS, gamma, "circular")(x) + 1) / 2, case)
    frames = torch.stack([x.roll((t, 2 * t), (-2, -1)) for t in range(-2, 3)], 2)
    tools.case((FrameAverage(gamma)(frames) + 1) / 2, case)
    tools.case((FrameAverage(gamma)(frames.float()) + 1) / 2, case, 1e-5)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (2, 1, 8, 11)])
def test_operator_checks(boundary, shape):
    shifts = torch.tensor([[0.3, -1.2], [0.0, 2.5], [-3.0, 0.25]]).double()
    check_operator(FrameAverageBlur(shifts, boundary=boundary), shape).require()


def test_video_operator_checks():
    check_operator(FrameAverage(), (2, 3, 4, 5, 6)).require()


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("move", [(0.0, 0.0), (1.0, -2.0), (0.4, -1.7), (-2.25, 3.5)])
def test_one_frame_is_a_shift(tools, boundary, move):
    modes = {"reflect": "mirror", "symmetric": "reflect", "replicate": "nearest"}
    modes |= {"circular": "grid-wrap", "zero": "grid-constant"}
    x = tools.hash_image(1, 1, 9, 11)
    y = FrameAverageBlur(torch.tensor([move], dtype=torch.float64), 1.0, boundary)(x)
    want = scipy_shift(x[0, 0].numpy(), move, order=1, mode=modes[boundary])
    tools.close(y[0, 0], torch.from_numpy(want), 1e-10)


def test_whole_pixels_are_a_kernel_blur(tools):
    kernel = torch.zeros(3, 5, dtype=torch.float64)
    kernel[1, 2], kernel[0, 4], kernel[2, 1] = 1 / 3, 1 / 3, 1 / 3
    # A light that moves by +d leaves its trace at the tap -d of a correlation.
    shifts = torch.tensor([[0, 0], [1, -2], [-1, 1]]).double()
    x = tools.hash_image(*SHAPE)
    tools.close(FrameAverageBlur(shifts)(x), CameraResponseBlur(kernel=kernel)(x), 1e-10)


@pytest.mark.parametrize("boundary", sorted(set(BOUNDARIES) - {"zero"}))
def test_constants_are_preserved(tools, boundary):
    x = torch.full(SHAPE, -0.3, dtype=torch.float64)
    tools.close(FrameAverageBlur(0.7 * ROLLS, boundary=boundary)(x), x, 1e-12)


def test_each_image_has_its_path(tools):
    A, x = FrameAverageBlur(PathShifts(5, 7)), tools.hash_image(*SHAPE)
    assert A.measurement_shape(SHAPE) == SHAPE
    fixed = A.realise(Rng(0, "operator", ["a", "b"]), SHAPE)
    alone = A.realise(Rng(0, "operator", ["b"]), (1, 3, 9, 11))
    assert fixed.shifts.shape == (2, 5, 2) and fixed.realise(Rng(1, "x", ["a"]), SHAPE) is fixed
    tools.close(fixed.shifts.mean(1), torch.zeros(2, 2, dtype=torch.float64), 1e-12)
    tools.close(fixed(x)[1:], alone(x[1:]), 1e-12)
    tools.close(fixed.select([1])(x[1:]), alone(x[1:]), 1e-12)
    assert A.shifts.numel() == 0
    check_operator(A, SHAPE).require()


def test_a_loaded_path_counts(tools):
    x, A = tools.hash_image(1, 1, 9, 11), FrameAverageBlur(0.1 * ROLLS)
    assert not torch.equal(A(x), FrameAverageBlur(ROLLS)(x))
    A.load_state_dict({"shifts": ROLLS[None]})
    tools.close(A(x), FrameAverageBlur(ROLLS)(x), 0)


def test_gradients(tools):
    x = (0.9 * tools.hash_image(1, 1, 5, 6)).requires_grad_()
    shifts = torch.tensor([[0.3, -1.2], [0.5, 1.5]]).double()
    assert torch.autograd.gradcheck(FrameAverageBlur(shifts), x)
    black = torch.full((1, 1, 5, 6), -1.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(FrameAverageBlur(shifts)(black).sum(), black)
    assert bool(gradient.isfinite().all())


def test_config_round_trip(tools):
    where = "plugip.operators.frame_average"
    node = {"_target_": f"{where}.FrameAverageBlur", "gamma": 2.0}
    A = build(node | {"shifts": {"_target_": f"{where}.PathShifts", "frames": 5, "size": 7}})
    rng, x = Rng(0, "operator", ["a", "b"]), tools.hash_image(*SHAPE)
    want = FrameAverageBlur(PathShifts(5, 7), 2.0).realise(Rng(0, "operator", ["a", "b"]), SHAPE)
    tools.close(A.realise(rng, SHAPE)(x), want(x), 0)


def test_errors():
    with pytest.raises(TypeError, match=r"a sampler such as PathShifts\(9\), got int"):
        FrameAverageBlur(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"shifts must be \(T, 2\) .* got shape \(2, 3\)"):
        FrameAverageBlur(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="floating point and finite"):
        FrameAverageBlur(torch.zeros(2, 2) / 0)
    with pytest.raises(ValueError, match=r"reaches 4 pixels beyond images of 4 x 9 pixels"):
        FrameAverageBlur(ROLLS)(torch.zeros(1, 1, 4, 9))
    with pytest.raises(ValueError, match="2 paths for a batch of 3 images"):
        FrameAverageBlur(torch.zeros(2, 4, 2))(torch.zeros(3, 1, 8, 8))
    with pytest.raises(RuntimeError, match=r"no shifts yet.*PathShifts\(frames=9.*realise"):
        FrameAverageBlur(PathShifts())(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="one stream per image"):
        FrameAverageBlur(PathShifts()).realise(Rng(0, "operator", ["a"]), SHAPE)
    with pytest.raises(ValueError, match="frames must be a whole number, at least 2"):
        PathShifts(1)
    with pytest.raises(ValueError, match=r"intensity must lie in \[0, 1\]"):
        PathShifts(intensity=-1)
    for make in (FrameAverage, lambda gamma: FrameAverageBlur(ROLLS, gamma)):
        with pytest.raises(ValueError, match="gamma must be a positive"):
            make(0)
