"""Modules and functions of libraries that a model replaces; what is of the user's own may be imported again for the next model, and stays."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from inspect import isclass
from types import CodeType, ModuleType
from typing import Any

import torch

ABSENT = object()
"""In the place of what is not there."""

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})


def is_library(module: Any) -> bool:
    """Whether a module is Python's or of an installed package."""
    file = getattr(module, "__file__", None)
    return isinstance(module, ModuleType) and (file is None or str(file).startswith(LIBRARIES))


def _lost_modules(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, module in before.items()
        if (found := now.get(name, ABSENT)) is not module and is_library(module) and not _is_loaded_again(module, found)
    ]


def _is_loaded_again(module: ModuleType, now: Any) -> bool:
    """Whether a lazy package runs its own file again under its own name, as Transformers does at the first import of a model."""
    return type(now) is type(module) is not ModuleType and now.__file__ == module.__file__


def same_modules(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the modules of libraries are those that were there."""
    return not _lost_modules(before, now)


def told_modules(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The modules of libraries that are gone or replaced."""
    return ", ".join(_lost_modules(before, now))


def set_modules(value: Mapping[str, Any]) -> None:
    """Puts modules of libraries back."""
    sys.modules.update({name: value[name] for name in _lost_modules(value, sys.modules)})


_PATCHABLE = (
    *("builtins", "copy", "json", "logging", "math", "os", "pickle", "random", "time", "warnings", "numpy", "numpy.random"),
    *("torch", "torch.autograd", "torch.fft", "torch.jit", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.nn.init"),
    *("torch.nn.utils", "torch.optim", "torch.random", "torch.utils.checkpoint", "torch.utils.data"),
)
"""Modules whose functions are watched."""

_WITH_CLASSES = ("torch.nn", "torch.optim", "torch.utils.data")
"""Modules whose classes are watched too."""


@cache
def _places() -> tuple[Any, ...]:
    """Modules and classes whose functions are watched."""
    modules = [sys.modules[name] for name in _PATCHABLE if isinstance(sys.modules.get(name), ModuleType)]
    classes = [value for each in modules if each.__name__ in _WITH_CLASSES for value in vars(each).values() if isclass(value)]
    own = [each for each in classes if each.__module__.partition(".")[0] == "torch"]
    return tuple(dict.fromkeys([*modules, torch.Tensor, torch.autograd.Function, *own]))


@dataclass(frozen=True)
class Functions:
    """What the watched modules and classes hold under their names."""

    held: tuple[dict[str, Any], ...] = field(default_factory=lambda: tuple(dict(vars(place)) for place in _places()))

    def patches(self, later: Functions) -> Iterator[tuple[Any, str, Any]]:
        """Places and names whose function is another one in a later state, and not by a library's doing; with the earlier function."""
        for place, before, now in zip(_places(), self.held, later.held, strict=True):
            for name, value in before.items():
                if now.get(name, ABSENT) is not value and _is_patch(place, name, value, now.get(name, ABSENT)):
                    yield place, name, value
            yield from ((place, name, ABSENT) for name in now.keys() - before.keys() if _is_of_user(now[name]))

    def put_back(self) -> None:
        """Puts back what was replaced since."""
        for place, name, function in [*self.patches(Functions())]:
            with suppress(AttributeError, TypeError):
                delattr(place, name) if function is ABSENT else setattr(place, name, function)


def _is_patch(place: Any, name: str, before: Any, now: Any) -> bool:
    """Whether a function was replaced by another one, and not by an installed package on import, as torch's compiler does."""
    if isinstance(before, ModuleType) or not (callable(before) or isinstance(before, (property, staticmethod, classmethod))):
        return False
    if isclass(before) and isclass(now):  # such as `torch.Storage`, which follows the default dtype
        return False
    return _is_of_user(now) or (getattr(now, "__name__", None) != name and not _is_of_package(now, place))


def _is_of_package(value: Any, place: Any) -> bool:
    """Whether a function is written in another installed package than that of a place, which replaces it on import: PyG, MONAI, Lightning."""
    inner = getattr(value, "__func__", None) or value
    owner = str(getattr(inner, "__module__", "")).partition(".")[0]
    is_installed = isinstance(code := getattr(inner, "__code__", None), CodeType) and code.co_filename.startswith(_INSTALLED)
    return is_installed and owner != (getattr(place, "__module__", None) or place.__name__).partition(".")[0]


def _is_of_user(value: Any) -> bool:
    """Whether a function is written in no installed package."""
    inner = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
    code = getattr(inner, "__code__", None)
    return isinstance(code, CodeType) and not code.co_filename.startswith((*LIBRARIES, "<"))


def told_patches(before: Functions, now: Functions) -> str:
    """The functions that are replaced."""
    return ", ".join(f"{place.__name__}.{name}" for place, name, _ in before.patches(now))
