"""The commands ``plugip`` and ``plugip-check``: compose a config, build its parts, report.

Nothing here imports torch at the top, so that --help, --cfg and Tab answer at once; nor anything
that a stranger's working folder could shadow.
"""

from __future__ import annotations

from plugip.cli.folder import leave_working_folder


def main() -> None:
    """Runs the command ``plugip``."""
    leave_working_folder()
    from plugip.cli.command import Command, run_command
    from plugip.cli.job import job

    run_command(Command("plugip", "config", job))


def check() -> None:
    """Runs the command ``plugip-check``."""
    leave_working_folder()
    from plugip.cli.checking import run_checks

    run_checks()
