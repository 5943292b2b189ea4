"""The command ``plugip-convert``: a published ADM checkpoint becomes a diffusers folder."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from plugip.priors.adm_presets import PRESETS
from plugip.terminal import say
from plugip.texts import for_terminal

ABOUT = (
    "Converts an ADM (guided-diffusion) checkpoint exactly into a diffusers folder,\n"
    "which prior=diffusers and diffusers itself read. First it must denoise a known picture."
)

SETTINGS = "settings of the network, one of those below"


def main() -> None:
    """Runs the command ``plugip-convert``."""
    options = _parser().parse_args()
    try:
        for line in _convert(options):
            say(for_terminal(line))
    except KeyboardInterrupt:
        say("plugip-convert: interrupted, nothing was written", sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        say(f"plugip-convert: {for_terminal(str(error))}", sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    files = "\n".join(f"  {name:18}{known.file}" for name, known in PRESETS.items())
    parser = argparse.ArgumentParser(
        prog="plugip-convert",
        description=ABOUT,
        epilog=f"presets, and the published file that each is for:\n{files}\n"
        "docs/checkpoints.md says where to get them.\n"
        "Example: plugip-convert ffhq_10m.pt ffhq256/ --preset ffhq256",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="the checkpoint")
    parser.add_argument("folder", help="the folder to write; it must be new or empty")
    parser.add_argument("--preset", required=True, choices=PRESETS, metavar="NAME", help=SETTINGS)
    parser.add_argument("--label", type=int, help="class to fold in, if class-conditional")
    parser.add_argument("--key", help="where the state dict lies in the checkpoint, such as ema")
    parser.add_argument("--no-probe", action="store_true", help="convert without that check")
    return parser


def _convert(options: argparse.Namespace) -> Iterator[str]:
    """Does the work, and yields what there is to say."""
    from plugip.priors.adm import open_adm, to_prior
    from plugip.priors.adm_folder import require_writable, write_folder
    from plugip.priors.probe import probe

    known, folder = PRESETS[options.preset], Path(options.folder)
    require_writable(known.architecture, folder)
    checkpoint = open_adm(options.file, options.preset, label=options.label, key=options.key)
    sha256 = _sha256(checkpoint.file)
    weights = sum(w.numel() for w in checkpoint.net.parameters())
    verdict = _verdict(sha256, known.sha256)
    yield f"{checkpoint.file}: {weights:,} weights, sha256 {sha256}, {verdict}"
    if not options.no_probe:
        yield "probing: minutes on a CPU for the largest networks"
        probe(to_prior(checkpoint))
    write_folder(checkpoint, folder, sha256)
    yield f"written: {folder}; use it with prior=diffusers prior.source={folder}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verdict(sha256: str, published: str | None) -> str:
    if published is None:
        return "with no published one on record"
    return "as published" if sha256 == published else f"not the published {published}"
