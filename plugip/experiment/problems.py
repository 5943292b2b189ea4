"""From an image to its problem: each is measured alone, so that y depends on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.data import ImageError
from plugip.experiment.fit import guessed
from plugip.noise import Noise
from plugip.operator import BlindOperator, Operator, Unknown
from plugip.prior import Prior, probe_signal
from plugip.problem import Problem, measure
from plugip.rng import Rng


@dataclass(frozen=True)
class Problems:
    """Makes the problems of images.

    Args:
        operator: The forward map; what is random in it is drawn per image.
        noise: The noise model.
        prior: The prior.
        rng_seed: The integer behind operators and measurements.
        solver_seed: The integer behind the solver's streams.
    """

    operator: Operator
    noise: Noise
    prior: Prior
    rng_seed: int
    solver_seed: int

    def measured(self, image_id: str, x: Tensor) -> tuple[Tensor, Unknown | None]:
        """Returns y of one image, and the true unknown where the operator has one.

        Args:
            image_id: Names the image's random streams.
            x: The image, (1, C, H, W), in [-1, 1].

        Raises:
            ImageError: If the image has not the shape of the prior's.
        """
        wanted, given = tuple(self.prior.image_shape), tuple(x.shape[1:])
        if given != wanted:
            raise ImageError(_misfit(given, wanted))
        rng, theta = self._rng("operator", [image_id]), None
        operator = self.operator.realise(rng, tuple(x.shape))
        if isinstance(operator, BlindOperator):
            theta = operator.draw_theta(rng.child("theta"), tuple(x.shape))
            operator = operator.at(theta).to(x.device)
        return measure(operator, x, self.noise, self._rng("measure", [image_id])), theta

    def of(self, ids: Sequence[str], y: Tensor) -> Problem:
        """Returns the problem of some images, as a method may see it."""
        x_shape = (len(ids), *self.prior.image_shape)
        operator = self.operator.realise(self._rng("operator", ids), x_shape)
        return Problem(y, operator, self.noise, self.prior)

    def streams(self, ids: Sequence[str]) -> Rng:
        """Returns the solver's streams of some images."""
        return Rng(self.solver_seed, "solve", ids)

    def probe(self, real: bool, device: torch.device) -> Problem:
        """Returns a problem of the same parts that is no image's: that of a smooth picture.

        Args:
            real: Whether measurements are given, so that none is simulated with noise.
            device: Where to.
        """
        x, ids = probe_signal(self.prior.image_shape).to(device), ["probe"]
        if not real:
            return self.of(ids, self.measured(ids[0], x)[0])
        operator = self.operator.realise(self._rng("operator", ids), tuple(x.shape))
        with torch.no_grad():
            return self.of(ids, guessed(operator, x)(x))

    def _rng(self, purpose: str, ids: Sequence[str]) -> Rng:
        return Rng(self.rng_seed, purpose, ids)


def _misfit(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if given[0] != wanted[0]:
        return (
            f"the image has {given[0]} channels, but the prior's have {wanted[0]}; "
            f"set data.channels={wanted[0]}"
        )
    if wanted[1] == wanted[2]:
        advice = f"set data.size={wanted[1]} to crop and resize"
    else:
        advice = "data.size makes squares only, so crop and resize the file to that size itself"
    return (
        f"the image has {given[2]} x {given[1]} pixels, but the prior's have "
        f"{wanted[2]} x {wanted[1]}; {advice}"
    )
