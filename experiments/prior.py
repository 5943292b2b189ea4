"""The prior that an experiment studies."""

from __future__ import annotations

from plugip.prior import Prior
from plugip.priors import DiffusersUNet, faces64


def load_prior(folder: str | None) -> Prior:
    """Loads a diffusers folder, or the embedded prior if there is none."""
    return faces64() if folder is None else DiffusersUNet.from_pretrained(folder)
