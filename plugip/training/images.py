"""The training images: decoded once, kept as bytes, split into training and held-out ones."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from plugip.image_io import left_out
from plugip.record.files import json_bytes, read_json, try_folder, write_atomic
from plugip.rng import stream_seed
from plugip.texts import for_terminal
from plugip.training.checks import TrainingError
from plugip.training.decode import decode
from plugip.training.sections import Data
from plugip.training.sources import Source, open_source

NAMED = 20  # unreadable files that are named one by one
Say = Callable[[str], None]


@dataclass(frozen=True)
class Images:
    """Decoded images.

    Attributes:
        pixels: All of them, (N, C, S, S), uint8; rows that could not be decoded are black.
        train: Rows to train on, int64.
        held_out: Rows to measure, int64; may be empty.
        skipped: Why an image is not used, by name.
        enlarged: How many were smaller than S.
        digest: Names the images and their pixels.
    """

    pixels: Tensor
    train: Tensor
    held_out: Tensor
    skipped: dict[str, str]
    enlarged: int
    digest: str

    def __len__(self) -> int:
        return len(self.train) + len(self.held_out)


def alone() -> None:
    """Waits for nobody."""


def load_images(
    data: Data,
    rng_seed: int,
    say: Say = print,
    leads: bool = True,
    wait: Callable[[], None] = alone,
) -> Images:
    """Decodes all images of a folder or zip, or opens the cache that holds them.

    Args:
        data: Which images, and their size.
        rng_seed: With an image's name it decides whether the image is held out.
        say: Called with sentences for the log.
        leads: Whether this process fills the cache; the others wait and read it.
        wait: Waits for all processes.

    Raises:
        TrainingError: If there is no usable image, or they do not fit in memory.
    """
    with closing(open_source(data.path)) as source:
        names = source.names()[: data.limit]
        if source.skipped:
            say(f"{len(names)} images in data.path{left_out(source.skipped)}")
        shape = (len(names), data.channels, data.size, data.size)
        if data.cache is None:
            _require_memory(shape)
            pixels = np.empty(shape, np.uint8)
            facts = _fill(pixels, source, names, data)
        else:
            pixels, facts = _cached(source, names, data, shape, leads, wait)
    images = _split(pixels, names, facts, data.holdout, rng_seed)
    _report(images, data, say)
    return images


def _fill(pixels: Any, source: Source, names: Sequence[str], data: Data) -> dict[str, Any]:
    """Decodes into ``pixels``; returns checksums, faults by name and the count of small ones."""

    def one(row: int) -> tuple[int, str, bool]:
        try:
            pixels[row], small = decode(source.read(names[row]), data.size, data.channels)
            return zlib.crc32(pixels[row].tobytes()), "", small
        except (OSError, ValueError) as error:
            pixels[row] = 0
            return 0, str(error), False

    workers = data.workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(one, range(len(names)))
        results = list(tqdm(done, "images", len(names), leave=False, disable=None))
    return {
        "checksums": [checksum for checksum, _, _ in results],
        "skipped": {name: r[1] for name, r in zip(names, results, strict=True) if r[1]},
        "enlarged": sum(small for _, _, small in results),
    }


def _cached(
    source: Source,
    names: Sequence[str],
    data: Data,
    shape: tuple[int, ...],
    leads: bool,
    wait: Callable[[], None],
) -> tuple[Any, dict[str, Any]]:
    folder = Path(str(data.cache)).expanduser()
    stamps = [f"{name} {source.stamp(name)}" for name in names]
    key = hashlib.sha256("\n".join([repr(shape), *stamps]).encode()).hexdigest()[:16]
    file, marker = folder / f"{key}.npy", folder / f"{key}.json"
    opened = _opened(file, marker, shape) if leads else None
    if leads and opened is None:
        try_folder(folder)
        marker.unlink(missing_ok=True)
        pixels = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
        # Written last: a kill before leaves a file that nobody will read.
        facts = _fill(pixels, source, names, data)
        pixels.flush()
        write_atomic(marker, json_bytes(facts), durable=True)
    wait()
    opened = opened or _opened(file, marker, shape)
    if opened is None:
        raise TrainingError(f"the cache {file} changed while it was made; start again")
    return opened


def _opened(file: Path, marker: Path, shape: tuple[int, ...]) -> tuple[Any, dict[str, Any]] | None:
    """Opens a cache; None if it is not there, or not what was once written."""
    facts = read_json(marker)
    try:
        # Copy-on-write, since torch warns about memory that it may not write to.
        pixels = np.lib.format.open_memmap(file, mode="c")
    except (OSError, ValueError):
        return None
    sound = pixels.shape == shape and pixels.dtype == np.uint8 and _fits(facts, pixels)
    return (pixels, facts) if sound else None


def _fits(facts: Any, pixels: Any) -> bool:
    """Tells whether facts are those of these pixels."""
    if not isinstance(facts, dict) or not isinstance(facts.get("skipped"), dict):
        return False
    checksums = facts.get("checksums")
    if not isinstance(checksums, list) or not isinstance(facts.get("enlarged"), int):
        return False
    # 0 stands for an image that cannot be read.
    return len(checksums) == len(pixels) and all(
        checksum in (0, zlib.crc32(row.tobytes()))
        for checksum, row in zip(checksums, pixels, strict=True)
    )


def _split(
    pixels: Any, names: Sequence[str], facts: dict[str, Any], holdout: float, rng_seed: int
) -> Images:
    skipped: dict[str, str] = facts["skipped"]
    rows = [row for row, name in enumerate(names) if name not in skipped]
    if not rows:
        first = next(iter(skipped))
        raise TrainingError(
            f"none of the {len(names)} images of data.path can be read; {first}: {skipped[first]}"
        )
    # By name, so that an image stays on its side when others come or go.
    order = sorted(rows, key=lambda row: stream_seed(rng_seed, "held out", names[row]))
    count = min(round(holdout * len(rows)), len(rows) - 1)
    lines = [f"{names[row]} {facts['checksums'][row]}" for row in rows]
    return Images(
        pixels=torch.from_numpy(pixels),
        train=torch.tensor(sorted(order[count:])),
        held_out=torch.tensor(sorted(order[:count]), dtype=torch.int64),
        skipped=skipped,
        enlarged=facts["enlarged"],
        digest=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    )


def _report(images: Images, data: Data, say: Say) -> None:
    megabytes = images.pixels.numel() / 1e6
    place = f"in {data.cache}" if data.cache else "in memory"
    say(
        f"{len(images.train)} images to train on, {len(images.held_out)} held out; "
        f"{megabytes:.0f} MB of pixels {place}"
    )
    if images.enlarged:
        say(f"{images.enlarged} images are smaller than {data.size} pixels and were enlarged")
    for name, reason in sorted(images.skipped.items())[:NAMED]:
        say(for_terminal(f"skipped {name}: {reason}"))
    if len(images.skipped) > NAMED:
        say(f"skipped {len(images.skipped) - NAMED} more images that cannot be read")


def _require_memory(shape: tuple[int, ...]) -> None:
    """Refuses to fill more than half of the machine's memory."""
    needed = int(np.prod(shape, dtype=np.int64))
    if not hasattr(os, "sysconf"):  # Windows does not tell
        return
    # Processes on one machine decode for themselves.
    needed *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory / 2:
        raise TrainingError(
            f"the decoded images take {needed / 1e9:.1f} GB of this machine's "
            f"{memory / 1e9:.1f} GB of memory; keep them on a disk with data.cache=FOLDER, or "
            "choose a smaller data.size or data.limit"
        )
