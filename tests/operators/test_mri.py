import numpy as np
import pytest
import torch

from plugip.linalg import dot, norm
from plugip.noise import count_observed
from plugip.operator import SpectralOperator
from plugip.operators.masks import MaskSampler
from plugip.operators.mri import MultiCoilMRI, SingleCoilMRI, birdcage_maps
from plugip.operators.mri_masks import (
    EquispacedLines,
    ExactLines,
    GaussianPoints,
    RandomLines,
    legacy_mri_mask,
)
from plugip.rng import Rng
from plugip.testing import check_operator

COLUMNS = torch.tensor([1.0, 0, 1, 1, 1, 0, 0, 1])[None, None, None]
SAMPLERS = [
    RandomLines(2, 0.3),
    EquispacedLines(2, 0.2),
    ExactLines(2, 0.3),
    GaussianPoints(2, 0.3),
]
LEGACY = {
    "inversebench_320_R4_random_seed0": ("inversebench_random", 0, 320, 4, 0.08),
    "inversebench_320_R8_random_seed0": ("inversebench_random", 0, 320, 8, 0.04),
    "inversebench_320_R4_equispaced_seed0": ("inversebench_equispaced", 0, 320, 4, 0.08),
    "inversebench_128_R8_random_seed0": ("inversebench_random", 0, 128, 8, 0.04),
    "fastmri_random_320_R4_seed42": ("fastmri_random", 42, 320, 4, 0.08),
    "fastmri_equispaced_320_R4_seed42": ("fastmri_equispaced", 42, 320, 4, 0.08),
    "fastmri_equispaced_fraction_320_R4_seed42": ("fastmri_equispaced_fraction", 42, 320, 4, 0.08),
}


def golden_maps():
    r, c = (torch.arange(8, dtype=torch.float64).reshape(s) for s in ((8, 1), (1, 8)))
    first = torch.polar(torch.exp(-((r - 2) ** 2 + (c - 2) ** 2) / 32), 0.3 * r.expand(8, 8))
    second = torch.polar(torch.exp(-((r - 5) ** 2 + (c - 6) ** 2) / 32), -0.2 * c.expand(8, 8))
    maps = torch.stack([first, second])[None]
    return maps / maps.abs().square().sum(1, keepdim=True).sqrt()


def complex_image(tools, dtype=torch.float64):
    x = tools.hash_image(1, 1, 8, 8, dtype=dtype)
    return torch.complex(x, x.flip(-2))


def complex_case(tools, value, case, tolerance=1e-8):
    tools.case(value.real, case["real"], tolerance)
    tools.case(value.imag, case["imag"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_golden_single_coil(tools, dtype, tolerance):
    case, x = tools.golden("mri")["cases"]["single_coil_8"], complex_image(tools, dtype)
    complex_case(tools, SingleCoilMRI(COLUMNS, "complex")(x), case, tolerance)
    channels = torch.cat([x.real, x.imag], dim=1)
    complex_case(tools, SingleCoilMRI(COLUMNS)(channels), case, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_golden_multi_coil(tools, dtype, tolerance):
    cases, x = tools.golden("mri")["cases"], complex_image(tools, dtype)
    A = MultiCoilMRI(golden_maps(), COLUMNS, "complex")
    y = A(x)
    complex_case(tools, y, cases["multi_coil_8"], tolerance)
    complex_case(tools, A.adjoint(y), cases["multi_coil_adjoint_8"], tolerance)
    back = MultiCoilMRI(golden_maps(), COLUMNS).adjoint(y)
    complex_case(
        tools, torch.complex(back[:, :1], back[:, 1:]), cases["multi_coil_adjoint_8"], tolerance
    )


@pytest.mark.parametrize("name", LEGACY)
def test_golden_legacy_masks(tools, name):
    kind, seed, width, acceleration, centre = LEGACY[name]
    case = tools.golden("mri")["cases"][name]
    mask = legacy_mri_mask(np.random.RandomState(seed), kind, width, acceleration, centre)
    lines = mask[0, 0, 0].nonzero()[:, 0]
    assert mask.shape == (1, 1, 1, width) and len(lines) == case["n_lines"]
    assert int(lines.sum()) == case["sum_index"] and lines[:12].tolist() == case["first12"]


@pytest.mark.parametrize("domain", ["channels", "complex"])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9)])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_laws(domain, size, sampler):
    shape = (3, 2 if domain == "channels" else 1, *size)
    check_operator(SingleCoilMRI(sampler, domain), shape).require()
    check_operator(MultiCoilMRI(birdcage_maps(3, size), sampler, domain), shape).require()


def test_single_coil_pseudo_inverse_is_the_adjoint(tools):
    A = SingleCoilMRI(COLUMNS)
    y = A(tools.normal(2, 2, 6, 8))
    tools.close(A.pinv(y), A.adjoint(y), 1e-14)
    tools.close(A(A.pinv(y)), y, 1e-13)
    tools.close(A.solve_normal(A.adjoint(y), 0.5), A.adjoint(y) / 1.5, 1e-13)


def test_dot_test_in_float32(tools):
    A = MultiCoilMRI(birdcage_maps(4, (8, 7)), ExactLines(2, 0.3)).realise(
        Rng(0, "a", ["a", "b"]), (2, 2, 8, 7)
    )
    x, parts = (tools.normal(*s, dtype=torch.float32) for s in ((2, 2, 8, 7), (2, 4, 8, 7, 2)))
    y = torch.view_as_complex(parts)
    assert bool(((dot(A(x), y) - dot(x, A.adjoint(y))).abs() < 1e-4 * norm(x) * norm(y)).all())


def test_multi_coil_solve_agrees_with_the_dense_matrix(tools):
    A = MultiCoilMRI(golden_maps(), COLUMNS)
    eye = torch.eye(128, dtype=torch.float64).reshape(128, 2, 8, 8)
    normal = A.normal(eye).reshape(128, 128).T
    b = tools.normal(1, 2, 8, 8)
    exact = torch.linalg.solve(normal + 0.1 * torch.eye(128), b.flatten())
    tools.close(A.solve_normal(b, 0.1).flatten(), exact, 1e-5)
    tools.close(A.normal(eye), A.adjoint(A(eye)), 1e-13)
    assert float(torch.linalg.eigvalsh(normal)[-1]) <= 1 + 1e-12


@pytest.mark.parametrize("size", [(7, 8), (8, 9)])
def test_normal_is_the_adjoint_after_the_operator(tools, size):
    sampler, x = GaussianPoints(2, 0.3), tools.normal(2, 2, *size)
    A = MultiCoilMRI(birdcage_maps(3, size), sampler).realise(Rng(0, "a", "ab"), (2, 2, *size))
    tools.close(A.normal(x), A.adjoint(A(x)), 1e-13)


@pytest.mark.parametrize("size", [(8, 10), (6, 8), (7, 8), (9, 5)])
@pytest.mark.parametrize("domain", ["channels", "complex"])
def test_signs_instead_of_shifts(tools, size, domain):
    # Every way to the same answer, at even and odd sizes, with a mask of each image.
    mask = torch.stack(
        [torch.arange(size[0] * size[1]).reshape(size) % (n + 1) > 0 for n in (2, 4)]
    )
    shape, lam = (2, 2 if domain == "channels" else 1, *size), torch.tensor([0.1, 0.4]).double()
    A, x = SingleCoilMRI(mask[:, None].double(), domain), tools.normal(*shape)
    x = x if domain == "channels" else torch.complex(x, tools.normal(*shape, seed=1))
    y = SpectralOperator.forward(A, x)
    tools.close(A(x), y, 1e-12)
    tools.close(A.adjoint(y), SpectralOperator.adjoint(A, y), 1e-12)
    tools.close(A.normal(x), A.adjoint(A(x)), 1e-12)
    tools.close(A.solve_normal(x, lam), SpectralOperator.solve_normal(A, x, lam), 1e-12)
    A.mask.mul_(0.5)  # what is kept follows the mask
    tools.close(A(x), 0.5 * y, 1e-12)


def test_one_uniform_coil_is_the_single_coil(tools):
    x = tools.normal(2, 2, 8, 8)
    ones = torch.ones(1, 1, 8, 8)
    tools.close(MultiCoilMRI(ones, COLUMNS)(x), SingleCoilMRI(COLUMNS)(x), 1e-13)


def test_gradients(tools):
    x = tools.normal(1, 2, 4, 8).requires_grad_()
    A = MultiCoilMRI(birdcage_maps(2, (4, 8)), COLUMNS)
    assert torch.autograd.gradcheck(A, x)
    assert torch.autograd.gradcheck(A.adjoint, A(x).detach().requires_grad_())


def test_maps_survive_moves(tools):
    A = MultiCoilMRI(birdcage_maps(3, 8), COLUMNS)
    x = tools.normal(1, 2, 8, 8)
    y = A(x)
    tools.close(A.to(torch.float64)(x), y, 0)
    tools.close(A.to(torch.float32)(x), y, 1e-6)


def test_birdcage_maps():
    maps = birdcage_maps(6, (9, 12))
    assert maps.shape == (1, 6, 9, 12) and maps.dtype == torch.complex128
    torch.testing.assert_close(maps.abs().square().sum(1), torch.ones(1, 9, 12).double())
    # The first coil stands to the right; half a turn swaps it with the fourth.
    assert int(maps[0, 0].abs().argmax(1)[4]) == 11
    torch.testing.assert_close(maps[0, 0].abs(), maps[0, 3].abs().flip(-2, -1))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_masks_belong_to_their_image(sampler):
    shape = (4, 2, 10, 16)
    masks = sampler.draw(Rng(0, "m", "abcd"), shape)
    assert masks.shape == (4, 1, 10, 16) and isinstance(sampler, MaskSampler)
    assert torch.equal(sampler.draw(Rng(0, "m", "c"), (1, *shape[1:])), masks[2:3])
    assert len({mask.numpy().tobytes() for mask in masks}) > 1
    assert bool((masks[:, :, 4:6, 8] == 1).all())  # the middle
    if not isinstance(sampler, GaussianPoints):
        assert torch.equal(masks, masks[:, :, :1].expand_as(masks))


def test_counts_of_masks():
    ids = [str(i) for i in range(64)]

    def counts(sampler, w=320):
        return sampler.draw(Rng(0, "m", ids), (64, 2, 1, w)).sum((1, 2, 3))

    assert counts(ExactLines(4, 0.08)).unique().tolist() == [80]
    assert counts(ExactLines(8, 0.04)).unique().tolist() == [40]
    assert float(counts(RandomLines(4, 0.08)).mean()) == pytest.approx(80, abs=3)
    assert len(counts(RandomLines(4, 0.08)).unique()) > 5
    assert set(counts(EquispacedLines(4, 0.08)).tolist()) <= {79.0, 80.0, 81.0}
    assert float(counts(EquispacedLines(4, 0.08, exact=False)).min()) >= 98
    points = GaussianPoints(4, 0.08).draw(Rng(0, "m", ids), (64, 2, 32, 40))
    assert points.sum((1, 2, 3)).unique().tolist() == [320]
    middle, edge = points[..., 12:20, 15:25].mean(), points[..., :4, :].mean()
    assert float(middle) > 3 * float(edge)


def test_odd_middles_lie_as_published():
    # fastMRI starts at (w - low + 1) // 2, InverseBench at (w - low) // 2.
    for kind, middle in (("fastmri_random", [7, 8, 9]), ("inversebench_random", [6, 7, 8])):
        mask = legacy_mri_mask(np.random.RandomState(0), kind, 16, 5, 0.19)[0, 0, 0]
        assert bool((mask[middle] == 1).all())
    mask = ExactLines(16 / 3, 0.19).draw(Rng(0, "m", "a"), (1, 2, 1, 16))[0, 0, 0]
    assert mask.nonzero()[:, 0].tolist() == [6, 7, 8]
    mask = RandomLines(16 / 3, 0.19).draw(Rng(0, "m", "a"), (1, 2, 1, 16))[0, 0, 0]
    assert mask.nonzero()[:, 0].tolist() == [7, 8, 9]


def test_full_sampling_keeps_everything(tools):
    for sampler in (
        ExactLines(1, 0.1),
        RandomLines(1, 0.1),
        GaussianPoints(1),
        EquispacedLines(1),
    ):
        assert bool((sampler.draw(Rng(0, "m", "a"), (1, 2, 9, 12)) == 1).all())


def test_only_acquired_points_count(tools):
    A, x = SingleCoilMRI(COLUMNS), tools.normal(3, 2, 8, 8)
    assert torch.as_tensor(count_observed(A(x), A.observed)).tolist() == [2 * 5 * 8] * 3
    B = MultiCoilMRI(golden_maps(), COLUMNS)
    assert torch.as_tensor(count_observed(B(x), B.observed)).tolist() == [2 * 2 * 5 * 8] * 3


def test_errors():
    x = torch.zeros(2, 2, 8, 8)
    single, multi = SingleCoilMRI(COLUMNS), MultiCoilMRI(golden_maps(), COLUMNS)
    with pytest.raises(ValueError, match="images need 2 channels, real and imaginary part, got 3"):
        single(torch.zeros(2, 3, 8, 8))
    with pytest.raises(TypeError, match="domain='channels', but the images are complex"):
        multi(torch.zeros(2, 1, 8, 8, dtype=torch.complex64))
    with pytest.raises(TypeError, match="domain='complex', but the images are real"):
        SingleCoilMRI(COLUMNS, "complex")(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"complex images \(B, 1, H, W\)"):
        SingleCoilMRI(COLUMNS, "complex").check_domain((2, 2, 8, 8))
    with pytest.raises(ValueError, match="does not fit images"):
        single(torch.zeros(2, 2, 8, 9))
    with pytest.raises(ValueError, match=r"maps of shape .* do not fit images"):
        multi(torch.zeros(2, 2, 9, 8))
    with pytest.raises(ValueError, match="gives measurements of shape"):
        multi.adjoint(torch.zeros(1, 3, 8, 8, dtype=torch.complex64))
    with pytest.raises(RuntimeError, match="has no mask yet"):
        SingleCoilMRI(RandomLines())(x)
    with pytest.raises(ValueError, match="one stream per image, got 1 for 2"):
        SingleCoilMRI(RandomLines()).realise(Rng(0, "m", "a"), (2, 2, 8, 8))
    with pytest.raises(TypeError, match="mask must be a tensor or a sampler"):
        SingleCoilMRI(4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown domain 'real'"):
        SingleCoilMRI(COLUMNS, "real")
    with pytest.raises(ValueError, match=r"mask\[None, None, None\]"):
        SingleCoilMRI(COLUMNS[0])
    with pytest.raises(ValueError, match="holds only 1"):
        SingleCoilMRI(2 * COLUMNS)
    with pytest.raises(ValueError, match="acquires nothing"):
        SingleCoilMRI(0 * COLUMNS)
    with pytest.raises(ValueError, match="maps must have shape"):
        MultiCoilMRI(golden_maps()[0], COLUMNS)
    with pytest.raises(ValueError, match="NaN"):
        MultiCoilMRI(golden_maps() * float("nan"), COLUMNS)


def test_errors_of_masks_and_maps():
    with pytest.raises(ValueError, match="acceleration must be at least 1"):
        RandomLines(0.5)
    with pytest.raises(ValueError, match=r"centre must lie in \[0, 1\]"):
        ExactLines(4, 25)
    with pytest.raises(ValueError, match="whole number with exact=False"):
        EquispacedLines(2.5, exact=False)
    with pytest.raises(ValueError, match="spread must be positive"):
        GaussianPoints(spread=0)
    rng = Rng(0, "m", "a")
    for sampler in (RandomLines(8, 0.5), EquispacedLines(8, 0.5), ExactLines(8, 0.5)):
        with pytest.raises(ValueError, match="the 16 columns in the middle exceed the 4 columns"):
            sampler.draw(rng, (1, 2, 32, 32))
    with pytest.raises(ValueError, match="the middle box of 16 x 16 points exceeds the 128"):
        GaussianPoints(8, 0.5).draw(rng, (1, 2, 32, 32))
    with pytest.raises(ValueError, match="unknown kind of mask"):
        legacy_mri_mask(np.random.RandomState(0), "poisson")
    with pytest.raises(ValueError, match="coils must be a whole number"):
        birdcage_maps(0)
    with pytest.raises(ValueError, match="radius must exceed"):
        birdcage_maps(4, radius=1.0)
