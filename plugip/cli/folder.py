"""The working folder on the import path: last, and only for whoever trusts a package."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def leave_working_folder() -> None:
    """Takes the working folder, which ``python -m`` puts first, off the import path.

    A stranger's folder may hold a ``torch.py``. If plugip itself comes from there, the folder is
    a checkout, and stays on the path, last: other processes need it.
    """
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program is None or not program.name.startswith("plugip.") or sys.flags.safe_path:
        return
    here = os.getcwd()
    if sys.path and sys.path[0] in ("", here):
        del sys.path[0]
    if os.path.realpath(here) == os.path.realpath(os.path.join(__file__, *[os.pardir] * 3)):
        sys.path.append(here)


def see_working_folder(trusted: Sequence[str]) -> None:
    """Adds the working folder, where users' own packages are, if any package is trusted."""
    if trusted and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
