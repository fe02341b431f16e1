"""A frozen copy of a trained part that a training writes into, and that never changes: it is given its own values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from harness.batches import Batch
from harness.evidence import Evidence
from harness.properties.watched_lines import Writes
from harness.training.trial import Trial, TrialOptions

if TYPE_CHECKING:
    from harness.training.checks.averaged_weights import Average


def never_follows(trial: Trial, copies: Sequence[Average], batches: Sequence[Batch]) -> Evidence | None:
    """A warning on a copy that a line of the user's writes into in a training that moves the part, and which stays as it was.

    Args:
        trial: The model.
        copies: Frozen parts that are built as a trained one.
        batches: What it is trained on.
    """
    model = trial.new_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with Writes() as writes:
        trial.train(batches, TrialOptions(), model=model)
    after = dict(model.named_parameters())
    for copy in copies:
        names = [name for name, _ in model.get_submodule(copy.path).named_parameters()]
        own = [copy.of(name) for name in names]
        moved = any(not torch.equal(before[copy.source_of(name)], after[copy.source_of(name)]) for name in names)
        still = all(torch.equal(before[name], after[name]) for name in own)
        places = [place for name in own if (place := writes.line_of(after[name]))]
        if moved and still and places:
            return Evidence.warned(
                "averaged_weights",
                f"`{copy.path}` is written into while `{copy.source or 'the model'}` is trained, and keeps the values that it began with",
                module=copy.path,
                cause="a copy that is loaded with its own state dict, or averaged with itself: the trained part is the one to copy",
                place=places[0],
                code="copy_keeps_its_values",
            )
    return None
