"""Whether a model is taught to end a text: the loss counts the token that ends one, also where it has the id of padding."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.batches import Batch
from harness.evidence import Evidence, Status
from harness.properties.contents import end_token
from harness.tasks.signature import Output
from harness.tasks.values import Ids, MaskOf
from harness.training.checks.labels import aligned, fully_labelled, labels_in
from harness.training.checks.observation import loss_name, observe
from harness.training.trial import Trial

_NAME = "training_loss"
_ROWS = 3
_SILENT = 1e-5
"""Share of the largest gradient that is none."""


def end_of_text(trial: Trial) -> Evidence:
    """The last token of each text, which ends it, sends a gradient to the scores before it."""
    signature = trial.subject.task.signature
    found = next(((each, told) for each in signature.taught if (told := signature.next_of(each)) is not None), None)
    if found is None:
        return Evidence(_NAME, Status.SKIPPED, "no output scores the next token")
    output, (axis, name) = found
    values = next(each.values for each in signature.inputs if each.name == name)
    assert isinstance(values, Ids)
    end = end_token(trial.subject.model, values.count) if isinstance(values.count, int) else None
    if end is None:
        return Evidence(
            _NAME, Status.SKIPPED, "no attribute or setting of the model, such as `eos_token_id`, says which id ends a text"
        )
    batch = _ended(trial, output, axis, name, end)
    slope = observe(trial, [batch]).slopes.get(output.name)
    if slope is None:
        return Evidence(_NAME, Status.SKIPPED, "the training step's scores cannot be told apart from other tensors")
    slopes, _ = aligned(signature, output, slope, labels_in(signature, output, batch))
    sizes = slopes.abs().amax(-1)
    share = float(sizes[:, -1].min() / sizes.max())
    is_pad = end == values.pad
    counterexample = f"rows without padding that end in id {end}{', which is that of padding' if is_pad else ''}"
    if share > _SILENT:
        return Evidence(_NAME, Status.OK, f"the token that ends a text, id {end}, is taught", share, _SILENT, "", counterexample)
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{loss_name(trial)} ignores the token that ends a text, id {end}, so the model never learns to stop"
        + (": it is the id of padding too" if is_pad else ""),
        share,
        _SILENT,
        "of the largest gradient",
        counterexample,
        cause="labels that are ignored where they equal the id of padding (`labels[labels == pad] = -100`, `ignore_index=pad`): ignore what the "
        "attention mask says is padding, or give padding its own id",
        code="end_of_text_ignored",
    )


def _ended(trial: Trial, output: Output, axis: str, name: str, end: int) -> Batch:
    """Rows without padding, each of which ends in the token that ends a text."""
    subject, signature = trial.subject, trial.subject.task.signature
    batch = fully_labelled(subject, replace(subject.typical, batch=_ROWS))
    for each in signature.inputs:
        if isinstance(each.values, MaskOf) and each.values.axis == axis and each.name in batch:
            batch[each.name] = torch.full_like(batch[each.name], 0 if each.values.inverted else 1)
    for key in dict.fromkeys((name, signature.label_name(output))):
        if key in batch:
            batch[key] = batch[key].clone()
            batch[key][:, -1] = end
    return batch
