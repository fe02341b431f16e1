"""Blocks that stand in a row and are alike but for their weights; and a model in which all but a few of them only pass on what they are given.

What holds of a block because of its code holds of all that are alike: a large model is asked most questions with two of each kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from harness.compat import CONTENTS_OF_MODULE, buffers_of, parameters_of

_KEPT = 2
"""How many blocks of a kind are kept."""

_DEPTH = 6
"""How deep the attributes of two blocks are compared."""


@dataclass(frozen=True)
class Row:
    """Blocks of a ``ModuleList`` of which some are like others.

    Attributes:
        path: Of the list.
        kept: Names of the blocks that are kept: two of each kind, so that one that is unlike the others is among them.
        others: Names of the others.
    """

    path: str
    kept: tuple[str, ...]
    others: tuple[str, ...]

    def describe(self) -> str:
        """How many blocks are kept, in words."""
        return f"{len(self.kept)} of {len(self.kept) + len(self.others)} blocks of `{self.path}`, the others are like them"


def rows_of_alike(model: nn.Module) -> list[Row]:
    """The lists of blocks of which some are alike; a list inside a block of another one is left as it is."""
    found: list[Row] = []
    for path, part in model.named_modules():
        if not isinstance(part, nn.ModuleList) or any(path.startswith(f"{row.path}.") for row in found):
            continue
        kept, others, kinds = list[str](), list[str](), list[list[tuple[int, nn.Module]]]()
        for number, (name, block) in enumerate(part.named_children()):
            kind = next((kind for kind in kinds if is_alike(kind[0][1], kind[0][0], block, number)), None)
            if kind is None:
                kinds.append(kind := [])
            (kept if len(kind) < _KEPT else others).append(name)
            kind.append((number, block))
        if others:
            found.append(Row(path, tuple(kept), tuple(others)))
    return found


def is_alike(left: nn.Module, left_number: int, right: nn.Module, right_number: int) -> bool:
    """Whether two blocks are the same but for their weights: classes, code, attributes, hooks, buffers, and shapes of parameters.

    An attribute may be the block's own number in its row. A parameter whose numbers are all the same one must be so in both: a branch that
    starts at zero hides what its code does.

    Args:
        left: A block.
        left_number: Where it stands.
        right: The other one.
        right_number: Where that stands.
    """
    lefts, rights = (dict(module.named_modules(remove_duplicate=False)) for module in (left, right))
    if lefts.keys() != rights.keys():
        return False
    twins = {id(lefts[path]): id(rights[path]) for path in lefts}
    same = partial(_is_same, numbers=(left_number, right_number), twins=twins)
    return all(_has_same_own(lefts[path], rights[path], same) for path in lefts)


def _has_same_own(left: nn.Module, right: nn.Module, same: Callable[[Any, Any, int], bool]) -> bool:
    ours, theirs = (
        {name: value for name, value in vars(each).items() if name not in CONTENTS_OF_MODULE} for each in (left, right)
    )
    if type(left) is not type(right) or ours.keys() != theirs.keys():
        return False
    parameters, others = parameters_of(left), parameters_of(right)
    buffers, their_buffers = buffers_of(left), buffers_of(right)
    if parameters.keys() != others.keys() or buffers.keys() != their_buffers.keys():
        return False
    return (
        all(same(value, theirs[name], _DEPTH) for name, value in ours.items())
        and all(_form_of(value) == _form_of(others[name]) for name, value in parameters.items())
        and all(same(value, their_buffers[name], _DEPTH) for name, value in buffers.items())
    )


def _form_of(parameter: Tensor | None) -> tuple[Any, ...]:
    if parameter is None:
        return ()
    numbers = parameter.detach().reshape(-1)
    is_constant = all(bool((part == numbers[:1]).all()) for part in (numbers[:1024], numbers))
    value = numbers[:1].tolist() if is_constant else None
    return type(parameter), parameter.shape, parameter.dtype, parameter.device, parameter.requires_grad, value


def _is_same(left: Any, right: Any, depth: int, numbers: tuple[int, int], twins: dict[int, int]) -> bool:
    """Whether two attributes say the same; what is not known to is another."""
    if left is right or twins.get(id(left)) == id(right):
        return True
    if type(left) is not type(right) or not depth:
        return False
    same = partial(_is_same, depth=depth - 1, numbers=numbers, twins=twins)
    if type(left) is int:
        return bool(left == right) or (left, right) == numbers
    if isinstance(left, Tensor):
        return left.shape == right.shape and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, FunctionType):
        held = [
            (f.__defaults__, f.__kwdefaults__, [c.cell_contents for c in f.__closure__ or ()], vars(f)) for f in (left, right)
        ]
        return left.__code__ is right.__code__ and same(*held)
    if isinstance(left, MethodType):
        return left.__func__ is right.__func__ and same(left.__self__, right.__self__)
    if isinstance(left, partial):
        return same(*((each.func, each.args, each.keywords) for each in (left, right)))
    if type(left) in (float, bool, str, bytes, set, frozenset, torch.dtype, torch.device):
        return bool(left == right)
    return False


class PassesOn(nn.Module):
    """Stands for a block: gives what it is given in the form in which the block answers.

    Args:
        block: The block, whose attributes the model may read.
        further: How many outputs of ``None`` follow; -1 where the block answers with a tensor.
    """

    def __init__(self, block: nn.Module, further: int) -> None:
        super().__init__()
        vars(self).update({name: value for name, value in vars(block).items() if not name.startswith("_") and name != "forward"})
        self._further = further

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The first tensor of numbers."""
        given = _first(arguments, named)
        return given if self._further < 0 else (given, *[None] * self._further)


def _first(arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    values = (*arguments, *named.values())
    return next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)


def shorten(model: nn.Module, rows: list[Row], call: Callable[[], object]) -> list[Row]:
    """Has all blocks but those that are kept pass on what they are given; the rows of which a call shows that this can be done.

    Each block of a row must be called once, be given what the one before it returned, and return something of the same form.

    Args:
        model: The model, which is changed in place.
        rows: Rows of it.
        call: Calls it.
    """
    done = []
    for row in rows:
        blocks: nn.Module = model.get_submodule(row.path)
        seen: list[tuple[nn.Module, Tensor | None, Any]] = []

        def note(block: nn.Module, arguments: Any, named: Any, output: Any, seen: list[Any] = seen) -> None:
            seen.append((block, _first(arguments, named), output))

        handles = [block.register_forward_hook(note, with_kwargs=True) for block in blocks.children()]
        try:
            call()
        finally:
            for handle in handles:
                handle.remove()
        further = _further_outputs(list(blocks.children()), seen)
        if further is not None:
            for name in row.others:
                blocks.add_module(name, PassesOn(blocks.get_submodule(name), further))
            done.append(row)
    return done


def _further_outputs(blocks: list[nn.Module], seen: list[tuple[nn.Module, Tensor | None, Any]]) -> int | None:
    """How many outputs of ``None`` follow what each block computes, -1 for no tuple; ``None`` where they are not called in a row."""
    if [block for block, _, _ in seen] != blocks:
        return None
    numbers, before = set[int](), None
    for _, given, output in seen:
        first, *others = output if isinstance(output, tuple) and output else (output,)
        if not isinstance(first, Tensor) or given is None or (first.shape, first.dtype) != (given.shape, given.dtype):
            return None
        if any(each is not None for each in others) or (before is not None and given is not before):
            return None
        numbers.add(len(others) if isinstance(output, tuple) else -1)
        before = first
    return numbers.pop() if len(numbers) == 1 else None
