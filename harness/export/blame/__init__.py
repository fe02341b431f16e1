"""Who is to blame when an exported artifact does not compute what its model computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.export.blame.comparison import gaps_between
from harness.export.blame.divergence import Divergence
from harness.export.blame.recording import DECISION, PART, Trace, Value

RUNTIME = "onnxruntime"
PLAIN_RUNTIME = "onnxruntime without optimisations"
REFERENCE = "reference evaluator"
PROGRAM = "exported program"
NEW_EXPORT = "new export"

_SAME_WEIGHT = 1e-6


@dataclass(frozen=True)
class Blame:
    """The first operator of an artifact that differs from the model.

    Attributes:
        operator: The operator, such as ``Add (ONNX node `node_add_3`)``; empty where nothing differs or none stands out.
        module: Path of the module in the user's model, ``(model)`` for the model itself; empty where it is unknown.
        line: The user's line, such as ``model.py:48: x = x + self.attn(x)``; empty where it is unknown.
        at_fault: ``exporter``, ``optimiser``, ``runtime`` or ``file``; empty where it cannot be told.
        votes: How far the logits of each way to run the model are from the model's own.
        explanation: What is known, in a sentence or two.
        failing_file: A small file that shows the difference by itself, with its inputs and expected output beside it.
    """

    operator: str = ""
    module: str = ""
    line: str = ""
    at_fault: str = ""
    votes: dict[str, float] = field(default_factory=dict)
    explanation: str = ""
    failing_file: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The blame as JSON-ready values."""
        return {**asdict(self), "failing_file": str(self.failing_file) if self.failing_file else None}


def at_fault(votes: Mapping[str, float], bound: float, changed: bool = False) -> str:
    """Who is at fault, from how far the logits of each run are from the model's; a run that failed is left out.

    Args:
        votes: The distances. The runtime is cleared by the reference evaluator, the file by a new export.
        bound: Up to where logits count as equal.
        changed: Whether the file itself shows that it is not what an exporter wrote of this model.

    Returns:
        ``optimiser`` where the runtime is right without its optimisations, ``runtime`` where the reference evaluator is, ``exporter`` where
        the exported program or a new export is wrong, ``file`` where a new export is right; empty where nobody is wrong.
    """
    right = {name for name, distance in votes.items() if distance <= bound}
    wrong = votes.keys() - right
    if not wrong & {RUNTIME, PLAIN_RUNTIME}:
        return ""
    if PLAIN_RUNTIME in right:
        return "optimiser"
    if REFERENCE in right:
        return "runtime"
    if changed:
        return "file"
    if PROGRAM in wrong or NEW_EXPORT in wrong or NEW_EXPORT not in right:
        return "exporter"
    return "file"


REASONS = {
    "optimiser": "without ONNX Runtime's optimisations the same file is right",
    "runtime": "the reference evaluator computes the same file right, so ONNX Runtime is wrong",
    "file": "a new export is right: the file was changed, or was made from other weights",
    "exporter": "the exporter wrote a file that computes something different from the model",
}


def other_weights(reference: Trace, artifact: Trace, divergence: Divergence) -> list[str]:
    """Names of the weights that the diverging operators read and that have other values in the artifact.

    Empty where that cannot be told, because an exporter folded several operators and their weights into one.
    """
    read = [artifact.values[i] for found in divergence.segment for i in artifact.values[found].inputs]
    sizes = {value.tensor.numel() for value in read if value.given}
    weights = [value.tensor for value in artifact.values if value.given]
    known = [value.tensor for value in artifact.values]
    names: dict[str, None] = {}
    for expected in (reference.values[index] for index in divergence.lacking):
        computed = [reference.values[i].tensor for i in expected.inputs if not reference.values[i].given]
        if any(gap > divergence.tolerance for gap in gaps_between(computed, known).expected):
            continue
        for index in expected.inputs:
            layouts = _layouts(reference, index) if reference.values[index].given else []
            present = min(gaps_between([value.tensor for value in layouts], weights).expected, default=0.0) <= _SAME_WEIGHT
            if not present and layouts[-1].name and layouts[-1].tensor.numel() in sizes:
                names[layouts[-1].name] = None
    return list(names)


def _layouts(trace: Trace, index: int) -> list[Value]:
    """A weight in every layout it was brought into, the weight itself last."""
    value = trace.values[index]
    return [value, *(layout for i in value.inputs for layout in _layouts(trace, i))]


@dataclass(frozen=True)
class Finding:
    """A divergence in words."""

    operator: str
    module: str
    line: str
    sentence: str


def put_in_words(
    reference: Trace, artifact: Trace, divergence: Divergence, labels: Sequence[str], frozen: bool = False
) -> Finding:
    """A divergence for people.

    Args:
        reference: The model's recording.
        artifact: The artifact's recording.
        divergence: Where they part.
        labels: Names of the artifact's operators to blame, in order.
        frozen: Whether the exporter froze a decision.
    """
    expected = reference.values[divergence.expected]
    operator = " to ".join(dict.fromkeys((labels[0], labels[-1]))) if labels else "the inputs"
    module, line = expected.module, _first(expected.lines)
    where = f" ({line.partition(': ')[0]})" if line else ""
    model = f"{expected.operator} in `{module}`{where}"
    if divergence.absent:
        operator = f"{expected.operator}, missing after {operator}"
        sentence = f"the file lacks {model}"
    elif divergence.surplus:
        sentence = f"{operator} should not be there: {model} reads its input"
        source = artifact.values[divergence.segment[0]]
        decision = last_decision(reference, divergence)
        if source.module:
            module, line = source.module, _first(source.lines)
        elif frozen and decision:
            module, line = decision.module, _first(decision.lines)
    elif len(steps := _steps(reference, divergence)) > len(labels):
        sentence = f"{operator} is in place of {', '.join(steps)}, the last in `{module}`{where}, although its inputs agree"
    elif operator == expected.operator:
        sentence = f"{model} gives other values in the file although its inputs agree"
    else:
        sentence = f"{operator} differs from {model} although its inputs agree"
    if not divergence.confirmed:
        sentence += " (likely, not confirmed: correcting it does not correct what follows)"
    return Finding(operator, module, line, sentence)


def _steps(reference: Trace, divergence: Divergence) -> list[str]:
    """The operators by which the model computes what the artifact lacks; a product is a step of the operator it belongs to."""
    values = [reference.values[index] for index in divergence.lacking]
    return list(dict.fromkeys(v.operator for v in values if not v.passes_on and not v.operator.startswith(PART)))


def last_decision(reference: Trace, divergence: Divergence) -> Value | None:
    """The model's last decision on data before its run and the artifact's part."""
    earlier = reference.values[divergence.expected :: -1]
    return next((value for value in earlier if value.operator == DECISION), None)


def why_frozen(reference: Trace, divergence: Divergence | None) -> str:
    """What an exporter must have frozen when its file is right only on its own example."""
    decision = last_decision(reference, divergence) if divergence else None
    if decision and decision.lines:
        return f"the file is right on the exporter's own example: the decision on data at `{decision.lines[0]}` was frozen there"
    return "the file is right on the exporter's own example: a branch or a size was frozen there"


def _first(lines: Sequence[str]) -> str:
    return lines[0] if lines else ""
