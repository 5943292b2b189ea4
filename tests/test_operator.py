"""The interfaces of forward maps and their algebra, against dense matrices."""

import pytest
import torch
from torch import Tensor
from toys import (
    Fixed,
    Fourier,
    Identity,
    Masked,
    Matrix,
    Scale,
    Shape,
    Shrink,
    Square,
    close,
    dense,
    normal,
)

from plugip.linalg import dot
from plugip.operator import (
    Composition,
    LinearComposition,
    LinearOperator,
    Operator,
    require_batch,
)
from plugip.rng import Rng
from plugip.spectral import DiagonalSpectrum

IMAGE = (2, 3, 4)  # C, H, W: all different, so that mixed-up axes cannot hide


def made_up(rows: int = 7) -> Matrix:
    return Matrix(normal(rows, 24) / 5, IMAGE)


class Coils(LinearOperator):
    """Multiplies a real image by complex sensitivities."""

    coils: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("coils", torch.complex(normal(*IMAGE), normal(*IMAGE, seed=1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.coils * x


def linear(outer: Operator, inner: Operator) -> LinearOperator:
    both = outer @ inner
    assert isinstance(both, LinearOperator)
    return both


# -----------------------------------------------------------------------------------------------
# the default adjoint


def test_the_default_adjoint_is_the_transpose():
    a, y = made_up(), normal(3, 7, seed=1)
    close(a.adjoint(y), (y @ a.matrix).reshape(3, *IMAGE))


def test_the_default_adjoint_finds_larger_images():
    a = Shrink()
    x, y = normal(2, 3, 4, 6), normal(2, 3, 2, 3, seed=1)
    close(a.adjoint(y), y.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4)
    close(dot(a(x), y), dot(x, a.adjoint(y)))


def test_the_default_adjoint_of_complex_measurements_is_real():
    a, x, y = Fourier(), normal(2, *IMAGE), torch.complex(normal(2, *IMAGE), normal(2, *IMAGE))
    assert a.adjoint(y).dtype == torch.float64
    close(a.adjoint(y), torch.fft.ifft2(y, norm="ortho").real)
    close(dot(a(x), y), dot(x, a.adjoint(y)))


def test_an_inner_part_on_complex_images_keeps_them_complex():
    fourier, coils = Fourier(), Coils()
    fourier.complex_domain = True
    y = torch.complex(normal(2, *IMAGE), normal(2, *IMAGE, seed=1))
    back = (coils.coils.conj() * torch.fft.ifft2(y, norm="ortho")).real
    close(linear(fourier, coils).adjoint(y), back)


def test_the_adjoint_is_differentiable():
    y = normal(2, 7).requires_grad_()
    assert torch.autograd.gradcheck(made_up().adjoint, y)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_adjoint_works_in_any_gradient_mode(mode: type):
    a, y = made_up(), normal(3, 7, seed=1)
    with mode():
        back = a.adjoint(y)
    assert not back.requires_grad
    close(back.clone(), (y @ a.matrix).reshape(3, *IMAGE))


def test_the_adjoint_of_per_image_operators_stays_per_image():
    s = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)
    close(Scale(s).adjoint(torch.ones(3, *IMAGE)), s.expand(3, *IMAGE))


def test_a_measurement_that_does_not_fit_the_adjoint_is_refused():
    with pytest.raises(ValueError, match=r"Matrix maps .* \(2, 2, 3, 4\) to \(2, 7\), but y has"):
        made_up().adjoint(torch.zeros(2, 8).double())


def test_a_forgotten_domain_shape_is_named():
    class Forgetful(Shrink):
        def domain_shape(self, y_shape: Shape) -> Shape:
            return y_shape

    with pytest.raises(ValueError, match="domain_shape"):
        Forgetful().adjoint(torch.zeros(1, 1, 2, 2))


# -----------------------------------------------------------------------------------------------
# solves


@pytest.mark.parametrize("lam", [1e-3, 0.1, 10.0])
def test_solve_normal_equals_a_dense_solve(lam: float):
    a, b = made_up(), normal(3, *IMAGE, seed=2)
    gram = a.matrix.T @ a.matrix + lam * torch.eye(24).double()
    want = torch.linalg.solve(gram, b.flatten(1).T).T.reshape(3, *IMAGE)
    gap = (a.solve_normal(b, lam) - want).flatten(1).norm(dim=1)
    assert bool((gap <= 1e-6 / min(lam, 1) * b.flatten(1).norm(dim=1)).all())
    close(a.normal(a.solve_normal(b, lam)) + lam * a.solve_normal(b, lam), b, 1e-5)


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1, 1)])
def test_solve_normal_takes_one_damping_per_image(shape: Shape):
    a, b, lam = made_up(), normal(3, *IMAGE, seed=2), torch.tensor([0.1, 1.0, 10.0])
    together = a.solve_normal(b, lam.reshape(shape))
    for i in range(3):
        close(together[i : i + 1], a.solve_normal(b[i : i + 1], float(lam[i])), 1e-5)


def test_solve_normal_of_complex_measurements_is_real():
    a, b = linear(Fourier(), Identity()), normal(2, *IMAGE)
    close(a.solve_normal(b, 0.5), b / 1.5, 1e-6)


def test_a_hopeless_solve_is_an_error():
    weights = torch.diag(torch.logspace(-7, 2, 24).double())
    with pytest.raises(RuntimeError, match="raise the damping lam"):
        Matrix(weights, IMAGE).solve_normal(normal(1, *IMAGE), 1e-14)


@pytest.mark.parametrize("lam", [0, -1.0, float("nan"), torch.tensor([1.0, 0.0])])
def test_damping_must_be_positive(lam: float | Tensor):
    spectral = Fixed(DiagonalSpectrum(torch.ones(3, 4)), (3, 4))
    for a in (made_up(), spectral):
        with pytest.raises(ValueError, match="lam must be positive"):
            a.solve_normal(normal(2, *IMAGE), lam)


def test_damping_must_fit_the_batch():
    with pytest.raises(ValueError, match="lam has 2 entries for a batch of 3"):
        made_up().solve_normal(normal(3, *IMAGE), torch.ones(2))


def test_pinv_without_a_closed_form_says_what_to_use():
    with pytest.raises(TypeError, match=r"solve_normal\(A.adjoint\(y\), lam\)"):
        made_up().pinv(normal(1, 7))


# -----------------------------------------------------------------------------------------------
# composition


def test_linear_parts_compose_to_a_linear_operator():
    a, first = made_up(), Masked((normal(*IMAGE) > 0).double()[None])
    both = a @ first
    assert isinstance(both, LinearComposition)
    close(dense(both, IMAGE), a.matrix * first.mask.flatten())


def test_a_composition_has_the_reversed_adjoint():
    both, x, y = linear(Shrink(), Shrink()), normal(2, 1, 8, 4), normal(2, 1, 2, 1, seed=1)
    close(both.adjoint(y).flatten(1), y.flatten(1) @ dense(both, (1, 8, 4)))
    close(dot(both(x), y), dot(x, both.adjoint(y)))


def test_a_composition_solves_like_its_matrix():
    both, b = linear(Shrink(), Shrink()), normal(2, 1, 8, 4)
    matrix = dense(both, (1, 8, 4))
    gram = matrix.T @ matrix + 0.1 * torch.eye(32).double()
    want = torch.linalg.solve(gram, b.flatten(1).T).T
    close(both.solve_normal(b, 0.1).flatten(1), want, 1e-5)


@pytest.mark.parametrize("both", [Square() @ Shrink(), Shrink() @ Square()])
def test_a_non_linear_part_makes_a_non_linear_composition(both: Operator):
    assert isinstance(both, Composition) and not isinstance(both, LinearOperator)


def test_the_right_part_of_a_composition_acts_first():
    x = torch.tensor([[1.0, 3.0], [1.0, 3.0]])[None, None]
    assert float((Square() @ Shrink())(x)) == 4  # (mean of 1, 3, 1, 3) squared
    assert float((Shrink() @ Square())(x)) == 5  # mean of 1, 9, 1, 9


def test_a_composition_asks_both_parts_about_the_size():
    both = Shrink() @ Shrink()
    both.check_domain((1, 1, 4, 8))
    with pytest.raises(ValueError, match="got 7 x 8"):
        both.check_domain((1, 1, 7, 8))
    with pytest.raises(ValueError, match="got 3 x 4"):  # what the first leaves to the second
        both.check_domain((1, 1, 6, 8))


def test_a_composition_announces_its_shape():
    assert (Shrink() @ Shrink()).measurement_shape((2, 3, 8, 4)) == (2, 3, 2, 1)
    assert (made_up() @ Identity()).measurement_shape((5, *IMAGE)) == (5, 7)


def test_a_composition_observes_what_its_outer_part_observes():
    mask = torch.ones(1, 1, 2, 2)
    assert (Masked(mask) @ Shrink()).observed is mask
    assert (Shrink() @ Masked(mask)).observed is None


def test_compositions_nest():
    x = normal(2, 1, 8, 8)
    close(((Square() @ Shrink()) @ Shrink())(x), (Square() @ (Shrink() @ Shrink()))(x))


# -----------------------------------------------------------------------------------------------
# random parts and per-image parts


def test_operators_without_a_random_part_realise_to_themselves():
    a = Shrink()
    assert a.realise(Rng(0, "operator", ["a"]), (1, 1, 4, 4)) is a


def test_what_is_drawn_belongs_to_the_image():
    def drawn(ids: list[str]) -> Tensor:
        x_shape = (len(ids), *IMAGE)
        return Scale().realise(Rng(0, "operator", ids), x_shape)(torch.ones(x_shape))[:, 0, 0, 0]

    together = drawn(["a", "b", "c"])
    assert together.unique().numel() == 3
    assert drawn(["c", "a"]).tolist() == [float(together[2]), float(together[0])]


def test_both_parts_of_a_composition_are_drawn_by_their_own_streams():
    rng = Rng(0, "operator", ["a", "b"])
    both = (Scale() @ Scale()).realise(rng, (2, *IMAGE))
    assert isinstance(both, LinearComposition)
    assert isinstance(both.outer, Scale) and isinstance(both.inner, Scale)
    outer, inner = both.outer.s.flatten(), both.inner.s.flatten()
    assert not torch.equal(outer, inner)
    close(both(torch.ones(2, *IMAGE).double())[:, 0, 0, 0], outer * inner)


def test_an_operator_is_drawn_for_what_reaches_it():
    class Remember(Scale):
        def realise(self, rng: Rng, x_shape: Shape) -> Operator:
            self.x_shape = x_shape
            return super().realise(rng, x_shape)

    outer = Remember()
    (outer @ Shrink()).realise(Rng(0, "operator", ["a"]), (1, 3, 4, 8))
    assert outer.x_shape == (1, 3, 2, 4)


def test_select_keeps_the_parts_of_the_images_chosen():
    a = Scale(torch.arange(3.0).reshape(3, 1, 1, 1))
    assert a.select([2, 0]).s.flatten().tolist() == [2, 0]  # type: ignore[union-attr,operator]
    assert a.s.flatten().tolist() == [0, 1, 2]  # the operator itself is as it was


def test_select_leaves_shared_parts_alone():
    a = Scale(torch.ones(1, 1, 1, 1))
    assert a.select([2, 0]) is a
    assert Shrink().select([1]).measurement_shape((1, 1, 2, 2)) == (1, 1, 1, 1)


def test_select_reaches_both_parts_of_a_composition():
    s = torch.arange(1.0, 4).reshape(3, 1, 1, 1)
    both = (Scale(s) @ Scale(10 * s)).select([2])
    assert float(both(torch.ones(1, 1, 1, 1))) == 3 * 30


# -----------------------------------------------------------------------------------------------
# shapes and what is refused


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_measurement_shape_is_found_in_any_precision(dtype: torch.dtype):
    assert made_up().to(dtype).measurement_shape((5, *IMAGE)) == (5, 7)


def test_the_measurement_shape_is_found_on_any_device():
    assert made_up().to("meta").measurement_shape((5, *IMAGE)) == (5, 7)


def test_the_measurement_shape_of_a_bad_size_is_refused():
    with pytest.raises(ValueError, match="even sizes"):
        Shrink().measurement_shape((1, 1, 3, 4))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_images_are_refused(dtype: torch.dtype):
    with pytest.raises(TypeError, match=r"Identity takes floating-point .* x.float\(\) / 127.5"):
        Identity()(torch.zeros(1, 3, 4, 4, dtype=dtype))


def test_an_image_on_another_device_is_refused():
    with pytest.raises(ValueError, match=r"x is on meta but Scale on cpu; use operator.to\(x"):
        Scale(torch.ones(1, 1, 1, 1))(torch.zeros(2, 1, 2, 2, device="meta"))


def test_parts_of_another_batch_are_refused():
    with pytest.raises(ValueError, match="Scale holds one s for each of 2 images, but x has 3"):
        Scale(torch.ones(2, 1, 1, 1))(torch.zeros(3, 1, 2, 2))


def test_other_errors_of_torch_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Matrix(torch.ones(3, 4), (1, 2, 2))(torch.zeros(1, 1, 3, 3))


def test_an_image_without_a_batch_axis_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 4, 4\); add the batch axis with x\[None\]"):
        Identity()(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 3, 4, 4), ()])
def test_other_numbers_of_axes_are_refused(shape: Shape):
    with pytest.raises(ValueError, match="takes a batch of 4 axes") as error:
        Identity()(torch.zeros(shape))
    assert "x[None]" not in str(error.value)


def test_arrays_that_are_no_tensors_are_refused():
    with pytest.raises(TypeError, match="takes a torch tensor, got list"):
        require_batch([[0.0]], 2, "Identity")  # type: ignore[arg-type]


def test_complex_images_pass():
    require_batch(torch.zeros(1, 1, 2, 2, dtype=torch.complex64), 4, "Fourier")


def test_operators_on_other_domains_say_so():
    class Audio(Identity):
        domain_ndim = 3

    assert Audio()(torch.zeros(1, 2, 8)).shape == (1, 2, 8)
    with pytest.raises(ValueError, match="Audio takes a batch of 3 axes"):
        Audio()(torch.zeros(1, 1, 2, 8))
