import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugip.operators.hadamard import WalshHadamard, walsh_hadamard
from plugip.operators.sensing_samplers import RandomRows, RandomSigns
from plugip.rng import Rng
from plugip.testing import check_operator

SHAPE = (2, 3, 4, 8)


def ddrm():
    return WalshHadamard((5 * torch.arange(16) + 3)[:8] % 16, image_size=4)


def drawn(*ids, shared=False, shape=SHAPE):
    A = WalshHadamard(RandomRows(0.4, shared), RandomSigns(shared))
    return A.realise(Rng(0, "operator", ids or ("a", "b")), (len(ids) or 2, *shape[1:]))


def test_golden(tools):
    cases = tools.golden("linear_small")["cases"]
    y = ddrm()(tools.hash_image(1, 3, 4, 4))
    tools.case(y, cases["wht_4_ratio2_channel_major"])
    # DDRM computes in float32.
    tools.case(y.mT.flatten(1), cases["wht_4_ratio2_ddrm_layout"], 1e-6)
    single = ddrm()(tools.hash_image(1, 3, 4, 4, dtype=torch.float32))
    tools.case(single, cases["wht_4_ratio2_channel_major"], 1e-5)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10))
def test_transform_is_sylvesters(power):
    n = 2**power
    v = torch.randn(3, n, dtype=torch.float64)
    want = v @ torch.from_numpy(scipy.linalg.hadamard(n)).double() / n**0.5
    torch.testing.assert_close(walsh_hadamard(v), want, rtol=1e-12, atol=1e-12)


def test_large_transform_is_its_own_inverse(tools):
    x = tools.normal(1, 3, 256 * 256)
    c = walsh_hadamard(x)
    tools.close(c.norm(), x.norm(), 1e-12)
    tools.close(walsh_hadamard(c), x, 1e-12)
    single = walsh_hadamard(x.float()).double()
    tools.close(single, c, 1e-5)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("signs", [None, RandomSigns(), RandomSigns(shared=False)])
@pytest.mark.parametrize("size", [(4, 8), (1, 2), (16, 2)])
def test_is_a_spectral_operator(tools, size, signs, shared):
    A, shape = WalshHadamard(RandomRows(0.6, shared), signs), (2, 3, *size)
    check_operator(A, shape).require()
    fixed = A.realise(Rng(0, "operator", ["a", "b"]), shape)
    tools.adjoint(fixed, shape)
    tools.adjoint(fixed, shape, 1e-5, torch.float32)
    y = tools.normal(*fixed.measurement_shape(shape))
    tools.close(fixed(fixed.pinv(y)), y, 1e-12)
    tools.spectrum(fixed, shape)
    tools.penrose(fixed, shape)
    tools.split(fixed, shape)
    assert A.measurement_shape(shape) == tuple(y.shape)


def test_each_image_has_its_draw_in_any_batch(tools):
    both, x = drawn("a", "b"), tools.normal(*SHAPE)
    tools.close(both(x)[1:], drawn("b")(x[1:]), 0)
    tools.close(both.select([1])(x[1:]), both(x)[1:], 0)
    assert not torch.equal(both.rows[0], both.rows[1])
    one = drawn("a", "b", shared=True)
    assert one.rows.shape == (1, 12) and one.signs is not None and one.signs.shape == (1, 32)
    tools.close(one(x)[1:], drawn("b", shared=True)(x[1:]), 0)
    other = WalshHadamard(RandomRows(0.4)).realise(Rng(1, "operator", ["a"]), (1, 3, 4, 8))
    assert not torch.equal(one.rows, other.rows)


def test_rows_and_signs_are_what_they_say():
    rows = RandomRows(0.3, shared=False).draw(Rng(0, "x", ["a", "b"]), 50)
    assert rows.shape == (2, 15) and rows.dtype == torch.int64
    assert all(len(set(row.tolist())) == 15 and 0 <= min(row) and max(row) < 50 for row in rows)
    signs = RandomSigns().draw(Rng(0, "x", ["a"]), 4000)
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 4 / 4000**0.5


def test_signs_come_before_the_transform(tools):
    x, signs = tools.normal(1, 1, 4, 4), torch.tensor([1.0, -1.0] * 8)
    A = WalshHadamard(torch.arange(16), signs, 4)
    tools.close(A(x)[0, 0], walsh_hadamard(x.flatten() * signs), 1e-14)


def test_gradients(tools):
    assert torch.autograd.gradcheck(drawn(), tools.normal(*SHAPE).requires_grad_())


def test_errors(tools):
    rows = torch.arange(8)
    with pytest.raises(ValueError, match="power of two of pixels per channel, got 6 x 8"):
        ddrm_like = WalshHadamard(rows)
        ddrm_like(torch.zeros(1, 1, 6, 8))
    with pytest.raises(ValueError, match="needs a power of two, got 6"):
        walsh_hadamard(torch.zeros(6))
    with pytest.raises(ValueError, match=r"built for images of .4, 4. pixels, got .8, 8."):
        ddrm()(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="size of the images cannot be read from y"):
        WalshHadamard(rows).adjoint(torch.zeros(1, 1, 8))
    with pytest.raises(ValueError, match=r"have shape \(B, C, 8\), got \(1, 3, 9\)"):
        ddrm().adjoint(torch.zeros(1, 3, 9))
    with pytest.raises(ValueError, match="rows reach 7, but images have 4 pixels"):
        WalshHadamard(rows)(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="there are 8 signs, but images have 16 pixels"):
        WalshHadamard(rows, torch.ones(8))(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="drawn for 2 images, got 3"):
        drawn()(torch.zeros(3, 3, 4, 8))
    for wrong in (torch.zeros(3), torch.zeros(1, 1, 3).long(), torch.empty(0).long()):
        with pytest.raises(ValueError, match="rows must be int64 indices"):
            WalshHadamard(wrong)
    for wrong in (torch.tensor([1, 1]), torch.tensor([-1, 2])):
        with pytest.raises(ValueError, match="rows must be distinct indices, 0 or more"):
            WalshHadamard(wrong)
    with pytest.raises(ValueError, match="signs must be 1 or -1"):
        WalshHadamard(rows, torch.zeros(8))
    with pytest.raises(TypeError, match=r"rows must be a tensor or a sampler .* got float"):
        WalshHadamard(0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"signs must be a tensor, None, or a sampler .* got bool"):
        WalshHadamard(rows, True)  # pyright: ignore[reportArgumentType]
    for use in (WalshHadamard(RandomRows()), WalshHadamard(rows, RandomSigns())):
        with pytest.raises(RuntimeError, match=r"nothing yet from Random.*realise\(rng, x.shape"):
            use(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got 2"):
        RandomRows(2)
    with pytest.raises(ValueError, match=r"keep=0.1 of 4 leaves no measurement; raise it to 0.25"):
        RandomRows(0.1).draw(Rng(0, "x", ["a"]), 4)
