"""Operators made of operators, against dense matrices: stacks, channels, frames, decoders."""

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
    Shrink,
    Square,
    close,
    dense,
    normal,
)

from plugip.composition import Decoder, LatentOperator, LinearStack, Stack, stack
from plugip.folding import (
    BlindFolded,
    Folded,
    LinearFolded,
    SpectralFolded,
    on_frames,
    per_channel,
)
from plugip.linalg import dot
from plugip.operator import (
    BlindComposition,
    BlindOperator,
    Composition,
    LinearComposition,
    LinearOperator,
    Operator,
    SpectralComposition,
    SpectralOperator,
)
from plugip.rng import Rng
from plugip.spectral import (
    DiagonalSpectrum,
    FourierSpectrum,
    KroneckerSpectrum,
    Spectrum,
    multiplies,
    product,
)
from plugip.testing import check_operator

IMAGE = (2, 4, 6)


class Gain(BlindOperator[Tensor]):
    """y = exp(theta) x."""

    learning_rate_hint = 0.1

    def init_theta(self, rng: Rng, like: Tensor) -> Tensor:
        return 0.1 * rng.normal((1, 1, 1), like=like)

    def constrain(self, theta: Tensor) -> Tensor:
        return theta.exp()

    def at(self, theta: Tensor) -> Operator:
        return Scale(theta)

    def draw_theta(self, rng: Rng, x_shape: tuple[int, ...]) -> Tensor:
        self.asked = x_shape
        return 1 + rng.uniform((1, 1, 1))


def fixed(spectrum: Spectrum, size: tuple[int, int] = (4, 6)) -> Fixed:
    a = Fixed(spectrum, size)
    a.spectrum_type = type(spectrum)
    return a


def kronecker(h: int, H: int, w: int, W: int, seed: int = 0) -> Fixed:
    return fixed(
        KroneckerSpectrum.of(normal(h, H, seed=seed), normal(w, W, seed=seed + 1)), (H, W)
    )


def fourier(seed: int = 0) -> Fixed:
    return fixed(FourierSpectrum.of(torch.fft.fft2(normal(4, 6, seed=seed))))


def rng(*ids: str) -> Rng:
    return Rng(0, "operator", ids)


# -----------------------------------------------------------------------------------------------
# products that stay spectral


@pytest.mark.parametrize(
    "both",
    [
        kronecker(3, 5, 7, 8, 2) @ kronecker(5, 4, 8, 6),
        kronecker(5, 3, 2, 8, 2) @ kronecker(3, 4, 8, 6),
        fourier() @ fourier(1),
        fixed(DiagonalSpectrum(normal(4, 6).abs()))
        @ fixed(DiagonalSpectrum(normal(2, 1, 1).abs())),
        fourier() @ (fourier(1) @ fourier(2)),
    ],
)
def test_products_of_one_kind_have_an_exact_svd(both: SpectralOperator):
    assert isinstance(both, SpectralComposition)
    x = normal(3, *IMAGE)
    matrix = dense(both, IMAGE)
    a = both.spectrum(x.shape)
    close(a.U(a.s * a.Vt(x)), both(x))
    close(a.V(a.Vt(x)), x)
    y = normal(*both(x).shape, seed=9)
    close(both.adjoint(y).flatten(1), y.flatten(1) @ matrix)
    both.rcond = 1e-9
    want = y.flatten(1) @ torch.linalg.pinv(matrix, rtol=1e-9).T
    close(both.pinv(y).flatten(1), want, 1e-7)
    gram = matrix.T @ matrix + 0.1 * torch.eye(matrix.shape[1]).double()
    close(both.solve_normal(x, 0.1).flatten(1), torch.linalg.solve(gram, x.flatten(1).T).T, 1e-8)


def test_a_product_that_vanishes_has_a_spectrum():
    zero = fixed(KroneckerSpectrum.of(torch.zeros(3, 4).double(), torch.zeros(5, 6).double()))
    both = kronecker(2, 3, 4, 5) @ zero
    assert float(both.spectrum((1, 1, 4, 6)).s.abs().max()) == 0  # type: ignore[union-attr]


def test_draws_do_not_depend_on_the_brackets():
    left, right = (Scale() @ Shrink()) @ Scale(), Scale() @ (Shrink() @ Scale())
    x, shape = normal(2, *IMAGE), (2, *IMAGE)
    first, second = (a.realise(rng("a", "b"), shape)(x) for a in (left, right))
    assert torch.equal(first, second) and not torch.equal(first[0, 0], first[1, 0])
    a = left.realise(rng("a", "b"), shape)
    assert not torch.equal(a.inner.inner.s, a.outer.s)  # type: ignore[union-attr]


def test_mixed_products_claim_only_linearity():
    for both in (fourier() @ kronecker(4, 4, 6, 6), Fixed(fourier().factors, (4, 6)) @ fourier()):
        assert type(both) is LinearComposition
    with pytest.raises(TypeError, match="no closed-form pseudo-inverse"):
        both.pinv(normal(1, *IMAGE))


def test_a_wrong_claim_is_refused_not_computed():
    liar = kronecker(4, 4, 6, 6)
    liar.spectrum_type = FourierSpectrum
    with pytest.raises(TypeError, match="FourierSpectrum times a KroneckerSpectrum has no closed"):
        (fourier() @ liar).spectrum((1, *IMAGE))  # type: ignore[union-attr]


def test_a_subclass_of_a_spectrum_is_another_spectrum():
    class Aliased(FourierSpectrum):
        pass

    assert not multiplies(Aliased, Aliased) and not multiplies(None, None)
    assert multiplies(FourierSpectrum, FourierSpectrum)
    with pytest.raises(TypeError, match="spectrum_type"):
        product(DiagonalSpectrum(torch.ones(1)), fourier().factors)


def test_a_spectral_product_keeps_its_factors_between_calls():
    both = kronecker(3, 5, 7, 8, 2) @ kronecker(5, 4, 8, 6)
    assert both.spectrum((1, *IMAGE)) is both.spectrum((2, *IMAGE))  # type: ignore[union-attr]


# -----------------------------------------------------------------------------------------------
# blind parts


@pytest.mark.parametrize("inside", [True, False])
def test_a_composition_with_a_blind_part_is_blind(inside: bool):
    gain = Gain()
    both = Shrink() @ gain if inside else gain @ Shrink()
    assert isinstance(both, BlindComposition) and both.learning_rate_hint == 0.1
    x = normal(2, *IMAGE)
    theta = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).double()
    close(both.at(both.constrain(theta))(x), theta.exp() * Shrink()(x))
    start = both.init_theta(rng("a", "b"), x)
    close(start, gain.init_theta(rng("a", "b"), x))
    assert both.measurement_shape((2, 2, 4, 6)) == (2, 2, 2, 3)
    known = both.draw(rng("a", "b"), (2, 2, 4, 6))
    assert gain.asked == ((2, 2, 4, 6) if inside else (2, 2, 2, 3))
    assert isinstance(known, LinearComposition)
    assert isinstance(both.realise(rng("a", "b"), (2, 2, 4, 6)), BlindComposition)
    assert not list(both.state_dict())


def test_gradients_reach_theta_through_a_composition():
    both, x = Square() @ Gain(), normal(1, 1, 2, 2)
    theta = torch.zeros(1, 1, 1, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: both.at(both.constrain(t))(x), theta)  # type: ignore[operator]


def test_a_blind_operator_tells_how_to_use_it():
    with pytest.raises(TypeError, match=r"Gain has an unknown part; use A.at\(A.constrain\(theta"):
        Gain()(normal(1, *IMAGE))
    with pytest.raises(TypeError, match="BlindComposition has an unknown part"):
        (Gain() @ Shrink())(normal(1, *IMAGE))
    with pytest.raises(TypeError, match="Gain @ Gain has two unknown parts"):
        _ = Gain() @ Gain()

    class Silent(Gain):
        def draw_theta(self, rng: Rng, x_shape: tuple[int, ...]) -> Tensor:
            return BlindOperator.draw_theta(self, rng, x_shape)

    with pytest.raises(TypeError, match=r"Silent cannot simulate .*give truth=\.\.\."):
        Silent().draw(rng("a"), (1, *IMAGE))


def test_what_a_method_sees_holds_no_truth():
    gain = Gain()
    gain.truth = Identity()
    for blind in (gain, gain @ Shrink(), Shrink() @ gain, on_frames(gain)):
        assert isinstance(blind, BlindOperator)
        assert not any(isinstance(m, Identity) for m in blind.unknown().modules())
    assert isinstance(gain.truth, Identity)  # the operator itself is as it was
    assert gain.unknown().truth is None


# -----------------------------------------------------------------------------------------------
# stacks


def both_ways(image: tuple[int, ...] | None = IMAGE) -> LinearStack:
    made = stack(Shrink(), Matrix(normal(7, 48), IMAGE), image_shape=image)
    assert isinstance(made, LinearStack)
    return made


def test_a_stack_joins_and_splits():
    a, x = both_ways(), normal(3, *IMAGE)
    parts = [part(x) for part in a.parts]
    y = a(x)
    assert y.shape == (3, 12 + 7) == a.measurement_shape(tuple(x.shape))
    for piece, part in zip(a.split(y), parts, strict=True):
        close(piece, part)


def test_a_stack_has_the_joined_matrix():
    a = both_ways()
    rows = torch.cat([dense(part, IMAGE) for part in a.parts])  # type: ignore[arg-type]
    close(dense(a, IMAGE), rows)
    y, x = normal(3, 19, seed=1), normal(3, *IMAGE)
    close(a.adjoint(y).flatten(1), y @ rows)
    close(both_ways(None).normal(x).flatten(1), x.flatten(1) @ rows.T @ rows)
    check_operator(both_ways(None), (2, *IMAGE)).require()


def test_a_stack_with_a_nonlinear_part_is_not_linear():
    a = stack(Identity(), Square())
    assert type(a) is Stack and not isinstance(a, LinearOperator)
    x = normal(2, *IMAGE)
    close(a(x), torch.cat([x, x.square()], 1).reshape(2, -1))
    assert not isinstance(both_ways(), SpectralOperator)
    check_operator(a, (2, *IMAGE)).require()


def test_a_stack_observes_what_its_parts_observe():
    mask = (normal(3, 1, 4, 6) > 0).double()
    a = stack(Identity(), Masked(mask), image_shape=IMAGE)
    want = torch.cat([torch.ones(3, 48).double(), mask.expand(3, *IMAGE).flatten(1)], 1)
    assert a.observed is not None
    close(a.observed, want)
    close(a.select([2]).observed, want[2:])  # type: ignore[arg-type]
    assert stack(Identity(), Shrink()).observed is None


def test_the_parts_of_a_stack_draw_from_their_own_streams():
    x_shape = (2, *IMAGE)
    a = stack(Scale(), Scale()).realise(rng("a", "b"), x_shape)
    first, second = a.split(a(torch.ones(x_shape).double()))
    assert not torch.equal(first, second)
    close(a.select([1])(torch.ones(1, *IMAGE).double()), a(torch.ones(x_shape).double())[1:])


def test_a_complex_stack():
    a = stack(Fourier(), Fourier(), image_shape=IMAGE)
    x, y = normal(2, *IMAGE), torch.complex(normal(2, 96), normal(2, 96, seed=1))
    close(dot(a(x), y), dot(x, a.adjoint(y)))  # type: ignore[union-attr]


def test_stack_errors():
    with pytest.raises(ValueError, match="two or more operators, got 1"):
        stack(Identity())
    with pytest.raises(TypeError, match=r"stack must be .*, got int 3"):
        stack(Identity(), 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="stack cannot hold Gain"):
        stack(Identity(), Gain())
    with pytest.raises(ValueError, match="these take 4 and 5 axes"):
        stack(Identity(), on_frames(Identity()))
    complex_part = Identity()
    complex_part.complex_domain = True
    with pytest.raises(ValueError, match="all real, or all complex"):
        stack(Identity(), complex_part)
    with pytest.raises(TypeError, match="cannot join real and complex"):
        stack(Identity(), Fourier())(normal(1, *IMAGE))
    for use in (lambda a: a.adjoint(normal(1, 19)), lambda a: a.split(normal(1, 19))):
        with pytest.raises(ValueError, match=r"give stack\(..., image_shape=\(C, H, W\)\)"):
            use(both_ways(None))
    with pytest.raises(ValueError, match=r"shape \(B, 19\), but y has shape \(1, 18\)"):
        both_ways().adjoint(normal(1, 18))
    with pytest.raises(
        ValueError, match=r"built for images of shape \(2, 4, 6\), got \(1, 4, 6\)"
    ):
        both_ways().check_domain((1, 1, 4, 6))
    with pytest.raises(ValueError, match="even sizes"):
        stack(Identity(), Shrink()).check_domain((1, 1, 3, 4))


# -----------------------------------------------------------------------------------------------
# channels and frames


def test_per_channel_takes_channels_one_by_one():
    a, x = per_channel(Matrix2D(normal(24, 24))), normal(2, 3, 4, 6)
    assert type(a) is LinearFolded
    for c in range(3):
        close(a(x)[:, c : c + 1], a.operator(x[:, c : c + 1]))
    check_operator(a, (2, 3, 4, 6)).require()


def test_on_frames_takes_frames_one_by_one():
    a, x = on_frames(Shrink()), normal(2, 3, 5, 4, 6)
    assert type(a) is LinearFolded and a(x).shape == (2, 3, 5, 2, 3)
    for t in range(5):
        close(a(x)[:, :, t], Shrink()(x[:, :, t]))
    assert a.domain_shape((2, 3, 5, 2, 3)) == (2, 3, 5, 4, 6)
    check_operator(a, (2, 3, 5, 4, 6)).require()


class Matrix2D(Matrix):
    """A dense map from one-channel images to one-channel images."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(matrix, (1, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(-1, 1, 4, 6)

    def domain_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        return y_shape


@pytest.mark.parametrize(
    "make", [fourier, lambda: kronecker(3, 4, 5, 6), lambda: per_image_mask()]
)
def test_spectral_operators_stay_spectral(make):
    for a, shape in ((per_channel(make()), (2, 3, 4, 6)), (on_frames(make()), (2, 1, 3, 4, 6))):
        assert isinstance(a, SpectralFolded)
        check_operator(a, shape).require()
        lam = torch.tensor([0.1, 1.0]).double()
        x = normal(*shape)
        solved = a.solve_normal(x, lam)
        pulled = lam.reshape(2, *[1] * (len(shape) - 1)) * solved
        close(a.normal(solved) + pulled, x, 1e-8)
        close(a(a.pinv(a(x))), a(x), 1e-6)


def per_image_mask() -> SpectralOperator:
    class PerImage(SpectralOperator):
        per_image = ("mask",)
        mask: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", 0.1 + normal(2, 1, 4, 6).abs())

        def spectrum(self, x_shape: tuple[int, ...]) -> DiagonalSpectrum:
            return DiagonalSpectrum(self.mask)

    return PerImage()


def test_what_is_drawn_is_shared_by_the_frames_of_a_video():
    video = (2, 3, 4, 2, 2)
    a = on_frames(Scale()).realise(rng("a", "b"), video)
    y = a(torch.ones(video).double())
    assert y.unique().numel() == 2
    close(y[1:], a.select([1])(torch.ones(1, *video[1:]).double()))


def test_folded_masks_are_observed_in_every_frame():
    mask = (normal(2, 1, 4, 6) > 0).double()
    assert on_frames(Masked(mask)).observed.shape == (2, 1, 1, 4, 6)  # type: ignore[union-attr]
    close(per_channel(Masked(mask)).observed, mask)  # type: ignore[arg-type]
    assert on_frames(Identity()).observed is None


def test_nonlinear_and_blind_operators_fold():
    x = normal(2, 3, 4, 4, 6)
    assert type(on_frames(Square())) is Folded
    close(on_frames(Square())(x), x.square())
    blind = on_frames(Gain())
    assert isinstance(blind, BlindFolded) and blind.learning_rate_hint == 0.1
    theta = blind.init_theta(rng("a", "b"), x)
    assert theta.shape == (2, 1, 1, 1)
    close(blind.at(blind.constrain(theta))(x), theta.exp()[..., None] * x)
    assert blind.measurement_shape(tuple(x.shape)) == x.shape
    assert isinstance(blind.draw(rng("a", "b"), tuple(x.shape)), LinearFolded)
    with pytest.raises(TypeError, match="unknown part"):
        blind(x)


def test_folding_errors():
    with pytest.raises(ValueError, match="on_frames takes an operator on images of 4 axes"):
        on_frames(on_frames(Identity()))
    with pytest.raises(ValueError, match="one channel for one channel"):
        per_channel(Twice())(normal(1, 2, 2, 2))
    with pytest.raises(ValueError, match="batch of 5 axes"):
        on_frames(Identity())(normal(1, 3, 4, 4))
    with pytest.raises(ValueError, match="even sizes"):
        on_frames(Shrink()).check_domain((1, 3, 4, 3, 4))


class Twice(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], 1)


# -----------------------------------------------------------------------------------------------
# decoders


def double_size(h: Tensor) -> Tensor:
    return torch.tanh(torch.nn.functional.interpolate(h, scale_factor=2.0))


def test_a_latent_operator_decodes_then_measures():
    h = normal(2, 3, 2, 3)
    a = LatentOperator(double_size, Shrink())
    close(a(h), torch.tanh(h))
    assert isinstance(a, Composition) and not isinstance(a, LinearOperator)
    assert a.measurement_shape((2, 3, 2, 3)) == (2, 3, 2, 3)
    check_operator(a, (2, 3, 2, 3)).require()


def test_latents_are_decoded_in_float32():
    seen = []
    net = torch.nn.Conv2d(1, 1, 1)

    def decoder(h: Tensor) -> Tensor:
        y = net(h)
        seen.append((h.dtype, y.dtype))
        return y

    a = LatentOperator(decoder, Identity())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert a(torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
        assert a(torch.zeros(1, 1, 2, 2, dtype=torch.float16)).dtype == torch.float32
    assert set(seen) == {(torch.float32, torch.float32)}


def test_random_parts_behind_a_decoder_are_drawn():
    a = LatentOperator(double_size, Scale()).realise(rng("a", "b"), (2, 1, 2, 2))
    assert a(normal(2, 1, 2, 2)).shape == (2, 1, 4, 4)
    assert a.select([1])(normal(1, 1, 2, 2)).shape == (1, 1, 4, 4)


def test_a_blind_operator_behind_a_decoder():
    blind = Gain() @ Decoder(double_size)
    theta = blind.init_theta(rng("a"), normal(1, 1, 2, 2))  # type: ignore[union-attr]
    assert blind.at(theta.exp())(normal(1, 1, 2, 2)).shape == (1, 1, 4, 4)  # type: ignore[union-attr]


def test_decoder_errors():
    with pytest.raises(TypeError, match="decoder must be a module or a function, got int"):
        Decoder(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"weights are torch.float16; load it in float32"):
        Decoder(torch.nn.Conv2d(1, 1, 1).half())(normal(1, 1, 2, 2))
    with pytest.raises(TypeError, match=r"Gain is blind; write operator @ Decoder\(decoder\)"):
        LatentOperator(double_size, Gain())
