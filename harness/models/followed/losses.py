"""The losses that a repository trains its model by, found by reading the code that calls the model; nothing of it runs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.models.followed.call_sites import training_files

_LOSSES = {
    "cross_entropy": ("CrossEntropyLoss", "cross_entropy"),
    "nll": ("NLLLoss", "nll_loss"),
    "log_loss": ("BCELoss", "binary_cross_entropy"),
    "bce": ("BCEWithLogitsLoss", "binary_cross_entropy_with_logits"),
    "mse": ("MSELoss", "mse_loss"),
    "l1": ("L1Loss", "l1_loss"),
    "huber": ("HuberLoss", "SmoothL1Loss", "huber_loss", "smooth_l1_loss"),
    "ctc": ("CTCLoss", "ctc_loss"),
}
_NAMED = {written: name for name, all_written in _LOSSES.items() for written in all_written}
_SYMMETRIC = ("mse", "l1", "huber")
"""Losses that take the labels first as well."""

_KEEP = ("squeeze", "unsqueeze", "contiguous", "float", "double", "to", "cpu", "cuda", "clone", "mean_flat")
_MOVE = ("view", "reshape", "flatten", "permute", "transpose", "movedim", "rearrange", "swapaxes")
_SQUASH = ("sigmoid", "softmax", "log_softmax")
_A_MODEL = re.compile(r"(?:\w+_)?(?:model|net|network)", re.IGNORECASE)
_DEEPEST = 2
"""How many functions of the repository are entered on the way from the model to its loss."""


@dataclass(frozen=True)
class Part:
    """What becomes of a part of what a model returned on its way to a loss.

    Attributes:
        output: Its key or place; empty for all of it.
        moved: Whether its axes were joined or put in another order.
        squash: ``sigmoid``, ``softmax`` or ``log_softmax``, where it went through one.
    """

    output: str = ""
    moved: bool = False
    squash: str = ""


@dataclass(frozen=True)
class WrittenLoss:
    """A loss of one output.

    Attributes:
        name: As a config names it, or ``nll``.
        written: As the repository calls it.
        part: Which output, and what it went through.
        label: The parameter of forward that is the label too, as of an autoencoder; empty for another label.
        place: The file and line.
        blank: The symbol that stands for none.
        weight: Its share in a sum of several.
    """

    name: str
    written: str
    part: Part
    label: str
    place: str
    blank: int = 0
    weight: float = 1.0


def written_losses(model: type, parameters: Sequence[str], method: str = "forward") -> dict[str, WrittenLoss]:
    """The losses of a model's outputs, by the output's key or place, from the first file that trains it; none where a file has two of one.

    Args:
        model: The class of the model.
        parameters: The names of what its forward takes.
        method: The method that is called.
    """
    files, defining = training_files(model)
    own = next((tree for path, tree in files if path.samefile(inspect.getsourcefile(model) or "")), None)
    others = [node for node in (own.body if own else ()) if isinstance(node, ast.ClassDef) and node.name != model.__name__]
    is_part = any(isinstance(node, ast.Call) and _last(node.func) == model.__name__ for each in others for node in ast.walk(each))
    for path, tree in files:
        reader = _Reader(path, model.__name__, tuple(parameters), method, is_part, defining)
        reader.read(tree)
        found = {loss.part.output: loss for loss in reader.found}
        several = {one.part.output for one in reader.found if one.name != found[one.part.output].name}
        if found := {output: loss for output, loss in found.items() if output not in several}:
            return found
    return {}


@dataclass
class _Names:
    """What names stand for at a place of the code: parts of what the model returned, and parameters of its forward."""

    parts: dict[str, Part] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    def bind(self, target: ast.expr, part: Part | None, label: str = "") -> None:
        """Binds a name to a part, or to nothing that is known."""
        text = ast.unparse(target)
        self.parts.pop(text, None)
        self.inputs.pop(text, None)
        if part is not None:
            self.parts[text] = part
        elif label:
            self.inputs[text] = label


class _Reader:
    """Reads one file."""

    def __init__(
        self,
        path: Path,
        model: str,
        parameters: tuple[str, ...],
        method: str,
        is_part: bool,
        defining: Callable[[str], tuple[Path, ast.Module] | None],
    ) -> None:
        self.found: list[WrittenLoss] = []
        self._path, self._model, self._parameters = path, model, parameters
        self._methods, self._is_part = {method, "forward"}, is_part
        self._defining = defining
        self._functions: dict[str, tuple[Path, Any]] = {}
        self._criteria: dict[str, tuple[str, str, int]] = {}
        self._made: dict[str, str] = {}
        self._is_inside = False

    def read(self, tree: ast.Module) -> None:
        """Reads a module: first what its names are, then each function and the module itself from the first statement to the last."""
        for node in ast.walk(tree):
            if _is_function(node):
                self._functions[node.name] = (self._path, node)  # type: ignore[attr-defined]
            if isinstance(node, ast.Assign) and (made := _maker(node.value)):
                for target in node.targets:
                    self._name(_plain(target), made, node.value)
        self._follow(tree.body, _Names(), 0)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self._is_inside = node.name == self._model
                for method in filter(_is_function, node.body):
                    self._follow(method.body, _Names(), 0)  # type: ignore[attr-defined]
                self._is_inside = False
        for node in filter(_is_function, tree.body):
            self._follow(node.body, _Names(), 0)  # type: ignore[attr-defined]

    def _name(self, target: str, made: str, value: ast.expr) -> None:
        """Notes a name that an object gets; a name that stands for two losses stands for none."""
        self._made[target] = self._model if self._model in (made, self._made.get(target)) else made
        if made in _NAMED and made[0].isupper():
            said = (_NAMED[made], made, _blank(value))
            same = self._criteria.get(target, said)[0] == said[0]
            self._criteria[target] = said if same else ("", made, 0)

    def _follow(self, body: Sequence[ast.stmt], names: _Names, depth: int) -> None:
        for statement in body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            for call in _calls_in(statement):
                self._see(call, names, depth)
            if isinstance(statement, ast.Assign):
                for target in statement.targets:
                    self._assign(target, statement.value, names)
            elif isinstance(statement, (ast.For, ast.AsyncFor)):
                for each in ast.walk(statement.target):
                    if isinstance(each, ast.Name):
                        names.bind(each, None)
            for inner in ("body", "orelse", "finalbody"):
                self._follow(getattr(statement, inner, ()), names, depth)

    def _assign(self, target: ast.expr, value: ast.expr, names: _Names) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            whole = self._part(value, names)
            values: Sequence[ast.expr | None] = value.elts if isinstance(value, (ast.Tuple, ast.List)) else ()
            for place, each in enumerate(target.elts):
                if whole is not None:
                    names.bind(each, replace(whole, output=str(place)) if not whole.output else None)
                elif place < len(values) and len(values) == len(target.elts):
                    self._assign(each, values[place], names)  # type: ignore[arg-type]
                else:
                    names.bind(each, None)
            return
        names.bind(target, self._part(value, names), self._label(value, names))

    def _see(self, call: ast.Call, names: _Names, depth: int) -> None:
        """Notes what a call gives the model, or the loss that it is; enters a function of the repository that is given an output."""
        if self._calls_model(call):
            given = [*zip(self._parameters, call.args, strict=False), *((each.arg or "", each.value) for each in call.keywords)]
            names.inputs |= {ast.unparse(value): name for name, value in given if isinstance(value, (ast.Name, ast.Attribute))}
            return
        name, written, blank = self._loss_of(call.func)
        keywords = {each.arg: each.value for each in call.keywords}
        pair = [keywords.get("input"), keywords.get("target")]
        pair = [*call.args[:2], *pair[len(call.args[:2]) :]]
        if name:
            for output, label in (pair, pair[::-1]) if name in _SYMMETRIC else (pair,):
                if output is not None and (part := self._part(output, names)) is not None:
                    self.found.append(
                        WrittenLoss(
                            name, written, part, self._label(label, names), f"{self._path.name}, line {call.lineno}", blank
                        )
                    )
                    return
        elif depth < _DEEPEST and any(self._part(value, names) for value in call.args):
            path, function = self._function(_last(call.func))
            if function is None:
                return
            parameters = [each.arg for each in function.args.args if each.arg != "self"]
            given = [*zip(parameters, call.args, strict=False), *((each.arg or "", each.value) for each in call.keywords)]
            inner = _Names(
                {name: part for name, value in given if (part := self._part(value, names)) is not None},
                {name: which for name, value in given if (which := self._label(value, names))},
            )
            outer, self._path = self._path, path
            self._follow(function.body, inner, depth + 1)
            self._path = outer

    def _function(self, name: str) -> tuple[Path, Any]:
        """The function of a name in this file, or else in the repository; ``None`` where there is none."""
        if name and name not in self._functions:
            found = self._defining(name)
            inside = () if found is None else ast.walk(found[1])
            node = next((node for node in inside if _is_function(node) and node.name == name), None)  # type: ignore[attr-defined]
            self._functions[name] = (self._path if found is None else found[0], node)
        return self._functions.get(name, (self._path, None))

    def _loss_of(self, function: ast.expr) -> tuple[str, str, int]:
        """The loss that is called, as written, with its blank symbol; empty for none."""
        if isinstance(function, ast.Call):  # `nn.CrossEntropyLoss()(output, labels)`
            made = _last(function.func)
            return (_NAMED[made], made, _blank(function)) if made in _NAMED else ("", "", 0)
        if (known := self._criteria.get(_plain(function))) is not None:
            return known
        last = _last(function)
        return (_NAMED[last], last, 0) if last in _NAMED and last[0].islower() else ("", "", 0)

    def _calls_model(self, call: ast.Call) -> bool:
        """Whether a call is one of the model: of a name that was made from its class, or of what is called a model and is of no other class.

        What is called a model is not one of the parts that another class of the model's file makes.
        """
        function = call.func
        if isinstance(function, ast.Call):  # `Net()(x)`
            return _maker(function) == self._model
        if isinstance(function, ast.Attribute) and function.attr in self._methods:
            function = function.value
        if isinstance(function, ast.Attribute) and function.attr == "module":
            function = function.value
        if not isinstance(function, (ast.Name, ast.Attribute)):
            return False
        name = _plain(function)
        if name == "self":
            return self._is_inside
        made = self._made.get(name, "")
        is_other = made[:1].isupper() and made != self._model
        return made == self._model or (not self._is_part and not is_other and bool(_A_MODEL.fullmatch(name)))

    def _part(self, node: ast.expr, names: _Names) -> Part | None:
        """The part of what the model returned that an expression is, with what it went through."""
        if isinstance(node, (ast.Name, ast.Attribute)) and (known := names.parts.get(ast.unparse(node))) is not None:
            return known
        if isinstance(node, ast.Attribute):
            whole = self._part(node.value, names)
            return None if whole is None else whole if node.attr in ("data", "T") else _taken(whole, node.attr)
        if isinstance(node, ast.Subscript):
            whole = self._part(node.value, names)
            at = node.slice.value if isinstance(node.slice, ast.Constant) else None
            return _taken(whole, str(at)) if whole is not None and at is not None else whole
        if not isinstance(node, ast.Call):
            return None
        if self._calls_model(node):
            return Part()
        last = _last(node.func)
        if last not in (*_KEEP, *_MOVE, *_SQUASH):
            return None
        part = self._part(node.func.value, names) if isinstance(node.func, ast.Attribute) else None
        part = part or (self._part(node.args[0], names) if node.args else None)
        if part is None:
            return None
        return replace(part, moved=part.moved or last in _MOVE, squash=last if last in _SQUASH else part.squash)

    def _label(self, node: ast.expr | None, names: _Names) -> str:
        """The parameter of forward that an expression is, in any shape; empty for anything else."""
        while isinstance(node, ast.Call) and _last(node.func) in (*_KEEP, *_MOVE):
            node = (
                node.func.value if isinstance(node.func, ast.Attribute) and _plain(node.func.value) != "torch" else node.args[0]
            )
        return names.inputs.get(ast.unparse(node), "") if isinstance(node, (ast.Name, ast.Attribute)) else ""


def _taken(whole: Part, key: str) -> Part | None:
    """One entry of what was returned; of an entry itself none is known."""
    return replace(whole, output=key) if not whole.output else None


def _is_function(node: Any) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def _calls_in(statement: ast.stmt) -> Iterator[ast.Call]:
    """The calls in a statement itself, the inner ones first; not those in the statements that it holds."""
    inside: Collection[ast.AST] = [child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt)]
    for child in inside:
        yield from reversed([node for node in ast.walk(child) if isinstance(node, ast.Call)])


def _plain(node: ast.AST) -> str:
    """A name without ``self.``."""
    return ast.unparse(node).removeprefix("self.")


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _maker(value: ast.expr) -> str:
    """The last part of the name of what makes a value, such as ``Net`` in ``Net(3).to(device)``."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Call):
        value = value.func.value
    return _last(value.func) if isinstance(value, ast.Call) else ""


def _blank(value: ast.AST) -> int:
    """The blank symbol that a loss is made with."""
    said = (each.value for node in ast.walk(value) if isinstance(node, ast.Call) for each in node.keywords if each.arg == "blank")
    return next((each.value for each in said if isinstance(each, ast.Constant) and isinstance(each.value, int)), 0)
