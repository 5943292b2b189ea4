"""Nonlinear operators at sizes, options and pixel values that hypothesis chooses."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_cases import FIVE, complex_normal
from property_tools import images, one_of, sides, values
from toys import close, normal

import plugip.operators as ops
from plugip.linalg import dot, norm
from plugip.rng import Rng

few = settings(max_examples=20)
CLOSED = ("reflect", "symmetric", "replicate", "circular")  # nothing comes in from outside


def rng(n):
    return Rng(0, "operator", [str(i) for i in range(n)])


def energy(y):
    return y.flatten(1).sum(1)


# --- measurements without phases


@few
@given(st.data(), sides, sides, st.integers(0, 4))
def test_fourier_magnitudes(data, h, w, pad):
    x = images(data.draw, h, w)
    A = ops.FourierMagnitude(pad=pad)
    y = A(x)
    assert float(y.min()) >= 0
    close(norm(y), norm(x), 1e-9)
    for twin in (-x, x.flip(-2, -1)):
        close(A(twin), y, 1e-9)
        aligned = ops.align(twin, x)
        assert bool((dot(aligned, x) >= dot(x, x) - 1e-9).all())
    unit = ops.FourierMagnitude(range_in="unit", output="intensity", pad=pad)(x)
    close(energy(unit), dot((x + 1) / 2, (x + 1) / 2), 1e-9)


@few
@given(st.data(), sides, sides, st.integers(1, 3))
def test_coded_diffraction(data, h, w, count):
    x = images(data.draw, h, w)
    shape = tuple(x.shape)
    A = ops.CodedDiffraction(ops.UniformPhaseCodes(count)).realise(rng(len(x)), shape)
    close(energy(A(x)), count * dot(x, x), 1e-9)  # codes of modulus 1 lose no light
    close(A(-x), A(x), 1e-9)
    phase = ops.CodedDiffraction(ops.OctanaryCodes(count), "phase").realise(rng(len(x)), shape)
    close(phase(x + 0.7), phase(x), 1e-9)  # a global phase is not seen


@few
@given(st.data(), sides, sides, st.floats(-20, 20), st.booleans())
def test_near_field_holography(data, h, w, distance, fresnel):
    x = images(data.draw, h, w)
    model = "fresnel" if fresnel else "angular_spectrum"
    A = ops.NearFieldHolography(3.0, distance, object="phase", model=model, evanescent="keep")
    y = A(x)
    close(y.mean((-2, -1)), torch.ones(x.shape[:2]).double(), 1e-9)  # light is kept
    flat = A(torch.full_like(x, 0.3))
    close(flat, torch.ones_like(flat), 1e-9)


@few
@given(st.data(), st.integers(3, 8), st.integers(3, 8))
def test_ptychography(data, h, w):
    x = images(data.draw, h, w)
    probe, places = complex_normal(2, 3), [(r, c) for r in range(h - 1) for c in range(w - 2)]
    y = ops.Ptychography(probe, places, (h, w), "real")(x)
    light = torch.zeros(h, w, dtype=torch.float64)
    for r, c in places:
        light[r : r + 2, c : c + 3] += probe.abs().square()
    close(energy(y), energy(light * x.square()), 1e-9)
    A = ops.FourierPtychography(
        ops.led_grid(1, 1), torch.ones(h, w).double(), size=(h, w), object="real"
    )
    close(A(x), x.square(), 1e-9)  # a pupil that passes all is an ideal lens


@few
@given(st.data(), sides, sides, st.floats(2, 3))
def test_far_field(data, h, w, oversample):
    x = images(data.draw, h, w)
    y = ops.FarFieldCDI("real", oversample)(x)
    close(energy(y), dot(x, x), 1e-9)
    reference = normal(h, 2)
    beside = ops.FourierHolography(reference, "real")(x)
    close(energy(beside), dot(x, x) + x.shape[1] * reference.square().sum(), 1e-9)
    matrix = ops.GaussianProjections(2.0)
    A = ops.GaussianPhaseRetrieval(matrix).realise(rng(len(x)), tuple(x.shape))
    assert A(x).shape == (*x.shape[:2], round(2 * h * w))
    close(A(-x), A(x), 1e-9)


# --- pixel by pixel


@few
@given(st.data(), sides, sides, st.floats(0.1, 8), st.booleans())
def test_clip(data, h, w, scale, straight):
    x = 3 * images(data.draw, h, w)
    y = ops.Clip(scale, "straight" if straight else "exact")(x)
    assert float(y.abs().max()) <= 1
    inside = (scale * x).abs() < 1
    close(y[inside], (scale * x)[inside], 1e-12)
    close(y[~inside], x[~inside].sign(), 1e-12)


@few
@given(st.data(), sides, sides, st.integers(1, 16))
def test_quantize(data, h, w, depth):
    x, levels = images(data.draw, h, w), 2**depth - 1
    A = ops.Quantize(depth)
    y = A(x)
    step = (y + 1) / 2 * levels
    close(step, step.round(), 1e-9)
    assert float((y - x).abs().max()) <= 1 / levels + 1e-12
    close(A(y), y, 1e-12)
    assert bool((y.flatten()[x.flatten().argsort()].diff() >= -1e-12).all())


@few
@given(st.data(), st.integers(1, 20), st.integers(1, 20), st.floats(1, 100))
def test_jpeg(data, h, w, quality):
    x = values(data.draw, 2, 3, h, w)
    y = ops.JPEG(quality)(x)
    assert y.shape == x.shape and float(y.abs().max()) <= 1
    assert torch.equal(ops.JPEG(quality, "hard")(x), y)
    grey = torch.full_like(x, round(float(x[0, 0, 0, 0]) * 127.5) / 127.5)
    # The mean of a block is rounded to q / 8 grey levels, q at most 255.
    assert float((ops.JPEG(quality)(grey) - grey).abs().max()) <= 255 / 16 / 127.5 + 1e-9


# --- light


@few
@given(st.data(), st.integers(5, 9), st.integers(5, 9), st.floats(-1, 1), st.floats(0.4, 3))
def test_cameras_keep_constants(data, h, w, grey, gamma):
    x, boundary = torch.full((2, 1, h, w), grey).double(), one_of(data.draw, CLOSED)
    path = values(data.draw, 4, 2, least=-3, most=3)
    for A in (
        ops.CameraResponseBlur(1.0, 5, gamma, boundary),
        ops.FrameAverageBlur(path, gamma, boundary),
        ops.SaturatedBlur(1.0, size=5, gamma=gamma, boundary=boundary),
    ):
        close(A(x), x, 1e-9)
    video = x[:, :, None].expand(-1, -1, 3, -1, -1)
    close(ops.FrameAverage(gamma)(video), x, 1e-9)


@few
@given(st.data(), st.integers(5, 9), st.integers(5, 9), st.floats(0.2, 3))
def test_without_a_response_curve_light_is_linear(data, h, w, exposure):
    x, boundary = images(data.draw, h, w), one_of(data.draw, FIVE)
    linear = ops.GaussianBlur(1.0, 5, boundary)
    outside = 2 * linear(torch.full_like(x, 0.5)) - 1  # what a zero boundary darkens
    A = ops.CameraResponseBlur(1.0, 5, 1.0, boundary)
    close(A(x), linear(x) + outside, 1e-9)
    saturated = ops.SaturatedBlur(exposure, std=1.0, size=5, gamma=1.0, boundary=boundary)(x)
    close(saturated, (exposure * (A(x) + 1) - 1).clamp_max(1), 1e-9)


@few
@given(st.data(), st.integers(3, 9), st.integers(3, 9), st.floats(0.1, 4), st.floats(0.1, 4))
def test_exposures_multiply(data, h, w, first, second):
    x = images(data.draw, h, w)
    gains = [torch.full((1, 1, 1, 1), g).double() for g in (first, second)]
    one, other = (ops.Exposure(g) for g in gains)
    close(one(other(x)), ops.Exposure(gains[0] * gains[1])(x), 1e-9)
    black = torch.full_like(x, -1.0)
    close(one(black), black, 0)


@few
@given(st.data(), st.integers(6, 9), st.integers(6, 9))
def test_a_still_camera_does_not_blur(data, h, w):
    x, boundary = images(data.draw, h, w), one_of(data.draw, FIVE)
    still = torch.eye(3).double().expand(3, 3, 3)
    close(ops.ProjectiveBlur(still, boundary)(x), x, 1e-12)
    close(ops.FrameAverageBlur(torch.zeros(3, 2).double(), 2.2, boundary)(x), x, 1e-9)


# --- unknowns


@few
@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_constrained_kernels_are_kernels(data, rows, columns, nonneg):
    origin = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    A = ops.BlindBlur((rows, columns), "nonneg" if nonneg else "simplex", "zero", origin)
    theta = values(data.draw, 2, 1, rows, columns, least=-30, most=30)
    kernel = A.constrain(theta)
    assert float(kernel.min()) >= 0
    total = kernel.sum((-2, -1))
    seen = (theta > 0).any(-1).any(-1) if nonneg else torch.ones_like(total, dtype=torch.bool)
    close(total[seen], torch.ones_like(total[seen]), 1e-9)


@few
@given(st.data(), st.floats(0.1, 9))
def test_constrained_moves_stay_small(data, most):
    A = ops.BlindShift(most)
    theta = values(data.draw, 3, 2, least=-100, most=100)
    moved = A.constrain(theta)
    assert float(moved.abs().max()) <= most
    assert bool((moved.sign() == theta.sign()).all())
    truth = A.draw_theta(rng(3), (3, 1, 20, 20))
    assert truth.shape == (3, 2) and float(truth.abs().max()) <= most
