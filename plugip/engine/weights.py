"""The weights of untrained networks as unknowns, one network per image."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from plugip.engine.unknowns import Layout, Unknowns, WithTheta
from plugip.prior import Prior
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.untrained.network import Network, Shape, draw_weights, empty_layers


@dataclass(frozen=True)
class OwnNetworks:
    """One network for each image, all of the same form.

    Args:
        layers: The form; its own weights are never used.
        layout: Where each weight lies in a vector of all weights.
        code: Fixed input of each image's network, (B, ...).
    """

    layers: nn.Module
    layout: Layout
    code: Tensor

    @staticmethod
    def draw(network: Network, shape: Shape, rng: Rng, like: Tensor) -> tuple[OwnNetworks, Tensor]:
        """Draws codes and first weights from the images' streams.

        Args:
            network: The recipe.
            shape: Shape of what is made for one image.
            rng: Streams of the images.
            like: Sets device and precision.

        Returns:
            The networks, and their weights as vectors, (B, n).
        """
        layers = empty_layers(network, shape)
        weights = draw_weights(layers, rng.child("weights"), like)
        layout = Layout.of(weights)
        code = network.code(shape, rng.child("code"), like)
        return OwnNetworks(layers, layout, code), layout.join(weights)

    def __call__(self, v: Tensor) -> Tensor:
        """Returns what networks of weights v (B, n) make of their codes, differentiably in v."""
        return self.made(self.layout.split(v), self.code)

    def made(self, weights: dict[str, Tensor], code: Tensor) -> Tensor:
        """Returns what networks of these weights make of these codes, differentiably in both.

        Args:
            weights: (B, *shape) by the names of the layers' parameters.
            code: (B, ...).
        """
        if code.shape[0] == 1:  # the usual case on a CPU; saves the detour through grouped layers
            return self._one({name: w[0] for name, w in weights.items()}, code)
        return torch.vmap(self._one)(weights, code[:, None])[:, 0]

    def _one(self, weights: dict[str, Tensor], code: Tensor) -> Tensor:
        return functional_call(self.layers, weights, (code,), tie_weights=False, strict=True)

    def shaken(self, std: float, rng: Rng) -> OwnNetworks:
        """Returns the networks with Gaussian noise added to their codes, each image's its own."""
        noise = rng.normal(tuple(self.code.shape[1:]), like=self.code)
        return replace(self, code=self.code + std * noise)


class Shakable(Unknowns):
    """Unknowns whose fixed inputs can be disturbed, afresh for every step."""

    @abstractmethod
    def shaken(self, std: float, rng: Rng) -> Self:
        """Returns the unknowns with N(0, std^2) noise added to the inputs."""


@dataclass(frozen=True)
class Weights(Shakable):
    """The weights of one network per image, v = (B, n); the image is what the network makes.

    Args:
        networks: The networks; a sigmoid behind them keeps images in (-1, 1).
    """

    networks: OwnNetworks

    def image(self, problem: Problem, v: Tensor) -> Tensor:
        return counted(problem.prior, signed(self.networks(v)))

    def shaken(self, std: float, rng: Rng) -> Self:
        return replace(self, networks=self.networks.shaken(std, rng))


def shaken(unknowns: Unknowns, std: float, rng: Rng) -> Unknowns:
    """Disturbs the fixed inputs of untrained networks, behind a blind operator's theta as well."""
    if isinstance(unknowns, WithTheta):
        return replace(unknowns, inner=shaken(unknowns.inner, std, rng))
    return unknowns.shaken(std, rng) if isinstance(unknowns, Shakable) else unknowns


def signed(values: Tensor) -> Tensor:
    """Squashes values by a sigmoid and brings them to (-1, 1)."""
    return 2 * torch.sigmoid(values) - 1


def counted(prior: Prior, output: Tensor) -> Tensor:
    """Books one call of an untrained network, and its backward passes, on the prior's counter."""
    prior.counter.nfe += 1
    if output.requires_grad:
        output.register_hook(prior.counter.count_vjp)
    return output
