"""Objects of settings that a model is built from: found in its file, or made of the attributes that the model reads."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from harness.models.argument_uses import compared_word, is_number_read, is_switch, nodes_of
from harness.models.arguments import Table
from harness.models.usual_values import A_NUMBER, SIZES, usual_value
from harness.user_code import raised

_WORDS = ("config", "cfg", "args", "hparams", "hps", "params", "settings", "opt", "conf")
"""Words in the name of an argument that takes a settings object."""

_MAKERS = (
    "get_config",
    "get_cfg",
    "get_args",
    "parse_args",
    "default_config",
    "get_default_config",
    "get_cfg_defaults",
    "get_opt",
)
"""Functions that return one, by their usual names."""


_LETTER = 8
"""What a setting of a single letter is tried with, which is a size nearly always."""


@dataclass(frozen=True)
class ObjectArgument:
    """An argument that no config can hold: an object of settings, or a part of the model.

    Attributes:
        argument: Its name.
        expression: The object as it is written in Python.
        make: Makes it.
        names: Names of the model's file in the expression.
        guessed: What nobody gave of it.
        imports: Lines of Python that the expression needs.
        path: The folder that these are imported from; ``None`` where that is the model's own, or they are installed.
    """

    argument: str
    expression: str
    make: Callable[[], Any]
    names: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    path: Path | None = None


class Wanted:
    """Stands for a settings object: gives what is read from it a usual size, and remembers it.

    Args:
        given: Settings by name, which come first.
        target: What makes the model, whose code may compare a setting with words.
        defaults: What options of these names are by default on the command lines beside the model, where nothing else says it.
        as_by_default: Whether these come before usual sizes, as sizes that go together.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        target: Any = None,
        defaults: Mapping[str, Any] | None = None,
        as_by_default: bool = False,
    ) -> None:
        self._given = dict(given)
        self._defaults = defaults or {}
        self._as_by_default = as_by_default
        self._target = target
        self._read: dict[str, Any] = {}
        self._by_key = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._given[name] if name in self._given else compared_word(name, self._target) or usual_value(name)
        found = _LETTER if found is None and name not in self._defaults and len(name) == 1 else found
        default = self._defaults.get(name)
        is_usual = name not in self._given and default is not None
        found = default if found is None or (is_usual and (self._as_by_default or isinstance(found, list))) else found
        if found is None and is_switch(name, self._target):
            found = False
        if found is None and is_number_read(name, self._target):
            found = A_NUMBER
        if name == "device" and str(found).startswith("cuda"):
            found = SIZES["device"]
        if found is None:
            raise AttributeError(f"no setting `{name}`; give it as --arg {name}=VALUE")
        self._read[name] = found
        return self._read[name]

    def __getitem__(self, name: str) -> Any:
        self._by_key = True
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(str(error)) from None

    def read(self) -> dict[str, Any]:
        """What was read from it."""
        return dict(self._read)

    def written(self, argument: str) -> ObjectArgument:
        """An object for what was read, for the argument that it was given for: a table where some of it was read by key."""
        read, guessed = self.read(), tuple(name for name in self._read if name not in self._given)
        if self._by_key:
            imports = ("from harness.models.arguments import Table",)
            return ObjectArgument(
                argument, f"Table({read!r}, {argument!r})", partial(Table, read, argument), guessed=guessed, imports=imports
            )
        settings = ", ".join(f"{name}={value!r}" for name, value in read.items())
        return ObjectArgument(argument, f"SimpleNamespace({settings})", partial(SimpleNamespace, **read), guessed=guessed)


def found_settings(
    module: ModuleType, target: Any, parameter: inspect.Parameter, given: Mapping[str, Any]
) -> ObjectArgument | None:
    """The settings object that an argument takes, where the file has one or can make one without arguments.

    Args:
        module: The model's file.
        target: What makes the model.
        parameter: Its argument.
        given: Settings by name, for those that the object's class takes.
    """
    return next(_candidates(module, target, parameter, given), None)


def annotated_settings(target: Any, name: str) -> type | None:
    """The dataclass or named tuple that an argument is annotated with; ``None`` where it is annotated otherwise."""
    cls = _annotated(target, name)
    is_one = inspect.isclass(cls) and (is_dataclass(cls) or hasattr(cls, "_fields"))
    return cls if is_one else None


_SPACES = {r"(?:obs|ob|observation|state)_space": 8, r"(?:act|ac|action)_space": 2}
"""Arguments that take a space of gym, and how many numbers one is tried with."""


def is_count(name: str, target: Any) -> bool:
    """Whether an argument that is called like a space is how many numbers there are: the code counts with it."""
    if not any(re.fullmatch(pattern, name.lower()) for pattern in _SPACES):
        return False
    sums = [node for node in nodes_of(target) if isinstance(node, ast.BinOp)]
    return any(isinstance(side, ast.Name) and side.id == name for node in sums for side in (node.left, node.right))


def space_argument(name: str) -> ObjectArgument | None:
    """A space of Gymnasium, or of gym, for an argument that takes one; an object with its attributes where neither is loaded."""
    size = next((size for pattern, size in _SPACES.items() if re.fullmatch(pattern, name.lower())), None)
    if size is None:
        return None
    package = next((each for each in ("gymnasium", "gym") if f"{each}.spaces" in sys.modules), None)
    if package is None:
        written = {"shape": (size,), "low": [-1.0] * size, "high": [1.0] * size}
        expression = ", ".join(f"{key}={value!r}" for key, value in written.items())
        return ObjectArgument(name, f"SimpleNamespace({expression})", partial(SimpleNamespace, **written), guessed=(name,))
    box = sys.modules[f"{package}.spaces"].Box
    imports = (f"from {package}.spaces import Box",)
    return ObjectArgument(name, f"Box(-1.0, 1.0, ({size},))", partial(box, -1.0, 1.0, (size,)), guessed=(name,), imports=imports)


_ADJACENCY = re.compile(r"(?:\w+_)?adj(?:acency)?(?:_?mat(?:rix)?|_mx)?|graph_?mat(?:rix)?|laplacian(?:_matrix)?")
_COUNT_OF_NODES = re.compile(r"(?:num|n)_?(?:of_)?(?:nodes?|vertices|vertex|sensors|stations)|nodes?_(?:num|count)")
_NODES = 8


def adjacency_argument(name: str, kwargs: Mapping[str, Any]) -> ObjectArgument | None:
    """The graph of a ring for an argument that takes the matrix of one, with as many nodes as another argument says."""
    if not _ADJACENCY.fullmatch(name.lower()):
        return None
    nodes = next(
        (value for key, value in kwargs.items() if _COUNT_OF_NODES.fullmatch(key.lower()) and type(value) is int), _NODES
    )
    ring = f"torch.eye({nodes}) / 2 + torch.eye({nodes}).roll(1, 0) / 4 + torch.eye({nodes}).roll(-1, 0) / 4"

    def make() -> torch.Tensor:
        one = torch.eye(nodes)
        return one / 2 + one.roll(1, 0) / 4 + one.roll(-1, 0) / 4

    return ObjectArgument(name, ring, make, guessed=(name,), imports=("import torch",))


def class_argument(module: ModuleType, target: Any, name: str) -> ObjectArgument | None:
    """A class of layers for an argument that takes one: what another function or class of the file has for it by default."""
    makers = [
        value for value in vars(module).values() if value is not target and getattr(value, "__module__", "") == module.__name__
    ]
    taken = [_parameters(maker).get(name) for maker in makers if callable(maker)]
    found = next(
        (p.default for p in taken if p is not None and inspect.isclass(p.default) and issubclass(p.default, nn.Module)), None
    )
    if found is None or not found.__module__.startswith("torch.nn."):
        return None
    return ObjectArgument(name, f"nn.{found.__name__}", lambda: found, guessed=(name,), imports=("from torch import nn",))


def takes_settings(name: str) -> bool:
    """Whether an argument is called as one that takes a settings object."""
    return any(word in name.lower() for word in _WORDS)


def read_settings(
    arguments: list[str], target: Any, given: Mapping[str, Any], kwargs: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[ObjectArgument] | str:
    """A namespace of the settings that the model reads from each argument while it is built, or why there is none.

    Args:
        arguments: The arguments that take the settings.
        target: What makes the model; called a few times.
        given: Settings by name.
        kwargs: The other arguments.
        defaults: Of the options of command lines.
    """
    build = partial(target, **kwargs)

    def wanted(as_by_default: bool = False) -> dict[str, Wanted]:
        return {name: Wanted(given, target, defaults, as_by_default) for name in arguments}

    by_default = (
        bool(defaults) and not makes_something(partial(build, **wanted())) and makes_something(partial(build, **wanted(True)))
    )
    objects, named = wanted(by_default), ", ".join(f"`{name}`" for name in arguments)
    try:
        build(**objects)
    except (AttributeError, KeyError) as error:
        unknown = [
            name
            for argument in arguments
            for name in reads_from(argument, target)
            if name not in {**given, **defaults}
            and usual_value(name) is None
            and len(name) > 1
            and not (compared_word(name, target) or is_switch(name, target))
        ]
        if "no setting `" in str(error) and unknown:
            listed = ", ".join(f"`{name}`" for name in unknown)
            return f"reads its settings from {named}; give {listed} as {' '.join(f'--arg {name}=VALUE' for name in unknown)}"
        if "no setting `" in str(error):
            return f"reads its settings from {named}: {str(error.args[0]).strip()}"
        return f"needs {named}"
    except (Exception, SystemExit) as error:
        read = {name: value for each in objects.values() for name, value in each.read().items()}
        if not read:
            return f"needs {named}"
        tried = ", ".join(f"{name}={value!r}" for name, value in read.items())
        return f"reads its settings from {named}; with {tried} it raises {raised(error)}; give others as --arg NAME=VALUE"
    if not all(each.read() for each in objects.values()):
        return f"needs {named}"
    return [each.written(argument) for argument, each in objects.items()]


def reads_from(argument: str, target: Any) -> list[str]:
    """The settings that a factory's own code reads without a default."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(target.__init__ if inspect.isclass(target) else target)))
    except (OSError, TypeError, SyntaxError):
        return []
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)]
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    own = [n for n in reads if isinstance(n.value, ast.Name) and n.value.id == argument and id(n) not in called]
    return list(dict.fromkeys(node.attr for node in sorted(own, key=lambda node: (node.lineno, node.col_offset))))


_PART = re.compile(r"(?:.*_)?(?:model|net|network|backbone|encoder|decoder|resnet|module|extractor|trunk|base)")
"""Names of an argument that takes a part of the model, whose layers are read as settings are."""


def reads_settings(argument: str, target: Any) -> bool:
    """Whether a class reads several things from an argument, as from settings of any name, or does nothing else with it."""
    if not inspect.isclass(target) or _PART.fullmatch(argument):
        return False
    return len(reads_from(argument, target)) > 1 or _only_reads_from(argument, target)


def _only_reads_from(argument: str, target: Any) -> bool:
    """Whether a factory's own code does nothing with an argument but read settings from it."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(target.__init__ if inspect.isclass(target) else target)))
    except (OSError, TypeError, SyntaxError):
        return False
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == argument]
    read = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool(reads_from(argument, target)) and all(id(node) in read for node in uses)


def _candidates(
    module: ModuleType, target: Any, parameter: inspect.Parameter, given: Mapping[str, Any]
) -> Iterator[ObjectArgument]:
    argument, here = parameter.name, vars(module)
    annotated = _annotated(target, argument)
    own = [
        cls
        for cls in here.values()
        if inspect.isclass(cls) and not issubclass(cls, nn.Module) and (is_dataclass(cls) or "onfig" in cls.__name__)
    ]
    named = takes_settings(argument)
    classes = [annotated, *([getattr(target, "config_class", None), *own] if named else [])]
    for name, cls in ((n, c) for wanted in classes for n, c in here.items() if c is wanted and inspect.isclass(c)):
        if issubclass(cls, nn.Module) or cls in (int, float, str, bool, dict, list):
            continue
        parameters = _parameters(cls)
        taken = {key: value for key, value in given.items() if key in parameters}
        required = [p.name for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        guesses = {key: value for key in required if key not in taken and (value := usual_value(key)) is not None}
        instance = partial(cls, **taken, **guesses)
        if makes_something(instance):
            written = ", ".join(f"{key}={value!r}" for key, value in {**taken, **guesses}.items())
            yield ObjectArgument(argument, f"{name}({written})", instance, (name,), tuple(guesses))
    if not named:
        return
    for name, value in here.items():
        if _is_settings(value) and (name.lower() == argument.lower() or (takes_settings(name) and not name.startswith("__"))):
            yield ObjectArgument(argument, name, lambda value=value: value, (name,))  # type: ignore[misc]
    for name in _MAKERS:
        made = here.get(name)
        if inspect.isfunction(made) and _takes_nothing(made) and makes_something(made) and not isinstance(made(), tuple):
            yield ObjectArgument(argument, f"{name}()", made, (name,))
    for name in _MAKERS if inspect.isclass(target) else ():
        made = getattr(target, name, None)
        if callable(made) and _takes_nothing(made) and makes_something(made):
            yield _filled(argument, target, f"{target.__name__}.{name}()", made)
    for name, value in here.items():
        if isinstance(value, argparse.ArgumentParser) and makes_something(lambda value=value: value.parse_args([])):  # type: ignore[misc]
            yield ObjectArgument(argument, f"{name}.parse_args([])", lambda value=value: value.parse_args([]), (name,))  # type: ignore[misc]


def _filled(argument: str, target: type, expression: str, make: Callable[[], Any]) -> ObjectArgument:
    """What a class's own maker of settings returns, with usual sizes for what it leaves open, and without a preset that these contradict."""
    known = dict(getattr(make(), "__dict__", {}))
    sizes = {name: usual_value(name) for name, value in known.items() if value is None and usual_value(name) is not None}
    presets = {name: None for name, value in known.items() if isinstance(value, str)}
    if not makes_something(lambda: target(**{argument: make()})):
        for more in (sizes, {**sizes, **presets}):
            instance = partial(SimpleNamespace, **{**known, **more})
            if more and makes_something(lambda made=instance: target(**{argument: made()})):  # type: ignore[misc]
                written = ", ".join(f"{name!r}: {value!r}" for name, value in more.items())
                whole = f"SimpleNamespace(**{{**vars({expression}), {written}}})"
                return ObjectArgument(argument, whole, instance, (target.__name__,), tuple(more))
    return ObjectArgument(argument, expression, make, (target.__name__,))


def _is_settings(value: Any) -> bool:
    """Whether a value of a module is an object of settings: a namespace, a dict with names, a dataclass or a config."""
    if inspect.isclass(value) or inspect.ismodule(value) or callable(value):
        return False
    if isinstance(value, dict):
        return bool(value) and all(isinstance(key, str) for key in value)
    name = type(value).__name__.lower()
    return isinstance(value, (argparse.Namespace, SimpleNamespace)) or is_dataclass(value) or "config" in name or "cfg" in name


def _annotated(target: Any, name: str) -> Any:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target).get(name)
    except Exception:  # names that only a type checker imports
        return None


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return {}


def _takes_nothing(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def makes_something(make: Callable[[], Any]) -> bool:
    """Whether something can be made, whatever it is."""
    try:
        make()
    except (Exception, SystemExit):
        return False
    return True
