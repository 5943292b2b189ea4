"""From configs to objects, behind an allowlist.

A config is code: ``_target_`` names anything that Python can import. So each target is located
first, and the object found there, not only the dotted name, must be a part of plugip, of a short
list of torch names, or of a package that the user trusts. What was checked is what is called.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from plugip.arguments import misfit, parameters_of
from plugip.options import nearest
from plugip.parts import ADVICE, TORCH_ADVICE, identity, is_part, may_name
from plugip.refusals import named

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
        BuildError: If a target is not found or not trusted, or an argument is unknown, missing or
            of another type than its annotation says.
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
    return _built(plain, "", require_trusted(plain, trusted))


def resolved(cfg: Any) -> Any:
    """Returns a config as plain dicts and lists, interpolations filled in.

    Raises:
        BuildError: If a mandatory value (``???``) is missing or an interpolation leads nowhere.
    """
    if isinstance(cfg, Mapping) and not isinstance(cfg, Container):
        return {key: resolved(value) for key, value in cfg.items()}
    if isinstance(cfg, (list, tuple)):
        return [resolved(value) for value in cfg]
    if not isinstance(cfg, Container):
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


def require_trusted(plain: Any, trusted: Sequence[str], only: bool = False) -> dict[str, Any]:
    """Checks every target of a plain config, and returns the objects found by their places.

    Args:
        plain: Plain dicts and lists.
        trusted: Packages of the user's.
        only: Take nothing but objects of those.

    Raises:
        BuildError: As ``build`` does.
    """
    found = {}
    for where, node in _targets(plain, ""):
        found[where] = _trusted_object(node["_target_"], where, trusted, only)
        _check_arguments(node, found[where], where)
    return found


def _built(node: Any, where: str, found: dict[str, Any]) -> Any:
    """Builds a checked node, inner ones first."""
    if isinstance(node, list):
        return [_built(value, f"{where}[{i}]", found) for i, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _built(v, _below(where, key), found) for key, v in node.items()}
    inner = node.get("_recursive_", True)
    given = {
        key: _built(v, _below(where, key), found) if inner else v
        for key, v in node.items()
        if key not in SPECIAL or key == "_args_"
    }
    arguments = given.pop("_args_", [])
    _check_types(given, found[where], where)
    if node.get("_partial_"):
        return functools.partial(found[where], *arguments, **given)
    return found[where](*arguments, **given)


def _targets(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every dict with a target, wherever it is nested, with its dotted place."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from _targets(value, _below(where, key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _targets(value, f"{where}[{i}]")


def _below(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _trusted_object(target: Any, where: str, trusted: Sequence[str], only: bool) -> Any:
    # The name is checked before anything is imported, since an import runs code; the object is
    # checked after, because plugip.data.os.system has a harmless prefix.
    if not isinstance(target, str):
        raise BuildError(f"{_place(where)}_target_ must be a dotted name, got {target!r}")
    ours = may_name(target) and not only
    if not (ours or _named_by(trusted, target)):
        raise _untrusted(target, where, target.split(".")[0], only)
    found, owner = _locate(target, where)
    if _named_by(trusted, identity(found)) or (ours and is_part(target, found, owner)):
        return found
    raise _untrusted(target, where, identity(found).split(".")[0], only)


def _named_by(packages: Sequence[str], name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _locate(target: str, where: str) -> tuple[Any, Any]:
    """Returns the object of that name, and the module or class that holds it."""
    names = target.split(".")
    found, depth = _deepest_module(names, target, where)
    owner = None
    for name in names[depth:]:
        if not hasattr(found, name):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise BuildError(
                f"{_place(where)}_target_ {target} does not exist: {identity(found)} has no "
                f"{name!r}{nearest(name, public)}"
            )
        owner, found = found, getattr(found, name)
    if not callable(found):
        raise BuildError(
            f"{_place(where)}_target_ {target} is a {type(found).__name__}, not a class"
        )
    return found, owner


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
    parameters = parameters_of(found)
    if parameters is None:
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
    values = {k: v for k, v in node.items() if k not in SPECIAL and not any(_targets(v, ""))}
    _check_types(values, found, where)


def _check_types(given: Mapping[str, Any], found: Any, where: str) -> None:
    """Refuses arguments that are of another type than their annotations say."""
    parameters = parameters_of(found) or {}
    for key, value in given.items():
        parameter = parameters.get(key)
        if parameter is not None and not isinstance(parameter.annotation, str):
            wrong = misfit(value, parameter.annotation, parameter.default)
            if wrong:
                raise BuildError(f"{_below(where, key)} {wrong}")


def _untrusted(target: str, where: str, package: str, only: bool) -> BuildError:
    if package == "torch" and not only:
        advice = TORCH_ADVICE
    elif package == "plugip" and not only:
        advice = ADVICE
    elif package in sys.stdlib_module_names:
        advice = "nothing of Python's own library may be built; wrap it in a class of your own"
    else:
        advice = (
            f"if you trust that package's code, say so on the command line: trusted=[{package}]"
        )
    return BuildError(
        f"{_place(where)}_target_ {target} is not trusted (configs are code); {advice}"
    )


def _place(where: str) -> str:
    return f"{where}: " if where else ""
