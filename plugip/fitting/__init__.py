"""The command ``plugip-fit-gaussian``: a Gaussian prior of your own images, within minutes.

Nothing here imports torch at the top, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plugip.terminal import say
from plugip.texts import for_terminal

if TYPE_CHECKING:
    from plugip.fitting.pictures import Pictures
    from plugip.priors.low_rank import LowRankGaussian

COMMAND = "plugip-fit-gaussian"
NAMED = 20  # unreadable files that are named one by one


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command ``plugip-fit-gaussian``; without ``words`` it reads the command line."""
    options = _parser().parse_args(words)
    try:
        said = _fit(options)
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix("data.path ")
        reason = reason.replace("another folder with output.folder=...", "another OUT")
        say(f"{COMMAND}: {for_terminal(reason)}", sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        say(f"{COMMAND}: interrupted; nothing was written", sys.stderr)
        sys.exit(130)
    say(said)


def _fit(options: argparse.Namespace) -> str:
    """Fits, writes the prior and its sheet, and returns what to say about them."""
    sheet = options.sheet or options.out.with_suffix(".png")
    _require_places(options.out, sheet)

    from plugip.fitting.fit import fit_gaussian
    from plugip.fitting.pictures import Pictures
    from plugip.fitting.sheet import draw
    from plugip.record.files import write_atomic

    channels = 1 if options.grey else 3
    with Pictures(options.images, options.size, channels, options.limit) as pictures:
        prior = fit_gaussian(pictures, options.rank, options.bands, options.rng_seed)
        picture = draw(prior, options.rng_seed)
        write_atomic(options.out, prior.to_bytes(), durable=True)
        write_atomic(sheet, picture)
        said = [*_skipped(pictures), *_closing(prior, options.out, sheet)]
        return "\n".join(map(for_terminal, said))


def _require_places(out: Path, sheet: Path) -> None:
    """Refuses what cannot be written, before any image is read."""
    from plugip.fitting.pictures import FitError
    from plugip.record.files import try_folder

    for name, file, suffix in (("OUT", out, ".safetensors"), ("--sheet", sheet, ".png")):
        if file.suffix.lower() != suffix:
            raise FitError(f"{name} {file} must end in {suffix}")
        if file.is_dir():
            raise FitError(f"{name} {file} is a folder; give a file in it")
        try_folder(file.parent)


def _skipped(pictures: Pictures) -> list[str]:
    from plugip.image_io import left_out

    head = f"{len(pictures.names)} images in {pictures.name}{left_out(pictures.left_out)}"
    return [head, *_unreadable(pictures)] if pictures.left_out else _unreadable(pictures)


def _unreadable(pictures: Pictures) -> list[str]:
    lines = [f"skipped {name}: {reason}" for name, reason in sorted(pictures.skipped.items())]
    more = len(lines) - NAMED
    return lines if more <= 0 else [*lines[:NAMED], f"skipped {more} more images"]


def _closing(prior: LowRankGaussian, out: Path, sheet: Path) -> list[str]:
    card = prior.card
    return [
        f"{card['count']} images of {card['size']} x {card['size']}; {card['rank']} components "
        f"explain {card['explained_variance']:.1%} of their variance",
        f"prior: {out} ({out.stat().st_size / 1e6:.1f} MB)",
        f"sheet: {sheet}",
        f"use it: plugip prior=fitted_gaussian prior.source={out}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Fits a Gaussian prior to a folder or zip file of images: their mean, their "
        "first principal components, and a floor for what those leave out. Writes the prior, and "
        "a sheet with mean, components and samples to look at.",
    )
    parser.add_argument("images", metavar="FOLDER", help="folder or zip file of images")
    parser.add_argument("out", metavar="OUT", type=Path, help="the prior, a .safetensors file")
    parser.add_argument("--rank", type=int, default=200, help="components, %(default)s")
    parser.add_argument(
        "--size", type=int, default=64, help="side of the square in pixels, %(default)s"
    )
    parser.add_argument("--grey", action="store_true", help="one channel instead of three")
    parser.add_argument("--limit", type=int, help="use the first images only, by name")
    parser.add_argument(
        "--bands",
        type=int,
        default=16,
        help="frequency bands of the floor for each channel, %(default)s; 0 for a white floor",
    )
    parser.add_argument(
        "--rng-seed", type=int, default=0, help="of the random projection and the samples"
    )
    parser.add_argument("--sheet", type=Path, help="PNG file; beside OUT by default")
    return parser
