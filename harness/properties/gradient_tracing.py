"""Blame in the backward pass: the module that cuts the graph, and the one whose gradient first goes bad or dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.compat import tree_leaves, tree_map
from harness.properties.tracing import fields_of, hooked


@dataclass
class GraphCall:
    """A call of a module, with the very tensors that went in and came out.

    Attributes:
        module: Path of the module.
        inputs: Its tensor arguments.
        recorded: Whether autograd recorded when the call began.
        trainable: Whether a parameter of the module or an input asks for a gradient.
        outputs: The tensors it returned.
    """

    module: str
    inputs: list[Tensor]
    recorded: bool
    trainable: bool
    outputs: list[Tensor] = field(default_factory=list)

    def cuts(self, graph: set[Any]) -> bool:
        """Whether the path to the loss ends inside this call: it returns no graph, or one without its inputs'."""
        if not (self.recorded and self.trainable):
            return False
        floating = [tensor for tensor in self.outputs if tensor.is_floating_point()]
        if floating and not any(tensor.requires_grad for tensor in floating):
            return True
        lost = any(tensor.grad_fn is not None and tensor.grad_fn not in graph for tensor in self.inputs)
        return lost and self.reaches(graph)

    def reaches(self, graph: set[Any]) -> bool:
        """Whether the loss depends on an output through the graph."""
        return any(tensor.grad_fn in graph for tensor in self.outputs if tensor.grad_fn is not None)


@contextmanager
def recording_graph(model: nn.Module) -> Iterator[list[GraphCall]]:
    """Records every module call, in the order in which they finish, without copying."""
    finished: list[GraphCall] = []
    running: list[GraphCall] = []

    def enter(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = _tensors((args, kwargs))
        trainable = any(p.requires_grad for p in module.parameters()) or any(t.requires_grad for t in inputs)
        running.append(GraphCall(path, inputs, torch.is_grad_enabled(), trainable))

    def leave(_path: str, output: Any) -> None:
        call = running.pop()
        call.outputs = _tensors(fields_of(output))
        finished.append(call)

    with hooked(model, enter, leave):
        yield finished


def graph_of(loss: Tensor) -> set[Any]:
    """Every node of the autograd graph that leads to a loss."""
    seen: set[Any] = set()
    pending = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending.extend(parent for parent, _ in node.next_functions)
    return seen


def is_finite(gradient: Tensor) -> bool:
    """Whether a gradient holds neither NaN nor infinity."""
    return bool(torch.isfinite(gradient).all())


def is_alive(gradient: Tensor) -> bool:
    """Whether a gradient is anything but zero."""
    return bool((gradient != 0).any())


def first_bad_gradient(model: nn.Module, backward: Callable[[], object], good: Callable[[Tensor], bool] = is_finite) -> str:
    """Path of the innermost module that is given good gradients of its outputs and passes on ones that are not.

    Args:
        model: The model.
        backward: Runs forward and backward once.
        good: What a good gradient is, finite by default.

    Returns:
        The path; empty where no module stands out.
    """
    finished: list[tuple[str, list[bool], list[bool]]] = []
    running: list[tuple[list[bool], list[bool]]] = []

    def watch(tensor: Tensor, notes: list[bool]) -> None:
        tensor.register_hook(lambda gradient: notes.append(good(gradient)))

    def enter(_path: str, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        passed_on: list[bool] = []
        running.append((passed_on, []))

        def own(leaf: Any) -> Any:
            # A view of the module's own: a tensor that others read too would show their gradients as well.
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf = leaf.view_as(leaf)
                watch(leaf, passed_on)
            return leaf

        return tree_map(own, args), tree_map(own, kwargs)

    def leave(path: str, output: Any) -> None:
        passed_on, received = running.pop()
        for tensor in _tensors(fields_of(output)):
            if tensor.requires_grad:
                watch(tensor, received)
        finished.append((path, passed_on, received))

    with hooked(model, enter, leave):
        backward()
    for path, passed_on, received in finished:
        if received and all(received) and not all(passed_on):
            return path
    # No input of a module is bad, so the fault lies between the model's inputs and its first parameters.
    return "(model)" if finished and finished[-1][2] and all(finished[-1][2]) else ""


def calls_with_gradient(model: nn.Module, backward: Callable[[], object]) -> dict[str, int]:
    """In how many of its calls each module receives a gradient of its output that is not zero.

    Args:
        model: The model.
        backward: Runs forward and backward once.
    """
    alive: dict[str, set[int]] = {}
    calls = 0

    def leave(path: str, output: Any) -> None:
        nonlocal calls
        calls += 1
        for tensor in _tensors(fields_of(output)):
            if tensor.requires_grad:
                tensor.register_hook(partial(note, path, calls))

    def note(path: str, call: int, gradient: Tensor) -> None:
        if is_alive(gradient):
            alive.setdefault(path, set()).add(call)

    with hooked(model, lambda *_: None, leave):
        backward()
    return {path: len(numbers) for path, numbers in alive.items()}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
