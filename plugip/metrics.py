"""Per-image scores of an estimate against the truth: PSNR, SSIM and LPIPS on [0, 1].

Every metric maps (x_hat, x), each (B, C, H, W), to one number per image, (B,), so that a score
never depends on the batch. An image whose estimate holds NaN scores NaN; its neighbours do not.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from plugip.refusals import require_tensor

if TYPE_CHECKING:
    import lpips

Metric = Callable[[Tensor, Tensor], Tensor]

_TOLERANCE = 1e-6
_UNIFORM, _GAUSSIAN = 7, 11
_SSIM_NAMES = {"gaussian": ("ssim", _GAUSSIAN), "uniform": ("ssim_uniform", _UNIFORM)}
# torchvision's files, whose names end in the first 8 hex digits of their sha256, and the
# smallest image side that the network takes.
_BACKBONES = {
    "alex": ("alexnet-owt-7be5be79.pth", 31),
    "vgg": ("vgg16-397923af.pth", 16),
    "squeeze": ("squeezenet1_1-b8a52dc0.pth", 17),
}
_URL = "https://download.pytorch.org/models/"


class MetricUnavailableError(RuntimeError):
    """Says why a metric cannot be computed on this machine, and how to get it."""


@runtime_checkable
class NamedMetric(Protocol):
    """A metric that knows its column, its definition and whether it can run here."""

    @property
    def name(self) -> str:
        """The column in a table, for example "psnr"."""
        ...

    @property
    def convention(self) -> str:
        """One sentence that says which definition the numbers follow."""
        ...

    def unavailable(self) -> str | None:
        """Returns why the metric cannot run here, in one sentence, or None if it can."""
        ...

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Scores images in [0, 1], (B, C, H, W) twice -> (B,)."""
        ...


def to_unit(x: Tensor) -> Tensor:
    """Maps images from [-1, 1] to [0, 1] and clamps what lies outside.

    Args:
        x: Images, any shape, nominally in [-1, 1].

    Returns:
        Images in [0, 1], same shape; NaN stays NaN.
    """
    require_tensor(x, "to_unit takes")
    return ((x + 1) / 2).clamp(0, 1)


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of each image in dB; identical images give inf.

    Args:
        x_hat: Estimates, (B, C, H, W), in [0, 1].
        x: True images, (B, C, H, W), in [0, 1].

    Returns:
        10 log10(1 / MSE), (B,), the MSE over all pixels and channels of one image.

    Raises:
        ValueError: If shapes differ or values lie outside [0, 1].
    """
    return _per_image(_psnr, *_checked(x_hat, x))


@dataclass(frozen=True)
class PSNR:
    """Peak signal-to-noise ratio of each image in dB; see `psnr`."""

    @property
    def name(self) -> str:
        """The column in a table."""
        return "psnr"

    @property
    def convention(self) -> str:
        """One sentence that says which definition the numbers follow."""
        return "PSNR: 10 log10(1 / MSE) dB on [0, 1], MSE over all pixels and channels per image."

    def unavailable(self) -> str | None:
        """Returns None: PSNR needs nothing."""
        return None

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Scores images in [0, 1], (B, C, H, W) twice -> (B,); see `psnr`."""
        return psnr(x_hat, x)


@dataclass(frozen=True)
class SSIM:
    """Structural similarity of each image, 1 for identical images.

    Args:
        window: "gaussian" (11 taps, std 1.5, the definition of Wang et al.) or "uniform"
            (7 x 7 box with sample covariance, the default of scikit-image; DMPlug prints it).

    Raises:
        ValueError: If the window is unknown; on a call, if an image is smaller than the window.

    Source: Wang et al. 2004, eq. 13; agrees with skimage.metrics.structural_similarity.
    """

    window: str = "gaussian"

    def __post_init__(self) -> None:
        _known("window", self.window, _SSIM_NAMES)

    @property
    def name(self) -> str:
        """The column in a table: "ssim" or "ssim_uniform"."""
        return _SSIM_NAMES[self.window][0]

    @property
    def convention(self) -> str:
        """One sentence that says which definition the numbers follow."""
        kind = {
            "gaussian": "11x11 Gaussian window of std 1.5, population covariance",
            "uniform": "7x7 uniform window, sample covariance (skimage's default)",
        }[self.window]
        return f"SSIM on [0, 1]: {kind}, no padding, no downsampling, mean over channels."

    def unavailable(self) -> str | None:
        """Returns None: SSIM needs no weights."""
        return None

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Scores images in [0, 1], (B, C, H, W) twice -> (B,)."""
        x_hat, x = _checked(x_hat, x)
        _check_size(x, _SSIM_NAMES[self.window][1], self.name)
        return _per_image(_ssim_gaussian if self.window == "gaussian" else _ssim_uniform, x_hat, x)


@dataclass(frozen=True)
class LPIPS:
    """Learned perceptual distance of each image, 0 for identical images; lower is better.

    The calibrated heads come with the `lpips` package. The backbone is one of torchvision's
    ImageNet files; it is never downloaded here and never random: without the right file the
    metric is unavailable and says why.

    Args:
        net: "alex" (the package's default), "vgg" or "squeeze". Name it beside every number.
        weights: Path of the backbone file. None looks in torch hub's checkpoint folder.

    Raises:
        ValueError: If the net is unknown.

    Source: Zhang et al. 2018, version 0.1.
    """

    net: str = "alex"
    weights: str | None = None

    def __post_init__(self) -> None:
        _known("net", self.net, _BACKBONES)

    @property
    def name(self) -> str:
        """The column in a table, for example "lpips_alex"."""
        return f"lpips_{self.net}"

    @property
    def convention(self) -> str:
        """One sentence that says which definition the numbers follow."""
        return f"LPIPS 0.1 ({self.net}, {_BACKBONES[self.net][0]}) per image; lower is better."

    def unavailable(self) -> str | None:
        """Returns why the metric cannot run here, in one sentence, or None if it can."""
        file, path = _BACKBONES[self.net][0], self._path()
        if importlib.util.find_spec("lpips") is None:
            return f"{self.name} is not available: the lpips package is missing; pip install lpips"
        if not path.is_file():
            return (
                f"{self.name} is not available: its backbone {file} is not at {path}; download "
                f"{_URL}{file} to that place, or give its path as `weights`"
            )
        prefix = file.rpartition("-")[2].removesuffix(".pth")
        if not _sha256(path, path.stat().st_mtime_ns).startswith(prefix):
            return (
                f"{self.name} is not available: {path} is not torchvision's {file} (its sha256 "
                f"does not begin with {prefix}); replace it by {_URL}{file}"
            )
        return None

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Scores images in [0, 1], (B, 1 or 3, H, W) twice -> (B,).

        Raises:
            MetricUnavailableError: With the sentence of `unavailable`.
            ValueError: As for the other metrics, or if there are not 1 or 3 channels.
        """
        x_hat, x = _checked(x_hat, x)
        _check_size(x, _BACKBONES[self.net][1], self.name)
        if x.shape[1] not in (1, 3):
            raise ValueError(f"{self.name} takes 1 or 3 channels, got {x.shape[1]}")
        if reason := self.unavailable():
            raise MetricUnavailableError(reason)
        path = self._path()
        distance = _lpips(self.net, path, path.stat().st_mtime_ns, x.device)
        rgb = [image.float().expand(-1, 3, -1, -1) for image in (x_hat, x)]
        # lpips itself works on [-1, 1]; without normalize=True it would take [0, 1] silently.
        return _per_image(lambda a, b: distance(a, b, normalize=True).flatten(), *rgb)

    def _path(self) -> Path:
        if self.weights is not None:
            return Path(self.weights).expanduser()
        return Path(torch.hub.get_dir()) / "checkpoints" / _BACKBONES[self.net][0]


def _psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    return -10 * (x_hat - x).square().flatten(1).mean(1).log10()


def _ssim_gaussian(x_hat: Tensor, x: Tensor) -> Tensor:
    import piq

    # piq's default halves images from 384 pixels on, which no other package does.
    score = piq.ssim(x_hat, x, _GAUSSIAN, 1.5, reduction="none", downsample=False)
    return cast(Tensor, score)  # its annotation says list, which only full=True gives


def _ssim_uniform(x_hat: Tensor, x: Tensor) -> Tensor:
    def mean(u: Tensor) -> Tensor:
        return F.avg_pool2d(u, _UNIFORM, stride=1)

    count = _UNIFORM**2
    sample = count / (count - 1)
    mu_a, mu_b = mean(x_hat), mean(x)
    variances = sample * (mean(x_hat.square() + x.square()) - mu_a.square() - mu_b.square())
    covariance = sample * (mean(x_hat * x) - mu_a * mu_b)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mu_a * mu_b + c1) / (mu_a.square() + mu_b.square() + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).flatten(1).mean(1)


def _per_image(score: Metric, x_hat: Tensor, x: Tensor) -> Tensor:
    """Scores all images and puts NaN where an image holds one (piq would refuse the batch)."""
    broken = (x_hat.isnan() | x.isnan()).flatten(1).any(1)
    return score(x_hat.nan_to_num(), x.nan_to_num()).masked_fill(broken, torch.nan)


def _checked(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both images in at least float32, within [0, 1], or says what is wrong."""
    require_tensor(x_hat, "x_hat must be")
    require_tensor(x, "x must be")
    if x_hat.shape != x.shape or x.ndim != 4:
        raise ValueError(
            "a metric takes two tensors of one shape (B, C, H, W), "
            f"got {tuple(x_hat.shape)} and {tuple(x.shape)}"
        )
    return _in_unit(x_hat, "x_hat"), _in_unit(x, "x")


def _in_unit(x: Tensor, name: str) -> Tensor:
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point in [0, 1], got {x.dtype}; divide by 255?")
    x = x if x.dtype == torch.float64 else x.float()
    low, high = (f(x.detach().nan_to_num(0.5)).item() for f in (torch.min, torch.max))
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {low:.6g} to {high:.6g}; "
            "images in [-1, 1] go through to_unit first"
        )
    return x.clamp(0, 1)


def _check_size(x: Tensor, smallest: int, name: str) -> None:
    if min(x.shape[-2:]) < smallest:
        raise ValueError(
            f"{name} needs images of at least {smallest}x{smallest} pixels, "
            f"got {x.shape[-2]}x{x.shape[-1]}"
        )


def _known(what: str, value: str, options: dict[str, tuple[str, int]]) -> None:
    if value not in options:
        raise ValueError(f"{what} must be one of {', '.join(options)}; got {value!r}")


@lru_cache(maxsize=8)
def _sha256(path: Path, mtime_ns: int) -> str:
    """Hashes a file once per version of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4)
def _lpips(net: str, path: Path, mtime_ns: int, device: torch.device) -> lpips.LPIPS:
    """Builds the network from a verified backbone file, frozen."""
    import lpips

    # The package's own loading would go to the network, so it starts random (in a forked
    # stream: nobody else's random numbers move) and every backbone weight is then replaced.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torchvision\.models")
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    # "slice2.3.weight" of lpips is "features.3.weight" of torchvision.
    names = {name: f"features.{name.partition('.')[2]}" for name in model.net.state_dict()}
    model.net.load_state_dict({name: state[source] for name, source in names.items()})
    return model.requires_grad_(False).eval().to(device)
