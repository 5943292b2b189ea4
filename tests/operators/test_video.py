import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugip.folding import on_frames
from plugip.operator import SpectralOperator
from plugip.operators import BicubicDownsample, GaussianBlur
from plugip.operators.separable import BOUNDARIES
from plugip.operators.video import TemporalBlur, TimeFourier, TimeMatrix
from plugip.operators.warp import Warp, flow_validity
from plugip.testing import check_operator


def golden_video(tools):
    frames = [(1 - 0.05 * t) * tools.hash_image(1, 3, 8, 8).roll(t, -1) for t in range(16)]
    return torch.stack(frames, dim=2)


def golden_flow():
    j = torch.arange(64).reshape(8, 8)
    across = 0.75 + 0.25 * ((3 * j % 5) / 5)
    down = -0.5 + 0.25 * ((7 * j % 6) / 6)
    return torch.stack([across, down])[None].double()


@pytest.mark.parametrize("width", [7, 13])
def test_golden_temporal_blur(tools, width):
    case = tools.golden("video")["cases"][f"temporal_uniform{width}_circular"]
    tools.case(TemporalBlur(width)(golden_video(tools)), case)
    tools.case(TemporalBlur(width)(golden_video(tools).float()), case, 1e-5)


def test_golden_warp(tools):
    # The golden's flow and coordinates have float32 rounding, as the spec says of warps: 2e-6.
    case = tools.golden("video")["cases"]["backward_warp_8"]
    tools.case(Warp(golden_flow())(tools.hash_image(1, 3, 8, 8)), case, 2e-6)


def test_golden_validity(tools):
    case = tools.golden("video")["cases"]["backward_warp_valid"]
    tools.case(flow_validity(golden_flow())[0, 0], case)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("frames", [7, 8])
def test_temporal_blur_obeys_the_laws(tools, boundary, frames):
    A = TemporalBlur(5, boundary)
    shape = (2, 3, frames, 4, 5)
    assert isinstance(A.spectrum(shape), TimeFourier if boundary == "circular" else TimeMatrix)
    check_operator(A, shape).require()
    y = tools.normal(*A.measurement_shape(shape), seed=1)
    tools.close(torch.func.vjp(A, tools.normal(*shape))[1](y)[0], A.adjoint(y), 1e-12)


def test_a_circular_blur_is_self_adjoint_and_its_pseudo_inverse_exact(tools):
    A, x = TemporalBlur(7), tools.normal(2, 1, 16, 2, 3)
    tools.close(A.adjoint(x), A(x), 1e-12)
    tools.close(A.pinv(A(x)), x, 1e-9)


def test_ends_are_repeated(tools):
    x = tools.normal(1, 1, 6, 2, 2)
    y = TemporalBlur(3, "replicate")(x)
    tools.close(y[:, :, 0], (2 * x[:, :, 0] + x[:, :, 1]) / 3, 1e-12)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 4), st.integers(9, 14), st.sampled_from(["circular", "replicate", "reflect"])
)
def test_still_videos_stay(half, frames, boundary):
    x = torch.linspace(-1, 1, 12).double().reshape(1, 1, 1, 3, 4).repeat(1, 1, frames, 1, 1)
    y = TemporalBlur(2 * half + 1, boundary)(x)
    torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-12)


def test_image_operators_act_frame_by_frame(tools):
    x = tools.hash_image(1, 3, 12, 12)
    video = torch.stack([x, -x, x.flip(-1)], dim=2)
    A = on_frames(BicubicDownsample(4))
    assert isinstance(A, SpectralOperator)
    tools.close(A(video)[:, :, 2], BicubicDownsample(4)(x.flip(-1)), 1e-12)
    check_operator(A, (2, 3, 3, 12, 16)).require()
    both = TemporalBlur(3) @ on_frames(GaussianBlur(1.0, 5))
    check_operator(both, (2, 3, 4, 6, 7)).require()


@pytest.mark.parametrize("outside", ["replicate", "zero", "reflect"])
@pytest.mark.parametrize("shape", [(2, 3, 6, 7), (2, 3, 3, 6, 5)])
def test_warp_obeys_the_laws(tools, outside, shape):
    flow = 1.5 * tools.normal(2, 2, *shape[2:], seed=4)
    check_operator(Warp(flow, outside), shape).require()


def test_zero_flow_is_the_identity_and_whole_flow_a_shift(tools):
    x = tools.normal(2, 3, 4, 6, 7)
    tools.close(Warp(torch.zeros(1, 2, 4, 6, 7).double())(x), x, 1e-12)
    flow = torch.zeros(1, 2, 4, 6, 7).double()
    flow[:, 0], flow[:, 1] = 2, -1
    y = Warp(flow, "zero")(x)
    tools.close(y[..., 1:, :-2], x[..., :-1, 2:], 1e-12)
    assert float(y[..., 0, :].abs().max()) < 1e-14


def test_frames_have_their_own_flow(tools):
    x, flow = tools.normal(2, 3, 4, 6, 7), tools.normal(2, 2, 4, 6, 7, seed=1)
    y = Warp(flow)(x)
    for t in range(4):
        tools.close(y[:, :, t], Warp(flow[:, :, t])(x[:, :, t]), 1e-12)


def test_gradients_reach_the_flow(tools):
    x = tools.normal(1, 1, 5, 5).requires_grad_()
    flow = (0.4 + 0.1 * tools.normal(1, 2, 5, 5, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, f: Warp(f)(v), (x, flow))


def test_validity_needs_the_way_back(tools):
    flow = torch.zeros(1, 2, 6, 6).double()
    flow[:, 0] = 1.0
    inside = flow_validity(flow)
    assert float(inside[..., -1].max()) == 0 and float(inside[..., :-1].min()) == 1
    tools.close(flow_validity(flow, -flow), inside)
    assert float(flow_validity(flow, flow).max()) == 0  # comes out two pixels off
    assert float(flow_validity(flow, -flow + 0.5, 1.0)[..., :-1].min()) == 1
    assert float(flow_validity(flow, -flow + 0.8, 1.0).max()) == 0
    A = Warp(flow, valid=inside)
    assert A.observed is inside and A.select([0]).observed is inside


def test_errors():
    with pytest.raises(ValueError, match="width must be an odd"):
        TemporalBlur(4)
    with pytest.raises(ValueError, match="unknown boundary"):
        TemporalBlur(7, "loop")
    with pytest.raises(ValueError, match="needs videos of at least 7 frames, got 6"):
        TemporalBlur(7)(torch.zeros(1, 3, 6, 4, 4))
    with pytest.raises(ValueError, match="needs videos of at least 4 frames, got 3"):
        TemporalBlur(7, "reflect")(torch.zeros(1, 3, 3, 4, 4))
    with pytest.raises(ValueError, match="takes a batch of 5 axes"):
        TemporalBlur()(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"a flow must be floating point .* got torch.float32 of"):
        Warp(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="does not fit x of shape"):
        Warp(torch.zeros(1, 2, 4, 4))(torch.zeros(1, 3, 4, 5))
    with pytest.raises(ValueError, match="unknown outside"):
        Warp(torch.zeros(1, 2, 4, 4), "wrap")
    with pytest.raises(ValueError, match=r"valid must have shape \(1, 1, 4, 4\), got \(4, 4\)"):
        Warp(torch.zeros(1, 2, 4, 4), valid=torch.ones(4, 4))
    with pytest.raises(ValueError, match="threshold be positive"):
        flow_validity(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), 0.0)
