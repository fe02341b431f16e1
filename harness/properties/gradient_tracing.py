"""Blame in the backward pass: the module and the line that cut the graph, or whose gradient first goes bad or dies."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.compat import tree_leaves, tree_map
from harness.evidence import WHOLE, Blame
from harness.properties.places import users_line
from harness.properties.tracing import fields_of, hooked, recurrent_layers, rows_first


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
    recurrent = recurrent_layers(model)

    def enter(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = _tensors((rows_first(args) if path in recurrent else args, kwargs))
        trainable = any(p.requires_grad for p in module.parameters()) or any(t.requires_grad for t in inputs)
        running.append(GraphCall(path, inputs, torch.is_grad_enabled(), trainable))

    def leave(path: str, output: Any) -> None:
        call = running.pop()
        call.outputs = _tensors(rows_first(output) if path in recurrent else fields_of(output))
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


class GraphLines(TorchFunctionMode):
    """In the block, notes which of the user's lines makes each node of autograd's graph, and what gradients pass through it.

    Args:
        good: What a good gradient is.
        kept: A line whose operators record, and whose ``detach`` and ``data`` do nothing: what would be with a graph that is not cut there.
    """

    def __init__(self, good: Callable[[Tensor], bool] = is_finite, kept: str = "") -> None:
        super().__init__()
        self.kept = kept
        self._good = good
        self._nodes: dict[Any, str] = {}
        # A hook must not hold the node that it is on, which would never be freed.
        self._passed: list[tuple[int, bool, list[bool]]] = []
        self._read: list[tuple[str, list[Any], bool, bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in _tensors((args, kwargs)) if each.requires_grad]
        place = users_line(sys._getframe(1))
        is_cut = getattr(func, "__name__", "") == "detach" or func == _DATA
        if place and place == self.kept:
            with torch.enable_grad():
                return args[0].view_as(args[0]) if is_cut else func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        returned = _tensors(result)
        self._note(returned, place)
        if given and returned and place:
            sources = [each if each.grad_fn is None else each.grad_fn for each in given]
            is_cut = not any(each.requires_grad for each in returned)
            self._read.append((place, sources, is_cut, any(each.is_floating_point() for each in returned)))
        return result

    def _note(self, tensors: list[Tensor], place: str) -> None:
        """Gives a place to the nodes that lead to some tensors and have none yet."""
        pending = [tensor.grad_fn for tensor in tensors]
        while pending:
            node: Any = pending.pop()
            if node is None or node in self._nodes or hasattr(node, "variable"):
                continue
            node.register_hook(partial(_passes, self._passed, len(self._nodes), self._good))
            self._nodes[node] = place
            pending.extend(parent for parent, _ in node.next_functions)

    def line_of(self, node: Any) -> str:
        """The line that made a node; empty where it is not known."""
        return self._nodes.get(node, "")

    def line_of_bad_gradient(self, parameter: Tensor | None = None) -> str:
        """The line of the first operator of the backward pass that is given good gradients and passes on a bad one.

        Args:
            parameter: That one's way leads to it; any way by default.
        """
        nodes = list(self._nodes)
        leading = None if parameter is None else self._leading_to(parameter)
        for number, is_received, passed_on in self._passed:
            parents = [parent for parent, _ in nodes[number].next_functions]
            if is_received and any(
                not is_good and (leading is None or _is_of(parent, parameter, leading))
                for is_good, parent in zip(passed_on, parents, strict=False)
            ):
                return self._nodes[nodes[number]]
        return ""

    def lines_of_cuts(self, parameter: Tensor) -> list[str]:
        """The lines whose results are without a graph though they are computed from a parameter; those that return no numbers come last."""
        found = [(place, is_floating) for place, is_cut, is_floating in self._reading(parameter) if is_cut]
        return list(dict.fromkeys(place for place, _ in sorted(found, key=lambda cut: not cut[1])))

    def last_line(self, parameter: Tensor) -> str:
        """The last line that reads a parameter, or what is computed from it."""
        return next((place for place, *_ in reversed(self._reading(parameter))), "")

    def _reading(self, parameter: Tensor) -> list[tuple[str, bool, bool]]:
        leading = self._leading_to(parameter)
        return [
            (place, is_cut, is_floating)
            for place, sources, is_cut, is_floating in self._read
            if any(each is parameter or each in leading for each in sources)
        ]

    def _leading_to(self, parameter: Tensor) -> set[Any]:
        """The nodes from which the backward pass comes to a parameter."""
        found, children = set[Any](), defaultdict[Any, list[Any]](list)
        for node in self._nodes:
            for parent, _ in node.next_functions:
                children[parameter if getattr(parent, "variable", None) is parameter else parent].append(node)
        pending = children[parameter]
        while pending:
            node = pending.pop()
            if node not in found:
                found.add(node)
                pending.extend(children[node])
        return found


_DATA: Any = Tensor.data.__get__  # type: ignore[attr-defined]


def _is_of(node: Any, parameter: Tensor | None, leading: set[Any]) -> bool:
    return node is not None and (node in leading or getattr(node, "variable", None) is parameter)


def _passes(
    passed: list[tuple[int, bool, list[bool]]], number: int, good: Callable[[Tensor], bool], passed_on: Any, received: Any
) -> None:
    given = [good(each) for each in received if each is not None]
    passed.append((number, bool(given) and all(given), [each is None or good(each) for each in passed_on]))


def first_bad_gradient(
    model: nn.Module, backward: Callable[[], object], good: Callable[[Tensor], bool] = is_finite, parameter: str = ""
) -> Blame:
    """Path of the innermost module that is given good gradients of its outputs and passes on ones that are not, and the line that does.

    Args:
        model: The model.
        backward: Runs forward and backward once.
        good: What a good gradient is, finite by default.
        parameter: Path of a parameter that the gradient is bad of; any by default.

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

    with hooked(model, enter, leave), GraphLines(good) as lines:
        backward()
    place = lines.line_of_bad_gradient(model.get_parameter(parameter) if parameter else None)
    for path, passed_on, received in finished:
        if received and all(received) and not all(passed_on):
            return Blame(path, place)
    # No input of a module is bad, so the fault lies between the model's inputs and its first parameters.
    return Blame(WHOLE if finished and finished[-1][2] and all(finished[-1][2]) else "", place)


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
