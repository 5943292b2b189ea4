"""Checks that a wheel and an sdist hold everything, and that the wheel runs from an empty folder.

Usage: python .ci/check_wheel.py dist/plugip-0.1.0-py3-none-any.whl dist/plugip-0.1.0.tar.gz
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINKS = (ROOT / "plugip/conf", ROOT / "plugip/operators")
# One file of each kind that a packaging fault would lose first.
KINDS = (
    "conf/*.yaml",
    "operators/*.py",
    "plugip/assets/*.png",
    "plugip/assets/faces64/*.safetensors",
)


def source_files() -> set[str]:
    """Every file of the package, as it lies in the repository: conf/…, operators/…, plugip/…."""
    files = {file for top in ("plugip", "conf", "operators") for file in (ROOT / top).rglob("*")}
    files = {file for file in files if file.is_file() and "__pycache__" not in file.parts}
    files = {file for file in files if not any(file.is_relative_to(link) for link in LINKS)}
    return {file.relative_to(ROOT).as_posix() for file in files}


def in_wheel(file: str) -> str:
    """The place of a repository's file inside the wheel."""
    return file if file.startswith("plugip/") else f"plugip/{file}"


def missing_files(wheel: Path, sdist: Path) -> list[str]:
    """What the repository has and the archives lack."""
    files = source_files()
    packed = set(zipfile.ZipFile(wheel).namelist())
    members = [m for m in tarfile.open(sdist).getmembers() if m.isfile()]
    archived = {m.name.split("/", 1)[1] for m in members}
    missing = [f"repository: {kind}" for kind in KINDS if not any(ROOT.glob(kind))]
    missing += [
        f"wheel: {in_wheel(file)}" for file in sorted(files) if in_wheel(file) not in packed
    ]
    return missing + [f"sdist: {file}" for file in sorted(files - archived)]


def run_installed(wheel: Path, folder: Path) -> None:
    """Installs the wheel alone into a folder and runs it from an empty one."""
    site, empty = folder / "site", folder / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
    # In front of an editable installation, so that the wheel's copy is the one that runs.
    env = os.environ | {"PYTHONPATH": str(site)}
    where = "import plugip, plugip.operators, plugip.cli; print(plugip.operators.__file__)"
    for command in ([sys.executable, "-c", where], [str(site / "bin/plugip"), "--cfg", "job"]):
        run = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True)
        if run.returncode or not run.stdout.strip():
            sys.exit(f"the installed wheel fails at {command[1:]}:\n{run.stdout}{run.stderr}")
        if command[-1] == where and not run.stdout.startswith(str(site)):
            sys.exit(f"not the wheel's copy was imported, but {run.stdout}")


def main() -> None:
    """Prints one line when all is well, and ends with the faults otherwise."""
    wheel, sdist = map(Path, sys.argv[1:])
    if missing := missing_files(wheel, sdist):
        sys.exit("missing from the package:\n  " + "\n  ".join(missing))
    with tempfile.TemporaryDirectory() as folder:
        run_installed(wheel, Path(folder).resolve())
    print(f"wheel and sdist hold all {len(source_files())} files; the wheel runs on its own")


if __name__ == "__main__":
    main()
