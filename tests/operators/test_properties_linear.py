"""Linear operators at sizes, options and pixel values that hypothesis chooses."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_cases import FIVE, SIX
from property_tools import batches, bits, channels, images, laws, one_of, sides, values
from toys import close, normal

import plugip.operators as ops
from plugip.linalg import dot, norm
from plugip.operators.separable_blur import gaussian_taps
from plugip.rng import Rng

few = settings(max_examples=20)
MODES = {"replicate": "edge", "circular": "wrap", "zero": "constant"}


def rng(n):
    return Rng(0, "operator", [str(i) for i in range(n)])


def summed(x, kernel, boundary, origin):
    """The sum that defines a correlation, pixel by pixel."""
    (rows, columns), (h, w) = kernel.shape, x.shape[-2:]
    (down, right), wide = origin, x.numpy()
    if boundary == "valid":
        down, right, h, w = 0, 0, h - rows + 1, w - columns + 1
    else:
        margins = [(0, 0)] * 2 + [(down, rows - 1 - down), (right, columns - 1 - right)]
        wide = np.pad(wide, margins, MODES.get(boundary, boundary))  # type: ignore[call-overload]
    y = sum(
        float(kernel[a, b]) * wide[..., a : a + h, b : b + w]
        for a in range(rows)
        for b in range(columns)
    )
    return torch.from_numpy(np.asarray(y))


@few
@given(st.data())
def test_a_blur_is_the_sum_that_it_says(data):
    rows, columns = (data.draw(st.integers(1, 5)) for _ in range(2))
    origin = tuple(data.draw(st.integers(0, n - 1)) for n in (rows, columns))
    boundary, flip = one_of(data.draw, SIX), data.draw(st.booleans())
    h, w = (n + data.draw(st.integers(0, 6)) for n in (rows, columns))
    x, kernel = images(data.draw, h, w), values(data.draw, rows, columns)
    y = laws(ops.Blur(kernel, boundary, flip, origin), x)
    as_used = kernel.flip(0, 1) if flip else kernel
    place = (rows - 1 - origin[0], columns - 1 - origin[1]) if flip else origin
    close(y, summed(x, as_used, boundary, place), 1e-10)
    single = ops.Blur(kernel, boundary, flip, origin)(x.float())
    assert single.dtype == torch.float32
    close(single.double(), y, 1e-5)


@few
@given(st.data(), st.floats(0.3, 4), st.integers(0, 4))
def test_separable_blurs_are_blurs(data, std, reach):
    size, boundary = 2 * reach + 1, one_of(data.draw, FIVE)
    h, w = (size + data.draw(st.integers(0, 5)) for _ in range(2))
    x, taps = images(data.draw, h, w), torch.from_numpy(gaussian_taps(std, size))
    for A, line in (
        (ops.GaussianBlur(std, size, boundary), taps),
        (ops.UniformBlur(size, boundary), torch.full((size,), 1 / size, dtype=torch.float64)),
    ):
        close(laws(A, x), ops.Blur(torch.outer(line, line), boundary)(x), 1e-10)


@few
@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_downsampling(data, factor, rows, columns):
    x = images(data.draw, factor * rows, factor * columns)
    blocks = x.unflatten(-1, (columns, factor)).unflatten(-3, (rows, factor))
    close(laws(ops.AveragePool(factor), x), blocks.mean((-1, -3)), 1e-12)
    close(laws(ops.Decimate(factor), x), blocks[..., 0, :, 0], 0)
    still = laws(ops.BicubicDownsample(factor), torch.full_like(x, float(x[0, 0, 0, 0])))
    close(still, still[:1, :1, :1, :1].expand_as(still), 1e-12)
    boundary = one_of(data.draw, FIVE)
    kernel = values(data.draw, *(1 + 2 * ((n - 1) // 2) for n in x.shape[-2:]))
    A = ops.BlurDownsample(kernel, factor, boundary)
    close(laws(A, x), ops.Decimate(factor)(ops.Blur(kernel, boundary)(x)), 1e-10)


@few
@given(st.data(), sides, sides, batches, channels)
def test_masks(data, h, w, images_count, colours):
    x = values(data.draw, images_count, colours, h, w)
    shared, grey = data.draw(st.booleans()), data.draw(st.booleans())
    mask = bits(data.draw, 1 if shared else images_count, 1 if grey else colours, h, w)
    y = laws(ops.Inpaint(mask), x)
    assert torch.equal(y, torch.where(mask == 1, x, 0.0))
    packed = laws(ops.PackedInpaint(mask[:1]), x)
    assert torch.equal(packed.flatten(), x[(mask[:1] == 1).expand_as(x)])


@few
@given(st.data(), st.integers(0, 4), st.integers(0, 4), st.floats(0.05, 1), st.booleans())
def test_sensing(data, rows, columns, keep, shared):
    h, w = 2**rows, 2**columns
    x, keep = images(data.draw, h, w), max(keep, 1 / (h * w))
    A = ops.WalshHadamard(ops.RandomRows(keep, shared), ops.RandomSigns(shared))
    A = A.realise(rng(len(x)), tuple(x.shape))
    y = laws(A, x)
    close(A(A.adjoint(y)), y, 1e-12)
    assert bool((norm(y) <= norm(x) + 1e-9).all())
    if keep == 1:
        close(norm(y), norm(x), 1e-9)
    dense = ops.DenseSensing(ops.GaussianMatrix(keep, shared)).realise(rng(len(x)), tuple(x.shape))
    close(laws(dense, x)[..., None], dense.matrix[:, None].double() @ x.flatten(2)[..., None])


@few
@given(st.data(), sides, sides, batches, channels)
def test_grey(data, h, w, images_count, colours):
    x = values(data.draw, images_count, colours, h, w)
    raw = values(data.draw, colours, least=0.01)
    weights = (raw / raw.sum()).tolist()
    y = laws(ops.Grayscale(weights), x)
    want = torch.stack([v * x[:, c] for c, v in enumerate(weights)]).sum(0)
    close(y[:, 0], want, 1e-12)


@few
@given(st.data(), sides, sides, batches, st.booleans())
def test_mri(data, h, w, images_count, is_complex):
    shape = (images_count, 1 if is_complex else 2, h, w)
    x = values(data.draw, *shape)
    x = torch.complex(x, values(data.draw, *shape)) if is_complex else x
    domain, mask = "complex" if is_complex else "channels", bits(data.draw, 1, 1, 1, w)
    if not is_complex:
        y = laws(ops.SingleCoilMRI(mask, domain), x)
        close(y * (1 - mask), torch.zeros_like(y), 0)
    everything = torch.ones(1, 1, 1, 1)
    for A in (
        ops.SingleCoilMRI(everything, domain),
        ops.MultiCoilMRI(ops.birdcage_maps(3, (h, w)), everything, domain),
    ):
        close(A.adjoint(A(x)), x, 1e-10)  # all of k-space: nothing is lost
        close(norm(A(x)), norm(x), 1e-10)


@few
@given(st.data(), sides, sides, st.lists(st.floats(-360, 360), min_size=1, max_size=4))
def test_ct(data, h, w, angles):
    x = images(data.draw, h, w)
    laws(ops.ParallelBeamCT(angles, (h, w)), x)
    A = ops.ParallelBeamCT((0.0, 180.0), (h, w))
    close(A(x).sum(2), x.sum((-2, -1))[..., None].expand(-1, -1, 2), 1e-9)
    assert float(A(x.abs()).min()) >= -1e-9
    scaled = ops.ParallelBeamCT(angles, (h, w), True)
    assert bool((norm(scaled(x)) <= norm(x) * (1 + 1e-4) + 1e-12).all())


@few
@given(st.data(), st.integers(2, 9), st.integers(2, 9), st.integers(-4, 4), st.integers(-4, 4))
def test_warps_by_whole_pixels_are_moves(data, h, w, down, right):
    x, outside = images(data.draw, h, w), one_of(data.draw, ("replicate", "zero"))
    flow = torch.tensor([-right, -down]).double().reshape(1, 2, 1, 1).expand(1, 2, h, w)
    want = ops.move(x, torch.tensor([[down, right]] * len(x)), outside)
    close(laws(ops.Warp(flow, outside), x), want, 1e-9)
    close(laws(ops.Shift(torch.tensor([[down, right]]).double(), outside), x), want, 1e-9)


@few
@given(st.data(), st.integers(2, 8), st.integers(2, 8), st.booleans())
def test_turbulence(data, h, w, still):
    x, kernel = images(data.draw, h, w), values(data.draw, 1, 1, 3, 3, least=0.01)
    tilt = torch.zeros(1, 2, h, w) if still else values(data.draw, 1, 2, h, w, least=-3, most=3)
    blind = ops.BlindTurbulence(3, boundary="replicate")
    A = blind.at({"tilt": tilt.double(), "kernel": kernel / kernel.sum()})
    y = laws(A, x)  # type: ignore[arg-type]
    if still:
        close(y, ops.Blur(kernel[0, 0] / kernel.sum(), "replicate")(x), 1e-9)


@few
@given(st.data(), st.integers(3, 8), st.integers(1, 3), st.integers(1, 3))
def test_blur_in_time(data, frames, half, sides_count):
    width, boundary = 2 * min(half, (frames - 1) // 2) + 1, one_of(data.draw, FIVE)
    x = values(data.draw, 2, 1, frames, sides_count, 2)
    y = laws(ops.TemporalBlur(width, boundary), x)
    column = torch.full((width, 1), 1 / width, dtype=torch.float64)
    close(y[:, :, :, 0, 0], ops.Blur(column, boundary)(x[:, :, :, :1, 0])[..., 0], 1e-10)


@few
@given(st.data(), st.integers(2, 7), st.integers(2, 7), st.integers(0, 3))
def test_fields(data, h, w, pad):
    x = images(data.draw, h, w)
    for A in (
        ops.PaddedFourier(pad=pad),
        ops.Propagation(3.0, 5.0, evanescent="keep", domain="real"),
    ):
        close(norm(laws(A, x)), norm(x), 1e-9)
    masks = torch.view_as_complex(normal(1, 2, h, w, 2))
    coded = ops.CodedFourier(masks)
    close(coded.pinv(laws(coded, x)), x, 1e-9)
    probe = torch.view_as_complex(normal(2, 2, 2))
    places = [(r, c) for r in range(h - 1) for c in range(w - 1)]
    laws(ops.ProbeWindows(probe, places, (h, w), "real"), x)
    laws(ops.PupilWindows(probe, [(0, 0)], (h, w), "real"), x)
    matrix = torch.view_as_complex(normal(5, h * w, 2))
    y = laws(ops.LinearInverseScattering(matrix, size=(h, w)), x)
    close(y, x.flatten(2).to(matrix.dtype) @ matrix.T, 1e-10)


@few
@given(st.data(), st.integers(4, 8), st.integers(4, 8))
def test_chains_and_stacks(data, h, w):
    x = images(data.draw, 2 * (h // 2), 2 * (w // 2))
    shape = tuple(x.shape)
    parts = [
        ops.Blur(values(data.draw, 3, 3), one_of(data.draw, FIVE)),
        ops.Inpaint(bits(data.draw, 1, 1, *shape[-2:])),
        ops.AveragePool(2),
        ops.Warp(values(data.draw, 1, 2, *shape[-2:], least=-2, most=2)),
    ]
    inner, outer = (
        one_of(data.draw, [p for p in parts if p is not parts[2]]),
        one_of(data.draw, parts),
    )
    chain = outer @ inner
    close(laws(chain, x), outer(inner(x)), 1e-10)  # type: ignore[arg-type]
    joined = ops.stack(inner, outer, image_shape=shape[1:])
    y = laws(joined, x)  # type: ignore[arg-type]
    close(dot(y, y), norm(inner(x)).square() + norm(outer(x)).square(), 1e-9)
    close(laws(ops.per_channel(inner), x), inner(x), 1e-10)  # type: ignore[arg-type]
