"""What a solver minimises: one value per image, of one vector of unknowns per image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from plugip.method import take


@dataclass(frozen=True)
class Evaluation:
    """The objective at one vector of unknowns per image; everything is detached.

    Attributes:
        loss: (B,).
        grad: Gradient with respect to the unknowns, (B, ...).
        x: Images that the unknowns stand for, (B, C, H, W).
        residual: Root mean square of A(x) - y over observed entries, (B,).
        unit: What one unit of the likelihood's loss would be in this loss, (B,), the residual
            taken for the noise; None where the loss is a likelihood of known level, so 1.
    """

    loss: Tensor
    grad: Tensor
    x: Tensor
    residual: Tensor
    unit: Tensor | None = None


class Objective(ABC):
    """A function with one value per image; images never influence each other."""

    @abstractmethod
    def evaluate(self, v: Tensor) -> Evaluation:
        """Returns values and gradients at the unknowns v, (B, ...)."""

    def evaluate_rows(self, v: Tensor, rows: list[int]) -> Evaluation:
        """Returns values and gradients of some images only, in the order of ``rows``.

        All are evaluated here; an objective whose evaluations cost something evaluates, and bills,
        these images alone.

        Args:
            v: Unknowns of all images, (B, ...).
            rows: Positions in the batch.
        """
        return take(self.evaluate(v), rows)

    def project(self, v: Tensor) -> Tensor:
        """Returns the nearest admissible unknowns, same shape; solvers call it after each move."""
        return v

    def rates(self, v: Tensor) -> Tensor | None:
        """Returns relative lengths of a natural step of each coordinate, shape v[0].

        None where all are alike. Adam multiplies its step by it; quasi-Newton methods take its
        square, but at most 1, for their first metric.
        """
        return None
