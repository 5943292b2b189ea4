"""check_method: does it solve, keep images apart, count honestly, and leave y alone?"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from plugip.loop import solve
from plugip.method import Info, Method, Solution, take
from plugip.noise import GaussianNoise
from plugip.operator import SpectralOperator
from plugip.path import FlowPath
from plugip.priors.gaussian import GaussianPrior
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.spectral import DiagonalSpectrum
from plugip.testing.report import Report, close, directional, keeps_global_stream, random_images

Outcome = tuple[bool, str]
IDS = ("image-0", "image-1", "image-2")
SHAPE = (3, 8, 8)


class Attenuate(SpectralOperator):
    """Multiplies each pixel by a fixed weight between 0.3 and 1: the checks' operator."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", 0.65 + 0.35 * random_images((1, *SHAPE), "weight"))

    def spectrum(self, x_shape: tuple[int, ...]) -> DiagonalSpectrum:
        """Returns the weights as singular values."""
        return DiagonalSpectrum(self.weight)  # type: ignore[arg-type]


class WitnessPrior(GaussianPrior):
    """An exact Gaussian prior that counts the images really passed through it, by any door."""

    witnessed = 0

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.witnessed += len(x_t)
        return super().forward(x_t, t)


def toy_problem(spread: float = 0.3) -> Problem:
    """Returns three small images in float64 with an exact Gaussian prior and a linear operator.

    Args:
        spread: Standard deviation of the prior.
    """
    mean = 0.2 * random_images(SHAPE, "mean")
    prior = WitnessPrior(mean, spread, FlowPath()).double()
    operator, noise = Attenuate().double(), GaussianNoise(0.05)
    x = mean + 0.3 * random_images((len(IDS), *SHAPE), "truth")
    y = operator(x) + noise.std * random_images((len(IDS), *SHAPE), "noise")
    return Problem(y, operator, noise, prior)


def wide() -> Problem:
    """Returns a problem whose prior's images often leave [-1, 1], so that answers are clamped."""
    return toy_problem(1.2)


def check_method(method: Method[Any], problem: Problem | None = None) -> Report:
    """Checks a method on three small images with an exact prior, in float64 on the CPU.

    Args:
        method: The method, with few iterations; it is run about eight times.
        problem: Another problem of at least two images, where the built-in one does not suit.

    Returns:
        A report; ``require()`` raises if a check failed.
    """
    report = Report(f"method {type(method).__name__}")
    p = problem if problem is not None else toy_problem()
    try:
        base = _solve(p, method)
    except Exception as error:
        return report.failed("solves", error)
    singles = cache(lambda: _singles(p, method))
    report.run("solves", lambda: _finite(p, base))
    report.run("leaves y alone", lambda: _leaves_y(p, method))
    report.run("no hidden randomness", lambda: keeps_global_stream(lambda: _solve(p, method)))
    report.run("same seed, same answer", lambda: close(_solve(p, method).x_hat, base.x_hat, 0))
    report.run("one image, one answer", lambda: _alone(singles(), base))
    report.run("one image, one bill", lambda: _billed(singles(), base))
    report.run("order does not matter", lambda: _reversed(p, method, base))
    report.run("images can be dropped", lambda: _dropped(p, method))
    report.run("reports per image", lambda: _reports(p, method))
    report.run("reports the residual of its image", lambda: _residuals(problem or wide(), method))
    report.run("works under no_grad", lambda: _under_no_grad(p, method, base))
    if isinstance(p.prior, WitnessPrior):
        report.run("network calls are counted", lambda: _honest(p, method))
    if hasattr(method, "objective"):
        report.run("gradient of the objective", lambda: _gradient(p, method))
    return report


def _ids(p: Problem) -> list[str]:
    return [f"image-{i}" for i in range(p.batch)]


def _solve(p: Problem, method: Method[Any]) -> Solution:
    return solve(p, method, Rng(0, "solve", _ids(p)), rows=p.batch)


def _finite(p: Problem, base: Solution) -> Outcome:
    shape = (p.batch, *p.prior.image_shape)
    ok = tuple(base.x_hat.shape) == shape and bool(torch.isfinite(base.x_hat).all())
    inside = bool((base.x_hat.abs() <= 1).all())
    return ok and inside, f"finite images {shape} in [-1, 1] after {max(base.steps)} steps"


def _leaves_y(p: Problem, method: Method[Any]) -> Outcome:
    before = p.y.clone()
    _solve(p, method)
    return torch.equal(before, p.y), "measurement unchanged"


def _alone(singles: list[Solution], base: Solution) -> Outcome:
    return close(torch.cat([s.x_hat for s in singles]), base.x_hat, 1e-6)


def _billed(singles: list[Solution], base: Solution) -> Outcome:
    alone = [(s.nfe[0], s.vjps[0]) for s in singles]
    together = list(zip(base.nfe, base.vjps, strict=True))
    return alone == together, f"(NFE, VJP) alone {alone}, in a batch {together}"


def _singles(p: Problem, method: Method[Any]) -> list[Solution]:
    ids = _ids(p)
    return [
        solve(p.select([i]), method, Rng(0, "solve", [ids[i]]), rows=1) for i in range(p.batch)
    ]


def _reversed(p: Problem, method: Method[Any], base: Solution) -> Outcome:
    back = list(reversed(range(p.batch)))
    turned = solve(
        p.select(back), method, Rng(0, "solve", [_ids(p)[i] for i in back]), rows=p.batch
    )
    return close(turned.x_hat.flip(0), base.x_hat, 1e-6)


def _dropped(p: Problem, method: Method[Any]) -> Outcome:
    kept = [p.batch - 1]
    # Two runs, because a state and its selection share their random streams.
    _, whole = method.step(p, _after_one_step(p, method))
    _, part = method.step(p.select(kept), take(_after_one_step(p, method), kept))
    return close(part.x_hat, whole.x_hat[kept], 1e-6)


def _after_one_step(p: Problem, method: Method[Any]) -> Any:
    return method.step(p, method.init(p, Rng(0, "solve", _ids(p))))[0]


def _reports(p: Problem, method: Method[Any]) -> Outcome:
    _, info = method.step(p, method.init(p, Rng(0, "solve", _ids(p))))
    wrong = _wrong_fields(p, info)
    return not wrong, wrong or "x_hat, loss and done have one entry per image and are detached"


def _wrong_fields(p: Problem, info: Info) -> str:
    shapes = {"loss": info.loss, "done": info.done}
    bad = [name for name, v in shapes.items() if tuple(v.shape) != (p.batch,)]
    bad += [
        name for name, v in {"x_hat": info.x_hat, "loss": info.loss}.items() if v.requires_grad
    ]
    return f"wrong shape or not detached: {', '.join(bad)}" if bad else ""


def _residuals(p: Problem, method: Method[Any]) -> Outcome:
    """Compares what three steps report with RMS of A(x_hat) - y, at the theta that is named."""
    state, worst = method.init(p, Rng(0, "solve", _ids(p))), 0.0
    for step in range(1, min(3, getattr(method, "iterations", None) or 3) + 1):
        state, info = method.step(p, state)
        if info.residual is None:  # the loop measures it then
            continue
        known = p.known(_told(method, "theta", state))
        with torch.no_grad():
            right = known.residual(known.operator(info.x_hat))
        picked = _told(method, "picked_step", state)
        # A rule's pick names the theta of its own iterate, not of this one.
        same = torch.ones_like(info.done) if picked is None else (picked == step) | (picked == 0)
        off = (info.residual - right).abs() / right.clamp_min(1e-12)
        worst = max(worst, float(torch.where(same, off, 0.0).max()))
    return worst <= 1e-6, f"off by {worst:.1e} of RMS of A(x_hat) - y"


def _told(method: Method[Any], name: str, state: Any) -> Any:
    function = getattr(method, name, None)
    return None if function is None else function(state)


def _under_no_grad(p: Problem, method: Method[Any], base: Solution) -> Outcome:
    with torch.no_grad():
        return close(_solve(p, method).x_hat, base.x_hat, 1e-10)


def _honest(p: Problem, method: Method[Any]) -> Outcome:
    assert isinstance(p.prior, WitnessPrior)
    before = p.prior.witnessed
    counted = sum(_solve(p, method).nfe)
    made = p.prior.witnessed - before
    return counted == made, f"{counted} calls counted, {made} made, of all images together"


def _gradient(p: Problem, method: Any) -> Outcome:
    state = method.init(p, Rng(0, "solve", _ids(p)))
    objective = method.objective(p, state)
    near = state.v + random_images(tuple(state.v.shape), "seed").to(state.v)
    return directional(lambda v: objective(v).sum(), near, objective.evaluate(near).grad)
