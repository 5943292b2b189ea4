import pytest
import torch

from plugip.linalg import norm
from plugip.noise import count_observed
from plugip.operators.diffraction import (
    CodedDiffraction,
    CodeSampler,
    FarFieldCDI,
    FourierHolography,
    OctanaryCodes,
    UniformPhaseCodes,
)
from plugip.operators.near_field import NearFieldHolography, Propagation
from plugip.operators.phase import FourierMagnitude, Phaseless, align
from plugip.rng import Rng
from plugip.testing import check_operator

SIZES = [(8, 8), (7, 7), (6, 9)]
OBJECTS = {"real": 3, "unit": 3, "phase": 3, "channels": 2, "complex": 1}


def cplx(tools, *shape, seed=0):
    return torch.complex(tools.normal(*shape, seed=seed), tools.normal(*shape, seed=seed + 50))


def golden_codes():
    counts = (torch.arange(n) for n in (4, 8, 8))
    layer, h, w = torch.meshgrid(*counts, indexing="ij")
    turns = torch.tensor([1, -1, -1j, 1j], dtype=torch.complex128)[(3 * h + 5 * w + 7 * layer) % 4]
    sizes = torch.tensor([0.5, 3.0], dtype=torch.float64).sqrt()
    return (turns * sizes[((h + 2 * w + 3 * layer) % 5 == 0).long()])[None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_golden_cases(tools, dtype, tolerance):
    cases = tools.golden("phase_retrieval")["cases"]
    x = tools.hash_image(1, 1, 8, 8, dtype=dtype)
    o = torch.complex(x, 0.5 * x.flip(-1))
    coded = CodedDiffraction(golden_codes(), "complex")
    tools.case(coded(o), cases["coded_diffraction_8_L4"], tolerance)
    for model, size in (("angular_spectrum", 16), ("fresnel", 16)):
        A = NearFieldHolography(0.5, 10, 1, "phase", 0.5, model)
        y = A(tools.hash_image(1, 1, size, size, dtype=dtype))
        tools.case(y, cases[f"{model}_16"], tolerance)
    point = torch.zeros(8, 8)
    point[3, 7] = 1
    tools.case(FourierHolography(point)(x), cases["fourier_holography_8"], tolerance)


def operators(kind, size):
    support = (torch.arange(size[0] * size[1]) % 5 > 0).reshape(1, 1, *size)
    yield CodedDiffraction(OctanaryCodes(3), kind)
    yield CodedDiffraction(UniformPhaseCodes(2), kind, "amplitude")
    yield FarFieldCDI(kind)
    yield FarFieldCDI(kind, 2.3, support, 2.0)
    yield NearFieldHolography(object=kind)
    yield NearFieldHolography(1.5, 0.3, object=kind, evanescent="drop")
    yield NearFieldHolography(1.5, -0.3, object=kind, model="fresnel", output="amplitude")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", OBJECTS)
def test_laws(kind, size):
    shape = (2, OBJECTS[kind], *size)
    for operator in operators(kind, size):
        check_operator(operator, shape).require()
        fixed = operator.realise(Rng(0, "check", ["image-0", "image-1"]), shape)
        check_operator(fixed.linear_part, shape).require()


@pytest.mark.parametrize("size", SIZES)
def test_laws_of_holography_beside_a_reference(tools, size):
    A = FourierHolography(cplx(tools, size[0], 4))
    check_operator(A, (2, 3, *size)).require()
    check_operator(A.linear_part, (2, 3, *size)).require()


def test_laws_in_three_dimensions():
    A = FarFieldCDI("channels", axes=3, beam_stop=1.5)
    check_operator(A, (2, 2, 4, 3, 5)).require()
    B = FarFieldCDI("complex", 2.5, axes=3)
    check_operator(B.linear_part, (2, 1, 4, 3, 5)).require()
    assert B.measurement_shape((2, 1, 4, 3, 5)) == (2, 1, 10, 8, 13)


def test_y_is_the_magnitude_of_the_linear_part(tools):
    x = tools.normal(2, 2, 8, 8)
    for kind in ("real", "unit", "phase", "channels"):
        for A in operators(kind, (8, 8)):
            fixed = A.realise(Rng(0, "a", "ab"), (2, 2, 8, 8))
            size = fixed.linear_part(fixed.object_of(x)).abs()
            tools.close(fixed(x), size if A.output == "amplitude" else size.square(), 1e-12)
    y = FourierHolography(torch.zeros(8, 3), "real")
    tools.close(y(x), y.linear_part(x).abs().square(), 1e-12)


def test_coded_diffraction_has_closed_forms(tools):
    A = CodedDiffraction(golden_codes(), "channels").linear_part
    x = tools.normal(2, 2, 8, 8)
    energy = golden_codes().abs().square().sum(1, keepdim=True)
    tools.close(A.normal(x), energy * x, 1e-12)
    tools.close(A.pinv(A(x)), x, 1e-12)
    tools.close(A.solve_normal(x, 0.3), x / (energy + 0.3), 1e-12)
    with pytest.raises(ValueError, match="lam must be positive"):
        A.solve_normal(x, 0.0)


@pytest.mark.parametrize("sampler", [OctanaryCodes(4), UniformPhaseCodes(4)])
def test_codes_belong_to_their_image(sampler):
    codes = sampler.draw(Rng(0, "c", "abc"), (3, 1, 40, 40))
    assert codes.shape == (3, 4, 40, 40) and isinstance(sampler, CodeSampler)
    assert torch.equal(sampler.draw(Rng(0, "c", "b"), (1, 1, 40, 40)), codes[1:2])
    assert float(codes.abs().square().mean()) == pytest.approx(1, abs=0.03)
    assert abs(complex(codes.mean())) < 0.03


def test_octanary_codes_have_eight_values():
    codes = OctanaryCodes(4).draw(Rng(0, "c", "a"), (1, 1, 40, 40))
    assert len(torch.view_as_real(codes).reshape(-1, 2).round(decimals=6).unique(dim=0)) == 8
    assert float((codes.abs() > 1).double().mean()) == pytest.approx(0.2, abs=0.02)


def test_only_the_phase_is_lost_with_codes(tools):
    A = CodedDiffraction(golden_codes(), "channels")
    x = tools.normal(1, 2, 8, 8)
    o = torch.complex(x[:, :1], x[:, 1:]) * torch.exp(torch.tensor(0.7j, dtype=torch.complex128))
    turned = torch.cat([o.real, o.imag], 1)
    tools.close(A(turned), A(x), 1e-12)
    tools.close(align(turned, x, turns=False, domain="channels"), x, 1e-12)
    assert float((A(x.flip(-2, -1)) - A(x)).abs().max()) > 0.1


def test_far_field_hides_phase_turn_and_shift(tools):
    A = FarFieldCDI("complex")
    o = torch.nn.functional.pad(cplx(tools, 1, 1, 6, 5), (2, 3, 2, 2))
    other = torch.exp(torch.tensor(2.1j, dtype=torch.complex128)) * o.flip(-2, -1).conj().roll(
        (1, -1), (-2, -1)
    )
    tools.close(A(other), A(o), 1e-12)
    tools.close(align(other, o, shifts=True), o, 1e-12)


def test_far_field_of_a_real_object_is_fourier_magnitude(tools):
    x = tools.normal(2, 3, 8, 8)
    A = FarFieldCDI("real", 1.5, output="amplitude")
    tools.close(A(x), FourierMagnitude(2.0)(x), 1e-13)
    tools.close(A(x), FourierMagnitude(oversample_side=1.5)(x), 1e-13)


def test_beam_stop_hides_the_middle(tools):
    A = FarFieldCDI("real", beam_stop=2.0).realise(Rng(0, "a", "ab"), (2, 1, 8, 8))
    x = tools.normal(2, 1, 8, 8)
    y, whole = A(x), FarFieldCDI("real")(x)
    hidden = (A.observed == 0)[0, 0]
    assert int(hidden.sum()) == 13 and bool(hidden[8, 8]) and not bool(hidden[8, 11])
    assert bool((y[..., hidden] == 0).all())
    tools.close(y[..., ~hidden], whole[..., ~hidden], 1e-14)
    assert torch.as_tensor(count_observed(y, A.observed)).tolist() == [16 * 16 - 13] * 2
    given = FarFieldCDI("real", detector=A.observed)
    tools.close(given(x), y, 0)


def test_support_hides_what_is_outside(tools):
    support = torch.zeros(1, 1, 8, 8)
    support[..., 2:5, 1:6] = 1
    A, x = FarFieldCDI("real", support=support), tools.normal(1, 1, 8, 8)
    tools.close(A(x), FarFieldCDI("real")(x * support), 1e-13)
    tools.close(FourierMagnitude(support=support, oversample_side=2)(x), A(x).sqrt(), 1e-10)


def test_selecting_images_selects_their_codes(tools):
    A = CodedDiffraction(OctanaryCodes(2)).realise(Rng(0, "a", "abc"), (3, 1, 8, 8))
    x = tools.normal(3, 1, 8, 8)
    tools.close(A.select([2, 0])(x[[2, 0]]), A(x)[[2, 0]], 1e-14)
    assert dict(A.linear_part.named_buffers())["codes_parts"].shape[0] == 3


@pytest.mark.parametrize("model", ["angular_spectrum", "fresnel"])
def test_propagation_keeps_energy_and_can_be_undone(tools, model):
    o = cplx(tools, 2, 1, 8, 9)
    there, back = Propagation(0.5, 7.0, 1.0, model), Propagation(0.5, -7.0, 1.0, model)
    tools.close(norm(there(o)), norm(o), 1e-12)
    tools.close(back(there(o)), o, 1e-12)
    tools.close(Propagation(0.5, 0.0, 1.0, model)(o), o, 1e-12)
    tools.close(
        Propagation(0.5, 3.0, 1.0, model)(Propagation(0.5, 4.0, 1.0, model)(o)), there(o), 1e-11
    )


def test_evanescent_waves(tools):
    o = cplx(tools, 1, 1, 8, 8)
    energies = {
        e: float(norm(Propagation(4.0, 2.0, 1.0, evanescent=e)(o)))
        for e in ("keep", "decay", "drop")
    }
    assert energies["keep"] == pytest.approx(float(norm(o)))
    assert energies["drop"] < energies["decay"] < energies["keep"]
    backwards = Propagation(4.0, -2.0, 1.0)
    assert float(norm(backwards(o))) == pytest.approx(energies["decay"])
    h = Propagation(4.0, 2.0, 1.0).transfer(o)
    assert h[0, 4].abs() == pytest.approx(
        torch.exp(torch.tensor(-4 * torch.pi * (0.25 - 1 / 16) ** 0.5)).item()
    )


def test_a_plane_wave_stays_plane():
    A = NearFieldHolography(object="unit")
    torch.testing.assert_close(A(torch.ones(1, 1, 8, 8)), torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize("kind", ["phase", "channels"])
def test_gradients(tools, kind):
    x = tools.normal(1, 2, 4, 5).requires_grad_()
    for A in operators(kind, (4, 5)):
        fixed = A.realise(Rng(0, "a", "a"), (1, 2, 4, 5))
        assert torch.autograd.gradcheck(fixed, x)


def test_phaseless_of_any_linear_operator(tools):
    from plugip.operators import GaussianBlur

    A, x = Phaseless(GaussianBlur(1.0, 5)), tools.normal(2, 3, 8, 8)
    tools.close(A(x), GaussianBlur(1.0, 5)(x).square(), 1e-14)
    check_operator(A, (2, 3, 8, 8)).require()


def test_errors():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"unknown object 'fase'.*did you mean 'phase'"):
        NearFieldHolography(object="fase")
    with pytest.raises(ValueError, match="count must be a whole number"):
        OctanaryCodes(0)
    with pytest.raises(ValueError, match="count must be a whole number"):
        UniformPhaseCodes(0)
    with pytest.raises(TypeError, match="codes must be a tensor or a sampler"):
        CodedDiffraction(4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="codes must have shape"):
        CodedDiffraction(torch.ones(4, 8, 8))
    with pytest.raises(ValueError, match="must not all be 0"):
        CodedDiffraction(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"codes of shape .* do not fit"):
        CodedDiffraction(golden_codes())(torch.zeros(2, 1, 8, 9))
    with pytest.raises(RuntimeError, match="has no masks yet"):
        CodedDiffraction(OctanaryCodes())(x)
    with pytest.raises(RuntimeError, match="has no detector mask yet"):
        FarFieldCDI("real", beam_stop=2.0)(x)
    with pytest.raises(ValueError, match="hides all of"):
        FarFieldCDI("real", beam_stop=50.0).realise(Rng(0, "a", "ab"), (2, 1, 8, 8))
    with pytest.raises(ValueError, match="beam_stop must be a radius"):
        FarFieldCDI(beam_stop=-1.0)
    with pytest.raises(ValueError, match="not both"):
        FarFieldCDI(beam_stop=1.0, detector=torch.ones(1, 1, 8, 8))
    with pytest.raises(ValueError, match="oversample_side must be at least 1"):
        FarFieldCDI(oversample_side=0.5)
    with pytest.raises(ValueError, match="axes must be 2"):
        FarFieldCDI(axes=4)
    with pytest.raises(ValueError, match="support must hold only 0 and 1"):
        FarFieldCDI("real", support=torch.full((1, 1, 8, 8), 0.5))
    with pytest.raises(ValueError, match=r"the support of shape .* does not fit"):
        FarFieldCDI("real", support=torch.ones(1, 1, 4, 8))(x)
    with pytest.raises(ValueError, match="images need 2 channels"):
        FarFieldCDI("channels")(x)
    with pytest.raises(TypeError, match="but the images are complex"):
        NearFieldHolography(object="phase")(x.to(torch.complex64))
    with pytest.raises(ValueError, match="wavelength must be a positive"):
        NearFieldHolography(0.0)
    with pytest.raises(ValueError, match="distance must be finite"):
        NearFieldHolography(distance=float("inf"))
    with pytest.raises(ValueError, match="unknown model"):
        NearFieldHolography(model="fraunhofer")
    with pytest.raises(ValueError, match="phase_scale must be positive"):
        NearFieldHolography(phase_scale=0.0)
    with pytest.raises(ValueError, match="need the same height"):
        FourierHolography(torch.ones(6, 2))(x)
    with pytest.raises(ValueError, match="reference values must have shape"):
        FourierHolography(torch.ones(1, 6, 2))
