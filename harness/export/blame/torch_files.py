"""The first operator of a TorchScript or torch.export artifact that differs from the model, and who is at fault."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from harness.batches import Batch
from harness.export import one_line
from harness.export.blame import PROGRAM, Blame, other_weights, put_in_words, why_frozen
from harness.export.blame.divergence import find_divergence
from harness.export.blame.recording import Trace, record_artifact, record_eager
from harness.export.formats.exported_program import capture, quiet
from harness.export.program import Program
from harness.properties.noise import difference

ARTIFACT = "artifact"


def blame_torch(runner: Callable[[Batch], Tensor], program: Program, batch: Batch, bound: float) -> Blame:
    """Finds the first operator of an artifact that PyTorch runs and that differs from the model.

    Args:
        runner: The artifact, as a function to the output that differs.
        program: The model, with only that output.
        batch: Inputs on which they differ.
        bound: Up to where outputs count as equal.
    """
    expected = program.eager(batch)
    try:
        distance = difference(expected, runner(batch))
    except Exception as error:  # TorchScript, guards and operators raise whatever they like
        return Blame(explanation=f"the artifact could not be run: {one_line(error)}")
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

    differs = difference(reference.logits, artifact.logits) > bound
    divergence = find_divergence(reference, artifact, rerun) if differs else None
    weights = other_weights(reference, artifact, divergence) if divergence else []
    votes |= _vote_of_program(program, batch, expected)
    frozen = not weights and _is_right(runner, program, bound)
    fault = "exporter" if frozen or votes.get(PROGRAM, 0.0) > bound else "file"
    reasons = [why_frozen(reference, divergence) if frozen else _reason(weights, fault)]
    if PROGRAM not in votes:
        reasons.append("torch.export could not be asked")
    if divergence is None:
        sentence = "the logits differ, but no operator stands out"
        return Blame(at_fault=fault, votes=votes, explanation="; ".join((sentence, *reasons)))
    labels = [artifact.values[index].operator for index in divergence.segment]
    finding = put_in_words(reference, artifact, divergence, labels, frozen)
    explanation = "; ".join((finding.sentence, *reasons))
    return Blame(finding.operator, finding.module, finding.line, fault, votes, explanation)


def run_unguarded(exported: ExportedProgram, tensors: tuple[Tensor, ...]) -> Tensor:
    """An exported program's logits, without its guards: what other formats make of it has none either."""
    state = {**exported.state_dict, **exported.constants}
    given = iter(tensors)
    signature = exported.graph_signature
    arguments = [next(given) if spec.kind is InputKind.USER_INPUT else state[spec.target] for spec in signature.input_specs]
    kinds = [spec.kind for spec in signature.output_specs]
    with torch.no_grad():
        outputs = torch.fx.Interpreter(exported.graph_module).run(*arguments)
    return outputs[kinds.index(OutputKind.USER_OUTPUT)]


def _vote_of_program(program: Program, batch: Batch, expected: Tensor) -> dict[str, float]:
    try:
        with quiet():
            return {PROGRAM: difference(expected, run_unguarded(capture(program).program, program.ordered(batch)))}
    except Exception:  # a model that torch.export does not take has one witness less
        return {}


def _is_right(runner: Callable[[Batch], Tensor], program: Program, bound: float) -> bool:
    """Whether the artifact is right on the batch that exporters are shown."""
    try:
        return difference(program.eager(program.example), runner(program.example)) <= bound
    except Exception:  # an artifact of other sizes
        return False


def _reason(weights: list[str], fault: str) -> str:
    if weights:
        names = ", ".join(f"`{name}`" for name in weights)
        return f"the artifact holds other values for the weight {names}, so it was changed or was made from other weights"
    if fault == "exporter":
        return "torch.export itself gives a program that is wrong"
    return "torch.export gives a program that is right: the file was changed, or was made from other weights"
