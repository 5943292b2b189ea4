"""What an operator says of images that it cannot take, and doors of parts that are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath

from torch import Tensor, nn

OWN = "subclass plugip.operator.Operator and write forward(self, x)"


def require_part(given: object, kind: type, what: str, advice: str) -> None:
    """Raises a TypeError unless ``given`` is a value of ``kind``.

    Args:
        given: What stands where a part is expected.
        kind: The class or protocol of the part.
        what: Its name, such as "prior".
        advice: How to make one.
    """
    if isinstance(given, type):
        raise TypeError(
            f"{what} must be a value, got the class {given.__name__}; "
            f"call it, {given.__name__}(...)"
        )
    if isinstance(given, kind):
        return
    hint = "build it from its config with plugip.build(...)" if _is_config(given) else advice
    raise TypeError(f"{what} must be of type {kind.__name__}, got {named(given)}; {hint}")


def require_tensor(given: object, opening: str) -> None:
    """Raises a TypeError that says how to convert, unless ``given`` is a tensor.

    Args:
        given: What stands where a tensor is expected.
        opening: How the sentence begins, such as "y must be".
    """
    if isinstance(given, Tensor):
        return
    raise TypeError(f"{opening} a torch tensor, got {named(given)}; {_conversion(given)}")


def named(given: object) -> str:
    """Returns how a refusal names a value: its type, and short values themselves."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    kind, text = type(given).__name__, repr(given)
    return f"{kind} {text}" if isinstance(given, (bool, int, float, str, bytes)) else kind


def _is_config(given: object) -> bool:
    return isinstance(given, Mapping) and "_target_" in given


def _conversion(given: object) -> str:
    if isinstance(given, (str, PurePath)):
        return "read the file with plugip.data.load_image(path)[None]"
    if hasattr(given, "__array_interface__") and hasattr(given, "getpixel"):  # of PIL
        return "use plugip.data.load_image(path)[None], which reads, crops and scales to [-1, 1]"
    if hasattr(given, "__array__"):
        return "use torch.from_numpy(array).float(), (B, C, H, W), scaled to [-1, 1]"
    if isinstance(given, (list, tuple)):
        return "join the images with torch.stack(images)"
    return "give images of shape (B, C, H, W) in [-1, 1]"


def require_batch(x: Tensor, ndim: int, owner: str) -> None:
    """Raises one clear sentence if ``x`` is not a batch of floating-point images."""
    require_tensor(x, f"{owner} takes")
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
