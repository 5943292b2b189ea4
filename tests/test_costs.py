"""What one seed iteration costs: two forwards of FLOPs a step; checkpointing keeps memory flat."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from plugip.engine.misfit import seed_misfit
from plugip.noise import GaussianNoise
from plugip.operators import Denoise
from plugip.priors import faces64
from plugip.problem import Problem
from plugip.reverse import Generator


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem(torch.zeros(1, 3, 64, 64), Denoise(), GaussianNoise(0.1), faces64())


def flops_of_iteration(problem: Problem, generator: Generator) -> int:
    objective = seed_misfit(problem, generator)
    leaf = torch.zeros(1, *problem.prior.shape).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        # The counter's hooks refuse a leaf as a module's input, hence the factor 1.
        torch.autograd.grad(objective(1 * leaf).sum(), leaf)
    return counter.get_total_flops()


def flops_of_forward(problem: Problem) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        problem.prior(torch.zeros(1, *problem.prior.shape), torch.tensor(1.0))
    return counter.get_total_flops()


@pytest.mark.parametrize(("checkpoint", "forwards"), [(False, 2.0), (True, 3.0)])
def test_flops_per_reverse_step(problem: Problem, checkpoint: bool, forwards: float):
    # With trainable weights it would be 3.0 and 4.0: the backward pass to the weights is not paid.
    total = flops_of_iteration(problem, Generator(steps=2, checkpoint=checkpoint))
    assert total / (2 * flops_of_forward(problem)) == pytest.approx(forwards, abs=0.02)


def saved_bytes(problem: Problem, generator: Generator) -> int:
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    z = torch.zeros(1, *problem.prior.shape).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        generator(problem.prior, z)
    return sum(sizes.values())


def test_checkpointing_keeps_only_the_states_between_steps(problem: Problem):
    state = 4 * torch.Size(problem.prior.shape).numel()
    plain = saved_bytes(problem, Generator(steps=4))
    lean = saved_bytes(problem, Generator(steps=4, checkpoint=True))
    assert lean <= 10 * state
    assert plain > 100 * lean
