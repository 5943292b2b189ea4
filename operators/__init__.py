"""Forward operators: what is measured of an image, y = A(x), in one file per family."""

from plugip.operators.blur import GaussianBlur
from plugip.operators.camera_blur import CameraResponseBlur
from plugip.operators.denoise import Denoise
from plugip.operators.downsample import BicubicDownsample
from plugip.operators.inpaint import Inpaint
from plugip.operators.masks import BoxMask, FileMask, MaskSampler, RandomMask, legacy_dps_mask
from plugip.operators.phase import FourierMagnitude, align

__all__ = [
    "BicubicDownsample",
    "BoxMask",
    "CameraResponseBlur",
    "Denoise",
    "FileMask",
    "FourierMagnitude",
    "GaussianBlur",
    "Inpaint",
    "MaskSampler",
    "RandomMask",
    "align",
    "legacy_dps_mask",
]
