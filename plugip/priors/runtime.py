"""How a prior's network is run: what it costs, and never what it means."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint as recompute

from plugip.linalg import per_image
from plugip.options import choose, require_choice
from plugip.prior import Prior

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHECKPOINTS = ("none", "blocks")
ATTENTIONS = ("auto", "math")
# The layers whose inputs autocast rounds; their weights would be rounded again at every call.
ROUNDED = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)

Ask = Callable[..., Tensor]


@dataclass(frozen=True)
class Runtime:
    """How a network is run: faster or leaner, with the same results up to rounding.

    Nothing here is drawn at random or looks across the batch.

    Args:
        precision: fp32; bf16; or fp16 on a GPU. In 16 bits only layers that bear it (autocast)
            compute so, with weights that are rounded once; states, seeds and their gradients stay
            in float32. With fp16 each image's gradient is scaled by a power of two on its way
            through the network, since small ones would vanish.
        checkpoint: blocks: keep only what enters the network's blocks, and recompute what is
            inside them in the backward pass, for up to one more forward of time. Not counted as
            NFE, since the prior is not called again. Needs a network of diffusers. Whole reverse
            steps are recomputed by ``Generator(checkpoint=True)``; both may be set.
        channels_last: Keep the weights of convolutions with channels as the last axis in memory.
        compile: Compile the network on its first call, which takes minutes: a graph for single
            images and one for batches of any size. It then has first derivatives only, so that
            Jacobian products v -> J v are left to finite differences.
        attention: auto: PyTorch's fastest scaled dot-product attention; math: the plain one, the
            only one with second and forward-mode derivatives.

    Raises:
        ValueError: If a name is unknown, or a switch is no truth value.
    """

    precision: str = "fp32"
    checkpoint: str = "none"
    channels_last: bool = False
    compile: bool = False
    attention: str = "auto"

    def __post_init__(self) -> None:
        choose(PRECISIONS, self.precision, "precision")
        require_choice(self.attention, ATTENTIONS, "attention")
        if self.checkpoint not in CHECKPOINTS:
            raise ValueError(
                f"unknown checkpoint {self.checkpoint!r} of a network, choose from none, blocks "
                "(whole reverse steps: method.generator.checkpoint=true)"
            )
        for name in ("channels_last", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")

    def prepare(self, network: nn.Module) -> None:
        """Changes a frozen network in place: blocks, types and layout of weights, compilation.

        Raises:
            ValueError: If its blocks are to be recomputed and it does not know them.
        """
        if self.checkpoint == "blocks":
            _checkpoint_blocks(network, self.attention)
        if self.precision != "fp32":
            _round_weights(network, PRECISIONS[self.precision])
        if self.channels_last:
            _move_channels_last(network)
        if self.compile:
            # Not one graph for each size, nor one that depends on the sizes seen before.
            network.compile(dynamic=True)

    def run(self, ask: Ask, x: Tensor, *inputs: Any) -> Tensor:
        """Calls what asks a prepared network, in the chosen precision.

        Args:
            ask: A function (x, *inputs) -> output, (B, ...) -> (B, ...).
            x: States, (B, ...).
            inputs: Passed on as they are.

        Returns:
            The output, in the type of ``x``.

        Raises:
            ValueError: If fp16 is asked for on a CPU.
        """
        with _kernels(self.attention):
            if self.precision == "fp32":
                return ask(x, *inputs)
            ask = with_scaled_gradients(ask) if self.precision == "fp16" else ask
            kind = self._type_on(x.device)
            # No cache: what is kept must not depend on whether a pass is the first or repeated.
            with torch.autocast(x.device.type, kind, cache_enabled=False):
                return ask(x, *inputs).to(x.dtype)

    def _type_on(self, device: torch.device) -> torch.dtype:
        if self.precision == "fp16" and device.type == "cpu":
            raise ValueError(
                "precision=fp16 needs a GPU, and this prior is on the CPU; take bf16 or fp32"
            )
        return PRECISIONS[self.precision]


class Equipped(Prior):
    """A prior with one network, which runs as its ``Runtime`` says.

    Subclasses call whatever asks the network through ``runtime.run``.

    Attributes:
        network: The network.
        runtime: How it is run.
    """

    network: nn.Module
    runtime: Runtime = Runtime()

    def equip(self, runtime: Runtime | None) -> Self:
        """Sets how the network is run, once, and returns the prior.

        The network itself is changed, so priors that share it share this. Probe before: on a CPU
        the probe would be slow in 16 bits, and compile what is then moved to a GPU.

        Args:
            runtime: The choices; None changes nothing.

        Raises:
            ValueError: If the prior was equipped before, or the network cannot do it.
        """
        if runtime is None or runtime == self.runtime:
            return self
        if self.runtime != Runtime():
            raise ValueError(
                f"this prior already runs with {self.runtime}; load it again for another runtime"
            )
        runtime.prepare(self.network)
        self.runtime = runtime
        return self


def with_scaled_gradients(ask: Ask) -> Ask:
    """Scales gradients to a largest entry of 1/2 to 1 before they enter ``ask``, and back after.

    The factors are powers of two, one per image, so that nothing else is rounded and no image
    depends on another.

    Args:
        ask: A function (x, *inputs) -> output that is differentiated in 16 bits, (B, ...) ->
            (B, ...).
    """

    def scaled(x: Tensor, *inputs: Any) -> Tensor:
        factors: list[Tensor] = []

        def enlarge(grad: Tensor) -> Tensor:
            largest = grad.detach().flatten(1).abs().amax(1)
            exponent = torch.frexp(largest).exponent
            factors[:] = [per_image(torch.ldexp(torch.ones_like(largest), -exponent), grad)]
            return grad * factors[0]

        inside = x.view_as(x)  # what reaches x by other ways is not scaled
        output = ask(inside, *inputs).to(x.dtype)
        if inside.requires_grad and output.requires_grad:
            output.register_hook(enlarge)
            inside.register_hook(lambda grad: grad / factors[0])
        return output

    return scaled


def _kernels(attention: str) -> AbstractContextManager[Any]:
    return sdpa_kernel(SDPBackend.MATH) if attention == "math" else nullcontext()


def _checkpoint_blocks(network: Any, attention: str) -> None:
    if not getattr(network, "_supports_gradient_checkpointing", False):
        raise ValueError(
            "checkpoint=blocks needs a network of diffusers that knows its blocks, which "
            f"{type(network).__name__} is not; method.generator.checkpoint=true recomputes whole "
            "reverse steps of any network"
        )

    def inside(block: nn.Module, *inputs: Any) -> Any:
        # The backward pass recomputes outside of ``run``: PyTorch restores autocast there, but not
        # the choice of attention.
        with _kernels(attention):
            return block(*inputs)

    def through(block: nn.Module, *inputs: Any) -> Any:
        return recompute(inside, block, *inputs, use_reentrant=False)

    network.enable_gradient_checkpointing(through)


def _round_weights(network: nn.Module, kind: torch.dtype) -> None:
    # Autocast would do it at each call, and the backward pass would keep a copy for each: frozen
    # weights are not in its cache. The numbers are the same.
    for layer in network.modules():
        if isinstance(layer, ROUNDED):
            layer.to(kind)


def _move_channels_last(network: nn.Module) -> None:
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
