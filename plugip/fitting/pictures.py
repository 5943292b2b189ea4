"""The images of a fit, read in batches as often as it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from plugip.training.decode import decode
from plugip.training.sources import open_source

KEEP = 2 << 30  # bytes of pixels that are kept between passes
BATCH_VALUES = 1 << 25  # pixel values in one batch, 128 MB in float32


class FitError(ValueError):
    """Says in one sentence why a prior cannot be fitted, and what to do."""


class Pictures:
    """Reads the images of a folder or zip file, squared and resized, several times over.

    Small sets stay in memory as 8-bit pixels; larger ones are decoded at each pass. To be used in
    a ``with`` statement, which ends the decoding threads.

    Args:
        path: Folder (searched recursively, hidden names skipped) or zip file.
        size: Side of the square in pixels.
        channels: 3, or 1 for grey.
        limit: Images to use, counted in sorted order; None for all.

    Attributes:
        left_out: Why an entry of the folder is no image, by name.
        skipped: Why an image is not used, by name; known after the first pass.

    Raises:
        FitError: If size or limit is out of range.
        ValueError: If there is no image at that path.
    """

    def __init__(self, path: str, size: int, channels: int = 3, limit: int | None = None) -> None:
        for name, value in (("size", size), ("limit", limit)):
            if value is not None and value < 1:
                raise FitError(f"--{name} must be a whole number of at least 1, got {value}")
        self._source = open_source(path)
        self.name = Path(path).name
        self.left_out = self._source.skipped
        self.names = self._source.names()[:limit]
        self.shape = (channels, size, size)
        self.skipped: dict[str, str] = {}
        self._batch = max(1, min(512, BATCH_VALUES // (channels * size**2)))
        self._kept: dict[int, Any] = {}
        self._again = False
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._source.close()

    def batches(self, heading: str) -> Iterator[Tensor]:
        """Yields all readable images, (B, d) in [-1, 1], float32, with a progress bar.

        Raises:
            FitError: If an image that was readable before is not any more.
        """
        bar = tqdm(total=len(self.names), desc=heading, leave=False, disable=None)
        with bar:
            for start in range(0, len(self.names), self._batch):
                pixels = self._pixels(start)
                if len(pixels):
                    yield torch.from_numpy(pixels).flatten(1).float() / 127.5 - 1
                bar.update(min(self._batch, len(self.names) - start))
        self._again = True

    def _pixels(self, start: int) -> Any:
        """Returns the readable ones of a batch, (B, C, S, S), uint8."""
        if start in self._kept:
            return self._kept[start]
        names = self.names[start : start + self._batch]
        wanted = [name for name in names if name not in self.skipped]
        read = [image for image in self._pool.map(self._decode, wanted) if image is not None]
        self.skipped = dict(sorted(self.skipped.items()))  # threads found them in any order
        pixels = np.stack(read) if read else np.empty((0, *self.shape), np.uint8)
        if sum(part.nbytes for part in self._kept.values()) + pixels.nbytes <= KEEP:
            self._kept[start] = pixels
        return pixels

    def _decode(self, name: str) -> Any:
        try:
            return decode(self._source.read(name), self.shape[1], self.shape[0])[0]
        except (OSError, ValueError) as error:
            if self._again:
                raise FitError(
                    f"{name} was read once and cannot be read again: {error}"
                ) from error
            self.skipped[name] = str(error)
            return None
