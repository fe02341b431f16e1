"""Scores of classes may take any value: no activation bounds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.evidence import Evidence, Status
from harness.properties.gradient_tracing import GraphLines, recording_graph
from harness.properties.model_variants import calibrated
from harness.properties.subject import Subject
from harness.properties.tracing import path_of
from harness.tasks.kinds import SCORES, BinaryScores
from harness.tasks.values import EXTREMES as EXTREMES
from harness.wording import figure

_NAME = "logit_range"
_BATCHES = 4

_SHAPE_ONLY = (
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Transpose",
    "Permute",
    "T",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Select",
    "Clone",
    "ToCopy",
    "Expand",
    "Alias",
)
"""Operators that keep every value."""


@dataclass(frozen=True)
class _Activation:
    """An activation that bounds its output.

    Attributes:
        name: What people call it.
        lowest: The lowest value it gives.
        tells: What that means for scores.
        code: What kind of finding that is.
        cause: What to do about it.
    """

    name: str
    lowest: float
    tells: str
    code: str
    cause: str


_ONE_SIDED = "no class can be scored below {}, and no gradient reaches a score that is cut off"
_DROP = "an activation behind the last layer: return what goes into it"
_ACTIVATIONS = {
    "Relu": _Activation("a ReLU", 0.0, _ONE_SIDED.format("0"), "one_sided", _DROP),
    "Gelu": _Activation("a GELU", -0.17, _ONE_SIDED.format("-0.17"), "one_sided", _DROP),
    "Silu": _Activation("a SiLU", -0.28, _ONE_SIDED.format("-0.28"), "one_sided", _DROP),
    "Softplus": _Activation("a softplus", 0.0, "no class can be scored below 0", "one_sided", _DROP),
    "Softmax": _Activation(
        "a softmax",
        0.0,
        "it returns probabilities where logits are expected, and cross-entropy applies softmax a second time",
        "returns_probabilities",
        "return the logits, and apply softmax where probabilities are needed; log-probabilities are valid logits",
    ),
    "Sigmoid": _Activation(
        "a sigmoid",
        0.0,
        "it returns values between 0 and 1 where logits are expected, so cross-entropy can never give a class a high probability",
        "returns_probabilities",
        "return the logits, and apply the sigmoid where probabilities are needed",
    ),
}
"""By the name of their node in the autograd graph, without ``Backward0``."""

_TWICE = "it returns probabilities, while the loss of binary scores applies a sigmoid itself"


def logit_range(subject: Subject, seed: int = 0) -> Evidence:
    """No activation that bounds its output from below stands behind the scores of classes.

    The last operator on the way to the logits is read off the autograd graph, and the lowest of some logits confirms it. A model whose
    adapter or training step has its own loss may take probabilities on purpose, for which this is a warning.
    """
    counterexample = f"{_BATCHES} batches of {subject.typical.describe(subject.task)}, seed={seed}"
    if not isinstance(subject.task.signature.main.kind, SCORES):
        return Evidence.skipped(_NAME, f"output `{subject.task.signature.main.name}` does not hold scores")
    model = calibrated(subject)
    with torch.enable_grad(), recording_graph(model) as calls, GraphLines() as lines:
        logits = subject.logits_with_grad(subject.batch(seed=seed), model)
    node = last_operator(logits)
    if node is None:
        return Evidence.skipped(_NAME, "no gradient reaches the logits, so the operation that computes them is unknown")
    found = _ACTIVATIONS.get(_kind(node))
    draws = range(1, _BATCHES) if found is not None else ()
    lowest = min(
        float(each.min()) for each in (logits.detach(), *(subject.logits(subject.batch(seed=seed + n), model) for n in draws))
    )
    if found is None or lowest < found.lowest - 1e-2:
        return Evidence.ok(
            _NAME, "no activation bounds the logits from below", (lowest, None, "lowest logit"), counterexample=counterexample
        )
    module = next((call.module for call in calls if any(last_operator(t) is node for t in call.outputs)), "")
    tells = (
        _TWICE if found is _ACTIVATIONS["Sigmoid"] and isinstance(subject.task.signature.main.kind, BinaryScores) else found.tells
    )
    return Evidence.judged(
        _NAME,
        Status.WARN if _has_own_loss(subject) else Status.FAIL,
        f"forward ends in {found.name}: {tells}",
        (lowest, None, "lowest logit"),
        counterexample=counterexample,
        module="" if module == path_of("") else module,
        cause=found.cause,
        place=lines.line_of(node),
        compared=f"lowest logit {figure(lowest)}, and {found.name} gives none below {found.lowest:g}",
        code=found.code,
    )


def last_operator(tensor: Tensor) -> Any:
    """The node that computed a tensor's values; what only rearranges them is passed over."""
    node: Any = tensor.grad_fn
    while node is not None and _kind(node) in _SHAPE_ONLY and node.next_functions:
        node = node.next_functions[0][0]
    return node


def _kind(node: Any) -> str:
    """``Relu`` for ``ReluBackward0``."""
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def _has_own_loss(subject: Subject) -> bool:
    usual = type(make_adapter(subject.task)).loss
    model: nn.Module = subject.model
    return type(subject.adapter).loss is not usual or callable(getattr(model, "training_step", None))
