"""The one reader of pictures and arrays from files, for images, measurements, masks, kernels."""

from plugip.pictures.arrays import read_array
from plugip.pictures.reading import (
    centred,
    open_picture,
    read_numbers,
    read_picture,
    read_samples,
)
from plugip.pictures.samples import Array, ImageError, Samples

__all__ = [
    "Array",
    "ImageError",
    "Samples",
    "centred",
    "open_picture",
    "read_array",
    "read_numbers",
    "read_picture",
    "read_samples",
]
