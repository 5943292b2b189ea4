"""A tiny random UNet, and the embedded prior, loaded once."""

import pytest
from nets import make_unet


@pytest.fixture
def unet():
    """A factory: unet(seed, out_channels, **config)."""
    return make_unet


@pytest.fixture(scope="session")
def faces():
    """The embedded prior, probed on the way."""
    from plugip.priors import faces64

    return faces64()
