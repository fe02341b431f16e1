"""A batch whose labels are all of one class, as small batches of rare classes are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch
from harness.errors import DivergedError, UserError
from harness.evidence import Evidence, Status
from harness.tasks.teaching import own_labels
from harness.training.checks.observation import loss_name, observe
from harness.training.trial import Trial
from harness.user_code import raised

_NAME = "training_loss"


def one_class(trial: Trial) -> Evidence:
    """Loss and gradients are finite where every label of a batch is of one class."""
    batch, sizes = trial.subject.batch(), trial.subject.typical.describe(trial.subject.task)
    observe(trial, [batch])  # what a usual batch makes of it is the matter of others
    judged = 0
    for told, labels in _of_one_class(trial, batch):
        judged += 1
        counterexample = f"{sizes}, {told}"
        facts: dict[str, Any] = {
            "counterexample": counterexample,
            "cause": "a mean over rows of another class, a division by the number of positives, or the logarithm of a share that is zero",
        }
        name = loss_name(trial)
        try:
            seen = observe(trial, [{**batch, **labels}])
        except DivergedError as error:
            return Evidence(_NAME, Status.FAIL, f"{name} is not finite where {told}: {error}", code="not_finite", **facts)
        except UserError:
            raise
        except Exception as error:
            return Evidence(_NAME, Status.FAIL, f"{name} raises where {told}: {raised(error)}", code="raises", **facts)
        bad = [path for path, gradient in seen.gradients.items() if not bool(torch.isfinite(gradient).all())]
        if bad or (seen.loss is not None and not bool(torch.isfinite(seen.loss).all())):
            what = f"the gradient of `{bad[0]}`" if bad else name
            return Evidence(_NAME, Status.FAIL, f"{what} is not finite where {told}", code="gradient_not_finite", **facts)
    if not judged:
        return Evidence(_NAME, Status.SKIPPED, "no label is a class, or yes or no")
    return Evidence(_NAME, Status.OK, "the loss is finite where every label is of one class", counterexample=sizes)


def _of_one_class(trial: Trial, batch: Batch) -> Iterator[tuple[str, Batch]]:
    """Labels that are all the first and all the last class that the batch has, of each output in turn."""
    for name in own_labels(trial.subject.task.signature):
        if name not in batch:
            continue
        for value in _classes(batch[name]):
            shown = f"every label of `{name}` is {value:g}"
            yield shown, {name: torch.where(batch[name] == IGNORED, batch[name], torch.full_like(batch[name], value))}


def _classes(labels: Tensor) -> tuple[float, ...]:
    """The first and the last class; none where labels are numbers."""
    real = labels[labels != IGNORED]
    if not real.numel():
        return ()
    if labels.is_floating_point():
        return (0.0, 1.0) if bool(((real == 0) | (real == 1)).all()) else ()
    return tuple(dict.fromkeys((float(real.min()), float(real.max()))))
