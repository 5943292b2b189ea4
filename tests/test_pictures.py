"""Where pixels of y lie, what is made of y without a prior, and how measurements are shown."""

import pytest
import torch
from toys import normal

import plugip.operators as ops
from plugip.data import demo_image, load_image
from plugip.engine.guide import picture
from plugip.experiment import naive
from plugip.folding import on_frames
from plugip.metrics import psnr, to_unit
from plugip.noise import GaussianNoise
from plugip.operator import LinearOperator, Operator
from plugip.pictures import image_of, show
from plugip.places import find_places
from plugip.priors import GaussianPrior
from plugip.problem import Problem
from plugip.rng import Rng

FLIPPED = {"boundary": "circular", "flip": True}


def photo(size: int = 64):
    return load_image(demo_image(), size)[None]


def by_kernel(factor: int) -> Operator:
    return ops.BlurDownsample(ops.BicubicKernel(factor), factor, origin=2 * factor, **FLIPPED)


def baseline(operator: Operator, size: int = 64) -> float:
    x = photo(size)
    images = naive(operator(x), tuple(x.shape[1:]), operator)
    assert images is not None and images.shape == x.shape
    return float(psnr(to_unit(images), to_unit(x)))


def along(operator: Operator, sides=(64, 64), channels: int = 3) -> list[list[float]]:
    """First place and stride, down and right."""
    x = torch.zeros(1, channels, *sides)
    found = find_places(operator, operator(x), (channels, *sides))
    assert found is not None
    return [found.first[0].tolist(), found.stride[0].tolist()]


# the values are those of y read at its places by bicubic interpolation, on the packaged portrait


@pytest.mark.parametrize(
    ("operator", "size", "due"),
    [
        (ops.Decimate(4), 64, 21.38),
        (ops.Decimate(2), 64, 28.02),
        (ops.Decimate(4, "centre"), 64, 21.94),
        (by_kernel(4), 64, 22.22),
        (ops.BicubicDownsample(4), 65, 23.82),
        (ops.BicubicDownsample(3), 64, 25.37),
        (ops.BicubicDownsample(4), 64, 23.27),
        (ops.AveragePool(4), 64, 23.28),
        (ops.Decimate(2) @ ops.AveragePool(2), 64, 22.37),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Operator) else str(v),
)
def test_the_baseline_reads_y_where_its_pixels_lie(operator: Operator, size: int, due: float):
    assert baseline(operator, size) == pytest.approx(due, abs=0.01)


def test_places_are_found_under_no_grad():
    with torch.no_grad():
        assert along(ops.Decimate(4)) == [[0, 0], [4, 4]]


def test_the_guide_reads_y_where_its_pixels_lie():
    x, operator = photo(), ops.Decimate(4)
    prior = GaussianPrior(torch.zeros(3, 64, 64), 0.5)
    guide = picture(Problem(operator(x), operator, GaussianNoise(0.01), prior))
    assert float(psnr(to_unit(guide.clamp(-1, 1)), to_unit(x))) == pytest.approx(21.38, abs=0.01)


@pytest.mark.parametrize(
    ("operator", "first", "stride"),
    [
        (ops.Decimate(4), 0, 4),
        (ops.Decimate(8, "centre"), 3, 8),
        (ops.AveragePool(4), 1.5, 4),
        (ops.BicubicDownsample(4), 1.5, 4),
        (by_kernel(4), 0.5, 4),
        (by_kernel(2), 0.5, 2),
        (ops.BlurDownsample(torch.ones(5, 5) / 25, 4, "zero"), 0, 4),
        (ops.BlurDownsample(torch.ones(4, 4) / 16, 2, "reflect", origin=1), 0.5, 2),
        (ops.Blur(torch.ones(5, 5) / 25, "valid"), 2, 1),
        (ops.Grayscale(), 0, 1),
        (ops.Grayscale() @ ops.Decimate(4), 0, 4),
        (ops.Decimate(2) @ ops.BicubicDownsample(2), 0.5, 4),
        (ops.BicubicDownsample(2) @ ops.Decimate(2), 1, 4),
        (ops.Shift(torch.tensor([[1.0, 1.0]])), -1, 1),
        (ops.Decimate(4) @ ops.Shift(torch.tensor([[1.0, 1.0]])), -1, 4),
        (ops.Quantize(8) @ ops.Decimate(4), 0, 4),
        (ops.Clip() @ ops.Decimate(4), 0, 4),
        (ops.JPEG(10) @ ops.Decimate(4), 0, 4),
        (ops.Decimate(4) @ ops.JPEG(10), 0, 4),
    ],
    ids=lambda v: str(v).replace("\n", ""),
)
def test_places(operator: Operator, first: float, stride: float):
    found = along(operator)
    assert found[0] == pytest.approx([first] * 2, abs=1e-3)
    assert found[1] == pytest.approx([stride] * 2, abs=1e-4)


@pytest.mark.parametrize("n", [63, 65, 62, 64])
@pytest.mark.parametrize("factor", [3, 4, 5])
def test_sides_that_are_no_multiple_keep_the_middle(n: int, factor: int):
    m = -(-n // factor)
    down, right = along(ops.BicubicDownsample(factor), (n, 48))[0]
    assert down == pytest.approx((factor - 1) / 2 - (m * factor - n) / 2, abs=1e-3)
    rest = -(-48 // factor) * factor - 48
    assert right == pytest.approx((factor - 1) / 2 - rest / 2, abs=1e-3)


def test_each_image_has_its_own_places():
    kernel = torch.zeros(2, 5, 5)
    kernel[0, 2, 2] = kernel[1, 1, 4] = 1
    operator = ops.BlurDownsample(kernel, 4)
    x = torch.rand(2, 3, 32, 32)
    both = find_places(operator, operator(x), (3, 32, 32))
    assert both is not None
    assert both.first.flatten().tolist() == pytest.approx([0, 0, -1, 2], abs=1e-3)
    alone = operator.select([1])
    images, one = (image_of(a(v), (3, 32, 32), a) for a, v in ((operator, x), (alone, x[1:])))
    assert images is not None and one is not None
    assert torch.allclose(images[1:], one, atol=1e-5)


def test_masked_pixels_do_not_move_the_others():
    mask = ops.Inpaint(ops.RandomMask(0.8)).realise(Rng(0, "operator", ["a"]), (1, 3, 16, 16))
    hole = torch.ones(1, 1, 16, 16)
    hole[..., 5:11, :] = 0
    for hides in (mask, ops.Inpaint(hole)):
        assert along(hides @ ops.Decimate(4)) == [[0, 0], [4, 4]]


class Strange(Operator):
    """Keeps the pixels 1, 4, 7, ..., without a derivative."""

    def forward(self, x):
        return x.detach()[..., 1::3, 1::3].clone()


class Bent(Operator):
    """Keeps the first pixels of blocks on a tone curve, upside down."""

    def forward(self, x):
        return -torch.tanh(2 * x[..., ::4, ::4])


class Detectors(LinearOperator):
    """Sums over lines, three times: as a sinogram, no picture although it has its shape."""

    def forward(self, x):
        return torch.stack([x.sum(-1), x.sum(-2), x.flip(-1).sum(-2)], -2) / x.shape[-1]


class Spectrum(Operator):
    """Sizes of the lowest frequencies, small enough to be taken for grey values."""

    def forward(self, x):
        return torch.fft.fft2(x, norm="ortho").abs()[..., :16, :16] / 40


def test_operators_of_ones_own():
    assert along(Strange(), (63, 63)) == [[1, 1], [3, 3]]  # an exact cover is taken for granted
    assert along(Bent())[0] == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize("operator", [Detectors(), Spectrum()])
def test_what_does_not_follow_the_image_is_no_picture(operator: Operator):
    x = photo()
    y = operator(x)
    assert naive(y, (3, 64, 64), operator) is None
    prior = GaussianPrior(torch.zeros(3, 64, 64), 0.5)
    with pytest.raises(TypeError, match=f"{type(operator).__name__}.* is no picture"):
        picture(Problem(y, operator, GaussianNoise(0.01), prior))


def test_grey_measurements_are_pictures():
    x, operator = photo(), ops.Grayscale() @ ops.Decimate(2)
    y = operator(x)
    images = naive(y, (3, 64, 64), operator)
    assert images is not None and images.shape == x.shape
    assert torch.equal(images[:, 0], images[:, 2])


def test_videos_are_pictures_frame_by_frame():
    operator, x = on_frames(ops.Decimate(2)), normal(1, 3, 4, 16, 16).float().clamp(-1, 1)
    images = naive(operator(x), (3, 4, 16, 16), operator)
    assert images is not None and images.shape == x.shape
    assert torch.allclose(images[..., ::2, ::2], x[..., ::2, ::2], atol=1e-5)


# -----------------------------------------------------------------------------------------------
# how measurements are shown


def sinogram():
    # Sums along lines: nothing towers above the rest.
    return 20 + 10 * normal(1, 30, 40).float().clamp(-1.5, 1.5)


@pytest.mark.parametrize(
    ("y", "note"),
    [
        (normal(3, 8, 8).clamp(-1, 1), ""),
        (normal(1, 8, 8).clamp(-1, 1), ""),
        (normal(1, 8, 8).clamp(-1, 1) * 1.3, "clamped"),
        (normal(3, 8, 8).abs() + 0.5, "white = "),
        (sinogram(), "5 to 35"),
        (normal(3, 12, 12).exp() ** 4, "log scale"),
        (normal(20), "folded, "),
        (normal(2, 20), "folded"),
        (normal(5, 6, 6), "tiled, "),
        (torch.complex(normal(1, 6, 6), normal(1, 6, 6)), "|y| "),
        (normal(3, 4, 8, 8).clamp(-1, 1), "frame 3 of 4"),
        (torch.zeros(1, 9, 9) + 40, "40 to 40"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_measurements_are_shown_with_a_word(y, note: str):
    shown, said = show(y, 8)
    assert said.startswith(note) and bool(said) == bool(note)
    assert shown.ndim == 3 and shown.shape[0] in (1, 3)
    assert said == "clamped" or -1 <= float(shown.min()) <= float(shown.max()) <= 1


def test_a_linear_scale_keeps_differences():
    y = sinogram()
    shown, _ = show(y, 64)
    assert torch.allclose(shown, (y - y.min()) / (y.max() - y.min()) * 2 - 1, atol=1e-5)
