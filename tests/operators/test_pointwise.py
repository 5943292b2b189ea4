import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plugip.building import build
from plugip.operators.pointwise import Clip, Quantize, straight_through
from plugip.testing import check_operator

SHAPE = (2, 3, 5, 6)


def failed(report):
    return [check.name for check in report.checks if not check.ok]


def test_golden_clip(tools):
    case, x = (
        tools.golden("nonlinear_and_varying")["cases"]["hdr_x2"],
        tools.hash_image(1, 3, 8, 8),
    )
    tools.case(Clip()(x), case)
    tools.case(Clip()(x.float()), case, 1e-5)
    tools.case(Clip(gradient="straight")(x), case)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("gradient", ["exact", "straight"])
def test_golden_quantisation(tools, bits, gradient):
    case = tools.golden("nonlinear_and_varying")["cases"][f"quant_{bits}bit"]
    tools.case(Quantize(bits, gradient)(tools.hash_image(1, 3, 8, 8)), case)


def test_operator_checks():
    for A in (Clip(), Clip(0.5), Quantize(3, "exact")):
        check_operator(A, SHAPE).require()
    # A surrogate gradient is not the derivative, and says so.
    for A in (Clip(gradient="straight"), Quantize(3)):
        assert failed(check_operator(A, SHAPE)) == ["gradient"]


def test_gradients():
    x = torch.tensor([-0.9, -0.3, 0.2, 0.7]).reshape(1, 1, 2, 2).requires_grad_()
    want = {
        Clip(): [0.0, 2.0, 2.0, 0.0],
        Clip(gradient="straight"): [2.0] * 4,
        Quantize(2): [1.0] * 4,
        Quantize(2, "exact"): [0.0] * 4,
    }
    for A, slopes in want.items():
        (gradient,) = torch.autograd.grad(A(x).sum(), x)
        assert gradient.flatten().tolist() == slopes


@given(bits=st.integers(1, 16), value=st.floats(-1, 1))
def test_quantisation_errs_by_half_a_step_and_is_idempotent(bits, value):
    A, x = Quantize(bits), torch.full((1, 1, 1, 1), value, dtype=torch.float64)
    y, step = A(x), 2 / (2**bits - 1)
    assert abs(float(y - x)) <= step / 2 + 1e-12
    assert float(A(y)) == pytest.approx(float(y), abs=1e-12)
    level = float((y + 1) / step)
    assert level == pytest.approx(round(level), abs=1e-9)


def test_values_are_exact():
    value, surrogate = torch.tensor([0.1, 1e-20]), torch.tensor([1e8, 3.0], requires_grad=True)
    assert torch.equal(straight_through(value, surrogate), value)


def test_config_round_trip(tools):
    x = tools.hash_image(*SHAPE)
    node = {"_target_": "plugip.operators.pointwise.Quantize", "bits": 2, "gradient": "exact"}
    tools.close(build(node)(x), Quantize(2)(x), 0)
    node = {"_target_": "plugip.operators.pointwise.Clip", "scale": 3.0}
    tools.close(build(node)(x), (3 * x).clamp(-1, 1), 0)


def test_errors():
    with pytest.raises(ValueError, match="scale must be a positive, finite number, got 0"):
        Clip(0)
    with pytest.raises(ValueError, match="bits must be a whole number, at least 1, got 0"):
        Quantize(0)
    with pytest.raises(ValueError, match="bits must be at most 16, got 17"):
        Quantize(17)
    for make in (Clip, Quantize):
        with pytest.raises(ValueError, match=r"unknown gradient 'exct'.*did you mean 'exact'"):
            make(gradient="exct")
