"""One job of the command ``plugip-train``."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from plugip.cli.job import TOLD, sentence
from plugip.terminal import say
from plugip.texts import for_terminal

if TYPE_CHECKING:
    from plugip.training import Outcome


def job(cfg: DictConfig) -> tuple[int, float]:
    """Trains; what the user can mend is one sentence.

    Returns:
        The exit code, and no number for sweepers.
    """
    debug = bool(cfg.debug)
    try:
        outcome = _train(cfg)
    except KeyboardInterrupt:
        say("plugip-train: interrupted; the same command goes on", sys.stderr)
        return 130, math.nan
    except TOLD as error:
        if debug:
            raise
        say(f"plugip-train: {for_terminal(sentence(error))}", sys.stderr)
        return 1, math.nan
    return outcome.exit_code, math.nan


def _train(cfg: DictConfig) -> Outcome:
    from plugip.building import resolved
    from plugip.training import read_settings, train

    config = resolved(cfg)
    del config["debug"]
    return train(read_settings(config))
