"""Reads tensors, and nothing but tensors, from a weights file, and fills a network with them."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# What DataParallel and torch.compile put before every name.
WRAPPERS = ("module.", "_orig_mod.")


class WeightsError(ValueError):
    """Says which file of a prior is missing or broken, where it was looked for, and what to do."""


def load_weights(
    network: nn.Module, source: str | Path, key: str | None = None, prefix: str = ""
) -> nn.Module:
    """Fills a network with the weights of a file; every name and shape must fit.

    No code in the file is run, and nothing is left at random.

    Args:
        network: The network, built by its authors' code; its values are overwritten.
        source: A ``.safetensors`` file, or a PyTorch file that holds a state dict.
        key: Where the state dict lies in a checkpoint, such as torchcfm's ``ema_model``.
        prefix: What the network's names begin with in the file, such as Lightning's ``model.``;
            other names are left out. What DataParallel and torch.compile add is known.

    Returns:
        The network.

    Raises:
        WeightsError: If the file is missing, holds something else than tensors, or does not fit;
            the first differing names are given.
    """
    file, own = Path(source).expanduser(), network.state_dict()
    tensors = unwrapped(_under(read_tensors(file, key), prefix, file), own)
    faults = differences(tensors, own)
    if faults:
        raise WeightsError(
            f"{file} does not fit {type(network).__name__}: {'; '.join(faults)}; build the "
            "network with the settings of its training"
        )
    network.load_state_dict(tensors, strict=True)
    return network


def read_tensors(file: Path, key: str | None = None) -> dict[str, Tensor]:
    """Returns a file's tensors by name, on the CPU, as copies; runs no code from the file.

    Args:
        file: A ``.safetensors`` file, or a PyTorch file.
        key: Where the state dict lies in a checkpoint; not needed if the file is one.

    Raises:
        WeightsError: If the file is missing, damaged, or holds something else than tensors.
    """
    if not file.is_file():
        raise WeightsError(f"there is no weights file {file.absolute()}; check the path")
    tables = _tables(_read_any(file))
    if (key or "") in tables:
        return {name: value.clone() for name, value in tables[key or ""].items()}
    what = f"has no state dict of tensors under {key!r}" if key else "is not a state dict itself"
    inside = ", ".join(filter(None, tables))
    advice = f"give key=..., one of {inside}" if inside else "export one: net.state_dict()"
    raise WeightsError(f"{file} {what}; {advice}")


def settle(network: nn.Module) -> None:
    """Moves every weight into memory of its own.

    Weights that a file is mapped to lie wherever the file has them, and kernels round differently
    by their alignment; so would a network on "cpu" and its copy on "cpu:0".
    """
    for weight in (*network.parameters(), *network.buffers()):
        weight.data = weight.data.clone()


def require_safetensors(file: Path) -> None:
    """Raises a WeightsError if a file is not a whole safetensors file; reads its header only."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            return
    except SafetensorError as error:
        raise _not_weights(file, "safetensors", error) from error


def read_torch_file(file: Path, device: str = "cpu") -> Any:
    """Returns what a PyTorch file holds, if it is tensors and plain containers of them.

    Args:
        file: A file that ``torch.save`` wrote.
        device: Where to put the tensors; "meta" reads their shapes only.

    Raises:
        WeightsError: If it holds code or Python objects, or is damaged.
    """
    if _is_torchscript(file):
        raise WeightsError(
            f"{file} is a TorchScript program, not a table of weights; only "
            "GeneratorPrior.from_torchscript loads one, and runs it"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # of foreign pickle protocols
            return torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to unpickle anyway, which would run the file's code.
        raise _holds_code(file) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes the reader raise almost anything
        raise _not_weights(file, "plain PyTorch weights", error) from error


def shortened(error: Exception) -> str:
    """Returns the first line of an error, shortened, for use inside a sentence."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) < 160 else f"{text[:157]}..."


def _not_weights(file: Path, kind: str, error: Exception) -> WeightsError:
    return _lfs_pointer(file) or WeightsError(
        f"{file} is not a {kind} file ({shortened(error)}); its size is {file.stat().st_size} "
        "bytes: was the download complete?"
    )


def _holds_code(file: Path) -> WeightsError:
    return _lfs_pointer(file) or WeightsError(
        f"{file} is damaged, or holds Python objects other than tensors, and reading those would "
        "run code from the file; with the program that made it, export the tensors alone: "
        "torch.save(net.state_dict(), 'weights.pt'), where net is the network (for EDM's "
        f"published pickles net = pickle.load(open('{file.name}', 'rb'))['ema'])"
    )


def _lfs_pointer(file: Path) -> WeightsError | None:
    with file.open("rb") as head:
        if not head.read(24).startswith(b"version https://git-lfs"):
            return None
    return WeightsError(f"{file} is a git-lfs pointer, not the weights; run `git lfs pull` there")


def _is_torchscript(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return False  # no archive, or a broken one: torch's reader says which


def _read_any(file: Path) -> Any:
    if file.suffix != ".safetensors":
        return read_torch_file(file)
    from safetensors.torch import load_file

    require_safetensors(file)
    return load_file(file)


def _tables(held: Any) -> dict[str, Mapping[str, Tensor]]:
    """Returns the state dicts in a checkpoint by name; the checkpoint itself is named ""."""
    named = {"": held, **held} if isinstance(held, Mapping) else {}
    return {str(name): table for name, table in named.items() if _is_state_dict(table)}


def _is_state_dict(held: Any) -> bool:
    return isinstance(held, Mapping) and bool(held) and all(map(torch.is_tensor, held.values()))


def _under(tensors: dict[str, Tensor], prefix: str, file: Path) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a prefix, without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    if not names:
        raise WeightsError(
            f"no name in {file} begins with prefix {prefix!r}; it holds {_first(list(tensors))}"
        )
    return {name.removeprefix(prefix): tensors[name] for name in names}


def unwrapped(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drops a wrapper's prefix that every name in the file has and the network's have not."""
    for prefix in WRAPPERS:
        wrapped = all(name.startswith(prefix) for name in tensors)
        if wrapped and not any(name.startswith(prefix) for name in own):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def differences(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Says in what a file's tensors differ from a network's, names and shapes, the first few."""
    both = [name for name in own if name in tensors]
    shapes = [
        f"{n} is {tuple(tensors[n].shape)} in the file and {tuple(own[n].shape)} in the network"
        for n in both
        if tensors[n].shape != own[n].shape
    ]
    faults = (
        ("the file lacks ", [name for name in own if name not in tensors]),
        ("the network lacks ", [name for name in tensors if name not in own]),
        ("", shapes),
    )
    return [text + _first(names) for text, names in faults if names]


def _first(names: list[str], shown: int = 3) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
