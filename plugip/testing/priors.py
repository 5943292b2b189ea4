"""check_prior: is it frozen, differentiable, batched, counted, and does it denoise?"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from plugip.prior import Prior, probe_signal
from plugip.testing.report import Report, close, directional, keeps_global_stream, random_images

Outcome = tuple[bool, str]
Map = Callable[[Tensor], Tensor]


def check_prior(prior: Prior, batch: int = 3, denoises: bool = True) -> Report:
    """Checks a prior in float64 on the CPU; the prior itself is copied, not changed.

    Args:
        prior: The prior; of a map from seeds to images, that map is checked.
        batch: Images per call, at least 2.
        denoises: Whether it is trained (or exact), so that it must remove noise from a known
            picture, and a latent prior must give that picture back through its autoencoder.

    Returns:
        A report; ``require()`` raises if a check failed.
    """
    report = Report(f"prior {type(prior).__name__} with states {prior.shape}")
    p = copy.deepcopy(prior).cpu().double()
    if not p.denoises:
        return _check_map(report, p, random_images((batch, *p.shape), "seed"))
    x_t, t = random_images((batch, *p.shape), "x_t"), torch.tensor(0.6, dtype=torch.float64)
    report.run("frozen", lambda: _frozen(p))
    report.run(
        "shape", lambda: (tuple(p(x_t, t).shape) == tuple(x_t.shape), f"{tuple(x_t.shape)}")
    )
    report.run("finite", lambda: (bool(torch.isfinite(p(x_t, t)).all()), "at t = 0.6"))
    report.run(
        "finite at t = 1", lambda: (bool(torch.isfinite(p(x_t, t / t)).all()), "pure noise")
    )
    report.run("deterministic", lambda: close(p(x_t, t), p(x_t, t), 0))
    report.run("no hidden randomness", lambda: keeps_global_stream(lambda: p(x_t, t)))
    report.run("leaves x_t alone", lambda: _leaves_input(_at(p, t), x_t))
    report.run("one image, one answer", lambda: _batch_split(_at(p, t), x_t))
    report.run("one time per image", lambda: close(p(x_t, t.expand(batch)), p(x_t, t), 1e-8))
    report.run("gradient reaches x_t", lambda: _gradient(_at(p, t), x_t))
    report.run("calls are counted", lambda: _counted(p, x_t, t))
    report.run("decode gives images", lambda: _decodes(p, x_t))
    if denoises or p.value_range is not None:
        report.run("encode, then decode", lambda: _round_trip(p))
    if denoises:
        report.run("denoises", lambda: _denoises(p))
    return report


def _check_map(report: Report, p: Prior, z: Tensor) -> Report:
    report.run("frozen", lambda: _frozen(p))
    report.run("decode gives images", lambda: _decodes(p, z))
    report.run("finite", lambda: (bool(torch.isfinite(p.decode(z)).all()), "images of seeds"))
    report.run("deterministic", lambda: close(p.decode(z), p.decode(z), 0))
    report.run("no hidden randomness", lambda: keeps_global_stream(lambda: p.decode(z)))
    report.run("leaves z alone", lambda: _leaves_input(p.decode, z))
    report.run("one image, one answer", lambda: _batch_split(p.decode, z))
    report.run("gradient reaches z", lambda: _gradient(p.decode, z))
    report.run("calls are counted", lambda: _map_counted(p, z))
    report.run("refuses to denoise", lambda: _refuses(p, z))
    return report


def _frozen(p: Prior) -> Outcome:
    live = [name for name, w in p.named_parameters() if w.requires_grad]
    return (
        not live and not p.training,
        f"trainable weights: {live[:3]}" if live else "eval, no weight gradients",
    )


def _at(p: Prior, t: Tensor) -> Map:
    return lambda x_t: p(x_t, t)


def _leaves_input(function: Map, x: Tensor) -> Outcome:
    before = x.clone()
    function(x)
    return torch.equal(before, x), "input tensor unchanged"


def _batch_split(function: Map, x: Tensor) -> Outcome:
    alone = torch.cat([function(x[i : i + 1]) for i in range(x.shape[0])])
    return close(alone, function(x), 1e-8)


def _gradient(function: Map, x: Tensor) -> Outcome:
    w = random_images(tuple(function(x).shape), "cotangent")

    def scalar(v: Tensor) -> Tensor:
        return (function(v) * w).sum()

    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        value = scalar(leaf)
        if not value.requires_grad:
            return False, "the output is detached from the input"
        (grad,) = torch.autograd.grad(value, leaf)
    # Networks that round to float32 inside blur a small step, and those with kinks a large one.
    tries = [directional(scalar, x, grad, step) for step in (1e-5, 1e-3, 1e-7)]
    return next((found for found in tries if found[0]), tries[0])


def _map_counted(p: Prior, z: Tensor) -> Outcome:
    nfe, vjps = p.counter.nfe, p.counter.vjps
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        torch.autograd.grad(p.decode(leaf).sum(), leaf)
    made = (p.counter.nfe - nfe, p.counter.vjps - vjps)
    return made[0] == made[1] > 0, f"forward and backward calls of one map counted as {made}"


def _refuses(p: Prior, z: Tensor) -> Outcome:
    try:
        p(z, torch.tensor(0.5))
    except TypeError as error:
        return type(p).__name__ in str(error), f"TypeError: {error}"
    return False, "it answers with an E[x_0 | x_t] although it says that it has none"


def _counted(p: Prior, x_t: Tensor, t: Tensor) -> Outcome:
    nfe, vjps = p.counter.nfe, p.counter.vjps
    with torch.enable_grad():
        leaf = x_t.clone().requires_grad_()
        torch.autograd.grad(p(leaf, t).sum(), leaf)
    made = (p.counter.nfe - nfe, p.counter.vjps - vjps)
    return made == (p.nfe_per_call,) * 2, f"one call and one backward pass counted as {made}"


def _decodes(p: Prior, h: Tensor) -> Outcome:
    x = p.decode(h)
    return tuple(x.shape[1:]) == tuple(p.image_shape), f"images {tuple(x.shape[1:])}"


def _round_trip(p: Prior) -> Outcome:
    x = probe_signal(p.image_shape).double()
    # Autoencoders lose detail.
    return close(p.decode(p.encode(x)), x, 0.1 if p.value_range is None else 1e-8)


def _denoises(p: Prior) -> Outcome:
    h = p.encode(probe_signal(p.image_shape).double())
    noise = torch.randn(h.shape, dtype=h.dtype, generator=torch.Generator().manual_seed(0))
    t = p.path.time_of(torch.tensor(0.2, dtype=torch.float64))
    alpha, sigma = p.path.coefficients(t, h)
    left = (p(alpha * h + sigma * noise, t) - h).square().mean().sqrt() / (sigma / alpha)
    return bool(left < 1), f"{float(left):.2f} of the noise is left at sigma/alpha = 0.25"
