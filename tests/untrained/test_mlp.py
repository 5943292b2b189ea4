"""The kernel network: its formula and refusals."""

import pytest
import torch
from torch.testing import assert_close

from plugip.rng import Rng
from plugip.untrained import MLP


def test_is_two_affine_maps_around_relu6():
    network = MLP(inputs=4, hidden=3)
    layers = network.build((1, 2, 5))
    code = 40 * network.code((1, 2, 5), Rng(0, "solve", ["a"]), torch.zeros(1)) - 2
    first, _, last, _ = layers.children()
    assert isinstance(first, torch.nn.Linear) and isinstance(last, torch.nn.Linear)
    hidden = (code @ first.weight.T + first.bias).clamp(0, 6)
    expected = (hidden @ last.weight.T + last.bias).reshape(1, 1, 2, 5)
    assert_close(layers(code), expected)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="inputs and hidden must be at least 1"):
        MLP(hidden=0)
