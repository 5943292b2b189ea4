"""The file of a fitted Gaussian: tensors and a model card in one .safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugip.priors.weights import WeightsError

FORMAT = "plugip low-rank Gaussian, version 1"
TENSORS = ("mean", "components", "variances", "std")


def low_rank_bytes(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> bytes:
    """Encodes a prior's four tensors and its card; equal priors give equal bytes.

    The card stands in the header, as readable JSON.
    """
    from safetensors.torch import save

    plain = {name: tensors[name].detach().cpu().float().contiguous() for name in TENSORS}
    # One key: the library writes several in any order.
    return save(plain, {"card": json.dumps({"format": FORMAT, **card}, sort_keys=True)})


def read_low_rank(source: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors, float32, and the card that ``low_rank_bytes`` wrote.

    Raises:
        WeightsError: If the file is missing, damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(fspath(source)).expanduser()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise WeightsError(
            f"{file} {what}; give the .safetensors file that plugip-fit-gaussian wrote"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            header: dict[str, str] = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
    except SafetensorError as error:
        raise WeightsError(
            f"{file} is no whole safetensors file ({error}); copy or fit it again"
        ) from error
    card = _card(header)
    if card.pop("format", None) != FORMAT or set(tensors) != set(TENSORS):
        raise WeightsError(
            f"{file} holds {', '.join(sorted(tensors)[:4])}, not the parts of a fitted Gaussian; "
            "make one with plugip-fit-gaussian FOLDER FILE"
        )
    # Copies: the tensors read are parts of the mapped file, wherever they lie in it.
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, card


def _card(header: Mapping[str, str]) -> dict[str, Any]:
    """Returns the card in a header; empty where it holds none, as headers of others do."""
    try:
        card = json.loads(header.get("card", "{}"))
    except ValueError:
        return {}
    return card if isinstance(card, dict) else {}
