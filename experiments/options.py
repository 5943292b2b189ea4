"""The command line that experiments on a folder of faces share."""

from __future__ import annotations

import argparse
from pathlib import Path


def face_options(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Returns a parser with what all of them take; an experiment adds its own.

    Args:
        doc: Docstring of the experiment's module; its first line is the description.
        name: Its folder, also below ``runs``.
    """
    assert doc
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--faces", type=Path, required=True, help="folder of faces to restore")
    parser.add_argument("--out", type=Path, default=Path("runs") / name)
    parser.add_argument("--prior", help="a diffusers folder; default: the embedded prior")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--draw", action="store_true", help="only draw what has been found so far")
    return parser
