"""The command ``plugip-train``: compose a config and train.

Nothing here imports torch at the top, so that --help, --cfg and Tab answer at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from plugip.cli import _options, _see_working_folder, _sentence
from plugip.cli.compose import CONFIGS, first_job, refuse_bad_config
from plugip.texts import for_terminal

if TYPE_CHECKING:
    from plugip.training import Outcome

ROOT = "train"


def main() -> None:
    """Runs the command ``plugip-train``."""
    _see_working_folder()
    options = _options()
    if not (options.help or options.hydra_help or options.cfg or options.info):
        if not (options.shell_completion or options.config_path):
            words = first_job(options.overrides) if options.multirun else options.overrides
            refuse_bad_config(words, options.config_dir, options.config_name or ROOT)
    _app()


@hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name=ROOT)
def _app(cfg: DictConfig) -> None:
    code = _job(cfg)
    if code:
        raise SystemExit(code)  # one failure ends a multirun: trainings are long


def _job(cfg: DictConfig) -> int:
    """Trains, and returns the exit code; what the user can mend is one sentence."""
    debug = bool(cfg.debug)
    try:
        outcome = _train(cfg)
    except KeyboardInterrupt:
        print("plugip-train: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        if debug:
            raise
        print(f"plugip-train: {for_terminal(_sentence(error))}", file=sys.stderr)
        return 1
    return outcome.exit_code


def _train(cfg: DictConfig) -> Outcome:
    from plugip.building import resolved
    from plugip.training import read_settings, train

    config = resolved(cfg)
    del config["debug"]
    return train(read_settings(config))


if __name__ == "__main__":
    main()
