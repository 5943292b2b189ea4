r"""SelfDeblur: blind deblurring by two untrained networks, one of the image, one of the kernel."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from plugip.engine.adam import Adam
from plugip.engine.misfit import Misfit
from plugip.engine.plugin import PlugInState, require_iterations
from plugip.engine.scene import SceneSearch, StructuralMisfit, require_kernel_lr
from plugip.engine.schedule import Milestones
from plugip.engine.unknowns import Unknowns
from plugip.engine.untrained import FitState, Rollback, require_fit_settings
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.untrained import MLP, Network, Skip

SMALLEST = 11  # pixels, the window of SSIM


def _scene_network() -> Skip:
    return Skip(skip_channels=16, code_channels=8)


def _halving_adam() -> Adam:
    return Adam(schedule=Milestones())


@dataclass(frozen=True)
class SelfDeblur(SceneSearch):
    r"""Finds image and blur kernel together by fitting two untrained networks to the measurement.

    .. math:: \min_{v, w}\; \ell(y, \mathrm{softmax}(g_w(u_k)) \star f_v(u_x)) \quad \text{(valid)}

    The scene is larger than y by the kernel's reach, and the answer is cut out of it. For
    ``operator=blind_blur`` of a kernel size that is known, or at least not much too large; see
    ``BlindDIP`` where it is not. Published on luma alone; here all channels share a kernel. Some
    runs end in a flat image, as its authors note. One step costs one NFE and one VJP of the
    scene's network; the kernel's is far smaller and not counted.

    Args:
        iterations: Adam steps.
        generator: Network of the scene.
        kernel: Network of the kernel; a softmax follows, so kernels are not negative and sum to 1.
        solver: Adam, published lr 0.01, halved at 2000, 3000 and 4000 steps.
        kernel_lr: Adam's step of the kernel's weights, published 1e-4.
        jitter: Noise that is added to the scene's code, afresh in every step.
        structural_after: Steps with ``loss``, before 1 - SSIM takes its place; published 1000 and
            500 on two benchmarks; null: never. y must be an image in [-1, 1].
        rollback: When to go back to earlier weights; null: never, as published.
        loss: "mean" (published), "sum" or "likelihood".

    Raises:
        ValueError: If an argument is out of range, or y is smaller than SSIM's window.
        TypeError: If the operator's unknown part is not one blur kernel.

    Source: Ren et al. 2020 (SelfDeblur, CVPR), and its code.
    """

    iterations: int = 5000
    generator: Network = field(default_factory=_scene_network)
    kernel: Network = field(default_factory=MLP)
    solver: Adam = field(default_factory=_halving_adam)
    kernel_lr: float = 1e-4
    jitter: float = 0.001
    structural_after: int | None = 1000
    rollback: Rollback | None = None
    loss: str = "mean"

    def __post_init__(self) -> None:
        require_iterations(self.iterations)
        require_fit_settings(self.jitter, self.average)
        require_kernel_lr(self.kernel_lr)
        if self.structural_after is not None and self.structural_after < 0:
            raise ValueError(f"structural_after must not be negative, got {self.structural_after}")

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for the weights of both networks."""
        side = min(problem.y.shape[-2:])
        if self.structural_after is not None and side < SMALLEST:
            raise ValueError(
                f"structural similarity needs measurements of at least {SMALLEST} pixels a side, "
                f"got {side}; set method.structural_after=null"
            )
        return super().search(problem, rng)

    def objective(self, problem: Problem, state: PlugInState) -> Misfit:
        """Returns the misfit by ``loss`` first, by structural similarity later."""
        steps = state.steps if isinstance(state, FitState) else 0
        if self.structural_after is None or steps < self.structural_after:
            return super().objective(problem, state)
        return StructuralMisfit(problem, state.unknowns, self.loss)
