"""Small cases of every method on a linear, a nonlinear, a blind and a complex problem.

Images and measurements are fixed numbers; only the methods draw. No config is read, so that a
case says all that its answer depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from priors.nets import make_unet
from torch import Tensor
from toys import Fourier, normal

from plugip.engine.adam import Adam
from plugip.engine.augmented_lagrangian import AugmentedLagrangian
from plugip.engine.nesterov import Nesterov
from plugip.engine.spaces import Shell, Sphere, White
from plugip.engine.start import InvertedStart, ZeroStart
from plugip.method import Method
from plugip.methods import (
    DIP,
    DMILO,
    DMILOPGD,
    DPS,
    ILO,
    BlindDIP,
    ConstrainedMisfit,
    ConstrainedSeed,
    DFlow,
    DMPlug,
    DoubleDIP,
    FMPlug,
    MultiStart,
    RandomProjector,
    SelfDeblur,
)
from plugip.noise import GaussianNoise
from plugip.operator import BlindOperator, Operator
from plugip.operators import (
    BicubicDownsample,
    BlindBlur,
    CodedDiffraction,
    GaussianKernel,
    OctanaryCodes,
    SaturatedBlur,
)
from plugip.path import DiscretePath, Prediction
from plugip.prior import Prior
from plugip.priors import DiffusersUNet, GaussianMixturePrior, Untrained
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.stopping import ESWMV, Discrepancy, Stopped
from plugip.untrained import MLP, Siren, Skip

SHAPE = (3, 8, 8)
IDS = ("a", "b")
NETWORK = Skip(scales=1, channels=4, skip_channels=2, code_channels=3)
GENERATOR = Generator(2)

OPERATORS: dict[str, Callable[[], Operator]] = {
    "linear": lambda: BicubicDownsample(2),
    "nonlinear": lambda: SaturatedBlur(kernel=GaussianKernel(1.0, 3)),
    "blind": lambda: BlindBlur(3),
    "complex": Fourier,
}


def mixture() -> Prior:
    """An exact prior of two Gaussians."""
    means = 0.3 * normal(2, *SHAPE, seed=3, dtype=torch.float32)
    return GaussianMixturePrior(means, [0.2, 0.4])


def network() -> Prior:
    """A tiny random network on the discrete path of diffusion checkpoints."""
    return DiffusersUNet(make_unet(), DiscretePath.linear(), Prediction.EPS)


PRIORS: dict[str, Callable[[], Prior]] = {"mixture": mixture, "network": network}

PLUG_IN: dict[str, Callable[[], Method]] = {
    "dmplug": lambda: DMPlug(4, GENERATOR),
    "dmplug_adam": lambda: DMPlug(4, GENERATOR, Adam(0.05), loss="mean"),
    "dmplug_nesterov": lambda: DMPlug(4, GENERATOR, Nesterov(0.01), ZeroStart()),
    "dmplug_heun_clip": lambda: DMPlug(3, Generator(2, "quadratic", "heun", "straight_through")),
    "dmplug_shell": lambda: DMPlug(4, GENERATOR, space=Shell()),
    "dmplug_sphere": lambda: DMPlug(4, GENERATOR, space=Sphere()),
    "dmplug_white": lambda: DMPlug(4, GENERATOR, space=White()),
    "fmplug": lambda: FMPlug(4, GENERATOR),
    "fmplug_fixed": lambda: FMPlug(4, GENERATOR, time_step=0.0),
    "dflow": lambda: DFlow(3, Generator(2, solver="midpoint"), start=InvertedStart(steps=3)),
    "constrained_misfit": lambda: ConstrainedMisfit(8, GENERATOR, AugmentedLagrangian(3)),
    "constrained_seed": lambda: ConstrainedSeed(8, GENERATOR, AugmentedLagrangian(3)),
    "dmilo": lambda: DMILO(GENERATOR, outer=2, inner=2),
    "dmilo_pgd": lambda: DMILOPGD(GENERATOR, outer=2, inner=2),
    "ilo": lambda: ILO((3, 2), GENERATOR),
    "multi_start": lambda: MultiStart(DMPlug(4, GENERATOR), 2, 2),
    "discrepancy": lambda: Stopped(DMPlug(6, GENERATOR), Discrepancy(tau=3.0), halt=False),
    "es_wmv": lambda: Stopped(DMPlug(6, GENERATOR), ESWMV(2, 2)),
}
UNTRAINED: dict[str, Callable[[], Method]] = {
    "dip": lambda: DIP(4, NETWORK),
    "dip_average": lambda: DIP(4, NETWORK, average=0.5),
    "dip_siren": lambda: DIP(4, Siren(6, 2), Adam(1e-3)),
    "random_projector": lambda: RandomProjector(4, NETWORK, Adam(0.1)),
}
BLIND: dict[str, Callable[[], Method]] = {
    "self_deblur": lambda: SelfDeblur(4, NETWORK, MLP(4, 6), structural_after=None),
    "blind_dip": lambda: BlindDIP(4, NETWORK, MLP(4, 6)),
}


def images() -> Tensor:
    """Two smooth images, (2, 3, 8, 8), in [-0.9, 0.9]."""
    rough = normal(2, *SHAPE, seed=5, dtype=torch.float32)
    return 0.9 * torch.tanh(2 * torch.nn.functional.avg_pool2d(rough, 3, 1, 1))


def problem(kind: str, prior: Prior) -> Problem:
    """Measurements of the two images with fixed noise."""
    operator = OPERATORS[kind]()
    x = images()
    true = operator
    if isinstance(operator, BlindOperator):
        true = operator.at(GaussianKernel(0.8, 3).build().expand(2, 1, 3, 3).float())
    y = true(x)
    noise = normal(*y.shape, seed=7, dtype=torch.float32).to(y)
    return Problem(y + 0.05 * noise, operator, GaussianNoise(0.05), prior)


def coded() -> Problem:
    """Amplitudes of a complex object in two channels behind four codes."""
    x = images()[:, :2]
    streams = Rng(0, "operator", IDS)
    operator = CodedDiffraction(OctanaryCodes(4), object="channels", output="amplitude")
    operator = operator.realise(streams, tuple(x.shape)).to(x.dtype)
    return Problem(operator(x), operator, GaussianNoise(0.01), Untrained((2, 8, 8)))


def cases() -> Iterator[tuple[str, Problem, Method]]:
    """Yields name, problem and method of every case."""
    for name, prior in PRIORS.items():
        for kind in OPERATORS if name == "mixture" else ("linear", "blind"):
            for method, make in PLUG_IN.items():
                yield f"{method}/{kind}/{name}", problem(kind, prior()), make()
            if kind != "blind":
                yield f"dps/{kind}/{name}", problem(kind, prior()), DPS(4)
    free = Untrained(SHAPE)
    for method, make in UNTRAINED.items():
        for kind in OPERATORS:
            yield f"{method}/{kind}", problem(kind, free), make()
    for method, make in BLIND.items():
        yield method, problem("blind", free), make()
    yield "double_dip", coded(), DoubleDIP(4, NETWORK)
