"""Kernels and masks from files: what their numbers mean, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plugip.image_io import Array, Samples, read_numbers

# Channels of a grey JPEG saved in colour differ by rounding; those of a coloured plot by far more.
_ALIKE = 0.04
# ITU-R BT.601, the weights of Pillow's convert("L").
_LUMA = (0.299, 0.587, 0.114)


def kernel_values(path: Path) -> Array:
    """Returns the values of a kernel, (kh, kw), as they are stored.

    A picture's kernel is its grey; where all that is visible has one colour, it is the alpha.

    Raises:
        ValueError: If the file cannot be read, or does not say which values are the kernel.
    """
    raw = _read(path, "kernel")
    if isinstance(raw, Samples):
        return _kernel_of_picture(raw, path)
    if raw.ndim != 2:
        raise ValueError(
            f"a kernel must be a two-dimensional real array, but {path} holds {raw.dtype} of "
            f"shape {raw.shape}"
        )
    return raw


def _kernel_of_picture(picture: Samples, path: Path) -> Array:
    colours, alpha = picture.colours.astype(np.float64), picture.alpha
    if alpha is not None and alpha.min() < alpha.max():
        visible = colours[alpha[..., 0] > 0]
        if (visible == visible[0]).all():
            return alpha[..., 0].astype(np.float64)
        raise ValueError(
            f"{path} holds both colours and a varying transparency, and either could be the "
            "kernel; save it as a grey picture without transparency, or with numpy.save"
        )
    spread = np.ptp(colours, axis=2).max()
    if spread > _ALIKE * colours.max():
        raise ValueError(
            f"the colour channels of {path} differ by up to {spread:.6g} of {colours.max():.6g}, "
            "so it is no picture of one kernel; save it as grey, or with numpy.save"
        )
    return colours.mean(axis=2)


def white_pixels(path: Path) -> Array:
    """Returns which pixels of a mask are white, (H, W), bool.

    Values are taken as shares of 1, of 255 or of 65535, whichever is the least that they do not
    exceed. What is transparent counts as black beside white, and as white beside black.

    Raises:
        ValueError: If the file cannot be read, or does not say which pixels are white.
    """
    raw = _read(path, "mask")
    if isinstance(raw, Samples):
        return _white_of_picture(raw, path)
    if raw.ndim != 2:
        raise _mask_error(path, raw)
    return _shares(raw, path) > 0.5


def _white_of_picture(picture: Samples, path: Path) -> Array:
    shares = _shares(picture.colours, path)
    grey = shares[..., 0] if shares.shape[2] == 1 else shares @ _LUMA
    if picture.alpha is None:
        return grey > 0.5
    alpha = _shares(picture.alpha, path)[..., 0]
    on_black, on_white = grey * alpha > 0.5, grey * alpha + 1 - alpha > 0.5
    visible = grey[alpha > 0.5] > 0.5
    if (on_black == on_white).all() or visible.all():
        return on_black
    if not visible.any():
        return on_white
    raise ValueError(
        f"{path} holds both a picture and a varying transparency, and either could be the mask; "
        "save black and white without transparency"
    )


def _shares(values: Array, path: Path) -> Array:
    """Returns values as shares of the least usual range that holds them."""
    shares = values.astype(np.float64)
    most = shares.max(initial=0)
    whole = most <= 1 or bool((shares == np.rint(shares)).all())
    if not ((shares >= 0) & (shares <= 65535)).all() or not whole:
        raise _mask_error(path, values)
    return shares / next(full for full in (1, 255, 65535) if most <= full)


def _mask_error(path: Path, values: Array) -> ValueError:
    return ValueError(
        "a mask must be a picture or a two-dimensional array with values in [0, 1], or whole ones "
        f"in 0..255 or 0..65535, but {path} holds {values.dtype} of shape {values.shape}"
    )


def _read(path: Path, what: str) -> Array | Samples:
    try:
        return read_numbers(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read a {what} from {path}: {error}") from error
