"""The load-time probe: does a prior denoise under its declared settings, and on what range?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from plugip.linalg import norm
from plugip.path import SIGNED, UNIT, Prediction, ValueRange, to_x0
from plugip.prior import Prior, probe_signal
from plugip.priors.runtime import Equipped
from plugip.reverse import reverse

# Noise levels sigma / (sigma + alpha w), w being half the width of the range, so that picture and
# noise are the same on every range. STEPS lead from almost pure noise to a picture.
LEVELS = (0.3, 0.7)
# A flow time: on wide ranges the levels lie so near t = 1 that predictions coincide there.
EVEN = 0.5
STEPS = (0.95, 0.65, 0.3, 0.0)
# Share of the error of pixelwise shrinkage. faces64: 0.31 as declared, else 0.73 and more; exact
# denoisers of images with power spectra 1/f^1.5 to 1/f^3: 0.57 and less from 28 x 28 pixels on.
NETWORK_LIMIT = 0.6
# Share of half the range that may be wrong where the noise is far below the picture.
CLEAN_LIMIT = 0.1
# Share of values beyond 1.2. faces64: 0 as declared, 0.34 when read as [0, 1].
OUTSIDE, SHARE = 1.2, 0.15
LOWEST, NARROWEST = -0.05, 0.1
RANGES = (SIGNED, UNIT, ValueRange(0, 255))  # those that are tried where the declared one fails


class ProbeError(ValueError):
    """Says in one sentence how a prior fails on a known picture, and what works instead."""


class NetworkPrior(Equipped):
    """A prior whose network could be read in other ways, so that the probe can name the right one.

    Attributes:
        prediction: What the network's output is declared to mean.
        readings: What it could mean at all.
        learns_variance: Whether ``answer`` holds a learned variance after the prediction.
    """

    prediction: Prediction
    learns_variance: bool = False
    readings: tuple[Prediction, ...] = tuple(Prediction)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.read(self.prediction, self.runtime.run(self.output, x_t, t), x_t, t)

    def with_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.learns_variance:
            return super().with_variance(x_t, t)
        output, variance = self.runtime.run(self.answer, x_t, t).chunk(2, dim=1)
        x0 = self.read(self.prediction, output, x_t, t)
        return self._booked(x0), (variance + 1) / 2

    def answer(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns all that the network says, (B, 2 C, ...) with a learned variance."""
        return self.output(x_t, t)

    @abstractmethod
    def output(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns the network's prediction, (B, *shape)."""

    def read(self, kind: Prediction, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns E[x_0 | x_t] if that means ``kind``."""
        alpha, sigma = self.path.coefficients(t, x_t)
        return to_x0(kind, output, x_t, alpha, sigma)

    @abstractmethod
    def variants(self) -> Iterator[tuple[str, NetworkPrior]]:
        """Yields the same network with its input read in other ways, and the settings as text."""

    @abstractmethod
    def predicting(self, prediction: Prediction) -> NetworkPrior:
        """Returns the same network with its output read in another way."""


@torch.no_grad()
def probe(prior: Prior, picture: Tensor | None = None) -> None:
    """Checks that a prior denoises a known picture, and that its own pictures fill its range.

    Two tests, four network calls. (1) The picture with little and with much noise, and with as
    much weight on the noise as on the picture: a network must leave less than 0.6 of the error of
    the best pixelwise shrinkage (or, where noise of weight 1 is next to nothing, of a tenth of
    half the range), any other prior must only improve on doing nothing, with much noise. This
    refuses a wrong prediction, path or time input.
    (2) A network makes a picture from noise in three steps; if 15 % of it lies outside of the
    declared range, or all of it in the upper half or in a sliver, the range is wrong.

    Limits: the known picture is smooth, so a network of quite different data (digits, text) may be
    refused wrongly; give a picture of its own kind, or load with ``probe=False``. Test 2 looks at
    one picture, and passes a range that is twice too wide or too narrow about the right centre.

    Args:
        prior: The prior; its counter is left as it was.
        picture: A clean image in [-1, 1], (1, C, H, W), of the kind that the prior knows; by
            default ``probe_signal`` with twice its contrast.

    Raises:
        ProbeError: If a test fails. For a network, other settings are tried then, and the first
            that pass are named.
    """
    x = (2 * probe_signal(prior.image_shape)).clamp(-1, 1) if picture is None else picture
    nfe = prior.counter.nfe
    fault = _denoising_fault(prior, x) or _range_fault(prior)
    if fault and isinstance(prior, NetworkPrior):
        fault += _advice(prior, x)
    prior.counter.nfe = nfe
    if fault:
        raise ProbeError(f"the {type(prior).__name__} fails its probe: {fault}")


def _denoising_fault(prior: Prior, x: Tensor) -> str | None:
    h, x_t, t = _noisy(prior, x)
    left = _noise_left(prior, prior(x_t, t), h, t)
    for share, limit in zip(left, _limits(prior, h, t), strict=True):
        if not share < limit:  # NaN is a fault, too
            return (
                f"it leaves {share:.0%} of the noise in a known picture, where less than "
                f"{limit:.0%} is expected"
            )
    return None


def _noisy(prior: Prior, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the picture's clean state, its states with noise, and their times, (L, ...) each."""
    h = prior.encode(x.to(_like(prior))).expand(len(LEVELS) + 1, *prior.shape)
    even = prior.path.time_of(torch.tensor([EVEN], dtype=torch.float64))
    t = torch.cat([_times(prior, LEVELS, _half_width(prior)), even]).to(h.device)
    alpha, sigma = prior.path.coefficients(t, h)
    return h, alpha * h + sigma * _noise(h), t


def _like(prior: Prior) -> Tensor:
    """Returns a tensor on the prior's device and of its type."""
    return next(iter([*prior.parameters(), *prior.buffers()]), torch.zeros(()))


def _half_width(prior: Prior) -> float:
    bounds = prior.value_range
    return (bounds.high - bounds.low) / 2 if bounds else 1.0


def _times(prior: Prior, levels: tuple[float, ...], width: float) -> Tensor:
    level = torch.tensor(levels, dtype=torch.float64)
    return prior.path.time_of(level * width / (level * width + 1 - level))


def _noise(like: Tensor) -> Tensor:
    # The same numbers for each level.
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1, *like.shape[1:]), generator=generator).to(like).expand_as(like)


def _noise_left(prior: Prior, x0: Tensor, h: Tensor, t: Tensor) -> list[float]:
    """Returns, for each level, the error of x0 as a share of the noise sigma / alpha."""
    error = norm(x0 - h) / h[0].numel() ** 0.5
    return (error * prior.path.alpha(t) / prior.path.sigma(t)).tolist()


def _limits(prior: Prior, h: Tensor, t: Tensor) -> list[float]:
    """Returns, for each level, the share of the noise that may be left."""
    if not isinstance(prior, NetworkPrior):
        return [float("inf"), 1.0, float("inf")]
    power, ratio = h[0].var(), prior.path.sigma(t) / prior.path.alpha(t)
    limits = NETWORK_LIMIT * (power / (power + ratio**2)).sqrt()
    return torch.maximum(limits, CLEAN_LIMIT * _half_width(prior) / ratio).tolist()


def _range_fault(prior: Prior) -> str | None:
    if prior.value_range is None or not isinstance(prior, NetworkPrior):
        return None
    return range_misfit(_make_picture(prior), prior.value_range)


def range_misfit(x: Tensor, bounds: ValueRange) -> str | None:
    """Says how images that a prior made contradict its declared range, or None.

    Args:
        x: Images, (B, C, H, W), mapped from that range onto [-1, 1].
        bounds: The range.
    """
    low, high = torch.quantile(x.flatten()[:100_000], x.new_tensor([0.01, 0.99])).tolist()
    one_sided = low > LOWEST and high < OUTSIDE
    outside = float((x.abs() > OUTSIDE).float().mean()) > SHARE
    if not (one_sided or outside or high - low < NARROWEST):
        return None
    ends = bounds.from_signed(x.new_tensor([low, high])).tolist()
    return (
        f"a picture that it makes has values from {ends[0]:.2g} to {ends[1]:.2g}, which does not "
        f"fit the declared range [{bounds.low:g}, {bounds.high:g}]"
    )


def _make_picture(prior: Prior) -> Tensor:
    """Returns a picture made in three steps from noise around mid-grey, (1, C, H, W)."""
    grey = prior.encode(_like(prior).new_zeros(1, *prior.image_shape))
    times = _times(prior, STEPS, max(1.0, _half_width(prior)))
    alpha, sigma = prior.path.coefficients(times[0], grey)
    return prior.decode(reverse(prior, alpha * grey + sigma * _noise(grey), times))


def _advice(prior: NetworkPrior, x: Tensor) -> str:
    """Looks for settings that pass, with one network call for each reading of the input."""
    for text, other in [("", prior), *prior.variants()]:
        for kind in _denoising_predictions(other, x):
            if not _range_fault(other.predicting(kind)):
                kind_text = "" if kind is prior.prediction else f"prediction={kind}"
                return f"; it passes with {', '.join(filter(None, (kind_text, text)))}"
    return (
        "; no other prediction, path or range that was tried passes either, so these are not the "
        "weights of a trained denoiser, or its data look quite different (then probe=False)"
    )


def _denoising_predictions(prior: NetworkPrior, x: Tensor) -> Iterator[Prediction]:
    h, x_t, t = _noisy(prior, x)
    output = prior.output(x_t, t)
    for kind in sorted(prior.readings, key=lambda kind: kind is not prior.prediction):
        left = _noise_left(prior, prior.read(kind, output, x_t, t), h, t)
        if all(a < b for a, b in zip(left, _limits(prior, h, t), strict=True)):
            yield kind
