"""The one reader of pictures and arrays from files, for images, measurements, masks, kernels."""

from plugip.image_io.arrays import read_array
from plugip.image_io.colour import to_srgb
from plugip.image_io.listing import (
    SUFFIXES,
    Listing,
    is_picture,
    left_out,
    list_pictures,
    printable,
)
from plugip.image_io.reading import (
    centred,
    open_picture,
    read_numbers,
    read_picture,
    read_samples,
)
from plugip.image_io.samples import Array, ImageError, Samples

__all__ = [
    "SUFFIXES",
    "Array",
    "ImageError",
    "Listing",
    "Samples",
    "centred",
    "is_picture",
    "left_out",
    "list_pictures",
    "open_picture",
    "printable",
    "read_array",
    "read_numbers",
    "read_picture",
    "read_samples",
    "to_srgb",
]
