"""The prior that ships inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugip.priors.diffusers_unet import DiffusersUNet
    from plugip.priors.runtime import Runtime

FACES64 = Path(__file__).resolve().parents[1] / "assets" / "faces64"


def faces64(probe: bool | str = True, runtime: Runtime | None = None) -> DiffusersUNet:
    """Loads the embedded prior of 64 x 64 faces, 3.8 million parameters, a flow model.

    A demonstration prior; ``plugip/assets/faces64/README.md`` says what it was trained on, under
    which licence, and what it is not for.

    Args:
        probe: Whether to check that it denoises, 0.5 seconds; or your picture's file.
        runtime: How the network is run; as it is by default.

    Returns:
        The prior, in float32 on the CPU; states (12, 32, 32), images (3, 64, 64) in [-1, 1].
    """
    from plugip.priors.diffusers_unet import DiffusersUNet

    return DiffusersUNet.from_pretrained(str(FACES64), probe=probe, runtime=runtime)
