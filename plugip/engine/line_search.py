"""A strong-Wolfe line search that brackets every image's step length by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.engine.objective import Evaluation, Objective
from plugip.linalg import dot, per_image, where


@dataclass(frozen=True)
class StrongWolfe:
    """Finds step lengths with enough decrease and a flattened slope.

    Per image an interval [low, high] is kept that must hold an acceptable point; ``high`` is
    infinite until a trial goes too far. Trials double towards an infinite end and are cubic
    interpolations inside a finite interval. Images that are satisfied stay where they are, and
    are not evaluated again, while the others go on.

    Args:
        decrease: c1, wanted share of the predicted decrease.
        curvature: c2, allowed share of the first slope.
        max_trials: Evaluations per search; then the best decrease so far is taken. A search that
            is an image's last has as many again while there is none, each trial at most a tenth
            of the one before it.

    Source: Nocedal and Wright 2006, algorithms 3.5 and 3.6.
    """

    decrease: float = 1e-4
    curvature: float = 0.9
    max_trials: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.decrease < self.curvature < 1:
            raise ValueError(
                f"need 0 < decrease < curvature < 1, got {self.decrease} and {self.curvature}"
            )
        if self.max_trials < 1:
            raise ValueError(f"max_trials must be at least 1, got {self.max_trials}")

    def __call__(
        self,
        objective: Objective,
        z: Tensor,
        here: Evaluation,
        direction: Tensor,
        length: Tensor,
        last: Tensor | None = None,
    ) -> tuple[Tensor, Evaluation, Tensor]:
        """Searches from z along ``direction``.

        Args:
            objective: What is minimised.
            z: Seeds, (B, ...).
            here: Evaluation at z.
            direction: Descent directions, same shape as z.
            length: First trial lengths, (B,).
            last: Images that end if this search fails, (B,) bool; None: there are none.

        Returns:
            New seeds, their evaluations, and whether each image moved, (B,) bool: one that finds
            no lower loss stays.
        """
        slope = dot(here.grad, direction)
        bracket = _Bracket.open(here.loss, slope)
        best_z, best, active = z, here, slope < 0
        last = torch.zeros_like(active) if last is None else last
        for trials in range(2 * self.max_trials):
            if trials >= self.max_trials:
                active = active & last & ~(best.loss < here.loss)
                length = 0.1 * length
            rows = active.nonzero()[:, 0].tolist()
            if not rows:
                break
            trial_z = objective.project(z + per_image(length, z) * direction)
            trial = _tried(objective, trial_z, rows, best)
            trial_slope = dot(trial.grad, direction)
            enough = trial.loss <= here.loss + self.decrease * length * slope
            enough = enough & torch.isfinite(trial_slope)  # else there is no way on from there
            better = active & enough & (trial.loss <= best.loss)
            best_z, best = where(better, trial_z, best_z), choose_rows(better, trial, best)
            satisfied = enough & (trial_slope.abs() <= -self.curvature * slope)
            bracket = bracket.narrow(length, trial.loss, trial_slope, enough)
            active = active & ~satisfied
            length = torch.where(active, bracket.next_length(length), length)
        moved = best.loss < here.loss
        return where(moved, best_z, z), choose_rows(moved, best, here), moved


@dataclass(frozen=True)
class _Bracket:
    """Interval of step lengths per image, with loss and slope at both ends, all (B,)."""

    low: Tensor
    low_loss: Tensor
    low_slope: Tensor
    high: Tensor
    high_loss: Tensor
    high_slope: Tensor

    @staticmethod
    def open(loss: Tensor, slope: Tensor) -> _Bracket:
        zero = torch.zeros_like(loss)
        return _Bracket(zero, loss, slope, torch.full_like(loss, torch.inf), loss, slope)

    def narrow(self, at: Tensor, loss: Tensor, slope: Tensor, enough: Tensor) -> _Bracket:
        """Makes a trial the new high end if it went too far, else the new low end."""
        too_far = ~enough | ~(loss <= self.low_loss) | (slope >= 0)
        # A trial with less loss but rising slope becomes the low end of the reversed interval in
        # Nocedal and Wright; keeping it as high end is as safe, because `best` remembers it.
        low = [
            torch.where(too_far, a, b)
            for a, b in ((self.low, at), (self.low_loss, loss), (self.low_slope, slope))
        ]
        high = [
            torch.where(too_far, b, a)
            for a, b in ((self.high, at), (self.high_loss, loss), (self.high_slope, slope))
        ]
        return _Bracket(*low, *high)

    def next_length(self, length: Tensor) -> Tensor:
        """Doubles towards an open end, else interpolates inside the interval."""
        return torch.where(torch.isinf(self.high), 2 * length, self._cubic())

    def _cubic(self) -> Tensor:
        # Nocedal and Wright, eq. 3.59, kept within the middle 80 % of the interval.
        width = self.high - self.low
        d1 = self.low_slope + self.high_slope - 3 * (self.high_loss - self.low_loss) / width
        root = (d1.square() - self.low_slope * self.high_slope).clamp_min(0).sqrt()
        share = 1 - (self.high_slope + root - d1) / (self.high_slope - self.low_slope + 2 * root)
        # A loss that is infinite or no number says nothing but that its length is far too long.
        blind = torch.where(torch.isfinite(self.high_loss), 0.5, 0.1)
        share = torch.where(torch.isfinite(share), share, blind).clamp(0.1, 0.9)
        return self.low + share * width


def _tried(objective: Objective, z: Tensor, rows: list[int], known: Evaluation) -> Evaluation:
    """Evaluates some images only; of the others it returns what is known."""
    if len(rows) == len(z):
        return objective.evaluate(z)
    fresh = objective.evaluate_rows(z, rows)

    def put(now: Tensor, before: Tensor) -> Tensor:
        return before.index_copy(0, torch.tensor(rows, device=before.device), now)

    return Evaluation(
        loss=put(fresh.loss, known.loss),
        grad=put(fresh.grad, known.grad),
        x=put(fresh.x, known.x),
        residual=put(fresh.residual, known.residual),
        unit=None if fresh.unit is None or known.unit is None else put(fresh.unit, known.unit),
    )


def choose_rows(rows: Tensor, a: Evaluation, b: Evaluation) -> Evaluation:
    """Takes a's images where ``rows`` (B,) is true and b's elsewhere."""
    unit = None if a.unit is None or b.unit is None else where(rows, a.unit, b.unit)
    return Evaluation(
        loss=where(rows, a.loss, b.loss),
        grad=where(rows, a.grad, b.grad),
        x=where(rows, a.x, b.x),
        residual=where(rows, a.residual, b.residual),
        unit=unit,
    )
