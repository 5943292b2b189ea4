r"""Flow matching networks: any module v(x, time), in either direction of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from plugip.options import choose
from plugip.path import SIGNED, FlowPath, Prediction, ValueRange
from plugip.priors.declaration import PREDICTIONS, as_range
from plugip.priors.network import call_network, state_shape
from plugip.priors.probe import RANGES, NetworkPrior, probe_as_asked
from plugip.priors.runtime import Runtime


class VelocityPrior(NetworkPrior):
    r"""Serves a flow matching network as a prior; the weights are frozen.

    Flows are trained on the straight path from noise to data, whose time runs from 0 to 1 in one
    half of the literature and from 1 to 0 in the other. The network's own time is declared by its
    values at both ends; plugip's t runs from 0 (data) to 1 (noise):

    .. math:: \tau(t) = \tau_{data} + t\,(\tau_{noise} - \tau_{data}), \quad
        E[x_0 | x_t] = x_t - t\, u(x_t, \tau(t))

    where u is the displacement from data to noise, eps - x_0. The network's output is its
    displacement along its own rising time: data - noise where data comes last.

    ============================================ ========= ========== ========== ==============
    networks                                     data_at   noise_at   time_first value_range
    ============================================ ========= ========== ========== ==============
    PnP-Flow's OT UNets (CelebA-128, AFHQ-Cat)   1         0          no         [-1, 1]
    torchcfm: OT-CFM, I-CFM, FM on CIFAR-10      1         0          yes        [-1, 1]
    rectified flow (CelebA-HQ, AFHQ-Cat 256)     999       0          no         [-1, 1]
    diffusers' flow matching, plugip's faces64   0         1000       no         [-1, 1]
    ============================================ ========= ========== ========== ==============

    With optimal-transport couplings, data and noise of a training pair are not independent. The
    formula above holds for any coupling, and so do seeds and flows; but E[x_0 | x_t] is then that
    of the coupling, which methods that add fresh noise (DPS, DiffPIR) take for the independent
    one. Paths with a last noise level (sigma_min, 1e-4 and less) are served as if it were 0.

    Args:
        network: The trained network (x, time) -> output of the shape of x; time is (B,).
            ``load_weights`` fills one from a file.
        shape: Shape of one state, (channels, height, width).
        data_at: The network's time of clean data.
        noise_at: The network's time of pure noise.
        time_first: Whether the network is called as (time, x).
        value_range: Range of its clean images; None for latents without one.
        prediction: What its output means: velocity, or sample or epsilon for networks that
            predict x_0 or the noise on the same path.
        probe: Whether to check that these settings denoise a known picture, or yours (its file).
        runtime: How the network is run; as it is by default.

    Raises:
        ValueError: If the two times are equal, a shape, range or name is not understood, or the
            network cannot be run so.
        ProbeError: If the network does not denoise under these settings.

    Source: Lipman et al. 2023 (flow matching); Liu et al. 2023 (rectified flow); Tong et al. 2024
    (OT-CFM). Times and ranges of the networks: their public training code.
    """

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        data_at: float = 1.0,
        noise_at: float = 0.0,
        time_first: bool = False,
        value_range: ValueRange | Sequence[float] | None = SIGNED,
        prediction: Prediction | str = Prediction.VELOCITY,
        probe: bool | str = True,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__()
        if data_at == noise_at:
            raise ValueError(f"data_at and noise_at must differ, both are {data_at:g}")
        self.network, self.shape, self.path = network, state_shape(shape), FlowPath()
        self.data_at, self.noise_at = float(data_at), float(noise_at)
        self.time_first = time_first
        self.value_range = None if value_range is None else as_range(value_range)
        self.prediction = choose(PREDICTIONS, str(prediction), "prediction")
        self.freeze()
        probe_as_asked(self, probe)
        self.equip(runtime)

    def output(self, x_t: Tensor, t: Tensor) -> Tensor:
        return call_network(self.network, x_t, self.time_input(t), self.time_first)

    def read(self, kind: Prediction, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        if kind is Prediction.VELOCITY and self.noise_at < self.data_at:
            output = -output  # plugip's velocity points towards noise
        return super().read(kind, output, x_t, t)

    def time_input(self, t: Tensor) -> Tensor:
        """Returns the network's time at plugip's time t, same shape as ``t``."""
        return self.data_at + t * (self.noise_at - self.data_at)

    def variants(self) -> Iterator[tuple[str, VelocityPrior]]:
        for bounds in RANGES:
            if bounds != self.value_range:
                text = f"value_range=[{bounds.low:g}, {bounds.high:g}]"
                yield text, self._reread(self.data_at, self.noise_at, bounds)
        for scale in (1.0, 1000.0):
            for ends in ((scale, 0.0), (0.0, scale)):
                if ends != (self.data_at, self.noise_at):
                    text = f"data_at={ends[0]:g}, noise_at={ends[1]:g}"
                    yield text, self._reread(*ends, self.value_range)

    def rivals(self) -> Iterator[tuple[str, VelocityPrior]]:
        for factor in (0.5, 2.0):
            ends = (self.data_at * factor, self.noise_at * factor)
            text = f"data_at={ends[0]:g}, noise_at={ends[1]:g}"
            yield text, self._reread(*ends, self.value_range)

    def predicting(self, prediction: Prediction) -> VelocityPrior:
        return self._reread(self.data_at, self.noise_at, self.value_range, prediction)

    def _reread(
        self,
        data_at: float,
        noise_at: float,
        bounds: ValueRange | None,
        prediction: Prediction | None = None,
    ) -> VelocityPrior:
        settings = (data_at, noise_at, self.time_first, bounds, prediction or self.prediction)
        return VelocityPrior(self.network, self.shape, *settings, probe=False)
