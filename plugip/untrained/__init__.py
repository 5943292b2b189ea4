"""Networks that are never trained: their form alone is the prior (deep image prior)."""

from plugip.untrained.mlp import MLP as MLP
from plugip.untrained.network import Network as Network
from plugip.untrained.siren import Fourier as Fourier
from plugip.untrained.siren import Siren as Siren
from plugip.untrained.skip import Skip as Skip
