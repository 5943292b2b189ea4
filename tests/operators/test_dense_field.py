import numpy as np
import pytest
import torch

from plugip.linalg import conjugate_gradient
from plugip.operators.dense_field import (
    DenseField,
    GaussianPhaseRetrieval,
    GaussianProjections,
    LinearInverseScattering,
)
from plugip.rng import Rng
from plugip.testing import check_operator

OBJECTS = {"real": 3, "unit": 3, "phase": 3, "channels": 2, "complex": 1}


def golden_matrix():
    r = torch.arange(512, dtype=torch.float64).reshape(32, 16)
    return torch.complex((13 * r + 5) % 37 / 18 - 1, (7 * r + 2) % 31 / 15 - 1) / 8


def scattering(conjugate):
    """The first Born matrix of the golden geometry, rows (transmitter, receiver)."""
    side, dx = 8, 0.0225
    place = (np.arange(side) - side / 2) * dx
    across, down = np.meshgrid(place, place)
    return born(across.ravel(), down.ravel(), dx, 46.54211338651545, (3, 5), conjugate)


def born(across, down, dx, k, counts, conjugate=True):
    """Rows (transmitter, receiver) of rings of radius 1.6, columns the pixels at these places."""
    from scipy.special import hankel1

    def green(count):
        angle = np.deg2rad(np.linspace(0, 359, count))[:, None]
        gap = np.hypot(across - 1.6 * np.cos(angle), down - 1.6 * np.sin(angle))
        return 0.25j * hankel1(0, k * gap)

    incident, sensor = green(counts[0]), k**2 * green(counts[1])
    lit = incident.conj() if conjugate else incident
    return torch.from_numpy(dx**2 * (lit[:, None] * sensor[None]).reshape(-1, len(across)))


def unit_image():
    h, w = torch.arange(8.0).double()[:, None], torch.arange(8.0).double()[None]
    return ((37 * h + 17 * w + 7 * h * w) % 101 / 100)[None, None]


def complex_case(tools, value, case):
    tools.case(value.real, case["real"])
    tools.case(value.imag, case["imag"])


def test_golden_gaussian_phase_retrieval(tools):
    case = tools.golden("phase_retrieval")["cases"]["gaussian_pr_32x16"]
    A = GaussianPhaseRetrieval(golden_matrix())
    tools.case(A(tools.hash_image(1, 1, 4, 4))[0, 0], case)
    tools.case(A(tools.hash_image(1, 1, 4, 4, dtype=torch.float32))[0, 0], case, 1e-5)


@pytest.mark.parametrize(
    ("name", "conjugate"), [("forward", True), ("forward_born_unconjugated", False)]
)
def test_golden_scattering(tools, name, conjugate):
    case = tools.golden("lis")["cases"][name]["y"]
    y = LinearInverseScattering(scattering(conjugate))(unit_image())
    complex_case(tools, y.reshape(3, 5), case)


def test_golden_scattering_at_the_scale_of_the_benchmark(tools):
    """Only the columns of the lit disk: all 128 x 128 would take 1.9 GB, and so would the
    golden file's operator norm, which is left out."""
    case = tools.golden("lis")["cases"]["benchmark_scale"]
    row, column = np.mgrid[:128, :128]
    disk = (column - 64 - 5) ** 2 + (row - 64 + 9) ** 2 <= 400
    across, down = ((place[disk] - 64) * case["dx"] for place in (column, row))
    assert len(across) == case["disk_sum"] == 3 * 419
    A = LinearInverseScattering(
        born(across, down, case["dx"], case["k"], (20, 360)), size=(3, 419)
    )
    y = A(torch.ones(1, 1, 3, 419, dtype=torch.float64))
    assert float(y.abs().square().mean().sqrt()) == pytest.approx(case["y_rms_abs"], rel=1e-11)
    assert float(y.abs().max()) == pytest.approx(case["y_max_abs"], rel=1e-11)
    assert torch.view_as_real(y.sum()).tolist() == pytest.approx(case["y_sum"], rel=1e-11)


def test_golden_scattering_adjoint_and_spectrum(tools):
    cases, A = tools.golden("lis")["cases"], LinearInverseScattering(scattering(True), rcond=1e-6)
    t, r = torch.arange(3.0).double()[:, None], torch.arange(5.0).double()[None]
    v = torch.complex(torch.cos(0.7 * t + 0.3 * r), torch.sin(0.2 * t - 0.5 * r)).reshape(1, 1, 15)
    tools.case(A.adjoint(v)[0, 0], cases["adjoint"]["x"])
    want = torch.tensor(cases["singular_values"]["s"], dtype=torch.float64)
    s = A.spectrum((1, 1, 8, 8)).s
    # The last values stand on the edge of rounding, and ten digits are given.
    tools.close(s[: len(want) - 1], want[:-1], 1e-9)
    # The smallest kept singular value is 1e-4 of the largest, which costs four digits.
    tools.case(A.pinv(A(unit_image()))[0, 0], cases["min_norm_solution"]["x"], 1e-7)


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize(
    "matrix",
    [
        golden_matrix(),
        golden_matrix().real.clone(),
        GaussianProjections(2.0),
        GaussianProjections(1.5, False),
    ],
    ids=["complex", "real", "drawn", "drawn real"],
)
def test_laws_of_gaussian_phase_retrieval(kind, matrix):
    shape = (2, OBJECTS[kind], 4, 4)
    A = GaussianPhaseRetrieval(matrix, kind)
    check_operator(A, shape).require()
    check_operator(A.realise(Rng(0, "a", "ab"), shape).linear_part, shape).require()


@pytest.mark.parametrize("kind", ["real", "channels", "complex"])
@pytest.mark.parametrize(("rows", "size"), [(5, (4, 4)), (40, (4, 4)), (9, (3, 5))])
def test_laws_of_scattering(tools, kind, rows, size):
    n = size[0] * size[1]
    matrix = torch.complex(tools.normal(rows, n), tools.normal(rows, n, seed=1))
    A, shape = LinearInverseScattering(matrix, kind, size, 1e-9), (2, OBJECTS[kind], *size)
    check_operator(A, shape).require()
    x = tools.normal(*shape)
    x = torch.complex(x, x.flip(-1)) if kind == "complex" else x
    y = A(x)
    tools.close(A(A.pinv(y)), y, 1e-9)
    tools.close(A.pinv(A(A.pinv(y))), A.pinv(y), 1e-9)
    iterated = conjugate_gradient(lambda v: A.normal(v) + 0.5 * v, x, tolerance=1e-10)
    tools.close(A.solve_normal(x, 0.5), iterated, 1e-6)


def test_tall_matrices_are_undone(tools):
    A, x = LinearInverseScattering(golden_matrix(), rcond=1e-12), tools.normal(2, 3, 4, 4)
    tools.close(A.pinv(A(x)), x, 1e-8)
    x = x.float()
    assert A(x).dtype == torch.complex64 and A.pinv(A(x)).dtype == torch.float32
    assert A.spectrum((2, 3, 4, 4)) is A.spectrum((1, 1, 4, 4))  # decomposed once


def test_the_drawn_matrix():
    shape = (2, 1, 8, 8)
    a = GaussianProjections(4).draw(Rng(0, "a", "ab"), shape)
    assert a.shape == (256, 64) and a.is_complex()
    assert torch.equal(GaussianProjections(4).draw(Rng(0, "a", "c"), (1, 1, 8, 8)), a)
    assert not torch.equal(GaussianProjections(4).draw(Rng(1, "a", "c"), (1, 1, 8, 8)), a)
    assert float(256 * a.abs().square().mean()) == pytest.approx(1, abs=0.03)
    assert float(256 * a.real.square().mean()) == pytest.approx(0.5, abs=0.03)
    real = GaussianProjections(4, False).draw(Rng(0, "a", "c"), (1, 1, 8, 8))
    assert not real.is_complex() and float(256 * real.square().mean()) == pytest.approx(
        1, abs=0.04
    )


def test_gradients(tools):
    x = tools.normal(1, 2, 4, 4).requires_grad_()
    for kind in ("real", "phase", "channels"):
        assert torch.autograd.gradcheck(GaussianPhaseRetrieval(golden_matrix(), kind), x)


def test_errors():
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="15 columns, one per pixel, but images are square"):
        DenseField(torch.ones(3, 15))
    with pytest.raises(ValueError, match="16 columns, one per pixel, but images are 3 x 5"):
        DenseField(torch.ones(3, 16), size=(3, 5))
    with pytest.raises(ValueError, match=r"takes images of \(4, 4\) pixels, got \(2, 8\)"):
        LinearInverseScattering(golden_matrix())(torch.zeros(1, 1, 2, 8))
    with pytest.raises(ValueError, match="matrix values must have shape"):
        DenseField(torch.ones(1, 3, 16))
    with pytest.raises(ValueError, match="NaN"):
        DenseField(torch.full((3, 16), float("inf")))
    with pytest.raises(ValueError, match=r"floating point or complex, got torch\.int64"):
        DenseField(torch.ones(3, 16, dtype=torch.int64))
    with pytest.raises(TypeError, match="matrix must be a tensor"):
        LinearInverseScattering(GaussianProjections())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="matrix must be a tensor or a sampler"):
        GaussianPhaseRetrieval(4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rcond must lie in \[0, 1\)"):
        LinearInverseScattering(golden_matrix(), rcond=1.0)
    with pytest.raises(RuntimeError, match="has no matrix yet"):
        GaussianPhaseRetrieval(GaussianProjections())(x)
    with pytest.raises(ValueError, match="at most 4096 pixels"):
        GaussianPhaseRetrieval(GaussianProjections()).measurement_shape((1, 1, 65, 64))
    with pytest.raises(ValueError, match="ratio must be a positive"):
        GaussianProjections(0)
