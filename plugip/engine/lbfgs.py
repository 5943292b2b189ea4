"""Limited-memory BFGS with a strong-Wolfe line search, every image for itself.

Where the objective projects, the part of a gradient that a projection would undo is left out: at
the edge of the admissible set the rest is what the loss can still gain by. Otherwise a line search
would expect a decrease that no admissible step can give, and end far from the minimum.

A search that finds no decrease along a quasi-Newton direction says that the history misleads, not
that there is a minimum: it is forgotten, and the next search goes along steepest descent. Only
where that fails as well is an image stuck, as with gradients that are not those of the loss
(rounding that passes gradients straight through).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from plugip.diagnostics import Ending
from plugip.engine.line_search import StrongWolfe
from plugip.engine.objective import Evaluation, Objective
from plugip.linalg import dot, norm, per_image, where
from plugip.method import take


@dataclass(frozen=True)
class LBFGSState:
    """Unknowns, their evaluation, and the history of steps s and gradient changes g.

    Histories are (B, h, ...), newest last; ``weight`` is 1 / <s, g>, or 0 for an empty slot.
    ``ending`` is how each search stands, (B,) int64.
    """

    z: Tensor
    here: Evaluation | None
    s: Tensor
    g: Tensor
    weight: Tensor
    ending: Tensor


@dataclass(frozen=True)
class LBFGS:
    """Quasi-Newton steps; products, histories and step lengths are per image.

    ``torch.optim.LBFGS`` sees one long vector: there one image's line search throttles all others.

    Args:
        history: Pairs kept per image, at most one for each unknown; 100 pairs of a 64 x 64 RGB
            seed take 10 MB, of a 256 x 256 one 157 MB.
        tolerance: An image ends when ‖gradient‖ <= tolerance * max(1, ‖z‖), the gradient times the
            objective's rates and in units of a likelihood: mean losses, whose gradients are
            thousands of times smaller, are rescaled. It also ends where a line search fails and
            what it could gain is lost in the rounding of the loss, or where it is stuck.
        line_search: Chooses the step length.

    Source: Nocedal and Wright 2006, algorithms 7.4 and 7.5.
    """

    history: int = 100
    tolerance: float = 1e-3
    line_search: StrongWolfe = field(default_factory=StrongWolfe)

    def __post_init__(self) -> None:
        if self.history < 1:
            raise ValueError(f"history must be at least 1, got {self.history}")

    def init(self, z: Tensor) -> LBFGSState:
        """Returns the state with an empty history."""
        empty = z.new_zeros((z.shape[0], 0, *z.shape[1:]))
        ending = torch.full(z.shape[:1], Ending.OPEN, dtype=torch.long, device=z.device)
        return LBFGSState(z, None, empty, empty, z.new_zeros((z.shape[0], 0)), ending)

    def again(self, state: LBFGSState) -> LBFGSState:
        """Returns the state for an objective that changed a little: the same place and memory."""
        return replace(state, here=None, ending=torch.full_like(state.ending, Ending.OPEN))

    def step(
        self, objective: Objective, state: LBFGSState
    ) -> tuple[LBFGSState, Tensor, Evaluation, Tensor]:
        """Evaluates the start, or makes one quasi-Newton step; one or a few evaluations."""
        objective = _Admissible(objective)
        rates = objective.rates(state.z)
        if state.here is None:
            here = objective.evaluate(state.z)
            flat = self._flat(here, state.z, rates)
            state = replace(state, here=here, ending=_ending(flat, torch.zeros_like(flat)))
            return state, state.z, here, flat
        # Where a search has failed for good, nothing is tried again until the objective changes.
        rests = (state.ending != Ending.OPEN) & ~self._flat(state.here, state.z, rates)
        direction = _descent(state, rates)
        direction = where(rests, torch.zeros_like(direction), direction)
        length, steepest = _first_length(state, direction), ~_remembers(state)
        z, here, moved = self.line_search(
            objective, state.z, state.here, direction, length, steepest
        )
        least = ~moved & _negligible(state.here, direction)
        ending = _ending(self._flat(here, z, objective.rates(z)) | least, ~moved & steepest)
        ending = torch.where(rests, state.ending, ending)
        state = replace(self._remember(state, z, here, moved), ending=ending)
        return state, z, here, ending != Ending.OPEN

    def _flat(self, here: Evaluation, z: Tensor, rates: Tensor | None) -> Tensor:
        limit = self.tolerance * norm(z).clamp_min(1)
        slope = here.grad if rates is None else rates * here.grad
        return norm(slope) <= (limit if here.unit is None else limit * here.unit)

    def _remember(
        self, state: LBFGSState, z: Tensor, here: Evaluation, moved: Tensor
    ) -> LBFGSState:
        """Adds the newest pair; images that did not move forget all pairs."""
        s, g = z - state.z, here.grad - state.here.grad  # type: ignore[union-attr]
        curvature = dot(s, g)
        # A pair without positive curvature would spoil the metric; it stays as an empty slot.
        useful = curvature > 1e-10 * norm(s) * norm(g)
        weight = torch.where(useful, 1 / torch.where(useful, curvature, 1.0), 0.0)
        # More pairs than unknowns hold no more curvature; old ones of a curved set mislead.
        keep = max(state.s.shape[1] + 1 - min(self.history, state.z[0].numel()), 0)
        weights = torch.cat([state.weight[:, keep:], weight[:, None]], dim=1)
        return replace(
            state,
            z=z,
            here=here,
            s=torch.cat([state.s[:, keep:], s[:, None]], dim=1),
            g=torch.cat([state.g[:, keep:], g[:, None]], dim=1),
            weight=where(moved, weights, torch.zeros_like(weights)),
        )


def _ending(flat: Tensor, stuck: Tensor) -> Tensor:
    cannot = torch.where(stuck, int(Ending.STUCK), int(Ending.OPEN))
    return torch.where(flat, int(Ending.CONVERGED), cannot)


def _remembers(state: LBFGSState) -> Tensor:
    """Tells which images have a usable pair, (B,); others go along steepest descent."""
    return (state.weight > 0).any(dim=1)


def _negligible(here: Evaluation, direction: Tensor) -> Tensor:
    """Tells where the predicted decrease is lost in the rounding of the loss, (B,)."""
    # A hundred times the rounding of one number: the loss is a sum of what a network rounds.
    floor = 100 * torch.finfo(here.loss.dtype).eps * here.loss.abs()
    gain = -dot(here.grad, direction)
    return (gain > 0) & (gain <= floor)


def _descent(state: LBFGSState, rates: Tensor | None) -> Tensor:
    """Returns -H grad by the two-loop recursion; squared rates are the first metric."""
    q, alphas = state.here.grad, []  # type: ignore[union-attr]
    slots = range(state.s.shape[1])
    for i in reversed(slots):
        alpha = state.weight[:, i] * dot(state.s[:, i], q)
        q = q - per_image(alpha, q) * state.g[:, i]
        alphas.append(alpha)
    q = per_image(_scale(state, rates), q) * _weigh(q, rates)
    for i, alpha in zip(slots, reversed(alphas), strict=True):
        beta = state.weight[:, i] * dot(state.g[:, i], q)
        q = q + per_image(alpha - beta, q) * state.s[:, i]
    return -q


def _weigh(vector: Tensor, rates: Tensor | None) -> Tensor:
    return vector if rates is None else rates.square() * vector


def _scale(state: LBFGSState, rates: Tensor | None) -> Tensor:
    """Returns the initial inverse curvature <s, g> / <g, D g> of the newest usable pair, (B,)."""
    scale = torch.ones_like(state.here.loss)  # type: ignore[union-attr]
    for i in range(state.s.shape[1]):
        usable = state.weight[:, i] > 0
        size = dot(state.g[:, i], _weigh(state.g[:, i], rates))
        fresh = 1 / (state.weight[:, i] * size).clamp_min(torch.finfo(size.dtype).tiny)
        scale = where(usable, fresh, scale)
    return scale


def _first_length(state: LBFGSState, direction: Tensor) -> Tensor:
    # Without a history the direction has no scale: the first trial moves by length 1, measured
    # against the rates. The direction is then -D grad, so this is its length in the metric 1 / D.
    size = -dot(state.here.grad, direction)  # type: ignore[union-attr]
    size = size.clamp_min(0).sqrt()
    fresh = 1 / size.clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(_remembers(state), torch.ones_like(size), fresh)


@dataclass(frozen=True)
class _Admissible(Objective):
    """An objective whose gradients hold what admissible steps can follow, at rates up to 1."""

    inner: Objective

    def evaluate(self, v: Tensor) -> Evaluation:
        here = self.inner.evaluate(v)
        return replace(here, grad=self._followed(v, here.grad))

    def evaluate_rows(self, v: Tensor, rows: list[int]) -> Evaluation:
        here = self.inner.evaluate_rows(v, rows)
        return replace(here, grad=take(self, rows)._followed(v[rows], here.grad))

    def project(self, v: Tensor) -> Tensor:
        return self.inner.project(v)

    def rates(self, v: Tensor) -> Tensor | None:
        # Rates above 1 hurry Adam. Here a scale is learned from gradients, and a long first move
        # can be final: with logits of a blur kernel it ends where a softmax is flat.
        rates = self.inner.rates(v)
        return None if rates is None else rates.clamp_max(1)

    def _followed(self, v: Tensor, grad: Tensor) -> Tensor:
        """Returns what admissible steps can follow of a gradient."""
        left = grad + self._undone(v, -grad)
        # What rounding leaves of a part that is undone may point uphill, where the rest gains less
        # than it loses.
        rounding = 4 * torch.finfo(v.dtype).eps ** 0.5 * grad.abs()
        return torch.where((left != grad) & (left.abs() <= rounding), 0.0, left)

    def _undone(self, v: Tensor, direction: Tensor) -> Tensor:
        """Returns the part of a direction that projecting a short step along it takes away."""
        # A one-sided difference: at an edge only the way out is taken away, not the way in.
        tiny = torch.finfo(v.dtype).tiny
        reach = torch.finfo(v.dtype).eps ** 0.5 * norm(v).clamp_min(1)
        length = per_image(reach / norm(direction).clamp_min(tiny), v)
        step = v + length * direction
        lost = (step - self.project(step)) - (v - self.project(v))
        return torch.where(length > 0, lost / length, torch.zeros_like(lost))
