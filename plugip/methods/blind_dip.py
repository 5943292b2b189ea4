r"""Blind deblurring by two untrained networks where not even the kernel's size is known."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from plugip.engine.adam import Adam
from plugip.engine.misfit import Misfit
from plugip.engine.plugin import PlugInState, require_iterations
from plugip.engine.scene import (
    Frame,
    SceneSearch,
    SparseMisfit,
    centre_kernel,
    require_kernel_lr,
)
from plugip.engine.untrained import Rollback, require_fit_settings
from plugip.operator import Unknown
from plugip.problem import Problem
from plugip.untrained import MLP, Network, Skip


@dataclass(frozen=True)
class BlindDIP(SceneSearch):
    r"""Finds image and kernel with a window for the kernel that is far too large.

    .. math:: \min_{v, w}\; \ell(y, k \star x) + \lambda \frac{\|\nabla x\|_1}{\|\nabla x\|_2},
        \quad x = f_v(u_x), \; k = \mathrm{softmax}(g_w(u_k)) \quad \text{(valid)}

    Set ``operator.kernel_size`` to about half of the image's side. In such a window the kernel may
    lie anywhere, and the image then is moved along; that is undone before the answer: the kernel's
    centre of mass is put on the operator's origin, and the image is cut out of the larger scene at
    the place that goes with it, so that nothing is lost at the edges. What remains is the true
    kernel's own distance between centre of mass and origin; see
    ``plugip.operators.align_shift`` for scores. Costs are those of ``SelfDeblur``.

    Args:
        iterations: Adam steps.
        generator: Network of the scene.
        kernel: Network of the kernel.
        solver: Adam.
        kernel_lr: Adam's step of the kernel's weights.
        jitter: Noise that is added to the scene's code, afresh in every step.
        ratio_weight: lambda, published about 1e-4 for low and 2e-4 for high noise. On [-1, 1] mean
            squares are four times those on [0, 1]; the ratio is the same.
        rollback: When to go back to earlier weights; null: never.
        loss: "mean", "sum" or "likelihood".

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If the operator's unknown part is not one blur kernel.

    Source: Zhuang et al. 2024 (Blind image deblurring with unknown kernel size and substantial
    noise, IJCV) for the objective and the windows; steps and networks as in Ren et al. 2020.
    """

    iterations: int = 5000
    generator: Network = field(default_factory=Skip)
    kernel: Network = field(default_factory=MLP)
    solver: Adam = field(default_factory=Adam)
    kernel_lr: float = 1e-4
    jitter: float = 0.001
    ratio_weight: float = 4e-4
    rollback: Rollback | None = None
    loss: str = "mean"

    def __post_init__(self) -> None:
        require_iterations(self.iterations)
        require_fit_settings(self.jitter, self.average)
        require_kernel_lr(self.kernel_lr)
        if self.ratio_weight < 0:
            raise ValueError(f"ratio_weight must not be negative, got {self.ratio_weight}")

    def objective(self, problem: Problem, state: PlugInState) -> Misfit:
        """Returns the misfit with the gradient ratio of the scene."""
        return SparseMisfit(problem, state.unknowns, self.loss, self.ratio_weight)

    def shown(
        self, problem: Problem, x: Tensor, theta: Unknown | None
    ) -> tuple[Tensor, Unknown | None]:
        """Puts the kernel's centre of mass on the origin, and moves the image along."""
        frame = Frame.of(problem, type(self).__name__)
        if not isinstance(theta, Tensor):
            raise TypeError("a kernel is needed to centre the image")
        kernel, moves = centre_kernel(theta, frame.origin)
        return frame.image(x, moves), kernel
