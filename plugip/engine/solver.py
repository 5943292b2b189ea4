"""What a solver is: hyperparameters with init and step, state outside."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from torch import Tensor

from plugip.engine.objective import Evaluation, Objective

S = TypeVar("S")


class Solver(Protocol[S]):
    """Minimises an objective image by image.

    State is a dataclass of tensors whose first axis is the batch, so that finished images can be
    dropped from it; ``step`` treats every image as if it were alone. Where it has ``ending``,
    ``diagnostics.Ending`` per image, (B,) int64, that is said of answers that do not explain y.
    """

    def init(self, z: Tensor) -> S:
        """Returns the state at first unknowns, (B, ...); makes no network call."""
        ...

    def step(self, objective: Objective, state: S) -> tuple[S, Tensor, Evaluation, Tensor]:
        """Makes one update.

        Returns:
            The new state; the unknowns (B, ...) that the evaluation belongs to; the evaluation;
            and the images that cannot be improved further, (B,) bool.
        """
        ...


AnySolver = Solver[Any]


def ending(state: Any) -> Tensor | None:
    """Returns how each search stands, (B,) int64, where a solver's state says so."""
    return getattr(state, "ending", None)
