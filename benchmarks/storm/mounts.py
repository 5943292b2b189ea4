"""Small disks and read-only folders: mounts that only this process and its children see."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of Linux
SMALL = 4 << 20  # bytes: the trial that a run begins with, and room for its results


def allowed() -> bool:
    """Leaves the other processes' view of the mounts for good; returns whether that is allowed."""
    if os.geteuid() != 0 or ctypes.CDLL(None).unshare(_NEW_MOUNTS) != 0:
        return False
    # Else what is mounted here would show everywhere.
    return _mount("--make-rprivate", "/", check=False)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Puts a small disk at an empty folder."""
    _mount("-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes a folder read-only, also for root."""
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,bind,ro", str(folder))
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*words: str, check: bool = True) -> bool:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise OSError(f"mount {' '.join(words)}: {done.stderr.strip()}")
    return done.returncode == 0
