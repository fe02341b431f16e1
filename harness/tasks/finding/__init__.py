"""A signature found from one working call of a model, by calling it with inputs of other sizes and contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from harness.runtime import threads_for
from harness.tasks.finding.calling import Call
from harness.tasks.finding.inputs import FoundInputs
from harness.tasks.finding.outputs import FoundOutputs

__all__ = ["FoundSignature", "signature_from_call"]


@dataclass(frozen=True)
class FoundSignature:
    """A signature that was found by trying.

    Attributes:
        keys: The keys ``inputs``, ``outputs``, ``axes`` and ``limits`` of a config.
        reasons: What each was read from, a sentence by the path of its key, such as ``axes.time``.
        names: The outputs' names by key or place in what forward returns; a single tensor has an empty one.
    """

    keys: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def signature_from_call(
    model: nn.Module,
    arguments: Mapping[str, Any],
    *,
    axis_names: Mapping[str, Sequence[str]] | None = None,
    recorded: Sequence[Mapping[str, Any]] = (),
    seconds: float = 20.0,
) -> FoundSignature:
    """The signature of a model's task, from one working call.

    Copies of the model are called, in eval mode, with inputs of other sizes and contents; the model is left as it was.

    Args:
        model: The model.
        arguments: Arguments of forward by parameter name: tensors, nested dicts, tuples or dataclasses of tensors, or ``None``.
        axis_names: Names for the axes of an input, where annotations give them; digits and ``...`` are passed over.
        recorded: Arguments of other calls that work, of which this is one: what they hold, and which axes differ.
        seconds: The time there is; axes that were not tried until then stay fixed.

    Raises:
        ExampleError: The call does not work, or the model refuses random values of the shapes of the example.
    """
    with threads_for(model):
        inputs = FoundInputs(Call(model, arguments, seconds, recorded), axis_names or {})
        outputs = FoundOutputs(inputs)
    axes = {name: keys for name, keys in {**inputs.axes, **outputs.axes}.items() if keys}
    groups = {name: {"class": group.source} for name, group in inputs.call.groups.items()}
    keys = {"inputs": groups | inputs.keys, "outputs": outputs.keys, "axes": axes, "limits": inputs.limits}
    return FoundSignature(
        {key: value for key, value in keys.items() if value}, {**inputs.reasons, **outputs.reasons}, outputs.names
    )
