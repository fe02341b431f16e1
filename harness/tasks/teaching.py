"""What a signature says about training: which outputs have labels, and what is known of each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from harness.tasks.axes import BATCH, rows_first
from harness.tasks.kinds import Lengths, Loss, Other, State
from harness.tasks.signature import Output, Signature


def guessing(signature: Signature) -> tuple[Output, ...]:
    """The outputs whose loss an untrained model should have near that of a uniform guess: scores of a known number of classes."""
    return tuple(output for output in signature.taught if output.loss == "cross_entropy" and output.class_count)


def learnable(signature: Signature) -> tuple[Output, ...]:
    """The outputs that can be learnt by heart, and of which it is known what there is to learn: those with a loss by name."""
    return tuple(output for output in signature.taught if output.fits and ":" not in output.loss)


def targeted(signature: Signature) -> tuple[Output, ...]:
    """The outputs of which each element has a label that it is trained towards."""
    return tuple(output for output in signature.taught if output.loss != "ctc" and ":" not in output.loss)


def has_constant_baseline(signature: Signature) -> bool:
    """Whether it is known which constant answer is best, row by row: where the main output is all that is trained, by a loss by name."""
    known = ("cross_entropy", "bce", "mse", "l1", "huber")
    return (
        signature.taught == (signature.main,) and signature.main.loss in known and signature.has_rows and not signature.whole_loss
    )


def without_labels(signature: Signature, names: Collection[str]) -> Signature:
    """The same signature, of which some outputs, by name, have no labels."""
    return replace(signature, outputs=tuple(replace(each, loss="") if each.name in names else each for each in signature.outputs))


def trained_by_loss(signature: Signature) -> tuple[Output, ...]:
    """The outputs that a whole loss should depend on: predictions and embeddings, unless their weight is 0."""
    return tuple(each for each in signature.outputs if each.weight and not isinstance(each.kind, (State, Lengths, Loss, Other)))


def has_shares(signature: Signature) -> bool:
    """Whether the outputs have different weights in a loss that is not made here, so that it can have others."""
    return bool(signature.whole_loss) and len({output.weight for output in targeted(signature)}) > 1


@dataclass(frozen=True)
class Line:
    """An output with a class label at each place of an axis.

    Attributes:
        output: The output.
        axis: The axis.
        along: Its place in the labels, the rows first.
        may_end: Whether rows may be shorter along it, so that some labels must count for nothing; else the loss may know no such labels.
    """

    output: Output
    axis: str
    along: int
    may_end: bool = True


def lines_of(signature: Signature, *, of_maps: bool = False) -> list[Line]:
    """The outputs whose labels may be left out at some places: scores of classes along an axis that is causal or padded.

    Args:
        signature: What the outputs are of.
        of_maps: Whether to take other free axes as well, such as those of a label for each pixel, one for each output.
    """
    found = []
    for output in signature.taught:
        axes = signature.axes_of(signature.label_name(output))
        ordered = [axes[place] for place in rows_first(axes)] if BATCH in axes and output.loss == "cross_entropy" else []
        known = [axis for axis in ordered[1:] if isinstance(axis, str)]
        ends = [axis for axis in known if signature.axes[axis].order == "causal" or signature.axes[axis].padding]
        if ends or (of_maps and known):
            axis = (ends or known)[0]
            found.append(Line(output, axis, ordered.index(axis), may_end=bool(ends)))
    return found


def own_labels(signature: Signature) -> list[str]:
    """The labels that are neither inputs nor follow from them, as those of a language model do."""
    inputs = {each.name for each in signature.inputs}
    if signature.has_inputs_as_labels:
        return []
    return [name for name in signature.label_names if name not in inputs and name not in signature.label_sources]
