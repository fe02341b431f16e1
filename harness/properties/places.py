"""The line of the user's code to look at: where a module's forward begins, or the statement that did something."""

from __future__ import annotations

import ast
import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType

from torch import Tensor, nn

from harness.evidence import WHOLE, Evidence, Status
from harness.excerpts import Excerpt
from harness.user_code import is_ours, is_users_file, is_written_here
from harness.written_in import cell_of, file_of_class, short_name

_REGISTERING = ("register_buffer", "register_parameter", "register_module", "add_module")

_METHODS_OF_MODES = ("__torch_function__", "__torch_dispatch__")

_FRAMEWORKS = ("builtins", "torch", "lightning", "pytorch_lightning")
"""Packages whose classes a model derives from, and which know nothing of its parts."""

_RAISED_AT = re.compile(r"\(([^()/\\,]+\.py|In\[\d+\])(?:, line |:)(\d+)(?:, called at [^()]*)?\)")
"""How a message names the line that raised (``harness.user_code.raised``), or that an exporter speaks of."""


def located(evidence: Evidence, model: nn.Module) -> Evidence:
    """The evidence of a failure or a warning with the line to look at and those around it, as far as it can be told.

    That is the line that raised or did what is wrong, or else the forward of the blamed module.
    """
    if evidence.status not in (Status.FAIL, Status.WARN):
        return evidence
    place = evidence.place or _raised_at(evidence.message, model) or getattr(evidence.module, "place", "")
    place = place or (forward_of(model, evidence.module) if evidence.module else "")
    name, _, line = place.rpartition(":")
    file = file_of(name, model) if line.isdigit() else None
    if file is not None and "/" not in name:
        place = shown_place(str(file), int(line)) or place
    return replace(evidence, place=place, excerpt=None if file is None else Excerpt.of(file, int(line)))


def file_of(name: str, model: nn.Module) -> Path | None:
    """The file that a place names: from the current folder, or by its name among those of the model's or other code of the user's."""
    own = list(filter(None, dict.fromkeys(file_of_class(type(module)) for module in model.modules())))
    shown = (file for file in own if shown_place(file, 1).rpartition(":")[0] == name)
    if cell_of(file := next(shown, "")):
        return Path(file)
    if file or Path(name).is_file():  # the current folder may have one of that name too
        return Path(file or name).absolute()
    loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    others = (file for file in loaded if file and is_written_here(file))  # an installed package may have one of that name too
    return next((Path(file).absolute() for file in (*own, *others) if Path(file).name == name), None)


def forward_of(model: nn.Module, path: str) -> str:
    """File and line of a module's forward, or of its class where it inherits forward; of what is no code of the user's, where it is made.

    Args:
        model: The model.
        path: Of a module, a parameter or another attribute.

    Returns:
        The place; empty for code without a file.
    """
    module, holders = model, list[tuple[nn.Module, str]]()
    for part in [] if path == WHOLE else filter(None, re.split(r"[.\[\]]+", path)):
        holders.append((module, part))
        inner = dict(module.named_children()).get(part)
        if inner is None:
            place = made_at(type(module), part)
            if place or not isinstance(getattr(module, part, None), Tensor):
                return place
            break  # a parameter of the module
        module = inner
    own = type(module)
    called = vars(module).get("forward")  # a method that the config names, in the place of forward
    forward = called if inspect.ismethod(called) else vars(own).get("forward")
    code = getattr(inspect.unwrap(forward), "__code__", None) if callable(forward) else None
    place = "" if code is None else shown_place(code.co_filename, _first_line(code))
    if not place and code is None:
        try:  # a forward that is inherited says less than the class that changes what it calls
            place = shown_place(inspect.getsourcefile(own) or "", inspect.getsourcelines(own)[1])
        except (OSError, TypeError):
            place = ""
    return place or next(filter(None, (made_at(type(holder), name) for holder, name in reversed(holders))), "")


def made_at(owner: type, name: str) -> str:
    """The line on which a class of the user's gives its instances an attribute, ``self.norm = …`` or ``self.register_buffer("norm", …)``."""
    for cls in owner.__mro__:
        file = file_of_class(cls)
        if not file or not is_users_file(file):
            continue
        for statement in _statements_of(file, cls.__qualname__):
            if name in _attributes_set(statement):
                return shown_place(file, statement.lineno)
    return ""


def method_of(model: nn.Module, name: str) -> str:
    """Where the user's code of a method of the model begins."""
    method = getattr(type(model), name, None)
    code = None if method is None else getattr(inspect.unwrap(method), "__code__", None)
    if code is None or not is_written_here(code.co_filename):  # of a library nobody changes a line
        return ""
    return shown_place(code.co_filename, _first_line(code))


def _first_line(code: CodeType) -> int:
    """The line of a function's name; Python counts from its first decorator."""
    line = code.co_firstlineno
    while linecache.getline(code.co_filename, line).lstrip().startswith("@"):
        line += 1
    return line


def placed_at(evidence: Evidence, place: str) -> Evidence:
    """The evidence; of a failure or a warning with a place, where that is known."""
    return replace(evidence, place=place) if place and evidence.status in (Status.FAIL, Status.WARN) else evidence


def line_that_calls(model: nn.Module, path: str, names: Collection[str], method: str = "") -> str:
    """The first line of a module's class, or else of another class of the model's, that calls a function or method of some names.

    Args:
        model: The model.
        path: The module.
        names: The names.
        method: In which method; by default in any.
    """
    for file, cls, node in _nodes_near(model, path):
        is_one = isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in names
        if is_one and (not method or _method_around(file, cls, node.lineno) == method):  # type: ignore[attr-defined]
            return shown_place(file, node.lineno)  # type: ignore[attr-defined]
    return ""


def line_that_fixes_a_size(model: nn.Module) -> str:
    """The first line that makes a size of a tensor a number of Python, ``int(x.shape[-1])``, which an export then keeps."""
    for file, _, node in _nodes_near(model, WHOLE):
        text = ast.unparse(node) if isinstance(node, ast.stmt) else ""
        if re.search(r"\.shape|\.size\(", text) and re.search(r"\b(int|float|round)\(", text):
            return shown_place(file, node.lineno)  # type: ignore[attr-defined]
    return ""


def line_that_changes_a_weight(model: nn.Module, path: str, is_undone: bool = False) -> str:
    """The line that changes a weight, as a merge of adapters does; where all it adds is what another method returns, that method's end.

    Args:
        model: The model.
        path: The module whose class is looked at first.
        is_undone: Whether it is the line of a method that undoes it, such as ``unmerge``.
    """

    def changes(node: ast.AST, method: str) -> bool:
        if is_undone != method.startswith("un"):
            return False
        if isinstance(node, (ast.AugAssign, ast.Assign)) and (is_undone or isinstance(node, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return any("weight" in ast.unparse(each) for each in targets)
        is_call = (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("add_", "sub_", "copy_")
        )
        return is_call and "weight" in ast.unparse(node.func.value)  # type: ignore[attr-defined]

    for file, cls, node in _nodes_near(model, path):
        if changes(node, _method_around(file, cls, getattr(node, "lineno", 0))):
            value = node.args[0] if isinstance(node, ast.Call) and node.args else getattr(node, "value", None)
            made = value.func if isinstance(value, ast.Call) and not value.args and not value.keywords else None
            is_own = isinstance(made, ast.Attribute) and isinstance(made.value, ast.Name) and made.value.id == "self"
            inner = _end_of(cls, made.attr) if is_own and isinstance(made, ast.Attribute) else ""
            return inner or shown_place(file, node.lineno)  # type: ignore[attr-defined]
    return ""


def _method_around(file: str, cls: type, line: int) -> str:
    """The name of the method of a class that a line is in."""
    functions = (each for each in _body_of(file, cls.__qualname__) if isinstance(each, ast.FunctionDef))
    return next((each.name for each in functions if each.lineno <= line <= (each.end_lineno or 0)), "")


def end_of(model: nn.Module, method: str) -> str:
    """Where a method of a model ends, and what it leaves out is missing."""
    return _end_of(type(model), method)


def _end_of(owner: type, method: str) -> str:
    for cls in owner.__mro__:
        file = file_of_class(cls)
        if file and is_written_here(file) and method in vars(cls):
            for each in _body_of(file, cls.__qualname__):
                if isinstance(each, ast.FunctionDef) and each.name == method:
                    last = next((part for part in each.body if isinstance(part, ast.Return)), each.body[-1])
                    return shown_place(file, last.lineno if isinstance(last, ast.Return) else last.end_lineno or last.lineno)
    return ""


def line_that_sets(model: nn.Module, path: str) -> str:
    """The first line outside of ``__init__`` that gives an attribute a value, whatever the object is called there; empty where none does.

    Args:
        model: The model.
        path: Of the attribute, ``scaler.mean``.
    """
    name = path.rpartition(".")[2]
    for file, cls, node in _nodes_near(model, path):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        given = (each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target]))
        is_set = any(isinstance(each, ast.Attribute) and each.attr == name for each in given)
        if is_set and _method_around(file, cls, node.lineno) != "__init__":  # type: ignore[attr-defined]
            return shown_place(file, node.lineno)  # type: ignore[attr-defined]
    return ""


def _nodes_near(model: nn.Module, path: str) -> Iterator[tuple[str, type, ast.AST]]:
    """The nodes of the code of the user's classes, those of a module first; with their file and class."""
    owners = [type(module) for name, module in model.named_modules() if (name or WHOLE) == path]
    for owner in dict.fromkeys([*owners, *map(type, model.modules())]):
        for cls in owner.__mro__:
            file = file_of_class(cls)
            if file and is_users_file(file):
                yield from ((file, cls, node) for part in _statements_of(file, cls.__qualname__) for node in ast.walk(part))


@lru_cache(maxsize=64)
def _statements_of(file: str, qualname: str) -> tuple[ast.stmt, ...]:
    """The statements of a class's methods that hold no others, in order."""
    inner = (node for statement in _body_of(file, qualname) for node in ast.walk(statement))
    found = (node for node in inner if isinstance(node, ast.stmt) and not getattr(node, "body", None))
    return tuple(sorted(found, key=lambda node: node.lineno))


def _body_of(file: str, qualname: str) -> list[ast.stmt]:
    """The statements of a class."""
    body = parsed_file(file)
    for name in qualname.split("."):
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name), [])
    return body


@lru_cache(maxsize=16)
def parsed_file(file: str) -> list[ast.stmt]:
    """The statements of a file; none where it cannot be read."""
    try:
        return ast.parse("".join(linecache.getlines(file))).body
    except SyntaxError:
        return []


def _attributes_set(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            for node in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                    yield node.attr
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        named = call.args[0] if isinstance(call.func, ast.Attribute) and call.func.attr in _REGISTERING and call.args else None
        if isinstance(named, ast.Constant):
            yield str(named.value)


def raising_line(error: BaseException) -> str:
    """The innermost of the user's lines that an exception passed, ``model.py:14``; empty where there is none."""
    places = (shown_place(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__))
    return next((place for place in reversed(list(places)) if place), "")


def shown_place(file: str, line: int) -> str:
    """``src/model.py:14``, relative to the current folder; the name only for a file elsewhere, and nothing for code that is not the user's."""
    if not is_users_file(file):
        return ""
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else short_name(path)}:{line}"


def users_line(frame: FrameType | None) -> str:
    """The innermost line of a model's code; code between it and torch is the user's choice too, this project's is not.

    The methods by which this project's modes are given an operator may be on the way.
    """
    found = users_frame(frame)
    return "" if found is None else shown_place(found.f_code.co_filename, found.f_lineno)


def users_frame(frame: FrameType | None, is_theirs: Callable[[str], bool] = is_users_file) -> FrameType | None:
    """The innermost frame in a user's file below this project's code; ``None`` where there is none."""
    while frame is not None and (frame.f_code.co_name in _METHODS_OF_MODES or not is_ours(frame.f_code.co_filename)):
        if is_theirs(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def _raised_at(message: str, model: nn.Module) -> str:
    """The place of an exception whose message names its line, where a module of the model comes from that file."""
    found = _RAISED_AT.search(message)
    if found is None:
        return ""
    files = {file_of_class(type(module)) for module in model.modules()}
    file = next((file for file in files if file and short_name(file) == found[1]), None)
    return shown_place(file, int(found[2])) if file else f"{found[1]}:{found[2]}"


def names_read(cls: type[nn.Module], method: str) -> set[str]:
    """The names that a method of the user's reads, and those that its other methods read which it names."""
    own = [each for each in reversed(cls.__mro__) if each.__module__.partition(".")[0] not in _FRAMEWORKS]
    methods = {name: value for each in own for name, value in vars(each).items() if inspect.isfunction(value)}
    named, left = set(), {method}
    while left:
        named |= left
        left = {name for each in left if each in methods for name in _names_in(methods[each].__code__)} - named
    return named


def _names_in(code: CodeType) -> set[str]:
    """The names that code reads, also inside its functions and comprehensions."""
    inner = [_names_in(each) for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*inner)
