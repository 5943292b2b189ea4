"""What a config may name without anybody's trust: the parts of a problem, and nothing else.

Parts are classes that only keep what they are given, and a few functions that return one. What
writes files, runs a solver or builds further configs is no part.
"""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any

# Rooms whose public classes are parts.
ROOMS = (
    *("bridges", "composition", "data", "engine", "folding", "methods", "metrics", "noise"),
    *("operator", "operators", "path", "prior", "priors", "reverse", "spectral", "stopping"),
    "untrained",
)
# Functions that return a part, an array for one, or align an answer.
MAKERS = frozenset(
    """
    bridges.deepinv.as_deepinv_model bridges.deepinv.from_deepinv composition.stack
    data.demo_image folding.on_frames folding.per_channel noise.corruptions.imagenet_c
    operators.bkse.legacy_daps_latent operators.blind_blur.align_shift
    operators.blind_pupil.zernike operators.homography.rotations
    operators.kernels.legacy_motion_kernel operators.masks.legacy_dps_mask
    operators.mri.birdcage_maps operators.mri_masks.legacy_mri_mask operators.phase.align
    operators.ptychography.disk_pupil operators.ptychography.led_grid
    operators.ptychography.scan_grid prior.as_flow prior.as_vp priors.adm.load_adm
    priors.autoencoder.load_autoencoder priors.embedded.faces64 priors.tensors.load_weights
    priors.text.load_texts
    """.split()
)
# Other constructors of such classes.
CONSTRUCTORS = (
    *("from_checkpoint", "from_pretrained", "from_torchscript"),
    *("cosine", "linear", "load", "random", "untrained"),
)
TENSORS = ("tensor", "zeros", "ones", "full", "eye", "linspace", "arange", "device")
ADVICE = (
    f"of plugip: the public classes of {', '.join(ROOMS)}, and functions that make a part, such "
    "as plugip.priors.tensors.load_weights"
)
TORCH_ADVICE = "of torch: layers, optimisers, schedulers, and torch." + ", torch.".join(TENSORS)


def may_name(target: str) -> bool:
    """Tells whether a dotted name may lead to a part; only such a name is imported."""
    top, *rest = target.split(".")
    public = bool(rest) and not any(name.startswith("_") for name in rest)
    return public and top in ("plugip", "torch")


def is_part(target: str, found: Any, owner: Any) -> bool:
    """Tells whether the object that a name leads to is a part.

    Args:
        target: The name; an object of torch counts under a name in torch only.
        found: What it leads to.
        owner: The class or module that holds it.
    """
    if target.startswith("torch."):
        return _is_torch_part(found)
    if inspect.isclass(found):
        return _is_part_class(found)
    if inspect.isclass(owner):
        return _is_part_class(owner) and _is_constructor(found)
    return identity(found).removeprefix("plugip.") in MAKERS


def identity(found: Any) -> str:
    """Returns the object's own module and qualified name, whatever name led to it."""
    if inspect.ismodule(found):
        return found.__name__
    module = getattr(found, "__module__", None) or type(found).__module__
    return f"{module}.{getattr(found, '__qualname__', type(found).__qualname__)}"


def _is_part_class(found: type) -> bool:
    top, _, rest = found.__module__.partition(".")
    if top != "plugip" or rest.split(".")[0] not in ROOMS or issubclass(found, BaseException):
        return False
    abstract = inspect.isabstract(found) or getattr(found, "_is_protocol", False)
    named = not found.__name__.startswith("_") and not found.__name__.endswith("State")
    return named and not abstract and not issubclass(found, Enum)


def _is_constructor(found: Any) -> bool:
    name = getattr(found, "__name__", "")
    ours = (getattr(found, "__module__", None) or "").startswith("plugip.")
    return name in CONSTRUCTORS and ours and inspect.isclass(getattr(found, "__self__", None))


def _is_torch_part(found: Any) -> bool:
    import torch

    kinds = (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    if isinstance(found, type) and issubclass(found, kinds):
        return identity(found).startswith(("torch.nn.modules.", "torch.optim."))
    return any(found is getattr(torch, name) for name in TENSORS)
