"""The last layer of a model, found from what its logits are made by; the rest frozen, or fresh weights in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.properties.gradient_tracing import GraphCall, recording_graph
from harness.properties.tracing import path_of
from harness.runtime import seeded
from harness.training.trial import Trial

_ROOT = path_of("")


@dataclass(frozen=True)
class Head:
    """What turns the features into logits.

    Attributes:
        modules: Paths of its modules.
        parameters: Names of its trainable parameters, tied ones by their first name.
    """

    modules: tuple[str, ...]
    parameters: frozenset[str]

    @property
    def name(self) -> str:
        """As messages call it."""
        return self.modules[0] if self.modules else min(self.parameters)

    def freeze_rest(self, model: nn.Module) -> None:
        """Freezes everything but the head."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.parameters)

    def renew(self, model: nn.Module) -> None:
        """Puts fresh weights into it, as for another task."""
        with seeded(0):
            for path in self.modules:
                for module in model.get_submodule("" if path == _ROOT else path).modules():
                    reset: Any = getattr(module, "reset_parameters", None)
                    if callable(reset):
                        reset()


def find_head(trial: Trial) -> Head | None:
    """The head of a model; ``None`` where the logits carry no graph, or nothing trainable would be left outside of it."""
    subject = trial.subject
    model = subject.fresh()
    with torch.enable_grad(), seeded(0), recording_graph(model) as calls:
        logits = subject.logits_with_grad(subject.batch(), model)
    modules, direct = _nearest(logits, _leaves(model, calls))
    paths = tuple(dict.fromkeys(modules))
    within = {id(p) for path in paths for p in model.get_submodule("" if path == _ROOT else path).parameters()}
    within |= {id(parameter) for parameter in direct}
    trainable = {name: id(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = frozenset(name for name, key in trainable.items() if key in within)
    return Head(paths, names) if names and len(names) < len(trainable) else None


def _leaves(model: nn.Module, calls: list[GraphCall]) -> dict[Any, str]:
    """The innermost parametrised modules by the graph nodes of what they returned."""
    parametrised = {path_of(name) for name, m in model.named_modules() if any(p.requires_grad for p in m.parameters())}
    called = {call.module for call in calls} & parametrised
    inner = {path for path in called if not any(_is_inside(other, path) for other in called)}
    found: dict[Any, str] = {}
    for call in calls:
        if call.module in inner:
            for tensor in call.outputs:
                if tensor.grad_fn is not None:
                    found.setdefault(tensor.grad_fn, call.module)
    return found


def _is_inside(path: str, other: str) -> bool:
    return path != other and (other == _ROOT or path.startswith(f"{other}."))


def _nearest(logits: Tensor, leaves: dict[Any, str]) -> tuple[list[str], list[Tensor]]:
    """The modules met first on every way back from the logits, and the parameters that no module holds on to."""
    modules: list[str] = []
    direct: list[Tensor] = []
    seen: set[Any] = set()
    pending = [logits.grad_fn]
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in leaves:
            modules.append(leaves[node])
        elif hasattr(node, "variable"):
            direct.append(node.variable)
        else:
            pending.extend(parent for parent, _ in node.next_functions)
    return modules, direct
