r"""Deep random projector: a frozen random network whose input is fitted, not its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plugip.engine.adam import Adam
from plugip.engine.misfit import Misfit
from plugip.engine.plugin import PlugInState, require_iterations
from plugip.engine.unknowns import Layout, Unknowns
from plugip.engine.untrained import UntrainedPlugIn
from plugip.engine.weights import OwnNetworks, counted, signed
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.untrained import Network, Skip
from plugip.untrained.network import ChannelNorm

CODE, SCALE, SHIFT = "code", "scale of the code", "shift of the code"


@dataclass(frozen=True)
class Projection(Unknowns):
    """The codes of networks whose weights stay as they were drawn, but for those of the norms.

    Args:
        networks: The networks; their own codes are not used.
        weights: All first weights of each image's network, (B, n).
        layout: Where the code (B, C, H, W), its scale and shift (B, C), and the weights of the
            norms lie.
    """

    networks: OwnNetworks
    weights: Tensor
    layout: Layout

    def image(self, problem: Problem, v: Tensor) -> Tensor:
        free = self.layout.split(v)
        code, scale, shift = (free.pop(name) for name in (CODE, SCALE, SHIFT))
        level = torch.nn.functional.group_norm(code, code.shape[1])
        seen = scale[..., None, None] * level + shift[..., None, None]
        weights = self.networks.layout.split(self.weights) | free
        return counted(problem.prior, signed(self.networks.made(weights, seen)))


@dataclass(frozen=True)
class ProjectorMisfit(Misfit):
    """The root mean square of A(x) - y, plus weighted total variation of the image.

    Args:
        tv_weight: Weight of the total variation.
    """

    tv_weight: float = 0.0

    def data_loss(self, known: Problem, y_clean: Tensor) -> Tensor:
        # The floor keeps the root's gradient finite where the fit is exact.
        return super().data_loss(known, y_clean).clamp_min(1e-12).sqrt()

    def penalty(self, v: Tensor, x: Tensor) -> Tensor:
        return super().penalty(v, x) + self.tv_weight * total_variation(x)


def total_variation(x: Tensor) -> Tensor:
    """Returns the sum of |differences of neighbours| over the number of entries, (B,)."""
    steps = x.diff(dim=-2).abs().flatten(1).sum(1) + x.diff(dim=-1).abs().flatten(1).sum(1)
    return steps / x[0].numel()


def _shallow() -> Skip:
    return Skip(scales=1, code_channels=1)


@dataclass(frozen=True)
class RandomProjector(UntrainedPlugIn):
    r"""Restores images by fitting the input of a shallow random network, with few edges.

    .. math:: \min_{u, s}\; \sqrt{\mathrm{mean}\,|A(f_s(u)) - y|^2} + \lambda\, \mathrm{TV}(f_s(u))

    with s the scales and shifts of the norms; all other weights stay as they were drawn. A
    faster relative of ``DIP``: the network has one scale. Both terms double from [0, 1] to
    [-1, 1], so that lambda means the same. One step costs one NFE and one VJP of the network.

    Args:
        iterations: Adam steps, published up to 5000.
        generator: The network, a convolutional one; published one scale of 128 channels (64 for
            denoising).
        solver: Adam, published lr 0.5 for super-resolution, 0.1 for denoising.
        code_std: Standard deviation of the first code, which is normalised before use.
        tv_weight: lambda, published 0.75 for super-resolution, 0.45 for denoising.
        theta_steps: Adam's step of the unknown part of a blind operator.

    Raises:
        ValueError: If an argument is out of range, or the network's codes are no images.

    Source: Li et al. 2023 (Deep random projector, CVPR), and its code.
    """

    iterations: int = 2000
    generator: Network = field(default_factory=_shallow)
    solver: Adam = field(default_factory=lambda: Adam(0.5))
    code_std: float = 0.1
    tv_weight: float = 0.75
    theta_steps: float | Mapping[str, float] | None = None
    loss = "mean"

    def __post_init__(self) -> None:
        require_iterations(self.iterations)
        if self.code_std <= 0 or self.tv_weight < 0:
            raise ValueError(
                f"need code_std > 0 and tv_weight >= 0, got {self.code_std} and {self.tv_weight}"
            )

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for code and norms, from Gaussian codes and norms that change nothing."""
        shape, like = tuple(problem.prior.image_shape), problem.y.real
        networks, weights = OwnNetworks.draw(self.generator, shape, rng, like)
        if networks.code.shape[2:] != shape[1:]:
            raise ValueError(
                f"RandomProjector needs a network whose code is an image, such as Skip; that of "
                f"{type(self.generator).__name__} has shape {tuple(networks.code.shape)}"
            )
        code = self.code_std * rng.child("projection").normal(networks.code.shape[1:], like=like)
        ones = code.new_ones(code.shape[:2])
        parts = networks.layout.split(weights)
        norms = {name: parts[name] for name in _norms(networks)}
        free = {CODE: code, SCALE: ones, SHIFT: torch.zeros_like(ones), **norms}
        layout = Layout.of(free)
        return Projection(networks, weights, layout), layout.join(free)

    def objective(self, problem: Problem, state: PlugInState) -> Misfit:
        """Returns the root mean square with total variation."""
        return ProjectorMisfit(problem, state.unknowns, self.loss, self.tv_weight)


def _norms(networks: OwnNetworks) -> list[str]:
    layers = networks.layers
    owners = {n: layers.get_submodule(n.rpartition(".")[0]) for n in networks.layout.shapes}
    return [name for name, owner in owners.items() if isinstance(owner, ChannelNorm)]
