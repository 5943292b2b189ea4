"""The command ``plugip-train``: compose a config and train.

Nothing here imports torch at the top, so that --help, --cfg and Tab answer at once; nor anything
that a stranger's working folder could shadow.
"""

from __future__ import annotations

from plugip.cli.folder import leave_working_folder


def main() -> None:
    """Runs the command ``plugip-train``."""
    leave_working_folder()
    from plugip.cli.command import Command, run_command
    from plugip.cli.training import job

    run_command(Command("plugip-train", "train", job))


if __name__ == "__main__":
    main()
