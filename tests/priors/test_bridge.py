"""as_flow and as_vp: one answer on every path, one door for both families, and their configs."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from nets import GaussianEDM, GaussianVelocity, normal

from plugip.building import build
from plugip.methods import DMPlug
from plugip.path import DiscretePath, EDMPath, FlowPath, VEPath, VPPath
from plugip.prior import BridgedPrior, as_flow, as_vp
from plugip.priors import EDMPrior, GaussianPrior, VelocityPrior
from plugip.reverse import Generator, ddim_step
from plugip.testing import check_prior

SHAPE = (2, 3, 4)
MEAN = 0.3 * normal(*SHAPE, seed=5)
PATHS = [FlowPath(), VPPath(), DiscretePath.linear(), EDMPath(), VEPath()]
CONF = Path(__file__).resolve().parents[2] / "conf"


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def gaussian(path=None):
    return GaussianPrior(MEAN, 0.4, path)


def flow():
    return VelocityPrior(GaussianVelocity(MEAN, 0.4, 1, 0), SHAPE, probe=False)


def edm():
    return EDMPrior(GaussianEDM(MEAN, 0.4), SHAPE, probe=False)


# --- known answers


@pytest.mark.parametrize("t", [torch.tensor(0.4), torch.tensor([0.2, 0.5, 0.8])])
@pytest.mark.parametrize("path", PATHS)
def test_any_diffusion_answers_as_the_flow_of_its_images(path, t):
    x_t, t = normal(3, *SHAPE), t.double()
    served = as_flow(gaussian(path))
    assert served.path == FlowPath()
    close(served(x_t, t), gaussian(FlowPath())(x_t, t))


@pytest.mark.parametrize("path", [VPPath(), VPPath(0.2, 12.0), DiscretePath.linear()])
@pytest.mark.parametrize("make", [flow, edm, gaussian])
def test_any_prior_answers_as_the_diffusion_of_its_images(make, path):
    x_t, t = normal(3, *SHAPE), torch.tensor([0.2, 0.5, 0.8]).double()
    served = as_vp(make(), path)
    assert served.path is path
    close(served(x_t, t), gaussian(path)(x_t, t))


@pytest.mark.parametrize("path", PATHS)
def test_a_ddim_step_of_the_served_flow_is_the_euler_step_of_its_velocity(path):
    served, x_t = as_flow(gaussian(path)), normal(2, *SHAPE)
    t, s = torch.tensor(0.7).double(), torch.tensor(0.3).double()
    velocity = flow().network(x_t, 1 - t.expand(2))  # data - noise, by its own formula
    close(ddim_step(served, x_t, t, s), x_t + (t - s) * velocity)


def test_a_vp_state_of_level_sigma_has_flow_time_sigma_over_one_plus_sigma():
    seen = []

    class Spy(GaussianPrior):
        def forward(self, x_t, t):
            seen.append((x_t, t))
            return super().forward(x_t, t)

    level, x_t = 1.5, normal(1, *SHAPE)
    as_flow(Spy(MEAN, 0.4, VPPath()))(x_t, torch.tensor(level / (1 + level), dtype=torch.float64))
    state, t = seen[0]
    alpha, sigma = VPPath().alpha(t), VPPath().sigma(t)
    close(sigma / alpha, torch.tensor(level).double())
    close(state, x_t * (alpha + sigma))


# --- rules


def test_what_needs_no_bridge_gets_none():
    prior, vp = flow(), gaussian(VPPath())
    assert as_flow(prior) is prior
    assert as_vp(vp) is vp
    assert as_flow(as_vp(prior)) is prior
    there = as_vp(as_flow(vp), VPPath(0.2, 12.0))
    assert isinstance(there, BridgedPrior)
    assert there.base is vp


@pytest.mark.parametrize("make", [lambda: as_flow(edm()), lambda: as_vp(flow()), lambda: edm()])
def test_checks(make):
    check_prior(make()).require()


@pytest.mark.parametrize("path", PATHS)
def test_a_served_prior_takes_seeds_and_counts_its_calls(path):
    served, z = as_flow(gaussian(path)), normal(2, *SHAPE).requires_grad_()
    torch.autograd.grad(Generator(steps=4)(served, z).sum(), z)
    assert (served.counter.nfe, served.counter.vjps) == (4, 4)


# --- configs


@pytest.mark.parametrize(
    ("overrides", "path", "base"),
    [
        (["prior=as_flow", "prior@prior.base=gaussian"], FlowPath(), FlowPath()),
        (["prior=as_vp", "prior@prior.base=gaussian"], VPPath(), FlowPath()),
        (
            [
                "prior=as_flow",
                "prior@prior.base=gaussian",
                "+prior.base.path={_target_: plugip.path.VPPath, beta_max: 12.0}",
            ],
            FlowPath(),
            VPPath(0.1, 12.0),
        ),
    ],
)
def test_configs_serve_any_other_prior(overrides, path, base):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[*overrides, "prior.base.shape=[3, 8, 8]"])
    prior = build(cfg.prior)
    assert prior.path == path
    own = prior.base if isinstance(prior, BridgedPrior) else prior
    assert isinstance(own, GaussianPrior)
    assert own.path == base
    assert DMPlug().generator(prior, torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)
