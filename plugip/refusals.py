"""What an operator says of images that it cannot take."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


def require_batch(x: Tensor, ndim: int, owner: str) -> None:
    """Raises one clear sentence if ``x`` is not a batch of floating-point images."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{owner} takes a torch tensor, got {type(x).__name__}")
    if not (x.is_floating_point() or x.is_complex()):
        raise TypeError(
            f"{owner} takes floating-point images in [-1, 1], got {x.dtype}; "
            "convert with x.float() / 127.5 - 1"
        )
    if x.ndim == ndim - 1:
        raise ValueError(
            f"{owner} takes a batch of {ndim} axes, got shape {tuple(x.shape)}; "
            "add the batch axis with x[None]"
        )
    if x.ndim != ndim:
        raise ValueError(f"{owner} takes a batch of {ndim} axes, got shape {tuple(x.shape)}")


def explain(module: nn.Module, per_image: Iterable[str], x: Tensor, error: RuntimeError) -> None:
    """Raises a ValueError in plain words where torch's error has one of the usual causes.

    Args:
        module: The operator that failed.
        per_image: Names of its buffers that hold one entry for each image.
        x: The images.
        error: What torch said.
    """
    name, tensors = type(module).__name__, [*module.buffers(), *module.parameters()]
    elsewhere = next((t.device for t in tensors if t.device != x.device), None)
    if elsewhere is not None:
        raise ValueError(
            f"x is on {x.device} but {name} on {elsewhere}; use operator.to(x.device)"
        ) from error
    for part in per_image:
        rows = rows_of(module, part)
        if rows not in (0, 1, x.shape[0]):
            raise ValueError(
                f"{name} holds one {part} for each of {rows} images, but x has {x.shape[0]}; "
                "give it one for all, or one per image"
            ) from error


def rows_of(module: nn.Module, name: str) -> int:
    """Returns how many images a buffer holds entries for; 0 where there is none."""
    buffer = module._buffers.get(name)
    return 0 if buffer is None else buffer.shape[0]
