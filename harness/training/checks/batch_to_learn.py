"""The small batch that a model is to learn by heart, and what there is to learn in it."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.batches import Batch, Sizes, make_batch, to_device
from harness.tasks import TaskSpec
from harness.tasks.teaching import learnable
from harness.training.checks.overfit_attempt import ENOUGH, Goal, losses_of_batch
from harness.training.trial import Trial

_TRIED = 5

_LEAST_NATS = 0.3
"""What there must be to learn in a batch of classes."""


def batch_to_learn(trial: Trial) -> tuple[Batch, Sizes]:
    """A small batch with something to learn that the model does not know yet."""
    subject, task, signature = trial.subject, trial.subject.task, trial.subject.task.signature
    sizes = replace(subject.typical, batch=_row_count(task)) if signature.has_rows else subject.typical
    batches = [subject.batch(sizes, seed) for seed in range(_TRIED)]
    batch = next((batch for batch in batches if _is_worth_learning(trial, batch)), None)
    if batch is not None:
        goals = goals_of(trial, batch)
        losses = losses_of_batch(subject, batch, subject.fresh(), goals)
        if any(goals[name].left(loss) > ENOUGH for name, loss in losses.items()):
            return batch, sizes
    drawn = [to_device(make_batch(task, sizes, seed), subject.device, subject.dtype) for seed in range(_TRIED)]
    if batch is not None and not any(signature.with_order("causal")):
        names = [signature.label_name(output) for output in signature.taught]
        free = [name for name in names if name not in signature.label_sources]
        drawn = [{**batch, **{name: other[name] for name in free}} for other in drawn]
    return max(drawn, key=lambda other: min(goal.reducible for goal in goals_of(trial, other).values())), sizes


def _row_count(task: TaskSpec) -> int:
    """How many rows are learnt: two where a row has many labels, else as many as tell inputs from labels."""
    signature = task.signature
    if any(len(signature.axes_of(signature.label_name(output))) > 1 for output in learnable(signature)):
        return 2
    flat = all(each.is_flat and each.holds_numbers for each in signature.inputs)
    features = sum(math.prod(size for size in each.axes if isinstance(size, int)) for each in signature.inputs) if flat else 4
    return min(4, max(2, features))


def _is_worth_learning(trial: Trial, batch: Batch) -> bool:
    """Whether there is something to learn of every output."""
    least = {output.name: 0.0 if output.classes is None else _LEAST_NATS for output in learnable(trial.subject.task.signature)}
    return all(goal.reducible > least[name] for name, goal in goals_of(trial, batch).items())


def goals_of(trial: Trial, batch: Batch) -> dict[str, Goal]:
    """What there is to learn in a batch, by output."""
    outputs = learnable(trial.subject.task.signature)
    return {output.name: Goal.of(trial.subject, output, batch) for output in outputs}
