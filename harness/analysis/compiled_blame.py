"""The module whose compiled form computes something else, found by compiling a model's modules one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.compat import tree_leaves, tree_map
from harness.models.copies import Copies
from harness.properties.large_tensors import largest_absolute
from harness.properties.noise import FACTOR, difference
from harness.properties.subject import Subject
from harness.properties.tracing import fields_of, hooked, path_of


@dataclass
class _Given:
    """The first call of a module.

    Attributes:
        path: Of the module.
        parent: Of the module whose forward called it; empty for the model itself.
        args: What it was given, by position.
        kwargs: What it was given, by name.
    """

    path: str
    parent: str
    args: Any = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def first_that_differs(subject: Subject, batch: Batch, backend: str) -> str:
    """Path of the innermost module whose logits or other outputs differ once it is compiled; empty where it takes the whole model.

    Args:
        subject: The model under test.
        batch: What it is called on.
        backend: Of the compiler.
    """
    model = subject.copies.of(subject.double) if subject.double is not None else subject.fresh()
    calls = _calls(subject, model, batch)
    found = path_of("")
    while True:
        inner = (call for call in calls if call.parent == found)
        wrong = next((call.path for call in inner if _differs(subject.copies, model, call, backend)), None)
        if wrong is None:
            return found
        found = wrong


def _calls(subject: Subject, model: nn.Module, batch: Batch) -> list[_Given]:
    """The first call of every module, in the order in which they begin."""
    found: dict[str, _Given] = {}
    running: list[str] = []

    def enter(path: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if path not in found:
            found[path] = _Given(path, running[-1] if running else "", tree_map(_copied, args), tree_map(_copied, kwargs))
        running.append(path)

    def leave(_path: str, _output: Any) -> None:
        running.pop()

    with hooked(model, enter, leave):
        subject.logits(batch, model)
    return list(found.values())


@torch.no_grad()
def _differs(copies: Copies, model: nn.Module, call: _Given, backend: str) -> bool:
    module, compiled = (whole.get_submodule(call.path) for whole in (model, copies.of(model)))
    own = _floating(module(*tree_map(_copied, call.args), **tree_map(_copied, call.kwargs)))
    torch.compiler.reset()
    try:
        compiled.compile(backend=backend)
        others = _floating(compiled(*tree_map(_copied, call.args), **tree_map(_copied, call.kwargs)))
    except Exception:  # it cannot be compiled by itself, so there is nothing to compare
        return False
    finally:
        torch.compiler.reset()
    return any(
        difference(left, right) > FACTOR * torch.finfo(torch.float32).eps * largest_absolute(left)
        for left, right in zip(own, others, strict=False)
    )


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _floating(output: Any) -> list[Tensor]:
    return [
        leaf for leaf in tree_leaves(fields_of(output)) if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()
    ]
