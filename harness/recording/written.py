"""A value as the Python that makes it: plain values, settings of every usual kind, and modules by the arguments that they were made with."""

from __future__ import annotations

import argparse
import builtins
import dataclasses
import enum
import functools
import inspect
import math
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.recording.constructions import Constructions
from harness.user_code import is_written_here

RESTORED = '''

def restored(kind, attributes):
    """An object with these attributes, without its constructor."""
    made = kind.__new__(kind)
    vars(made).update(attributes)
    return made
'''
"""The function that the text of an object of the user's needs."""

SAVED = "saved_tensors"
"""The name of the tensors that a text needs and that stand in a file."""

_FEW = 16
"""Elements of a tensor that is written out."""

_DEEPEST = 12


class UnwritableError(Exception):
    """A value that no Python text makes; the message names it."""


class Writer:
    """Writes values, and gathers what the texts need.

    Args:
        made: How modules were made.
        main: The name by which the script, which runs as ``__main__``, is imported, and its file.
    """

    def __init__(self, made: Constructions, main: tuple[str, str]) -> None:
        self._made = made
        self._main = main
        self._names: dict[str, tuple[str, str]] = {}
        self._modules: set[str] = set()
        self._within: list[int] = []
        self.folders: dict[str, None] = {}
        self.tensors: dict[str, Tensor] = {}

    @property
    def imports(self) -> tuple[str, ...]:
        """The lines of imports that the texts need."""
        lines = [f"import {module}" for module in sorted(self._modules)]
        for name, (module, original) in sorted(self._names.items()):
            lines.append(f"from {module} import {original}" + (f" as {name}" if name != original else ""))
        return tuple(lines)

    def text(self, value: Any, path: str) -> str:
        """The text that makes a value.

        Args:
            value: The value.
            path: The argument that it is, for the message.

        Raises:
            UnwritableError: There is none.
        """
        if id(value) in self._within or len(self._within) > _DEEPEST:
            raise UnwritableError(f"`{path}` ({type(value).__name__}) holds itself, or is nested too deeply")
        self._within.append(id(value))
        try:
            for write in (self._plain, self._named, self._collection, self._of_torch, self._settings, self._object):
                if text := write(value, path):
                    return text
        finally:
            self._within.pop()
        raise UnwritableError(
            f"`{path}` is a {type(value).__module__}.{type(value).__qualname__}, which cannot be written as Python"
        )

    def module(self, module: nn.Module, path: str) -> str:
        """The call that made a module.

        Raises:
            UnwritableError: It was copied or unpickled, or an argument cannot be written.
        """
        found = self._made.of(module)
        if found is None:
            raise UnwritableError(f"`{path}` ({type(module).__name__}) was copied or unpickled, so its arguments are not known")
        return f"{self.name(type(module), path)}({self.arguments(type(module), found.args, found.kwargs, path)})"

    def arguments(self, cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any], path: str) -> str:
        """The arguments of a call, by name where that is possible."""
        prefix = f"{path}." if path else ""
        named = by_name(cls, args, kwargs)
        if named is not None:
            return ", ".join(f"{name}={self.text(value, f'{prefix}{name}')}" for name, value in named.items())
        texts = [self.text(value, f"{prefix}{place}") for place, value in enumerate(args)]
        return ", ".join([*texts, *(f"{name}={self.text(value, f'{prefix}{name}')}" for name, value in kwargs.items())])

    def name(self, found: Any, path: str) -> str:
        """The name by which a class or a function is imported.

        Raises:
            UnwritableError: It is defined in a function, or not found under its name.
        """
        module, qualified = getattr(found, "__module__", None) or "", getattr(found, "__qualname__", "")
        if "<" in qualified:
            raise UnwritableError(
                f"`{path}`: {qualified} is defined inside a function, where no import reaches it: move it to the top of its file"
            )
        for near, short in ((nn, "nn"), (torch, "torch"), (nn.functional, "F")):
            if getattr(near, qualified, None) is found:
                self._names[short] = {"nn": ("torch", "nn"), "F": ("torch.nn", "functional")}.get(short, ("", ""))
                if short == "torch":
                    del self._names[short]
                    self._modules.add("torch")
                return f"{short}.{qualified}"
        if module == builtins.__name__:
            return qualified
        value: Any = sys.modules.get(module)
        for part in qualified.split("."):
            value = getattr(value, part, None)
        if value is not found:
            raise UnwritableError(f"`{path}`: {module}.{qualified} is not what is found under that name")
        file = getattr(sys.modules[module], "__file__", None) or ""
        if module == "__main__":
            module, file = self._main
        if file and is_written_here(file):
            up = module.count(".") + (Path(file).stem == "__init__")
            self.folders[str(Path(file).resolve().parents[up])] = None
        first, _, rest = qualified.partition(".")
        name, number = first, 2
        while self._names.setdefault(name, (module, first)) != (module, first):
            name, number = f"{first}_{number}", number + 1
        return f"{name}.{rest}" if rest else name

    def _plain(self, value: Any, path: str) -> str:
        if isinstance(value, enum.Enum):
            return f"{self.name(type(value), path)}.{value.name}"
        if isinstance(value, np.generic):
            value = value.item()
        if type(value) is float and not math.isfinite(value):
            return f'float("{value}")'
        return (
            repr(value)
            if value is None or value is ... or type(value) in (bool, int, float, complex, str, bytes, range, slice)
            else ""
        )

    def _named(self, value: Any, path: str) -> str:
        if isinstance(value, functools.partial):
            inner = self.arguments(FunctionType, value.args, value.keywords, path)
            self._names["partial"] = ("functools", "partial")
            return f"partial({self.text(value.func, path)}{', ' if inner else ''}{inner})"
        if isinstance(value, BuiltinFunctionType) and not getattr(value, "__module__", None):
            where = next((each for each in (torch, nn.functional) if getattr(each, value.__name__, None) is value), None)
            if where is None:
                return ""
            self._modules.add(where.__name__)
            return f"{where.__name__}.{value.__name__}"
        if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
            return self.name(value, path)
        return ""

    def _collection(self, value: Any, path: str) -> str:
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return f"{self.name(type(value), path)}({', '.join(self.text(each, path) for each in value)})"
        if isinstance(value, torch.Size):
            value = tuple(value)
        if type(value) in (list, tuple, set, frozenset):
            inner = ", ".join(self.text(each, f"{path}[{place}]") for place, each in enumerate(value))
            if type(value) is tuple:
                return f"({inner},)" if len(value) == 1 else f"({inner})"
            return f"[{inner}]" if type(value) is list else f"{type(value).__name__}([{inner}])"
        if isinstance(value, dict):
            inner = ", ".join(f"{self.text(key, path)}: {self.text(each, f'{path}.{key}')}" for key, each in value.items())
            if type(value) is dict:
                return f"{{{inner}}}"
            if type(value) is OrderedDict or _is_made_of_a_dict(value):
                return f"{self.name(type(value), path)}({{{inner}}})"
        return ""

    def _of_torch(self, value: Any, path: str) -> str:
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
            self._modules.add("torch")
            return repr(value)
        if isinstance(value, torch.device):
            self._modules.add("torch")
            return 'torch.device("cpu")'
        if isinstance(value, np.ndarray) and value.dtype != object:
            return f"{self._tensor(torch.from_numpy(np.ascontiguousarray(value)), path)}.numpy()"
        if isinstance(value, nn.Parameter):
            self._names["nn"] = ("torch", "nn")
            return f"nn.Parameter({self._tensor(value.data, path)})"
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        return self.module(value, path) if isinstance(value, nn.Module) else ""

    def _tensor(self, value: Tensor, path: str) -> str:
        self._modules.add("torch")
        value = value.detach().cpu()
        if value.numel() <= _FEW and not value.is_complex() and bool(torch.isfinite(value).all()):
            return f"torch.tensor({value.tolist()!r}, dtype={value.dtype})"
        self.tensors[path] = value.clone()
        return f"{SAVED}[{path!r}]"

    def _settings(self, value: Any, path: str) -> str:
        if isinstance(value, (argparse.Namespace, SimpleNamespace)):
            return f"{self.name(type(value), path)}({self._by_name(vars(value), path)})"
        if isinstance(value, PurePath):
            self._names["Path"] = ("pathlib", "Path")
            return f"Path({str(value)!r})"
        if type(value).__module__.startswith("omegaconf."):
            omegaconf = sys.modules["omegaconf"]
            self._names["OmegaConf"] = ("omegaconf", "OmegaConf")
            return f"OmegaConf.create({self.text(omegaconf.OmegaConf.to_container(value, resolve=True), path)})"
        if hasattr(value, "to_diff_dict") and hasattr(type(value), "from_dict"):  # of Hugging Face
            return f"{self.name(type(value), path)}.from_dict({self.text(value.to_diff_dict(), path)})"
        if hasattr(value, "model_dump") and hasattr(type(value), "model_validate"):  # of pydantic
            return f"{self.name(type(value), path)}.model_validate({self.text(value.model_dump(), path)})"
        if dataclasses.is_dataclass(value):
            fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value) if each.init}
            return f"{self.name(type(value), path)}({self._by_name(fields, path)})"
        return ""

    def _object(self, value: Any, path: str) -> str:
        """An object of a class of the user's own, whose attributes are all there is to it."""
        cls: Any = type(value)
        plain: Any = object
        own = ("__reduce_ex__", "__reduce__", "__new__", "__getstate__")
        is_simple = all(getattr(cls, name, None) is getattr(plain, name, None) for name in own)
        if not is_simple or not hasattr(value, "__dict__"):
            return ""
        if not is_written_here(inspect.getsourcefile(cls) or "" if cls.__module__ != "__main__" else self._main[1]):
            return ""
        return f"restored({self.name(cls, path)}, {self.text(dict(vars(value)), path)})"

    def _by_name(self, values: Mapping[str, Any], path: str) -> str:
        if not all(name.isidentifier() for name in values):
            return f"**{self.text(dict(values), path)}"
        return ", ".join(f"{name}={self.text(value, f'{path}.{name}')}" for name, value in values.items())


def by_name(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of a call by name; ``None`` where some have none."""
    if not args:
        return dict(kwargs)
    try:
        signature = inspect.signature(cls)
        bound = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return None
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    if any(kinds[name] in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY) for name in bound):
        return None
    rest: dict[str, Any] = next((bound.pop(name) for name in list(bound) if kinds[name] is inspect.Parameter.VAR_KEYWORD), {})
    return {**bound, **rest}


def _is_made_of_a_dict(value: Mapping[Any, Any]) -> bool:
    try:
        return bool(type(value)(dict(value)) == value)  # type: ignore[call-arg]
    except Exception:  # whatever a class of the user's does with one
        return False
