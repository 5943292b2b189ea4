"""From configs to objects: the only caller of Hydra's instantiate, behind an allowlist.

A config is code: ``_target_`` names anything that Python can import. So each target is located
first, and the object found there, not only the dotted name, must belong to plugip, to a short list
of torch names, or to a package that the user trusts.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from plugip.options import nearest
from plugip.refusals import named

# Rooms that write files, read argv or build further configs: no config has business there.
CLOSED_ROOMS = (
    "building",
    "cli",
    "experiment",
    "figures",
    "fitting",
    "gallery",
    "record",
    "testing",
    "training",
)
TENSORS = ("tensor", "zeros", "ones", "full", "eye", "linspace", "arange", "device")
SPECIAL = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")


class BuildError(ValueError):
    """Says in one sentence which part of a config cannot be built, why, and what to do."""


def build(cfg: Any, trusted: Sequence[str] = ()) -> Any:
    """Builds what a config describes: an object for a ``_target_``, else lists and dicts of them.

    Everything is checked before anything is constructed.

    Args:
        cfg: A config, or plain dicts, lists and values. Relative paths stay as they are.
        trusted: Further packages whose objects may be built, such as ``["mylab"]``. Configs are
            code: trust a package only if you would run it.

    Returns:
        The object; containers come as plain lists and dicts.

    Raises:
        BuildError: If a target is not found or not trusted, or an argument is unknown or missing.
        ValueError, TypeError, OSError: What a constructor raises, unchanged.

    Example:
        >>> build({"_target_": "plugip.noise.GaussianNoise", "std": 0.1})
        GaussianNoise(std=0.1 on [-1, 1] = 0.05 on [0, 1])
    """
    plain = resolved(cfg)
    if not isinstance(plain, (dict, list, type(None))):
        raise TypeError(
            f"build takes a config, such as {{'_target_': 'plugip.operators.Decimate'}}, got "
            f"{named(cfg)}"
        )
    for where, node in _targets(plain, ""):
        _check_arguments(node, _trusted_object(str(node["_target_"]), where, trusted), where)
    try:
        built = instantiate(plain, _convert_="all")
    except InstantiationException as error:
        raise _origin(error) from error
    return _unwrap(built)


def resolved(cfg: Any) -> Any:
    """Returns a config as plain dicts and lists, interpolations filled in.

    Raises:
        BuildError: If a mandatory value (``???``) is missing or an interpolation leads nowhere.
    """
    if not isinstance(cfg, (DictConfig, ListConfig)):
        return cfg
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise BuildError(
            f"{error.full_key} has no default; give it: {error.full_key}=..."
        ) from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise BuildError(f"{error.full_key} cannot be resolved: {reason}") from error


def _targets(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every dict with a target, wherever it is nested, with its dotted place."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from _targets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _targets(value, f"{where}[{i}]")


def _trusted_object(target: str, where: str, trusted: Sequence[str]) -> Any:
    # The name is checked before anything is imported, since an import runs code; the object is
    # checked after, because plugip.data.os.system has a harmless prefix.
    if not _allowed_name(target, trusted):
        raise _untrusted(target, where, target.split(".")[0])
    found = _locate(target, where)
    if not _allowed_object(found, trusted):
        raise _untrusted(target, where, _identity(found).split(".")[0])
    return found


def _allowed_name(name: str, trusted: Sequence[str]) -> bool:
    top, *rest = name.split(".")
    plugip = top == "plugip" and bool(rest) and rest[0] not in CLOSED_ROOMS
    return plugip or top == "torch" or _named_by(trusted, name)


def _allowed_object(found: Any, trusted: Sequence[str]) -> bool:
    name = _identity(found)
    if _named_by(trusted, name) or _allowed_torch(found):
        return True
    return not name.startswith("torch.") and _allowed_name(name, trusted)


def _named_by(packages: Sequence[str], name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _allowed_torch(found: Any) -> bool:
    kinds = (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    if isinstance(found, type) and issubclass(found, kinds):
        return _identity(found).startswith(("torch.nn.modules.", "torch.optim."))
    return any(found is getattr(torch, name) for name in TENSORS)


def _identity(found: Any) -> str:
    """Returns the object's own module and qualified name, whatever name led to it."""
    if inspect.ismodule(found):
        return found.__name__
    module = getattr(found, "__module__", None) or type(found).__module__
    return f"{module}.{getattr(found, '__qualname__', type(found).__qualname__)}"


def _locate(target: str, where: str) -> Any:
    names = target.split(".")
    found, depth = _deepest_module(names, target, where)
    for name in names[depth:]:
        if not hasattr(found, name):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise BuildError(
                f"{_place(where)}_target_ {target} does not exist: {_identity(found)} has no "
                f"{name!r}{nearest(name, public)}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise BuildError(
            f"{_place(where)}_target_ {target} is a {type(found).__name__}, not a class"
        )
    return found


def _deepest_module(names: list[str], target: str, where: str) -> tuple[Any, int]:
    found, depth = None, 0
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise BuildError(
                    f"{_place(where)}_target_ {target} needs the module {error.name!r}, which is "
                    "not installed"
                ) from error
            if found is None:
                raise BuildError(
                    f"{_place(where)}_target_ {target} is not found: no module {names[0]!r} in "
                    "the working folder or among the installed packages"
                ) from error
            return found, depth - 1
    return found, depth


def _check_arguments(node: dict[str, Any], found: Any, where: str) -> None:
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):  # some built-in functions do not tell
        return
    name = getattr(found, "__qualname__", str(node["_target_"]))
    given = [str(key) for key in node if key not in SPECIAL]
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    valid = [p.name for p in named]
    unknown = [key for key in given if key not in valid]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise BuildError(
            f"{_place(where)}{name} has no argument {unknown[0]!r}; it takes "
            f"{', '.join(valid) or 'none'}{nearest(unknown[0], valid)}"
        )
    missing = [p.name for p in named if p.default is p.empty and p.name not in given]
    if missing and not node.get("_args_") and not node.get("_partial_"):
        raise BuildError(
            f"{_place(where)}{name} needs the argument {missing[0]!r}, which is not given"
        )


def _untrusted(target: str, where: str, package: str) -> BuildError:
    if package == "torch":
        advice = "of torch: layers, optimisers, schedulers, and torch." + ", torch.".join(TENSORS)
    elif package == "plugip":
        advice = f"of plugip: everything but {', '.join(CLOSED_ROOMS)}"
    elif package in sys.stdlib_module_names:
        advice = "nothing of Python's own library may be built; wrap it in a class of your own"
    else:
        advice = f"if you trust that package's code, add it: trusted=[{package}]"
    return BuildError(
        f"{_place(where)}_target_ {target} is not trusted (configs are code); {advice}"
    )


def _place(where: str) -> str:
    return f"{where}: " if where else ""


def _origin(error: InstantiationException) -> Exception:
    """Returns what the constructor itself raised, without Hydra's wrapping."""
    cause: BaseException = error
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause if isinstance(cause, Exception) else error


def _unwrap(built: Any) -> Any:
    # Hydra's own partial checks its policy again at each call, 66 microseconds (ecosystem.md 1.4).
    if isinstance(built, functools.partial):
        return functools.partial(built.func, *built.args, **built.keywords)
    return built
