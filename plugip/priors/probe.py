"""The load-time probe: does a prior denoise under its declared settings, and on what range?"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from plugip.data import load_image
from plugip.linalg import norm, wide
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
# A picture of three steps whose values reach less far, or farther, is looked at more closely.
FULL, BEYOND = 1.2, 1.2
# Then pictures of eight steps must span half of the range and stay near it. faces64: from -0.8 to
# 0.7 as declared; on twice the range they span 0.35 of it, on [-1, 0] they reach 1.8.
FINE_STEPS = (0.98, 0.9, 0.8, 0.68, 0.55, 0.42, 0.28, 0.14, 0.0)
FINE_PICTURES, HALF, FAR = 2, 0.5, 1.3
# A rival reading that leaves less than this share of what the declared one leaves is right.
# faces64 with twice its time scale: 0.55; a rival of a right reading leaves more, not less.
CLEARLY = 0.75
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

    def rivals(self) -> Iterator[tuple[str, NetworkPrior]]:
        """Yields readings so near to the declared one that its answers still denoise a little."""
        return iter(())

    @abstractmethod
    def predicting(self, prediction: Prediction) -> NetworkPrior:
        """Returns the same network with its output read in another way."""


def probe_as_asked(prior: Prior, asked: bool | str) -> None:
    """Probes a prior as a loader's ``probe`` says.

    Args:
        prior: The prior.
        asked: Whether to; or a picture's file, of the kind that the prior knows. It is resized to
            the prior's images.

    Raises:
        ImageError: If the file is no picture.
        ProbeError: If the prior fails.
    """
    if isinstance(asked, str):
        probe(prior, _read_picture(asked, prior.image_shape))
    elif asked:
        probe(prior)


def _read_picture(file: str, shape: tuple[int, ...]) -> Tensor:
    x = load_image(file, channels=shape[0])[None]
    if x.shape[2:] == shape[1:]:
        return x
    resized = interpolate(x, shape[1:], mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(-1, 1)


@torch.no_grad()
def probe(prior: Prior, picture: Tensor | None = None) -> None:
    """Checks that a prior denoises a known picture, and that its own pictures fill its range.

    Three tests, four network calls and three for each rival. (1) The picture with little and with
    much noise, and with as much weight on the noise as on the picture: a network must leave less
    than 0.6 of the error of the best pixelwise shrinkage (or, where noise of weight 1 is next to
    nothing, of a tenth of half the range), any other prior must only improve on doing nothing,
    with much noise. A network that fails on the built-in picture, which is smooth, may know data
    of another kind (digits, text): it passes with a picture that it makes itself, in eight steps.
    This refuses a wrong prediction, path or time input.
    (2) No rival, such as the same network with half or twice its time, may leave much less.
    (3) A network makes a picture from noise in three steps; if 15 % of it lies outside of the
    declared range, or all of it in the upper half or in a sliver, the range is wrong. Where it
    spans little or overshoots, two pictures of eight steps must span half of the range, and stay
    within 1.3 of it: a range that is twice too wide, or shifted by half, fails there.

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
    fault = _denoising_fault(prior, x)
    if fault and picture is None and isinstance(prior, NetworkPrior):
        own = _make_pictures(prior, FINE_STEPS, 1)
        fault = fault if _denoising_fault(prior, own) else None
    fault = fault or _range_fault(prior)
    if fault and isinstance(prior, NetworkPrior):
        fault += _advice(prior, x)
    elif isinstance(prior, NetworkPrior):
        fault = _rival_fault(prior, x)
    prior.counter.nfe = nfe
    if fault:
        raise ProbeError(f"the {type(prior).__name__} fails its probe: {fault}")


def _rival_fault(prior: NetworkPrior, x: Tensor) -> str | None:
    best = CLEARLY * _worst(prior, x)
    for text, rival in prior.rivals():
        if _worst(rival, x) < best:
            return (
                f"{text} denoises a known picture much better than the declared setting; take it"
            )
    return None


def _worst(prior: Prior, x: Tensor) -> float:
    """Returns the largest share of its limit that a prior leaves, over the levels."""
    h, x_t, t = _noisy(prior, x)
    left = _noise_left(prior, prior(x_t, t), h, t)
    shares = [a / b for a, b in zip(left, _limits(prior, h, t), strict=True)]
    return max(shares) if all(map(math.isfinite, shares)) else math.inf


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
    t = torch.cat([_times(prior, LEVELS, _half_width(prior)), even]).to(h.device, wide(h))
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
    x = _make_pictures(prior, STEPS, 1)
    low, high = _reach(x)
    if (misfit := range_misfit(x, prior.value_range)) or not bool(x.isfinite().all()):
        return misfit
    full = high - low >= FULL and -BEYOND <= low and high <= BEYOND
    if full or not _reaches_noise(prior):
        return None
    low, high = _reach(_make_pictures(prior, FINE_STEPS, FINE_PICTURES))
    if high - low >= 2 * HALF and -FAR <= low and high <= FAR:
        return None
    return _reaches(low, high, prior.value_range)


def _reaches_noise(prior: Prior) -> bool:
    """Tells whether the path ends in noise that hides a picture of the declared range."""
    alpha, sigma = prior.path.coefficients(torch.ones((), dtype=torch.float64), torch.zeros(()))
    return bool(sigma >= 9 * _half_width(prior) * alpha)


def _reach(x: Tensor) -> tuple[float, float]:
    """Returns the values below and above which only a hundredth of the pixels lies."""
    values = x.flatten()[:100_000].float()
    low, high = torch.quantile(values, values.new_tensor([0.01, 0.99])).tolist()
    return low, high


def range_misfit(x: Tensor, bounds: ValueRange) -> str | None:
    """Says how images that a prior made contradict its declared range, or None.

    Args:
        x: Images, (B, C, H, W), mapped from that range onto [-1, 1].
        bounds: The range.
    """
    low, high = _reach(x)
    one_sided = low > LOWEST and high < OUTSIDE
    outside = float((x.abs() > OUTSIDE).float().mean()) > SHARE
    if not (one_sided or outside or high - low < NARROWEST):
        return None
    return _reaches(low, high, bounds)


def _reaches(low: float, high: float, bounds: ValueRange) -> str:
    ends = bounds.from_signed(torch.tensor([low, high])).tolist()
    return (
        f"a picture that it makes has values from {ends[0]:.2g} to {ends[1]:.2g}, which does not "
        f"fit the declared range [{bounds.low:g}, {bounds.high:g}]"
    )


def _make_pictures(prior: Prior, steps: tuple[float, ...], count: int) -> Tensor:
    """Returns pictures made from noise around mid-grey, (count, C, H, W)."""
    grey = prior.encode(_like(prior).new_zeros(1, *prior.image_shape))
    times = _times(prior, steps, max(1.0, _half_width(prior)))
    alpha, sigma = prior.path.coefficients(times[0], grey)
    # Not the noise that the picture is then tested with.
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn((count, *grey.shape[1:]), generator=generator).to(grey)
    return prior.decode(reverse(prior, alpha * grey + sigma * noise, times))


def _advice(prior: NetworkPrior, x: Tensor) -> str:
    """Looks for settings that pass, with one network call for each reading of the input."""
    for text, other in [("", prior), *prior.variants()]:
        for kind in _denoising_predictions(other, x):
            if not _range_fault(other.predicting(kind)):
                kind_text = "" if kind is prior.prediction else f"prediction={kind}"
                return f"; it passes with {', '.join(filter(None, (kind_text, text)))}"
    return (
        "; no other prediction, path or range that was tried passes either, so these are not the "
        "weights of a trained denoiser, or its data look quite different (then give a picture of "
        "their kind, probe=FILE, or load it unchecked, probe=false)"
    )


def _denoising_predictions(prior: NetworkPrior, x: Tensor) -> Iterator[Prediction]:
    h, x_t, t = _noisy(prior, x)
    output = prior.output(x_t, t)
    for kind in sorted(prior.readings, key=lambda kind: kind is not prior.prediction):
        left = _noise_left(prior, prior.read(kind, output, x_t, t), h, t)
        if all(a < b for a, b in zip(left, _limits(prior, h, t), strict=True)):
            yield kind
