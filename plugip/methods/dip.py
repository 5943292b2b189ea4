r"""DIP: fit the weights of an untrained network until A(f(u)) fits y, and stop in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from plugip.engine.adam import Adam
from plugip.engine.plugin import require_iterations
from plugip.engine.unknowns import Unknowns
from plugip.engine.untrained import Rollback, UntrainedPlugIn, require_fit_settings
from plugip.engine.weights import OwnNetworks, Weights
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.untrained import Network, Skip


@dataclass(frozen=True)
class DIP(UntrainedPlugIn):
    r"""Restores images by fitting an untrained network to the measurement (deep image prior).

    .. math:: \hat w = \arg\min_w\; \ell(y, A(f_w(u))), \quad \hat x = f_{\hat w}(u)

    with a fixed random code u. The network's form is the only prior: no trained weights are used,
    and of ``problem.prior`` only the shape of images and the counter; take ``prior=untrained``.
    It fits content first and noise later, so the number of iterations matters, or a rule that
    stops in time: ``ESWMV(100, 1000)`` as published, shorter where few steps are made. One step
    costs one NFE and one VJP of the small network.

    Args:
        iterations: Adam steps.
        generator: The network: Skip as published, or a neural field, ``Siren`` or ``Fourier``.
        solver: Adam, published lr 0.01.
        jitter: Standard deviation of noise that is added to the code, afresh in every step.
        average: Weight of the past in the running mean of images, which is the answer then;
            published 0.99 for denoising; 0: the last image is the answer.
        rollback: When to go back to earlier weights; null: never.
        loss: "mean" (published), "sum" or "likelihood".
        theta_steps: Adam's step of the unknown part of a blind operator, by name where there are
            several; None for what the operator suggests.

    Raises:
        ValueError: If an argument is out of range.

    Source: Ulyanov et al. 2018 (Deep Image Prior), eq. 2, and its code.
    """

    iterations: int = 2000
    generator: Network = field(default_factory=Skip)
    solver: Adam = field(default_factory=Adam)
    jitter: float = 0.03
    average: float = 0.0
    rollback: Rollback | None = field(default_factory=Rollback)
    loss: str = "mean"
    theta_steps: float | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        require_iterations(self.iterations)
        require_fit_settings(self.jitter, self.average)

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for the weights of one network per image, from usual first values."""
        shape, like = tuple(problem.prior.image_shape), problem.y.real
        networks, v = OwnNetworks.draw(self.generator, shape, rng, like)
        return Weights(networks), v
