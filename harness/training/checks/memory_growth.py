"""Whether a training keeps something of each of its steps: autograd graphs, tensors or hooks, of which there are more after every step.

Nothing is timed. After each of a few steps, all that the model, its callbacks and the user's files hold is looked through and counted.
"""

from __future__ import annotations

import ast
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, pairwise
from types import FunctionType
from typing import Any

import numpy as np
from torch import Tensor, nn

from harness.compat import CONTENTS_OF_MODULE, HOOKS_OF_MODULE, NAMES_OF_LIGHTNING_MODULE, hooks_of_tensor
from harness.evidence import WHOLE, Evidence, Status
from harness.properties.places import parsed_file, shown_place
from harness.training.engines import overrides
from harness.training.trial import Trial, TrialOptions
from harness.user_code import is_users_file
from harness.wording import counted
from harness.written_in import file_of_class, short_name

_NAME = "memory_growth"
_STEPS = 8
"""Epochs of one step each, so that what an epoch collects is cleared in between; and more steps than a smoothed loss looks back."""

_DEPTH = 6
"""How deep lists, dicts and plain objects are looked into."""

_LIBRARIES = {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "numpy", "harness", *sys.stdlib_module_names} - {
    "argparse",
    "types",
}
"""Packages into whose objects nobody puts tensors of a step; a namespace is the user's."""

_ADDING = ("append", "appendleft", "extend", "add", "insert", "update", "setdefault")
_REMOVING = ("pop", "popleft", "popitem", "clear", "remove", "discard")
_HOOKS = {
    "hook of a module": tuple(
        f"register_{name}"
        for name in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook", "backward_hook")
    ),
    "hook of a tensor": ("register_hook", "register_post_accumulate_grad_hook"),
}
"""What registers hooks."""

_WALKS = count()
_LEAF = "AccumulateGrad"


Key = tuple[str, str]


@dataclass
class _Held:
    """What one attribute or variable holds after a step.

    Attributes:
        name: What it is called where it is written.
        files: Where it may be written, the most likely file first.
        classes: The names of the classes whose attribute it is.
        module: The module whose attribute it is; empty where it belongs to no module.
        nodes: Autograd nodes, by the step after which they were first there.
        size: Bytes of tensors and arrays of more than one number.
        hooks: How many hooks.
    """

    name: str
    files: tuple[str, ...]
    classes: tuple[str, ...]
    module: str
    nodes: dict[int, int]
    size: int = 0
    hooks: int = 0


class _Count(int):
    """A number of hooks."""


class _Walk:
    """Looks through all that is held, after each step.

    Attributes:
        steps: What was held after each step, by path and name.
    """

    def __init__(self) -> None:
        self.steps: list[dict[Key, _Held]] = []
        self._mark = f"modeltiers_step_{next(_WALKS)}"  # what an earlier training left has another mark

    def look(self, model: nn.Module, number: int) -> bool:
        """Looks after a step; never asks the training to stop."""
        found: dict[Key, _Held] = {}
        seen, nodes = set[int](), set[Any]()
        for path, holder, value in _holders(model):
            held = found.setdefault((path, holder.name), replace(holder, nodes={}))
            if isinstance(value, _Count):
                held.hooks += value
                continue
            for each in _tensors_in(value, _DEPTH, seen):
                count = each.numel() if isinstance(each, Tensor) else each.size
                held.size += count * each.itemsize if count > 1 else 0
                for node in _new_nodes(each, nodes) if isinstance(each, Tensor) else ():
                    step = node.metadata.setdefault(self._mark, number)
                    held.nodes[step] = held.nodes.get(step, 0) + 1
        self.steps.append(found)
        return False


def memory_growth(trial: Trial) -> Evidence:
    """After every step of a short training, no attribute, global variable or callback holds a further graph, tensor or hook."""
    batches, options, walk = [trial.subject.batch()] * max(1, trial.batches_per_step), TrialOptions(epochs=_STEPS), _Walk()
    validates = trial.is_own and overrides(trial.subject.model, "validation_step") and not trial.validates
    try:
        trial.train(batches, options, until=walk.look, held_out=[trial.held_out] if validates else None)
    except Exception:
        if not validates:
            raise
        walk = _Walk()  # `validation_step` takes other batches than training, which is no fault
        trial.train(batches, options, until=walk.look)
    at = f"{counted(len(walk.steps), 'step')} on {trial.subject.typical.describe(trial.subject.task)}"
    if len(walk.steps) < _STEPS:
        few = f"the training took {counted(len(walk.steps), 'step')}, and {_STEPS} are needed to see what grows"
        return Evidence.skipped(_NAME, few)
    findings = [found for key in walk.steps[-1] if (found := _judge(key, walk.steps))]
    if not findings:
        return Evidence.ok(
            _NAME, "after each step as much is held as after the one before", (0.0, 0.0, "holders"), counterexample=at
        )
    first = max(findings, key=lambda found: found.status.severity)
    names = [str(found.details["holder"]) for found in findings]
    message = first.message + (
        f"; {', '.join(f'`{name}`' for name in names if name != first.details['holder'])} too" if names[1:] else ""
    )
    return replace(first, message=message, counterexample=at, details={**first.details, "holders": names})


def _judge(key: Key, steps: list[dict[Key, _Held]]) -> Evidence | None:
    """What is said of one attribute or variable; ``None`` where it does not grow."""
    known, path = [step[key] for step in steps if key in step], key[0]
    if len(known) < len(steps) - 1:  # what the first step makes may be there since then
        return None
    last = known[-1]
    totals, hooks, sizes = (
        [sum(count for step, count in held.nodes.items() if step > 1) for held in known],  # not what was there before
        [held.hooks for held in known],
        [held.size for held in known],
    )
    if not any(map(_grows, (totals, hooks, sizes))):
        return None
    adding, is_limited = _lines_about(last)
    facts = {"holder": path}

    def found(status: Status, code: str, message: str, cause: str, figure: int) -> Evidence:
        return Evidence.judged(
            _NAME,
            status,
            message,
            (float(figure), 0.0, ""),
            module=last.module,
            cause=cause,
            details=facts,
            code=code,
            place=adding,
        )

    if _grows(totals) and all(last.nodes.get(step) for step in range(2, len(steps))):
        return found(
            Status.FAIL,
            "keeps_graphs",
            f"`{path}` keeps the autograd graph of every step: {totals[1]:,} more nodes after step 2, {totals[-1]:,} after step {len(steps)}",
            "a loss or output that is added to an attribute or a list with its gradient: keep `.item()`, or `.detach()`",
            totals[-1] - totals[1],
        )
    if _grows(hooks):
        return found(
            Status.FAIL,
            "adds_hooks",
            f"`{path}` has a further hook after every step: {hooks[1]} after step 2, {hooks[-1]} after step {len(steps)}",
            "a hook that is registered in forward or in the training step: register it once, or call `.remove()` on what registering returns",
            hooks[-1] - hooks[1],
        )
    if _grows(sizes) and not is_limited:
        return found(
            Status.WARN,
            "keeps_tensors",
            f"`{path}` keeps tensors of every step: {sizes[1]:,} bytes after step 2, {sizes[-1]:,} after step {len(steps)}, "
            "and no line takes any out",
            "a list or cache that is never cleared: clear it after each epoch, or use `collections.deque(maxlen=…)`",
            sizes[-1] - sizes[1],
        )
    return None


def _grows(figures: list[int]) -> bool:
    """Whether each is larger than the one before, from the second on: the first step may make what stays."""
    return all(after > before for before, after in pairwise(figures[1:]))


def _holders(model: nn.Module) -> Iterator[tuple[str, _Held, Any]]:
    """Attributes of modules and callbacks and variables of the user's classes and files: the path, and the value or a number of hooks."""
    callbacks = [each for each in _callbacks_of(model) if not _is_of_a_library(each)]
    classes = dict.fromkeys(cls for each in (*model.modules(), *callbacks) for cls in type(each).__mro__)
    own = {cls: file for cls in classes if (file := _file_of(cls))}
    every = tuple(dict.fromkeys(own.values()))

    def holder(name: str, owner: type | None, module: str = "") -> _Held:
        bases = [cls for cls in owner.__mro__ if _file_of(cls)] if owner is not None else []
        return _Held(
            name, tuple(dict.fromkeys((*map(_file_of, bases), *every))), tuple(cls.__name__ for cls in bases), module, {}
        )

    for path, module in model.named_modules():
        ours = {**vars(module), **{key: value for each in CONTENTS_OF_MODULE[1:] for key, value in vars(module)[each].items()}}
        for name, value in ours.items():
            where = f"{path}.{name}".lstrip(".")
            if name.endswith(HOOKS_OF_MODULE):
                yield path or WHOLE, holder("hook of a module", type(module), path or WHOLE), _Count(len(value))
            elif isinstance(value, nn.Parameter):
                yield where, holder("hook of a tensor", type(module), path or WHOLE), _Count(hooks_of_tensor(value))
                yield where, holder(name, type(module), path or WHOLE), value
            elif name not in (*CONTENTS_OF_MODULE, *NAMES_OF_LIGHTNING_MODULE):
                for inner, owner, part in _parts(where, type(module), value, _DEPTH):
                    yield inner, holder(inner.rpartition(".")[2], owner, path or WHOLE), part
    for callback in callbacks:
        for name, value in vars(callback).items():
            for inner, owner, part in _parts(f"{type(callback).__name__}.{name}", type(callback), value, _DEPTH):
                yield inner, holder(inner.rpartition(".")[2], owner), part
    spaces: dict[str, Mapping[str, Any]] = {cls.__name__: vars(cls) for cls in own}
    for cls, file in own.items():
        spaces[short_name(file)] = vars(sys.modules[cls.__module__])
    for space, variables in spaces.items():
        for name, value in dict(variables).items():
            if isinstance(value, FunctionType):
                cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
                yield f"{space}.{name}", holder(name, None), [value.__defaults__, value.__kwdefaults__, cells]
            elif not name.startswith("__") and not isinstance(value, type):
                for inner, owner, part in _parts(f"{space}.{name}", None, value, _DEPTH):
                    yield inner, holder(inner.rpartition(".")[2], owner), part


def _callbacks_of(model: Any) -> list[Any]:
    try:
        return list(model.trainer.callbacks)
    except (AttributeError, RuntimeError):  # no Lightning module, or not in a trainer
        return []


def _parts(path: str, owner: type | None, value: Any, depth: int) -> Iterator[tuple[str, type | None, Any]]:
    """A value with its path and the class that holds it; of a plain object, its attributes."""
    if not depth or not _is_object(value):
        yield path, owner, value
        return
    for name, part in list(vars(value).items()):
        yield from _parts(f"{path}.{name}", type(value), part, depth - 1)


def _is_object(value: Any) -> bool:
    """Whether a value is an instance of a class that may hold tensors in attributes."""
    is_plain = hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module, Tensor)) and not callable(value)
    return is_plain and not _is_of_a_library(value)


def _is_of_a_library(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in _LIBRARIES


@lru_cache(maxsize=256)
def _file_of(cls: type) -> str:
    """The user's file that a class is from; empty where it is a library's."""
    file = file_of_class(cls)
    return file if is_users_file(file) else ""


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _tensors_in(value: Any, depth: int, seen: set[int]) -> Iterator[Tensor | np.ndarray[Any, Any]]:
    """The tensors and arrays in any nesting, each of them once; none of what says how much it holds at most."""
    if id(value) in seen or (isinstance(value, deque) and value.maxlen is not None):
        return
    if isinstance(value, (Tensor, np.ndarray)):
        seen.add(id(value))
        yield value
        if isinstance(value, Tensor) and value.is_leaf and value.grad is not None:
            yield from _tensors_in(value.grad, depth, seen)
    elif depth:
        is_object = _is_object(value) and not isinstance(value, (Mapping, list, tuple, set, deque))
        inner = value.values() if isinstance(value, Mapping) else vars(value).values() if is_object else value
        if is_object or isinstance(value, (Mapping, list, tuple, set, deque)):
            seen.add(id(value))
            for part in list(inner):
                yield from _tensors_in(part, depth - 1, seen)


def _new_nodes(tensor: Tensor, known: set[Any]) -> Iterator[Any]:
    """The nodes of a tensor's autograd graph that are not known yet, but for those that every parameter has."""
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in known and not node.name().endswith(_LEAF):
            known.add(node)
            waiting += [before for before, _ in node.next_functions]
            yield node


def _lines_about(held: _Held) -> tuple[str, bool]:
    """Where the user's code adds to an attribute or variable, and whether some other line takes out of it or asks for its length.

    Of an attribute, the lines of its own class count, and those elsewhere that do not say ``self``.
    """
    lines: dict[tuple[bool, str], str] = {}
    for file in held.files:
        for function, cls in _functions_of(file):
            is_own = cls in held.classes
            for node in ast.walk(function) if function.name != "__init__" else ():
                if (does := _does(node, held.name)) and (is_own or not held.classes or not _says_self(node, held.name)):
                    lines.setdefault((is_own, does), shown_place(file, node.lineno))  # type: ignore[attr-defined]
    adding = (lines.get((is_own, does)) for does in ("add", "set") for is_own in (True, False))
    return next(filter(None, adding), ""), any(does != "add" for _, does in lines)


def _functions_of(file: str) -> Iterator[tuple[ast.FunctionDef, str]]:
    """The functions of a file, with the names of their classes."""
    for top in parsed_file(file):
        for outer in ast.walk(top) if isinstance(top, ast.ClassDef) else (top,):
            inner = outer.body if isinstance(outer, ast.ClassDef) else [outer]
            name = outer.name if isinstance(outer, ast.ClassDef) else ""
            yield from ((each, name) for each in inner if isinstance(each, ast.FunctionDef))


def _says_self(node: ast.AST, name: str) -> bool:
    return any(
        isinstance(each, ast.Attribute) and each.attr == name and isinstance(each.value, ast.Name) and each.value.id == "self"
        for each in ast.walk(node)
    )


def _does(node: ast.AST, name: str) -> str:
    """Whether a part of a program adds to what has a name (``add``), puts something else in its place (``set``), or limits it (``limit``)."""

    def is_it(part: ast.AST | None) -> bool:
        part = part.value if isinstance(part, ast.Subscript) else part
        return getattr(part, "attr", getattr(part, "id", "")) == name

    def speaks_of_it(part: ast.AST) -> bool:
        return any(is_it(each) for each in ast.walk(part))

    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if name in _HOOKS:
            return "add" if node.func.attr in _HOOKS[name] else ""
        told = {"add": _ADDING, "limit": _REMOVING}
        return next((does for does, names in told.items() if node.func.attr in names and is_it(node.func.value)), "")
    if isinstance(node, ast.Delete):
        return "limit" if any(map(is_it, node.targets)) else ""
    if isinstance(node, ast.Compare):
        return "limit" if any(isinstance(each, ast.Call) and speaks_of_it(each) for each in ast.walk(node)) else ""
    if isinstance(node, (ast.Assign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if not any(map(is_it, targets)):
            return ""
        is_item = any(isinstance(each, ast.Subscript) for each in targets)
        is_cut = any(isinstance(each, ast.Slice) for each in ast.walk(node.value))
        is_kept = isinstance(node, ast.AugAssign) or is_item or speaks_of_it(node.value)
        return "limit" if is_cut else "add" if is_kept else "set"
    return ""
