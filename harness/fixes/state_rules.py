"""Known corrections of a model's state: what is saved, when it changes, and when it is reset."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from harness.fixes.edits import Rule, Scope, adding_to, attributes_given, called

OF_STATE = frozenset(
    (
        *("registered", "the same tensor", "the other switch", "the default of an argument", "a copy of what is written into"),
        *("a usual start", "no detach", "names of what is kept"),
    )
)
"""Rules that may fix what is saved, or not: any other makes such a property hold by chance."""

_OF_TRAINING = frozenset(
    (
        *("away from zero", "no detach", "a mean of what is real", "the number of what is real", "what is made and never used"),
        *("registered", "names of what is kept", "dropout that asks for the mode"),
    )
)
_OF_SCORES = frozenset(["initial_loss", "training_loss[scores]"])


def rules_of_training(test: str) -> frozenset[str]:
    """Rules that may fix what a test of a training finds.

    A loss can be changed in many ways with which one such test no longer fails, and the loss is wrong all the same: another mask, no weight
    decay. An activation is taken away only where the test is about the scale of the scores.
    """
    return _OF_TRAINING | {"no activation"} if test in _OF_SCORES else _OF_TRAINING


STATE_RULES: list[Rule] = []
rule = adding_to(STATE_RULES, is_known=True)

_SETS_BACK = re.compile(r"reset|clear|forget|flush|new_(?:text|sequence|stream)")
_IS_ON = re.compile(r"enabled|disabled|active|merged|is_on|use_adapter")


@rule("registered", 1)
def _registered(node: ast.AST, scope: Scope) -> Iterator[str]:
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not scope.is_init or node.value is None:
        return
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"):
        return
    value = scope.text(node.value)
    if "Parameter(" in value:
        if isinstance(node.value, (ast.List, ast.ListComp)):
            yield f"self.{target.attr} = nn.ParameterList({value})"
        return  # it is registered already, and what is trained must not become a buffer
    if isinstance(node.value, (ast.List, ast.ListComp)):
        yield f"self.{target.attr} = nn.ModuleList({value})"
    elif isinstance(node.value, (ast.Dict, ast.DictComp)):
        yield f"self.{target.attr} = nn.ModuleDict({value})"
    elif isinstance(node.value, ast.Constant):
        if isinstance(node.value.value, (int, float)):
            yield f'self.register_buffer("{target.attr}", torch.tensor({value}))'
    elif called(node.value) in ("clone", "randn", "rand", "zeros", "ones") or not isinstance(node.value, ast.Call):
        yield f'self.register_buffer("{target.attr}", {value})'
        yield f"self.{target.attr} = nn.Parameter({value})"
    else:
        yield f'self.register_buffer("{target.attr}", {value})'


@rule("the same tensor", 0)
def _same_tensor(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Call) and called(node) == "Parameter" and node.args:
        inner = node.args[0]
        while (isinstance(inner, ast.Attribute) and inner.attr == "data") or called(inner) in ("clone", "detach"):
            inner = inner.value if isinstance(inner, ast.Attribute) else inner.func.value  # type: ignore[attr-defined]
        if isinstance(inner, ast.Attribute) and inner is not node.args[0]:
            yield scope.text(inner)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute) and node.targets[0].attr == "requires_grad":
        yield f"{scope.text(node.targets[0].value)}.requires_grad_({scope.text(node.value)})"


@rule("only in training", 2)
def _only_in_training(node: ast.AST, scope: Scope) -> Iterator[str]:
    if scope.owner is None or scope.is_init or not isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign)):
        return
    text = scope.text(node)
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and text.startswith("self.")
    draws = any(word in text for word in ("randn", "rand_like", "rand(", "bernoulli", "multinomial", "dropout"))
    if is_call or draws:
        indent = " " * node.col_offset
        yield f"if self.training:\n{indent}    " + text.replace("\n", "\n    ")


@rule("set back to its start", 0)
def _set_back(node: ast.AST, scope: Scope) -> Iterator[str]:
    """What calls leave behind, in the method that sets a model back: as ``__init__`` has it."""
    if scope.owner is None or not _SETS_BACK.search(scope.function.name) or node is not scope.function.body[-1]:
        return
    methods = {each.name: each for each in scope.owner.body if isinstance(each, ast.FunctionDef)}
    given = {name: attributes_given(method) for name, method in methods.items()}
    start = given.pop("__init__", {})
    here = given.pop(scope.function.name, {})
    left = {name for found in given.values() for name in found} & start.keys() - here.keys()
    back = [
        f"self.{name} = {scope.text(value)}" for name, value in start.items() if name in left and isinstance(value, ast.Constant)
    ]
    indent = " " * node.col_offset  # type: ignore[attr-defined]
    for lines in [back, *([each] for each in back if len(back) > 1)]:
        if lines:
            yield f"\n{indent}".join(lines if isinstance(node, ast.Pass) else [scope.text(node), *lines])


@rule("names of what is kept", 1)
def _kept_names(node: ast.AST, scope: Scope) -> Iterator[str]:
    """A tuple or list of names of attributes, with one more."""
    if not isinstance(node, (ast.Tuple, ast.List)) or scope.owner is None or not node.elts:
        return
    names = [each.value for each in node.elts if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    if len(names) < len(node.elts):
        return
    method = next((each for each in scope.owner.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
    for name in attributes_given(method) if method is not None else ():
        if name not in names:
            listed = ", ".join(map(scope.text, node.elts))
            yield f'({listed}, "{name}")' if isinstance(node, ast.Tuple) else f'[{listed}, "{name}"]'


@rule("only where it is switched on", 2)
def _where_on(node: ast.AST, scope: Scope) -> Iterator[str]:
    """A part is asked for its switch, as others of the file are."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call) or scope.is_init:
        return
    function = node.value.func
    is_part = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "self"
    asked = {each.attr for each in ast.walk(scope.source.tree) if isinstance(each, ast.Attribute) and _IS_ON.search(each.attr)}
    indent = " " * node.col_offset
    for name in sorted(asked) if is_part else ():
        yield f"if {scope.text(function)}.{name}:\n{indent}    " + scope.text(node).replace("\n", "\n    ")
