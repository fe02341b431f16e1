"""Whether the initialisation that a model defines is applied to its weights: whatever is forgotten keeps PyTorch's default, in silence."""

from __future__ import annotations

import ast
import copy
import inspect
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils import deterministic

from harness.compat import OpOverload, TorchDispatchMode, memory_key, tree_leaves, without_compiler
from harness.evidence import Evidence
from harness.properties.initialisation import line_of_parameter
from harness.properties.noise import is_packed
from harness.properties.places import shown_place, users_line
from harness.properties.subject import Subject
from harness.properties.tracing import path_of
from harness.properties.watched_lines import written_by
from harness.runtime import seeded
from harness.user_code import is_ours, is_written_here
from harness.wording import and_others

_NAME = "initialisation"

_METHODS = re.compile(
    r"(?!.*(load|from|pretrain))_*(re)?(init|initiali[sz]e|reset)_?((all|the|own)_)?(weight|param)\w*|_*(weight|param)s?_*init(iali[sz]\w+)?",
    re.IGNORECASE,
)
"""Names of methods that give weights their first values."""

_LOOPED = ("modules", "named_modules", "children", "named_children", "parameters", "named_parameters")
"""Methods over whose results constructors initialise what is there."""

_FILLS = re.compile(r"(kaiming_|xavier_|trunc_)?(normal|uniform)_|(orthogonal|sparse|dirac|eye|constant|zeros?|ones|fill)_")
"""Functions and methods that initialise a tensor."""


def applied(subject: Subject, seed: int = 0) -> Evidence:
    """What a model has to initialise its weights writes into them while it is built, and into all layers of the kinds that it knows."""
    if not subject.fresh_weights:
        return Evidence.skipped(_NAME, "the weights are loaded, not freshly initialised")
    if subject.rebuild is None:
        return Evidence.skipped(_NAME, "the model came without a factory, so that nothing can be seen of how it is built")
    if subject.is_large:
        return Evidence.skipped(_NAME, "the model is large: it is not built once more for its initialisation")
    with _Building() as building, _unwritten_is_nan():
        model = subject.rebuild(subject.seed)
    if names := [name for name, parameter in model.named_parameters() if _holds_nan(parameter)]:
        return _never_written(subject, names)
    if applications := [each for each in building.applications if _has_matrices(each.root) and not each.written]:
        return _in_vain(_path_of(model, applications[0].root), applications[0].name, applications[0].place)
    for path, module in model.named_modules():
        if (idle := _idle_code(module, building)) is not None:
            return _in_vain(path_of(path), *idle)
    for application in building.applications:
        if left := _left_out(application, building, seed):
            return _left_at_default([_path_of(model, module) for module in left], application)
    return Evidence.ok(_NAME, "no initialisation that is defined is left out while the model is built")


@contextmanager
def _unwritten_is_nan() -> Iterator[None]:
    """Memory that is asked for, and written by nothing, holds NaN inside; a build that would raise in this mode warns."""
    before = torch.get_deterministic_debug_mode()
    settings: Any = deterministic
    fills = settings.fill_uninitialized_memory
    # `use_deterministic_algorithms` does the same and imports the compiler, which takes as long as torch itself.
    torch.set_deterministic_debug_mode("warn")
    settings.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.fill_uninitialized_memory = fills
        torch.set_deterministic_debug_mode(before)


def _holds_nan(parameter: Tensor) -> bool:
    is_plain = not (nn.parameter.is_lazy(parameter) or parameter.is_meta or is_packed(parameter))
    return is_plain and parameter.is_floating_point() and bool(parameter.isnan().any())


def _never_written(subject: Subject, names: list[str]) -> Evidence:
    """The failure of a parameter that holds what its memory held before."""
    others = and_others(len(names) - 1, "parameter")
    return Evidence.failed(
        _NAME,
        f"nothing writes all of parameter `{names[0]}`{others} while the model is built: it holds what its memory held before",
        module=names[0],
        cause="`torch.empty` or `torch.Tensor(rows, columns)` without an initialisation: other values in each run, and NaN in some",
        place=line_of_parameter(subject, names[0]),
        code="never_written",
    )


def _in_vain(path: str, name: str, place: str) -> Evidence:
    """The warning on an initialisation that writes no weight."""
    return Evidence.warned(
        _NAME,
        f"{name} writes no weight while the model is built: the layers keep PyTorch's default",
        module=path,
        cause="nothing calls it, or its conditions on the classes or names of what it initialises hold for nothing",
        place=place,
        code="initialises_nothing",
    )


def _left_at_default(paths: list[str], application: _Application) -> Evidence:
    """The warning on layers that an initialisation does not reach, although it knows their kind."""
    others = and_others(len(paths) - 1, "layer")
    return Evidence.warned(
        _NAME,
        f"`{paths[0]}`{others} keeps PyTorch's default, although {application.name} initialises layers of its kind",
        module=paths[0],
        cause="a layer that is made, or replaced, after `apply`: apply the initialisation at the end of __init__",
        details={"layers": paths},
        place=application.place,
        code="left_at_default",
    )


@dataclass
class _Application:
    """One call of ``apply`` while a model is built.

    Attributes:
        root: The module it was called on.
        function: What it applied.
        place: The user's line of the call.
        written: Memory of the tensors that were written meanwhile.
    """

    root: nn.Module
    function: Callable[[nn.Module], object]
    place: str
    written: set[Any] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The function in words."""
        return f"`{getattr(self.function, '__qualname__', type(self.function).__name__).replace('.<locals>', '')}`"


@without_compiler
class _Building(TorchDispatchMode):
    """Notes what writes into tensors while a model is built.

    Attributes:
        applications: The calls of ``apply`` by the user's code.
        lines: Every line of the user's code, by code, that was on its way to an operator that made or wrote something.
        defaults: Memory of the tensors that hold what PyTorch's own layers begin with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.applications: list[_Application] = []
        self.lines: dict[CodeType, set[int]] = {}
        self.defaults: set[Any] = set()
        self._open: list[_Application] = []
        self._patch: Any = None

    def __enter__(self) -> _Building:
        apply = nn.Module.apply

        def watched(module: nn.Module, fn: Callable[[nn.Module], Any]) -> nn.Module:
            place = users_line(sys._getframe(1)) if not self._open else ""
            code = getattr(getattr(fn, "__func__", fn), "__code__", None)
            if self._open or not place or code is None or not is_written_here(code.co_filename):
                return apply(module, fn)
            self._open.append(_Application(module, fn, place))
            try:
                return apply(module, fn)
            finally:
                self.applications.append(self._open.pop())

        self._patch = patch.object(nn.Module, "apply", watched)
        self._patch.start()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._patch.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(func, OpOverload) or func.is_view:
            return result
        is_default = self._note_lines(sys._getframe(1))
        written = {memory_key(tensor) for tensor in written_by(func, args, kwargs or {}) if not tensor.is_meta}
        made = {memory_key(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and not leaf.is_meta} - written
        for application in self.applications:
            application.written -= made  # memory is used again
        self.defaults -= written | made
        if is_default:
            self.defaults |= written
        for application in self._open:
            application.written |= written
        return result

    def _note_lines(self, frame: FrameType | None) -> bool:
        """Notes the user's lines on the stack; whether the operator is one of a layer of PyTorch that initialises itself."""
        is_default, is_inside = False, True
        while frame is not None and not (is_ours(frame.f_code.co_filename) and frame.f_code.co_name == "applied"):
            if is_written_here(frame.f_code.co_filename):
                is_inside = False
                self.lines.setdefault(frame.f_code, set()).add(frame.f_lineno)
            is_default |= is_inside and frame.f_code.co_name in ("reset_parameters", "_reset_parameters")
            frame = frame.f_back
        return is_default


def _idle_code(module: nn.Module, building: _Building) -> tuple[str, str] | None:
    """Name and place of the code of a module's class that should initialise it and made no operator run; ``None`` where there is none."""
    if not _has_matrices(module) or not any(memory_key(p) in building.defaults for p in module.parameters() if p.ndim > 1):
        return None
    cls = type(module)
    methods = {name: method for name in dir(cls) if _METHODS.fullmatch(name) and (method := _users_function(cls, name))}
    is_run = any(method.__code__ in building.lines for method in methods.values())
    if methods and not is_run and not any(_may_do_nothing(cls, name, method.__code__) for name, method in methods.items()):
        name, method = next(iter(methods.items()))
        return f"`{cls.__name__}.{name}`", shown_place(method.__code__.co_filename, method.__code__.co_firstlineno)
    constructor = _users_function(cls, "__init__")
    for lines in _filling_loops(constructor.__code__) if constructor is not None else ():
        if not building.lines.get(constructor.__code__, set()) & set(lines):
            place = shown_place(constructor.__code__.co_filename, lines.start)
            return f"the loop of `{cls.__name__}.__init__` that initialises its layers", place
    return None


def _may_do_nothing(cls: type, name: str, code: CodeType) -> bool:
    """Whether a method gives layers PyTorch's default anyway, or is called where an option asks for it."""
    if "reset_parameters" in code.co_names:
        return True
    with suppress(OSError, TypeError, SyntaxError):
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        optional = [part for node in ast.walk(tree) if isinstance(node, ast.If) for part in (*node.body, *node.orelse)]
        return any(isinstance(node, ast.Attribute) and node.attr == name for part in optional for node in ast.walk(part))
    return False


def _users_function(cls: type, name: str) -> Any:
    """A function of a class that the user wrote; ``None`` where it is none."""
    function = inspect.unwrap(getattr(cls, name))
    return function if inspect.isfunction(function) and is_written_here(function.__code__.co_filename) else None


@cache
def _filling_loops(code: CodeType) -> list[range]:
    """The lines of each loop of a function over modules or parameters that fills tensors and runs whatever the options are."""
    with suppress(OSError, SyntaxError, IndentationError):
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
        function = tree.body[0]
        if isinstance(function, ast.FunctionDef):
            first = code.co_firstlineno - 1
            return [range(first + each.lineno, first + (each.end_lineno or 0) + 1) for each in _loops(function) if _fills(each)]
    return []


def _loops(function: ast.FunctionDef) -> Iterator[ast.For]:
    for each in function.body:
        if isinstance(each, ast.For) and any(
            isinstance(node, ast.Attribute) and node.attr in _LOOPED for node in ast.walk(each.iter)
        ):
            yield each


def _fills(loop: ast.For) -> bool:
    called = [node.func for node in ast.walk(loop) if isinstance(node, ast.Call)]
    names = [func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else "" for func in called]
    return any(_FILLS.fullmatch(name) for name in names)


def _left_out(application: _Application, building: _Building, seed: int) -> list[nn.Module]:
    """Layers below the root of an application that it has not reached, are as PyTorch makes them, and would be written by its function."""
    leaves = [module for module in application.root.modules() if any(True for _ in module.parameters(recurse=False))]
    known = {type(leaf) for leaf in leaves if application.written & set(map(memory_key, leaf.parameters(recurse=False)))}
    return [
        leaf
        for leaf in leaves
        if type(leaf) in known
        and all(memory_key(p) in building.defaults for p in leaf.parameters(recurse=False))
        and _would_write(application.function, leaf, seed)
    ]


def _would_write(function: Callable[[nn.Module], object], layer: nn.Module, seed: int) -> bool:
    other = copy.deepcopy(layer)
    before = {path: parameter.detach().clone() for path, parameter in other.named_parameters()}
    with seeded(seed), suppress(Exception):
        function(other)
    return any(not parameter.detach().equal(before[path]) for path, parameter in other.named_parameters())


def _has_matrices(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _path_of(model: nn.Module, module: nn.Module) -> str:
    return path_of(next((path for path, each in model.named_modules() if each is module), ""))
