r"""Networks with EDM's preconditioning, D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from plugip.options import choose
from plugip.path import SIGNED, EDMPath, Path, Prediction, ValueRange, within
from plugip.priors.declaration import as_range
from plugip.priors.network import call_network, state_shape
from plugip.priors.probe import RANGES, NetworkPrior
from plugip.priors.probe import probe as run_probe
from plugip.priors.runtime import Runtime

OUTPUTS = {
    "denoised": "D(x; sigma), the network does its preconditioning itself and is given sigma",
    "raw": "F(c_in x; c_noise), the preconditioning is done here",
}


def preconditioning(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns EDM's c_skip, c_out, c_in and c_noise for noise levels sigma > 0, same shapes.

    Source: Karras et al. 2022 (EDM), table 1, last column.
    """
    total = sigma.square() + sigma_data**2
    c_in = total.rsqrt()
    return sigma_data**2 / total, sigma * sigma_data * c_in, c_in, sigma.log() / 4


class EDMPrior(NetworkPrior):
    r"""Serves an EDM network as a prior; the weights are frozen.

    The network knows states x = x_0 + sigma n of any level sigma up to ``sigma_max``. They are
    served along any path, by E[x_0 | x_t] = D(x_t / alpha; sigma_t / alpha); by default along
    ``EDMPath``, on which pure noise has unit variance, so that every method starts where it
    expects to. There the uniform grid is EDM's own (rho = 7), and ``grid=poly7`` ends it at 0.002.

    Which public checkpoints fit: EDM's unconditional ones, ``edm-cifar10-32x32-uncond-{vp,ve}``,
    ``edm-ffhq-64x64-uncond-{vp,ve}`` and ``edm-afhqv2-64x64-uncond-{vp,ve}`` (CC BY-NC-SA 4.0;
    output="denoised", sigma_data 0.5), and its VP and VE baselines, whose classes return D as
    well. They are published as pickles that carry code, which plugip does not run. In a checkout
    of EDM's repository, export the tensors once::

        net = pickle.load(open("edm-ffhq-64x64-uncond-vp.pkl", "rb"))["ema"]
        torch.save(net.state_dict(), "ffhq64.pt")
        print(net.init_kwargs)  # the settings of its class, training.networks.EDMPrecond

    and give ``load_weights(EDMPrecond(...), "ffhq64.pt")`` as the network. Raw UNets of the same
    lineage: OpenAI's ``edm_bedroom256_ema.pt`` and ``edm_cat256_ema.pt`` (output="raw",
    noise_scale=1000).

    Args:
        network: The trained network (x, sigma) -> D, or (c_in x, noise_scale c_noise) -> F; the
            second argument is (B,).
        shape: Shape of one state, (channels, height, width).
        sigma_data: Standard deviation of the training data, which the preconditioning uses; not
            used where the network returns D.
        sigma_min: Least noise level that the network is asked for; states with less are taken
            for it as they are.
        sigma_max: Largest one; states with more noise are scaled down to it.
        output: What the network returns: denoised or raw.
        noise_scale: Factor on c_noise = log(sigma) / 4.
        value_range: Range of its clean images; None for latents without one.
        path: Path along which to serve it; ``EDMPath(sigma_max)`` by default.
        probe: Whether to check that these settings denoise a known picture.
        runtime: How the network is run; as it is by default.

    Raises:
        ValueError: If a level is out of order, a shape, range or name is not understood, or the
            network cannot be run so.
        ProbeError: If the network does not denoise under these settings.

    Source: Karras et al. 2022 (EDM).
    """

    network: nn.Module
    prediction = Prediction.X0
    readings = (Prediction.X0,)  # of D, whatever F means

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        output: str = "denoised",
        noise_scale: float = 1.0,
        value_range: ValueRange | Sequence[float] | None = SIGNED,
        path: Path | None = None,
        probe: bool = True,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__()
        choose(OUTPUTS, output, "output")
        if not 0 < sigma_min < sigma_max or not sigma_data > 0:
            raise ValueError(
                "need 0 < sigma_min < sigma_max and sigma_data > 0, got "
                f"{sigma_min:g}, {sigma_max:g} and {sigma_data:g}"
            )
        self.network, self.shape = network, state_shape(shape)
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max
        self.returns, self.noise_scale = output, noise_scale
        self.value_range = None if value_range is None else as_range(value_range)
        self.path = path or EDMPath(sigma_max)
        self.freeze()
        if probe:
            run_probe(self)
        self.equip(runtime)

    @property
    def least_level(self) -> float:
        return self.sigma_min

    def output(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path.coefficients(t, x_t)
        # Beyond sigma_max the state is scaled as a bridge does it, by alpha + sigma on each side.
        level = within(sigma / alpha.clamp_min(1e-30), 0.0, self.sigma_max)
        known = within(level, self.sigma_min, self.sigma_max)
        return self.denoise(x_t * ((1 + level) / (alpha + sigma)), known)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Returns D(x; sigma), the estimate of x_0 in x = x_0 + sigma n.

        Args:
            x: Noisy states, (B, *shape), of standard deviation sigma and more.
            sigma: Noise levels, () or one per image in any shape that broadcasts to ``x``.
        """
        if self.returns == "denoised":
            return call_network(self.network, x, sigma.flatten())
        c_skip, c_out, c_in, c_noise = preconditioning(sigma, self.sigma_data)
        time = self.noise_scale * c_noise.flatten()
        return c_skip * x + c_out * call_network(self.network, c_in * x, time)

    def variants(self) -> Iterator[tuple[str, EDMPrior]]:
        own = (self.sigma_data, self.returns, self.noise_scale)
        for bounds in RANGES:
            if bounds != self.value_range:
                yield f"value_range=[{bounds.low:g}, {bounds.high:g}]", self._reread(*own, bounds)
        yield "output=denoised", self._reread(self.sigma_data, "denoised", 1.0, self.value_range)
        for data in (0.5, 1.0):
            for scale in (1.0, 1000.0):
                text = f"output=raw, sigma_data={data:g}, noise_scale={scale:g}"
                yield text, self._reread(data, "raw", scale, self.value_range)

    def predicting(self, prediction: Prediction) -> EDMPrior:
        return self

    def _reread(
        self, sigma_data: float, returns: str, noise_scale: float, bounds: ValueRange | None
    ) -> EDMPrior:
        levels = (self.sigma_min, self.sigma_max)
        settings = (*levels, returns, noise_scale, bounds, self.path)
        return EDMPrior(self.network, self.shape, sigma_data, *settings, probe=False)
