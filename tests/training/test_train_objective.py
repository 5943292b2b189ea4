"""Objectives against networks that know the answer, and against plugip's own reading."""

import json

import pytest
import torch

from plugip.priors import DiffusersUNet
from plugip.priors.declaration import declare
from plugip.training.network import make_network
from plugip.training.objective import OBJECTIVES
from plugip.training.sections import Network

LEVEL = torch.rand(64, generator=torch.Generator().manual_seed(0))
EPS = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(1))
FLAT = torch.full_like(EPS, 0.25)  # all data are this one state, so h_t tells the noise


def knows_velocity(h_t, time_input):
    return (h_t - 0.25) / (time_input / 1000)[:, None, None, None]


def knows_epsilon(h_t, time_input):
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    share = (1 - betas).cumprod(0)[time_input.long()][:, None, None, None]
    return ((h_t - share.sqrt() * 0.25) / (1 - share).sqrt()).float()


KNOWING = {"velocity": knows_velocity, "epsilon": knows_epsilon}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_network_that_knows_the_data_has_no_loss(name):
    errors = OBJECTIVES[name].errors(KNOWING[name], FLAT, LEVEL, EPS)
    assert errors.shape == (64,) and errors.dtype == torch.float32 and errors.max() < 1e-6


def test_a_network_that_says_nothing_has_the_loss_of_the_target():
    def silent(h_t, time_input):
        return torch.zeros_like(h_t)

    velocity = OBJECTIVES["velocity"].errors(silent, FLAT, LEVEL, EPS)
    torch.testing.assert_close(velocity, (EPS - 0.25).square().flatten(1).mean(1))
    epsilon = OBJECTIVES["epsilon"].errors(silent, FLAT, LEVEL, EPS)
    torch.testing.assert_close(epsilon, EPS.square().flatten(1).mean(1))


def test_epsilon_reaches_every_index_of_the_table_and_no_other():
    objective = OBJECTIVES["epsilon"]
    level = (torch.arange(1000, dtype=torch.float32) + 0.5) / 1000
    assert torch.equal(objective.time_input(objective.time(level)).long(), torch.arange(1000))
    ends = torch.tensor([0.0, 1 - 2**-24])
    assert objective.time_input(objective.time(ends)).tolist() == [0, 999]


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_plugip_reads_what_was_meant(name, patch, tmp_path):
    objective = OBJECTIVES[name]
    (tmp_path / "plugip_prior.json").write_text(json.dumps(objective.declaration(patch)))
    said = declare(tmp_path, {})
    net = make_network(Network(patch, (8, 8), 1, (False, False), 8, 4), 3, 8, 0)
    prior = DiffusersUNet(
        net, said.path, said.prediction, said.value_range, said.space_to_depth, said.time_scale
    )
    t = objective.time(LEVEL)
    torch.testing.assert_close(prior.time_input(t), objective.time_input(t))
    for mine, read in zip(
        objective.path.coefficients(t, EPS), prior.path.coefficients(t, EPS), strict=True
    ):
        assert torch.equal(mine, read)
    assert prior.image_shape == (3, 8, 8) and prior.prediction is objective.prediction
