"""The learning rate as a function of the step alone."""

from __future__ import annotations

import math

from plugip.training.sections import Optimiser


def learning_rate(optimiser: Optimiser, step: int, steps: int) -> float:
    """Returns the learning rate of a step.

    Args:
        optimiser: Peak, warm-up and schedule.
        step: Number of the step, counted from 0.
        steps: Steps in all.
    """
    given = optimiser.warmup
    warmup = min(500, steps // 10) if given is None else given
    if step < warmup:
        return optimiser.lr * (step + 1) / warmup
    if optimiser.schedule == "constant":
        return optimiser.lr
    progress = (step - warmup) / (steps - warmup)
    return optimiser.lr * 0.5 * (1 + math.cos(math.pi * progress))
