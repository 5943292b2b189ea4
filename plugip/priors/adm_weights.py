"""Compares an ADM state dict with its settings, and moves it into diffusers' UNet2DModel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugip.priors.adm_layout import Architecture, tensor_map, unet_config
from plugip.priors.tensors import WeightsError, differences, read_tensors

LABELS = "label_emb.weight"
# The layer whose output the class embedding is added to, so that a class is one more bias there.
TIME_BIAS = "time_embed.2.bias"
# One-dimensional convolutions of width 1 in the file, linear layers in the UNet2DModel.
POINTWISE = (".qkv.weight", ".proj_out.weight")


def read_weights(file: Path, key: str | None = None) -> dict[str, Tensor]:
    """Reads a checkpoint's tensors, and nothing but tensors, onto the CPU.

    Args:
        file: The checkpoint.
        key: Where the state dict lies in it, such as ``ema``; not needed if it is one.

    Raises:
        WeightsError: If the file is damaged, a web page, or holds other objects than tensors.
    """
    with file.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        raise WeightsError(
            f"{file} is a web page of {file.stat().st_size} bytes, not the weights: the server "
            "asked something instead of sending them; download it with a browser"
        )
    return read_tensors(file, key)


def misfits(state: Mapping[str, Tensor], architecture: Architecture) -> list[str]:
    """Says in what a file differs from the settings, the first names of each kind."""
    return differences(state, blank_state(architecture))


def to_unet(
    state: Mapping[str, Tensor], architecture: Architecture, label: int | None = None
) -> Any:
    """Returns the UNet2DModel with the same function, in float32 and eval mode, on the CPU.

    Args:
        state: A state dict without ``misfits``.
        architecture: Its settings.
        label: The class to fold into the time embedding, for a class-conditional network, which
            sees nothing of either but their sum.

    Raises:
        ValueError: If a label is missing, out of range, or given to a network without classes.
    """
    architecture.require_label(label)
    net = _blank_unet(architecture)
    filled: dict[str, Tensor] = {}
    for old, new in tensor_map(architecture, net.state_dict()).items():
        tensor = state[old].float()
        if old == TIME_BIAS and label is not None:
            tensor = tensor + state[LABELS][label].float()
        if old.endswith(POINTWISE):
            tensor = tensor.squeeze(-1)
        pieces = (tensor,) if len(new) == 1 else split_qkv(tensor, architecture)
        filled |= zip(new, pieces, strict=True)
    net.load_state_dict(filled, strict=True, assign=True)
    _set_heads(net, architecture)
    return net.eval()


def split_qkv(rows: Tensor, architecture: Architecture) -> tuple[Tensor, ...]:
    """Splits the joint projection of an attention block into those of query, key and value.

    In the older order the rows of each head stand together, query, key and value in turn; a
    plain split in three would mix them without any error, since all shapes agree.

    Args:
        rows: Weight, (3 C, C), or bias, (3 C).
        architecture: Settings; its heads and ``use_new_attention_order`` matter.

    Returns:
        Three tensors, (C, C) or (C).
    """
    if not architecture.use_new_attention_order:
        heads = architecture.heads(len(rows) // 3)
        rows = rows.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    return rows.chunk(3)


def _blank_unet(architecture: Architecture) -> Any:
    """Builds the network without memory for its weights."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    with torch.device("meta"):
        return UNet2DModel(**unet_config(architecture))


@lru_cache(maxsize=8)
def blank_state(architecture: Architecture) -> Mapping[str, Tensor]:
    """Returns the tensors that a file must hold, without memory: their names and shapes."""
    blanks = _blank_unet(architecture).state_dict()
    wanted: dict[str, Tensor] = {}
    for old, new in tensor_map(architecture, blanks).items():
        joint = torch.cat([blanks[name] for name in new])
        wanted[old] = joint.unsqueeze(-1) if old.endswith(POINTWISE) else joint
    if architecture.num_classes is not None:
        size = (architecture.num_classes, architecture.embedding_width)
        wanted[LABELS] = torch.empty(size, device="meta")
    return wanted


def _set_heads(net: Any, architecture: Architecture) -> None:
    # A UNet2DModel's config knows one width of heads; some networks fix their number instead.
    from diffusers.models.attention_processor import Attention

    for module in net.modules():
        if isinstance(module, Attention):
            module.heads = module.sliceable_head_dim = architecture.heads(module.inner_dim)
            module.scale = (module.inner_dim // module.heads) ** -0.5
