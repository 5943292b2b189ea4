"""BKSE: blur as a network learnt it from real videos, the nonlinear deblurring task of DPS."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from plugip.operator import Operator, Shape
from plugip.operators._options import require_positive
from plugip.operators.bkse_network import BKSENetwork, KernelExtractor
from plugip.rng import open_stream, stream_key

if TYPE_CHECKING:
    from plugip.rng import Rng

FILE = "GOPRO_wVAE.pth"
UPSTREAM = "https://github.com/VinAIResearch/blur-kernel-space-exploring"
FOLDER = "PLUGIP_WEIGHTS"  # environment variable: a folder in which weights are looked for
GRID = 128  # one latent pixel for so many image pixels


class MissingWeightsError(FileNotFoundError):
    """Says which weights are missing, where they were looked for, and what works without them."""


@dataclass(frozen=True)
class LatentSampler:
    """Draws the latent of a neural blur, scale * n with standard normal n, one for each image.

    Args:
        scale: 1.2 in DPS, DMPlug, FMPlug and DAPS.

    Raises:
        ValueError: If the scale is not positive.
    """

    scale: float = 1.2

    def __post_init__(self) -> None:
        require_positive(self.scale, "scale")

    def draw(self, rng: Rng, x_shape: Shape, channels: int = 512) -> Tensor:
        """Draws latents (B, channels, H / 128, W / 128) for images of shape (B, C, H, W)."""
        return self.scale * rng.normal((channels, x_shape[-2] // GRID, x_shape[-1] // GRID))


def legacy_daps_latent(state: np.random.RandomState) -> Tensor:
    """Draws the latent of the DAPS code at 256 pixels from a NumPy state, (1, 512, 2, 2).

    ``legacy_daps_latent(np.random.RandomState(0))`` is the published one.
    """
    return torch.from_numpy(state.standard_normal((1, 512, 2, 2)) * 1.2).float()


class BKSE(Operator):
    r"""Blurs images with a network that was trained on real motion blur: nonlinear deblurring.

    .. math:: y = 2\, B((x + 1) / 2, z) - 1, \text{ clamped to } [-1, 1]

    x and y are (B, 3, H, W), H and W multiples of 128; z chooses the blur. The network is frozen;
    gradients reach x, but not where y is clamped. Weights are 461 MB, of which 95 MB are kept; at
    256 pixels a forward takes seconds on a CPU. ``CameraResponseBlur`` needs no weights.

    Args:
        weights: The published file, ``GOPRO_wVAE.pth``: a path, or a name in the folder that the
            environment variable PLUGIP_WEIGHTS names; or a network with its weights.
        latent: z, (1|B, 512, H / 128, W / 128); or a sampler: then call ``realise`` first. DPS
            draws a new one at each call, DMPlug and FMPlug one per run; here it is one per image.
        expect_sha256: Refuse a file with another SHA-256.
        clamp: Whether y is clamped to [-1, 1], as published. Its gradient is 0 outside.

    Raises:
        MissingWeightsError: If there is no such file. Random weights are never used.
        ValueError: If the file is another one than expected, or holds other tensors; when called,
            if size, channels or latent do not fit.
        RuntimeError: When used before ``realise``.

    Source: Tran et al. 2021; used as a task by Chung et al. 2023 (DPS).
    """

    per_image = ("latent",)
    latent: Tensor

    def __init__(
        self,
        weights: str | Path | BKSENetwork,
        latent: Tensor | LatentSampler,
        expect_sha256: str | None = None,
        clamp: bool = True,
    ) -> None:
        super().__init__()
        given = isinstance(weights, BKSENetwork)
        network = weights if given else load_network(weights, expect_sha256)
        self.network = network.requires_grad_(False).eval()
        self.sampler = latent if isinstance(latent, LatentSampler) else None
        self.clamp, self.untrained_weights = clamp, False
        empty = torch.empty(0, network.latent, 0, 0)
        self.register_buffer("latent", empty if isinstance(latent, LatentSampler) else latent)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        latent: Tensor | LatentSampler,
        expect_sha256: str | None = None,
        clamp: bool = True,
    ) -> BKSE:
        """Loads the published weights, strictly; arguments as in the class."""
        return cls(path, latent, expect_sha256, clamp)

    @classmethod
    def untrained(
        cls,
        rng_seed: int,
        latent: Tensor | LatentSampler | None = None,
        network: BKSENetwork | None = None,
        clamp: bool = True,
    ) -> BKSE:
        """Builds the operator with random weights: for tests only, its blur means nothing.

        Args:
            rng_seed: The integer of reproducibility of the weights.
            latent: As in the class; None: drawn.
            network: A network, such as a narrow one, whose weights are overwritten; None: full.
            clamp: As in the class.
        """
        network = _fill(BKSENetwork() if network is None else network, rng_seed)
        made = cls(network, LatentSampler() if latent is None else latent, clamp=clamp)
        made.untrained_weights = True
        return made

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        z = self._fixed().to(x).expand(x.shape[0], -1, -1, -1)
        y = 2 * self.network((x + 1) / 2, z) - 1
        return y.clamp(-1, 1) if self.clamp else y

    def check_domain(self, x_shape: Shape) -> None:
        channels, h, w = x_shape[1:]
        if channels != 3 or h % GRID or w % GRID or not h * w:
            raise ValueError(
                f"BKSE takes RGB images whose sides are multiples of {GRID} pixels, got "
                f"{channels} channels of {h} x {w}; crop or resize, or use CameraResponseBlur"
            )
        wanted = (self.network.latent, h // GRID, w // GRID)
        fits = tuple(self.latent.shape[1:]) == wanted and self.latent.shape[0] in (1, x_shape[0])
        if self.sampler is None and not fits:
            raise ValueError(
                f"images of shape {tuple(x_shape)} need a latent of shape (1 or {x_shape[0]}, "
                f"{', '.join(str(n) for n in wanted)}), got {tuple(self.latent.shape)}"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return tuple(x_shape)

    def realise(self, rng: Rng, x_shape: Shape) -> BKSE:
        if self.sampler is None:
            return self
        self.check_domain(x_shape)
        latent = self.sampler.draw(rng.child("latent"), x_shape, self.network.latent)
        made = BKSE(self.network, latent.to(self.latent), clamp=self.clamp)
        made.untrained_weights = self.untrained_weights
        return made

    def _fixed(self) -> Tensor:
        if self.sampler is not None:
            raise RuntimeError(
                f"BKSE has no latent yet, it draws one per image from {self.sampler}; call "
                "operator = operator.realise(rng, x.shape) first"
            )
        return self.latent

    def extra_repr(self) -> str:
        source = (
            f"latent={tuple(self.latent.shape)}" if self.sampler is None else str(self.sampler)
        )
        return f"{source}, clamp={self.clamp}, untrained={self.untrained_weights}"


def load_network(path: str | Path, expect_sha256: str | None = None) -> BKSENetwork:
    """Reads the published weights: every tensor must be there, with its shape, and no other.

    Args:
        path: As ``weights`` in ``BKSE``.
        expect_sha256: Refuse a file with another SHA-256.

    Raises:
        MissingWeightsError: If there is no such file.
        ValueError: If it is another file, or holds other tensors.
    """
    file = _find(Path(path))
    if expect_sha256 is not None:
        _require_hash(file, expect_sha256)
    tensors = _read(file)
    network, extractor = _empty()
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    prefixed = {f"kernel_extractor.{name}": t for name, t in extractor.state_dict().items()}
    _require_tensors(file, tensors, wanted | {n: tuple(t.shape) for n, t in prefixed.items()})
    network.load_state_dict({name: tensors[name].float() for name in wanted}, assign=True)
    return network


def _empty() -> tuple[BKSENetwork, KernelExtractor]:
    with torch.device("meta"):
        return BKSENetwork(), KernelExtractor()


def _find(path: Path) -> Path:
    places = [path.expanduser()]
    if FOLDER in os.environ and not path.is_absolute():
        places.append(Path(os.environ[FOLDER]).expanduser() / path)
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(str(place.absolute()) for place in places)
    raise MissingWeightsError(
        f"the weights of BKSE are not at {looked}; get {FILE} from {UPSTREAM} and give its path "
        f"as operator.weights, or name its folder in the environment variable {FOLDER}; "
        "operator=camera_response_blur is a nonlinear blur that needs no weights"
    )


def _require_hash(file: Path, expected: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected.lower():
        raise ValueError(
            f"{file} has SHA-256 {found}, expected {expected}; it is another or a damaged file"
        )


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        # torch's own text advises to unpickle anyway, which would run the file's code.
        code = isinstance(error, pickle.UnpicklingError)
        reason = "it holds code or Python objects, or is damaged" if code else _first_line(error)
        raise ValueError(f"{file} is no file of plain weights: {reason}") from error
    if isinstance(loaded, Mapping) and set(loaded) == {"state_dict"}:
        loaded = loaded["state_dict"]
    named = isinstance(loaded, Mapping) and all(isinstance(t, Tensor) for t in loaded.values())
    if not named:
        raise ValueError(f"{file} holds no tensors by name; {FILE} of {UPSTREAM} does")
    wrapped = all(str(name).startswith("module.") for name in loaded)
    return {str(n).removeprefix("module.") if wrapped else str(n): t for n, t in loaded.items()}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _require_tensors(file: Path, have: Mapping[str, Tensor], want: dict[str, Shape]) -> None:
    faults = {
        "missing": [name for name in want if name not in have],
        "unexpected": [name for name in have if name not in want],
        "of another shape": [n for n in want if n in have and tuple(have[n].shape) != want[n]],
    }
    told = [
        f"{len(names)} {what} ({', '.join(names[:5])})" for what, names in faults.items() if names
    ]
    if told:
        raise ValueError(
            f"{file} does not hold the {len(want)} tensors of BKSE: {'; '.join(told)}; take "
            f"{FILE} of {UPSTREAM}"
        )


def _fill(network: BKSENetwork, rng_seed: int) -> BKSENetwork:
    """Overwrites the weights by scaled normal numbers, that keep the size of activations."""
    stream = open_stream(stream_key(rng_seed, "weights", ""))
    with torch.no_grad():
        for weight in network.parameters():
            fan_in = max(1, weight[0].numel())
            weight.copy_(torch.randn(weight.shape, generator=stream) / fan_in**0.5 / 2)
    return network
