"""A researcher's own operator, prior and method, in a folder outside the project."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from plugip.method import Info
from plugip.operator import LinearOperator
from plugip.path import SIGNED, FlowPath
from plugip.prior import Prior


class Halve(LinearOperator):
    """y = x / 2."""

    def forward(self, x):
        return x / 2


class Plain(Prior):
    """Pixels are independent and Gaussian, so E[x_0 | x_t] is a factor; it has one weight."""

    variance: torch.Tensor

    def __init__(self, size: int = 16, std: float = 0.5):
        super().__init__()
        self.shape, self.path, self.value_range = (3, size, size), FlowPath(), SIGNED
        self.register_buffer("variance", torch.tensor(std**2))
        self.weight = nn.Parameter(torch.ones(()), requires_grad=False)
        self.freeze()

    def forward(self, x_t, t):
        a, s = self.path.coefficients(t, x_t)
        return self.weight * a * self.variance / (a**2 * self.variance + s**2) * x_t


@dataclass(frozen=True)
class State:
    z: torch.Tensor
    k: int


@dataclass(frozen=True)
class Descent:
    """Gradient descent on the prior's answer to one noisy image."""

    steps: int = 8
    lr: float = 0.5
    pause: float = 0.0

    @property
    def iterations(self):
        return self.steps

    def init(self, problem, rng):
        return State(rng.normal(problem.prior.shape, like=problem.y.real), 0)

    def step(self, problem, state):
        time.sleep(self.pause)
        with torch.enable_grad():
            z = state.z.detach().requires_grad_()
            x = self.image(problem, z)
            loss = problem.squared_residual(problem.operator(x))
            (grad,) = torch.autograd.grad(loss.sum(), z)
        done = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        state = State(state.z - self.lr * grad, state.k + 1)
        return state, Info(self.image(problem, state.z).detach().clamp(-1, 1), loss.detach(), done)

    def finish(self, problem, state):
        return self.image(problem, state.z).detach().clamp(-1, 1)

    def image(self, problem, z):
        return problem.prior.decode(problem.prior(z, torch.tensor(0.5)))
