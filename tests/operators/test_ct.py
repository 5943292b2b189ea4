import pytest
import torch

from plugip.linalg import dot, norm
from plugip.operators.ct import ParallelBeamCT, _groups
from plugip.testing import check_operator

GOLDEN = [0, 30, 45, 90, 135]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_golden_radon(tools, dtype, tolerance):
    cases, A = tools.golden("ct")["cases"], ParallelBeamCT(GOLDEN)
    x = tools.hash_image(1, 1, 16, 16, dtype=dtype)
    tools.case(A((x + 1) / 2), cases["radon_16_5angles"], tolerance)
    y = tools.hash_image(1, 1, 23, 5, dtype=dtype)
    tools.case(A.adjoint(y), cases["radon_adjoint"], tolerance)
    assert A.norm((1, 1, 16, 16)) == pytest.approx(
        cases["radon_adjoint"]["operator_norm"], rel=1e-5
    )


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (7, 10)])
@pytest.mark.parametrize("normalise", [False, True])
def test_laws(size, normalise):
    check_operator(ParallelBeamCT(5, size, normalise), (3, 2, *size)).require()


@pytest.mark.parametrize("size", [(9, 9), (7, 10)])
def test_the_adjoint_is_the_vector_jacobian_product(tools, size):
    A = ParallelBeamCT(7, size)
    y = tools.normal(*A.measurement_shape((2, 3, *size)))
    vjp = torch.func.vjp(A, torch.zeros(2, 3, *size, dtype=torch.float64))[1]
    tools.close(A.adjoint(y), vjp(y)[0], 1e-12)


def test_dot_test_in_float32(tools):
    A = ParallelBeamCT(7)
    x, y = (
        tools.normal(2, 1, 12, 12, dtype=torch.float32),
        tools.normal(2, 1, 17, 7, dtype=torch.float32),
    )
    assert bool(((dot(A(x), y) - dot(x, A.adjoint(y))).abs() < 1e-4 * norm(x) * norm(y)).all())


def test_angles_in_groups_are_the_angles_one_by_one(tools):
    angles, x = [0, 10, 35, 90, 120, 131, 179], tools.normal(2, 1, 120, 120)
    A, alone = ParallelBeamCT(angles), [ParallelBeamCT([a]) for a in angles]
    y = torch.cat([one(x) for one in alone], dim=-1)
    assert len(_groups(A.angles, y.shape[2])) == 2
    tools.close(A(x), y, 1e-12)
    back = [one.adjoint(y[..., i : i + 1]) for i, one in enumerate(alone)]
    tools.close(A.adjoint(y), torch.stack(back).sum(0), 1e-10)


@pytest.mark.parametrize("size", [(5, 5), (8, 8), (9, 9), (7, 10)])
def test_right_angles_are_sums(tools, size):
    x = tools.normal(2, 3, *size)
    y = ParallelBeamCT([0, 90, 180], size)(x)
    d = y.shape[2]
    inner = slice(d // 2 - size[1] // 2, d // 2 - size[1] // 2 + size[1])
    tools.close(y[:, :, inner, 0], x.sum(2), 1e-12)
    # Half a turn reverses the detector, on which the image is not quite in the middle.
    tools.close(y[..., 2], y[..., 0].flip(2), 1e-12)
    tools.close(y[..., 1].sum(2), x.sum((2, 3)), 1e-12)


def test_a_quarter_turn_sums_rows(tools):
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 2] = 1  # a bright row above the middle
    y = ParallelBeamCT([90])(x)[0, 0, :, 0]
    assert int((y > 1e-9).sum()) == 1 and float(y.max()) == pytest.approx(9)
    assert abs(int(y.argmax()) - 6) == 2


def test_mass_is_nearly_the_same_from_all_sides(tools):
    x = (tools.hash_image(1, 1, 16, 16) + 1) / 2
    mass = ParallelBeamCT(30)(x).sum(2)
    assert float((mass / x.sum() - 1).abs().max()) < 0.012


def test_normalised_operators_have_norm_one(tools):
    A, x = ParallelBeamCT(9, normalise=True), tools.normal(1, 1, 12, 12).abs()
    for _ in range(60):
        x = A.normal(x / norm(x))
    assert float(norm(x)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_filtered_back_projection(tools, normalise):
    r = torch.arange(48, dtype=torch.float64) - 23.5
    blob = torch.exp(-((r[:, None] - 4) ** 2 + (r[None] + 6) ** 2) / 50)[None, None]
    A = ParallelBeamCT(90, normalise=normalise)
    back = A.approx_inverse(A(blob))
    assert float(norm(back - blob) / norm(blob)) < 0.03
    assert float(back.sum() / blob.sum()) == pytest.approx(1, abs=0.02)
    assert A.approx_inverse(A(blob.float())).dtype == torch.float32


def test_solve_normal(tools):
    A, b = ParallelBeamCT(4, normalise=True), tools.normal(2, 1, 8, 8)
    solved = A.solve_normal(b, 0.2)
    tools.close(A.normal(solved) + 0.2 * solved, b, 1e-5)


@pytest.mark.parametrize("side", [1, 2, 5, 16, 31, 64, 255, 256, 362])
def test_square_sides_are_found_from_y(side):
    A = ParallelBeamCT(1)
    y_shape = A.measurement_shape((1, 1, side, side))
    assert A.domain_shape(y_shape) == (1, 1, side, side)


def test_gradients(tools):
    x = tools.normal(1, 1, 5, 5).requires_grad_()
    A = ParallelBeamCT(3)
    assert torch.autograd.gradcheck(A, x)
    assert torch.autograd.gradcheck(A.adjoint, A(x).detach().requires_grad_())


def test_errors():
    with pytest.raises(ValueError, match=r"square images unless told otherwise.*size=\(8, 9\)"):
        ParallelBeamCT()(torch.zeros(1, 1, 8, 9))
    with pytest.raises(ValueError, match=r"built for \(8, 9\) pixels, got \(8, 8\)"):
        ParallelBeamCT(size=(8, 9))(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="angles must be a whole number, at least 1, got 0"):
        ParallelBeamCT(0)
    with pytest.raises(ValueError, match="angles must be finite degrees"):
        ParallelBeamCT([])
    with pytest.raises(ValueError, match="angles must be finite degrees"):
        ParallelBeamCT([0.0, float("nan")])
    with pytest.raises(ValueError, match="whole number or a list"):
        ParallelBeamCT(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="but y has shape"):
        ParallelBeamCT(5).adjoint(torch.zeros(1, 1, 23, 4))


@pytest.mark.parametrize("side", [20, 27, 22, 24])
def test_the_axis_is_the_middle_of_the_padded_square(side):
    """scikit-image agrees where the padded side is odd; else its axis lies elsewhere."""
    radon = pytest.importorskip("skimage.transform").radon
    row, column = torch.meshgrid(*[torch.arange(side) - (side - 1) / 2] * 2, indexing="ij")
    blob = torch.exp(-((row - 2) ** 2 + (column + 3) ** 2) / 8).double()
    angles = [0.0, 30.0, 77.0, 140.0]
    ours = ParallelBeamCT(angles)(blob[None, None])[0, 0]
    theirs = torch.from_numpy(radon(blob.numpy(), angles, circle=False))
    assert ours.shape == theirs.shape
    if len(ours) % 2:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        return
    turns = torch.deg2rad(torch.tensor(angles, dtype=torch.float64))
    middle = (len(ours) - 1) / 2
    places = torch.arange(len(ours), dtype=torch.float64) - middle
    centre = (ours * places[:, None]).sum(0) / ours.sum(0)
    torch.testing.assert_close(centre, -3 * turns.cos() - 2 * turns.sin(), atol=5e-3, rtol=0)
    assert (ours - theirs).abs().max() > 0.1 * ours.max()
