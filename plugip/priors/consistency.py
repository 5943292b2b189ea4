r"""Consistency models: one or two network calls from noise to an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from plugip.options import choose
from plugip.path import SIGNED
from plugip.priors.declaration import as_range
from plugip.priors.diffusers_unet import unet_shape
from plugip.priors.edm import OUTPUTS, preconditioning
from plugip.priors.generator import Range, SeedPrior, probe_images
from plugip.priors.network import call_network, state_shape
from plugip.priors.runtime import Runtime
from plugip.priors.weights import find_folder, load_unet
from plugip.reverse import CLIPS


class ConsistencyPrior(SeedPrior):
    r"""Serves a consistency model f(x, sigma) -> x_0 as a map from seeds to images.

    f leads to the end of the reverse process, not to the mean E[x_0 | x_t], so methods that need
    the mean refuse it. The seed is the noise: z_1 starts at the first level, and each further
    level adds noise z_k to the estimate before it. All of them are optimised:

    .. math:: x^{(1)} = f(s_1 z_1, s_1), \quad
        x^{(k)} = f\big(x^{(k-1)} + \sqrt{s_k^2 - \sigma_{min}^2}\, z_k,\; s_k\big)

    Which public checkpoints fit: the unconditional consistency models of OpenAI for LSUN Bedroom
    and Cat 256 (MIT), as diffusers folders such as ``openai/diffusers-cd_bedroom256_l2``. Their
    authors' second levels: 3.52 for it, 4.37 for cd_bedroom256_lpips, 3.99 for ct_bedroom256 and
    5.25 for ct_cat256.

    Args:
        network: The trained network (c_in x, noise_scale c_noise) -> F, or (x, sigma) -> f.
        shape: Shape of one state, (channels, height, width).
        levels: Noise levels s_k, falling; [80] is one step, [80, 3.52] two.
        sigma_data: Standard deviation of the training data, as in EDM.
        sigma_min: Least noise level of the training, at which f(x, sigma_min) = x.
        output: What the network returns: raw (F) or denoised (f).
        noise_scale: Factor on c_noise = log(sigma) / 4; 1000 in OpenAI's networks.
        value_range: Range of its clean images.
        clip: Clip mode for the estimates, the last one included: none, hard or
            straight_through. OpenAI's sampler clips hard, which stops gradients where it acts.
        probe: Whether to check that its images fill their range.
        runtime: How the network is run; as it is by default.

    Attributes:
        shape: Shape of one seed: that of a state, with the number of levels in front if there are
            two or more.

    Raises:
        ValueError: If the levels do not fall to above ``sigma_min``, or a name is unknown.
        ProbeError: If the images do not fit the range, or do not depend on the seed.

    Source: Song et al. 2023 (consistency models), algorithm 1, and their code for the boundary
    condition and the two-step levels.
    """

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        levels: Sequence[float] = (80.0,),
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        output: str = "raw",
        noise_scale: float = 1000.0,
        value_range: Range = SIGNED,
        clip: str = "none",
        probe: bool = True,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__()
        choose(OUTPUTS, output, "output")
        self.clip = choose(CLIPS, clip, "clip")
        self.network, self.levels = network, _falling(levels, sigma_min)
        self.sigma_data, self.sigma_min = sigma_data, sigma_min
        self.returns, self.noise_scale = output, noise_scale
        self.output_range, self._image_shape = as_range(value_range), state_shape(shape)
        several = (len(self.levels),) if len(self.levels) > 1 else ()
        self.shape = (*several, *self._image_shape)
        self.freeze()
        if probe:
            probe_images(self)
        self.equip(runtime)

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        levels: Sequence[float] = (80.0,),
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        noise_scale: float = 1000.0,
        value_range: Range = SIGNED,
        clip: str = "none",
        probe: bool = True,
        runtime: Runtime | None = None,
    ) -> ConsistencyPrior:
        """Loads a diffusers folder with a consistency UNet, from the disk or else from the hub.

        Args:
            source: A folder with ``config.json`` and weights, a pipeline folder with ``unet/``, or
                a hub id such as ``openai/diffusers-cd_bedroom256_l2``.
            levels: Noise levels, falling.
            sigma_data: Standard deviation of the training data.
            sigma_min: Least noise level of the training.
            noise_scale: Factor on c_noise = log(sigma) / 4.
            value_range: Range of its clean images.
            clip: Clip mode for the estimates.
            probe: Whether to check that its images fill their range.
            runtime: How the network is run; as it is by default.

        Raises:
            WeightsError: If a file is missing or not what its name says.
            ValueError: If the network is class-conditional, or a setting does not fit.
            ProbeError: If the images do not fit the range, or do not depend on the seed.
        """
        network = load_unet(find_folder(str(source)))
        settings = (levels, sigma_data, sigma_min, "raw", noise_scale, value_range, clip)
        return cls(network, unet_shape(network, 1), *settings, probe=probe, runtime=runtime)

    def decode(self, h: Tensor) -> Tensor:
        """Maps seeds (B, *shape) to images in [-1, 1], (B, C, H, W); one NFE for each level."""
        noise = h[:, None] if len(self.levels) == 1 else h
        x = self.estimate(self.levels[0] * noise[:, 0], self.levels[0])
        for k, level in enumerate(self.levels[1:], 1):
            fresh = (level**2 - self.sigma_min**2) ** 0.5
            x = self.estimate(x + fresh * noise[:, k], level)
        return self.output_range.to_signed(x)

    def estimate(self, x: Tensor, level: float) -> Tensor:
        """Returns the clipped f(x, level) for states of one noise level, (B, C, H, W); one NFE."""
        sigma = torch.tensor(level, dtype=torch.float64)
        return self.clip(self.counted(self.runtime.run(self._answer, x, sigma)), self.output_range)

    def _answer(self, x: Tensor, sigma: Tensor) -> Tensor:
        if self.returns == "denoised":
            return call_network(self.network, x, sigma)
        _, c_out, c_in, c_noise = preconditioning(sigma, self.sigma_data)
        raw = call_network(self.network, c_in * x, self.noise_scale * c_noise)
        # EDM's coefficients, moved so that f(x, sigma_min) = x.
        above = sigma - self.sigma_min
        c_skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        return c_skip * x + c_out * (above / sigma) * raw


def _falling(levels: Sequence[float], sigma_min: float) -> tuple[float, ...]:
    given = tuple(float(level) for level in levels)
    falls = all(a > b for a, b in pairwise((*given, sigma_min)))
    if not given or not falls or not sigma_min > 0:
        raise ValueError(
            f"levels must fall and end above sigma_min > 0, got {list(given)} and {sigma_min:g}; "
            "[80] is one step, [80, 3.5] two"
        )
    return given
