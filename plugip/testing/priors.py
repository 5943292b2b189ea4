"""check_prior: is it frozen, differentiable, batched, counted, and does it denoise?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from plugip.prior import Prior, probe_signal
from plugip.testing.report import Report, close, directional, keeps_global_stream, random_images

Outcome = tuple[bool, str]


def check_prior(prior: Prior, batch: int = 3, denoises: bool = True) -> Report:
    """Checks a prior in float64 on the CPU; the prior itself is copied, not changed.

    Args:
        prior: The prior.
        batch: Images per call, at least 2.
        denoises: Whether it is trained (or exact), so that it must remove noise from a known
            picture.

    Returns:
        A report; ``require()`` raises if a check failed.
    """
    report = Report(f"prior {type(prior).__name__} with states {prior.shape}")
    p = copy.deepcopy(prior).cpu().double()
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
    report.run("leaves x_t alone", lambda: _leaves_input(p, x_t, t))
    report.run("one image, one answer", lambda: _batch_split(p, x_t, t))
    report.run("one time per image", lambda: close(p(x_t, t.expand(batch)), p(x_t, t), 1e-8))
    report.run("gradient reaches x_t", lambda: _gradient(p, x_t, t))
    report.run("calls are counted", lambda: _counted(p, x_t, t))
    report.run("decode gives images", lambda: _decodes(p, x_t))
    report.run("encode, then decode", lambda: _round_trip(p))
    if denoises:
        report.run("denoises", lambda: _denoises(p))
    return report


def _frozen(p: Prior) -> Outcome:
    live = [name for name, w in p.named_parameters() if w.requires_grad]
    return (
        not live and not p.training,
        f"trainable weights: {live[:3]}" if live else "eval, no weight gradients",
    )


def _leaves_input(p: Prior, x_t: Tensor, t: Tensor) -> Outcome:
    before = x_t.clone()
    p(x_t, t)
    return torch.equal(before, x_t), "input tensor unchanged"


def _batch_split(p: Prior, x_t: Tensor, t: Tensor) -> Outcome:
    alone = torch.cat([p(x_t[i : i + 1], t) for i in range(x_t.shape[0])])
    return close(alone, p(x_t, t), 1e-8)


def _gradient(p: Prior, x_t: Tensor, t: Tensor) -> Outcome:
    w = random_images(tuple(x_t.shape), "cotangent")

    def scalar(v: Tensor) -> Tensor:
        return (p(v, t) * w).sum()

    with torch.enable_grad():
        leaf = x_t.clone().requires_grad_()
        value = scalar(leaf)
        if not value.requires_grad:
            return False, "the output is detached from x_t"
        (grad,) = torch.autograd.grad(value, leaf)
    return directional(scalar, x_t, grad)


def _counted(p: Prior, x_t: Tensor, t: Tensor) -> Outcome:
    nfe, vjps = p.counter.nfe, p.counter.vjps
    with torch.enable_grad():
        leaf = x_t.clone().requires_grad_()
        torch.autograd.grad(p(leaf, t).sum(), leaf)
    made = (p.counter.nfe - nfe, p.counter.vjps - vjps)
    return made == (1, 1), f"one call and one backward pass counted as {made}"


def _decodes(p: Prior, h: Tensor) -> Outcome:
    x = p.decode(h)
    return tuple(x.shape[1:]) == tuple(p.image_shape), f"images {tuple(x.shape[1:])}"


def _round_trip(p: Prior) -> Outcome:
    x = probe_signal(p.image_shape).double()
    return close(p.decode(p.encode(x)), x, 1e-2 if p.value_range is None else 1e-8)


def _denoises(p: Prior) -> Outcome:
    h = p.encode(probe_signal(p.image_shape).double())
    noise = torch.randn(h.shape, dtype=h.dtype, generator=torch.Generator().manual_seed(0))
    t = p.path.time_of(torch.tensor(0.2, dtype=torch.float64))
    alpha, sigma = p.path.coefficients(t, h)
    left = (p(alpha * h + sigma * noise, t) - h).square().mean().sqrt() / (sigma / alpha)
    return bool(left < 1), f"{float(left):.2f} of the noise is left at sigma/alpha = 0.25"
