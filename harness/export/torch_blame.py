"""The first operator of a TorchScript or torch.export artifact that differs from the model, and who is at fault."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.batches import Batch
from harness.export.blame import PROGRAM, Blame, describe, other_weights
from harness.export.divergence import Divergence, Trace, find_divergence
from harness.export.exported_program import capture, quiet
from harness.export.program import Program, Runner
from harness.export.recording import record_artifact, record_eager
from harness.properties.difference import difference

ARTIFACT = "artifact"


def blame_torch(runner: Runner, program: Program, batch: Batch, bound: float) -> Blame:
    """Finds the first operator of an artifact that PyTorch runs and that differs from the model.

    Args:
        runner: The artifact.
        program: The model.
        batch: Inputs on which their logits differ.
        bound: Up to where logits count as equal.
    """
    expected = program.eager(batch)
    distance = difference(expected, runner(batch))
    votes = {ARTIFACT: distance}
    if distance <= bound:
        return Blame(votes=votes, explanation="nothing diverges: the artifact's logits are the model's")
    detailed = True
    reference, artifact = record_eager(program, batch), record_artifact(runner, batch)
    if difference(reference.logits, artifact.logits) <= bound:
        # Only the fused kernels differ, so they must not be taken apart.
        detailed = False
        reference, artifact = record_eager(program, batch, detailed), record_artifact(runner, batch, detailed)

    def rerun(index: int, tensor: Tensor) -> Trace | None:
        try:
            return record_artifact(runner, batch, detailed, {index: tensor})
        except Exception:  # values of another run may be refused, as indices are
            return None

    divergence = find_divergence(reference, artifact, rerun)
    weights = other_weights(reference, artifact, divergence) if divergence else []
    votes |= _vote_of_program(program, batch, expected)
    frozen = not weights and _is_right(runner, program, bound)
    fault = "exporter" if frozen or votes.get(PROGRAM, 0.0) > bound else "file"
    sentences = [_finding(reference, artifact, divergence), _reason(weights, frozen, fault)]
    if PROGRAM not in votes:
        sentences.append("torch.export could not be asked")
    if divergence is None:
        return Blame("", "", "", fault, votes, "; ".join(sentences))
    value = reference.values[divergence.expected]
    return Blame(
        _operator(reference, artifact, divergence),
        value.module,
        value.lines[0] if value.lines else "",
        fault,
        votes,
        "; ".join(sentences),
    )


def _vote_of_program(program: Program, batch: Batch, expected: Tensor) -> dict[str, float]:
    try:
        with quiet(), torch.no_grad():
            module = capture(program).program.module(check_guards=False)
            return {PROGRAM: difference(expected, module(*program.ordered(batch)))}
    except Exception:  # a model that torch.export does not take has one witness less
        return {}


def _is_right(runner: Runner, program: Program, bound: float) -> bool:
    """Whether the artifact is right on the batch that exporters are shown."""
    try:
        return difference(program.eager(program.example), runner(program.example)) <= bound
    except Exception:  # an artifact of other sizes
        return False


def _operator(reference: Trace, artifact: Trace, divergence: Divergence) -> str:
    expected = reference.values[divergence.expected].operator
    first, last = (artifact.values[index].operator for index in (divergence.segment[0], divergence.segment[-1]))
    if divergence.absent:
        return f"{expected}, missing after {last or 'the inputs'}"
    return first if first == last else f"{first} to {last}"


def _finding(reference: Trace, artifact: Trace, divergence: Divergence | None) -> str:
    if divergence is None:
        return "the logits differ, but no operator stands out"
    value = reference.values[divergence.expected]
    model = describe(value, value.lines[0] if value.lines else "")
    sure = "" if divergence.confirmed else " (likely, not confirmed: putting it right does not put right what follows)"
    if divergence.absent:
        return f"the artifact lacks {model}{sure}"
    operator = _operator(reference, artifact, divergence)
    if operator == value.operator:
        return f"{model} gives other values in the artifact though its inputs agree{sure}"
    return f"in the place of {model} the artifact has {operator}{sure}"


def _reason(weights: list[str], frozen: bool, fault: str) -> str:
    if weights:
        names = ", ".join(f"`{name}`" for name in weights)
        return f"the artifact holds other values for the weight {names}, so it was changed or is of another state of the model"
    if frozen:
        return "on the exporter's own example it is right: a branch or a size was frozen there"
    if fault == "exporter":
        return "torch.export itself gives a program that is wrong"
    return "torch.export gives a program that is right: the artifact was changed, or is of another state of the model"
