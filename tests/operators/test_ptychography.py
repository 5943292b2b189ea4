from functools import partial

import pytest
import torch

from plugip.operators.phase import align
from plugip.operators.ptychography import (
    FourierPtychography,
    ProbeWindows,
    Ptychography,
    disk_pupil,
    led_grid,
    scan_grid,
)
from plugip.testing import check_operator

OBJECTS = {"real": 3, "unit": 3, "phase": 3, "channels": 2, "complex": 1}
SHIFTS = [(0, 0), (1, -1), (-1, 2)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_golden_fourier_ptychography(tools, dtype, tolerance):
    case = tools.golden("fourier_ptychography")["cases"]["fpm_16_to_8"]
    x = tools.hash_image(1, 1, 16, 16, dtype=dtype)
    A = FourierPtychography([(0, 0), (2, -1), (-3, 2)], 3, 8, 16, "complex")
    tools.case(A(torch.polar((x + 1) / 2, 0.5 * x)), case, tolerance)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (7, 10)])
@pytest.mark.parametrize("kind", OBJECTS)
def test_laws(tools, kind, size):
    pupil = torch.complex(tools.normal(4, 5), tools.normal(4, 5, seed=1))
    shape = (2, OBJECTS[kind], *size)
    for A in (
        FourierPtychography(SHIFTS, 2, 4, size, kind),
        FourierPtychography([(0, 0), (-1, 1)], pupil, 4, size, kind, "amplitude"),
        Ptychography(pupil, [(0, 0), (2, 2), (3, 1)], size, kind),
    ):
        check_operator(A, shape).require()
        check_operator(A.linear_part, shape).require()


@pytest.mark.parametrize("kind", ["unit", "channels"])
def test_each_image_may_have_its_aperture(tools, kind):
    pupils = torch.complex(tools.normal(2, 4, 5), tools.normal(2, 4, 5, seed=1))
    shape, places = (2, OBJECTS[kind], 8, 8), [(0, 0), (1, 1)]
    x = tools.normal(*shape)
    for make in (FourierPtychography, Ptychography):
        build = partial(make, size=8, object=kind)
        A = build(pupils, places) if make is Ptychography else build(places, pupils)
        check_operator(A, shape).require()
        check_operator(A.linear_part, shape).require()
        for i, pupil in enumerate(pupils):
            given = (pupil, places) if make is Ptychography else (places, pupil)
            tools.close(A(x)[[i]], build(*given)(x[[i]]), 1e-13)


def test_another_pupil_is_the_same_instrument(tools):
    pupil = torch.complex(tools.normal(1, 8, 8), tools.normal(1, 8, 8, seed=1))
    A = FourierPtychography(SHIFTS, 3, 8, 16, "phase", "amplitude", 0.7)
    want = FourierPtychography(SHIFTS, pupil, 8, 16, "phase", "amplitude", 0.7)
    x = tools.normal(2, 1, 16, 16)
    tools.close(A.through(pupil)(x), want(x), 0)


def test_a_wide_pupil_in_the_middle_shows_the_object(tools):
    x = tools.normal(2, 3, 8, 9)
    A = FourierPtychography([(0, 0)], torch.ones(8, 9), size=(8, 9), object="real")
    tools.close(A(x), x.square(), 1e-12)


def test_a_low_pass_picture_keeps_its_place(tools):
    x = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    x[..., 4, 10] = 1
    y = FourierPtychography([(0, 0)], 4, 8, 16, "real")(x)
    assert int(y.argmax()) == 2 * 8 + 5


def test_a_flat_probe_on_the_whole_image_is_the_fourier_transform(tools):
    x = tools.normal(1, 2, 6, 7)
    A = Ptychography(torch.ones(6, 7), [(0, 0)], (6, 7), "real")
    whole = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), (-2, -1)).abs().square()
    tools.close(A(x), whole, 1e-12)


def test_pictures_stand_in_the_order_of_the_places(tools):
    x, probe = tools.normal(1, 2, 8, 8), tools.normal(3, 3, seed=1)
    places = scan_grid(8, 3, 2)
    y = Ptychography(probe, places, 8, "real")(x)
    assert y.shape == (1, 2 * len(places), 3, 3)
    for k, place in enumerate(places):
        alone = Ptychography(probe, [place], 8, "real")(x)
        tools.close(y[:, [k, len(places) + k]], alone, 1e-13)


def test_only_the_phase_is_lost(tools):
    A = FourierPtychography(led_grid(3, 2), 3, 8, 16, "complex")
    o = torch.complex(tools.normal(1, 1, 16, 16), tools.normal(1, 1, 16, 16, seed=1))
    turned = torch.exp(torch.tensor(-1.3j, dtype=torch.complex128)) * o
    tools.close(A(turned), A(o), 1e-12)
    tools.close(align(turned, o, turns=False), o, 1e-12)


def test_moves_keep_the_imaginary_part(tools):
    pupil = torch.complex(tools.normal(4, 4), tools.normal(4, 4, seed=1))
    A, x = FourierPtychography([(0, 0)], pupil, size=8), tools.normal(1, 1, 8, 8)
    y = A(x)
    tools.close(A.to(torch.float64)(x), y, 0)


def test_grids():
    assert led_grid(1) == [(0, 0)]
    assert led_grid(3, 2)[0] == (0, 0) and set(led_grid(3, 2)) == {
        (r, c) for r in (-2, 0, 2) for c in (-2, 0, 2)
    }
    line = [0, 3, 6, 7]
    assert scan_grid(10, 3, 3) == [(r, c) for r in line for c in line]
    assert disk_pupil(8, 3).sum() == 29 and disk_pupil(8, 3)[4, 7] == 1


@pytest.mark.parametrize("kind", ["phase", "channels"])
def test_gradients(tools, kind):
    x = tools.normal(1, 2, 5, 6).requires_grad_()
    for A in (
        FourierPtychography([(0, 0), (1, 0)], 1, 3, (5, 6), kind),
        Ptychography(disk_pupil(3, 1), [(0, 0), (2, 3)], (5, 6), kind),
    ):
        assert torch.autograd.gradcheck(A, x)


def test_errors():
    with pytest.raises(ValueError, match=r"window of \(8, 8\) pixels at \(5, 0\) leaves"):
        FourierPtychography([(0, 0), (5, 0)], 3, 8, 16)
    with pytest.raises(ValueError, match=r"window of \(4, 4\) pixels at \(-1, 0\) leaves"):
        Ptychography(torch.ones(4, 4), [(-1, 0)], 8)
    with pytest.raises(ValueError, match=r"was built for images of \(16, 16\) pixels"):
        FourierPtychography([(0, 0)], 3, 8, 16)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"list of \(row, column\) pairs"):
        FourierPtychography([(0, 0, 0)], 3, 8, 16)
    with pytest.raises(ValueError, match=r"list of \(row, column\) pairs"):
        FourierPtychography([], 3, 8, 16)
    with pytest.raises(ValueError, match="pupil values must have shape"):
        FourierPtychography([(0, 0)], torch.ones(1, 1, 8, 8), size=16)
    with pytest.raises(ValueError, match="there are 2 probes for a batch of 3 images; give one"):
        Ptychography(torch.ones(2, 4, 4), [(0, 0)], 8)(torch.zeros(3, 1, 8, 8))
    with pytest.raises(ValueError, match="radius must be a positive"):
        FourierPtychography([(0, 0)], 0.0)
    with pytest.raises(ValueError, match="count must be an odd"):
        led_grid(4)
    with pytest.raises(ValueError, match="exceeds the image"):
        scan_grid(8, 9, 2)
    with pytest.raises(ValueError, match="step must be a whole number"):
        scan_grid(8, 4, 0)
    with pytest.raises(ValueError, match="images need 2 channels"):
        FourierPtychography([(0, 0)], 3, 8, 16, "channels")(torch.zeros(1, 3, 16, 16))


def test_one_plane_is_read_as_each_of_several(tools):
    # One plane is read by index, several by slices: the same values, the same gradients.
    A = ProbeWindows(disk_pupil(4, 2), scan_grid(9, 4, 3), 9, "complex")
    x = torch.complex(tools.normal(2, 1, 9, 9), tools.normal(2, 1, 9, 9, seed=1))
    with torch.inference_mode():
        A(x[:1])  # what is kept must serve in training too
    alone = x[:1].clone().requires_grad_()
    tools.close(A(alone), A(x)[:1], 1e-13)
    assert torch.autograd.gradcheck(A, alone)
    w = A(x)
    back = torch.func.vjp(A, x)[1](w)[0]
    tools.close(torch.func.vjp(A, alone)[1](w[:1])[0], back[:1], 1e-12)
    tools.close(A.adjoint(w), back, 1e-12)
