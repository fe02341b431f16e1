"""What each position is trained towards, read off the gradient that the loss sends back to its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch, Sizes
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.tasks import TaskSpec, TaskType
from harness.training.checks.labels import aligned
from harness.training.checks.observation import loss_name, observe
from harness.training.trial import Trial, Variation
from harness.wording import and_others, counted

_NAME = "training_loss"
_ROWS = 16
_SEEDS = 3
_PULL = 0.1
"""Share of a position's largest gradient that the label's own must have to count as one of several targets, as mixed labels have."""

_SETTLED = 1e-4

_APART = 0.45
"""How far labels of a regression are from the predictions: less than a half, so that rounding a label turns the sign."""


def targets(trial: Trial) -> Evidence:
    """Each position is trained towards its own label.

    Training pushes a class up where the gradient of its logit is negative. Of a cross-entropy the class of the label has the most negative
    one, of a squared error the sign is that of prediction minus label; so the labels that a step really uses can be read off, whatever it
    does to them on the way.
    """
    batch, sizes = _telling_batch(trial)
    first = _judge_under(trial, batch, sizes, 0)
    if first.status is not Status.FAIL:
        return first
    # A step that mixes rows and their labels at random trains towards the labels of other rows now and then.
    others = (_judge_under(trial, batch, sizes, seed) for seed in range(1, _SEEDS))
    found = next((other for other in others if other.status is Status.OK), first)
    if found.status is Status.FAIL and observe(trial, [batch]).optimizers > 1:
        message = f"{loss_name(trial)} has several optimizers, and the loss of the first may be adversarial on purpose"
        return Evidence(_NAME, Status.SKIPPED, message, counterexample=found.counterexample)
    return found


def _judge_under(trial: Trial, batch: Batch, sizes: Sizes, seed: int) -> Evidence:
    counterexample = f"{sizes.describe(trial.subject.task)}, seed={seed}"
    seen = observe(trial, [batch], vary=Variation(seed=seed))
    if seen.logits is None or seen.slope is None:
        return Evidence(_NAME, Status.SKIPPED, f"the logits of {loss_name(trial)} cannot be told from other tensors")
    if trial.subject.task.is_regression:
        return _judge_numbers(trial, seen.logits.flatten(), seen.slope.flatten(), batch, counterexample)
    return _judge_classes(trial, seen.logits, seen.slope, batch, counterexample)


def _telling_batch(trial: Trial) -> tuple[Batch, Sizes]:
    """A batch on which it shows which label a position is trained towards."""
    subject, task = trial.subject, trial.subject.task
    typical = subject.typical
    sizes = Sizes(typical.batch if task.is_per_position else _ROWS, typical.seq, typical.target_seq)
    batch = subject.batch(sizes)
    if not task.is_regression:
        return batch, sizes
    predictions = subject.logits(batch, subject.fresh()).flatten()
    sides = torch.tensor([1.0, -1.0], device=predictions.device).repeat(len(predictions))[: len(predictions)]
    return {**batch, "labels": (predictions + _APART * sides).to(batch["labels"].dtype)}, sizes


def _judge_numbers(trial: Trial, predictions: Tensor, slope: Tensor, batch: Batch, counterexample: str) -> Evidence:
    labels = batch["labels"].flatten()
    wrong = ((predictions - labels).sign() != slope.sign()).nonzero().flatten().tolist()
    if not wrong:
        message = f"all {len(labels)} predictions are trained towards their labels"
        return Evidence(_NAME, Status.OK, message, 0.0, 0.0, "rows", counterexample)
    row = wrong[0]
    way = {1.0: "down", -1.0: "up"}.get(float(slope[row].sign()), "nowhere")
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{loss_name(trial)} pushes the prediction {float(predictions[row]):.3g} {way}, away from its label {float(labels[row]):.3g}"
        f"{and_others(len(wrong) - 1, 'row')}",
        float(len(wrong)),
        0.0,
        "rows",
        f"{counterexample}, row={row}",
        cause="predictions [B, 1] minus labels [B], which broadcasts to [B, B]; labels rounded to integers; labels on another scale than the "
        "predictions",
        code="trained_away_from_label",
    )


def _judge_classes(trial: Trial, logits: Tensor, slope: Tensor, batch: Batch, counterexample: str) -> Evidence:
    task = trial.subject.task
    slopes, labels = aligned(task, slope, batch["labels"])
    counts = (labels != IGNORED) & ~_is_settled(aligned(task, logits, batch["labels"])[0], labels)
    pulled = _pulls_to(slopes, labels) & counts
    trained = (slopes != 0).any(-1) & counts
    wrong, silent = trained & ~pulled, counts & ~trained
    total = int(counts.sum())
    facts: dict[str, Any] = {"labels": total, "wrong": int(wrong.sum()), "untrained": int(silent.sum())}
    if bool(wrong.any()) or not bool(trained.any()):
        number = int(wrong.sum()) if bool(trained.any()) else total
        message, cause, code = _say_wrong(trial, slopes, labels, wrong, slope, batch)
        facts |= {} if bool(wrong.any()) else owned_by("step_updates")
        return Evidence(_NAME, Status.FAIL, message, float(number), 0.0, "labels", counterexample, "", cause, facts, code=code)
    if bool(silent.any()):
        place = _place(task, silent.nonzero()[0].tolist())
        return Evidence(
            _NAME,
            Status.WARN,
            f"{loss_name(trial)} ignores {counted(int(silent.sum()), 'label')} of {total}, such as that of {place}",
            float(silent.sum()),
            0.0,
            "labels",
            counterexample,
            cause="a slice that is one position short, or a loss over only some of the positions",
            code="labels_ignored",
            details=facts,
        )
    message = f"every position is trained towards its label ({total} labels)"
    return Evidence(_NAME, Status.OK, message, 0.0, 0.0, "labels", counterexample, details=facts)


def _is_settled(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the model is as sure of the label as can be: what is left of the gradient there is rounding."""
    return logits.double().softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1) > 1 - _SETTLED


def _pulls_to(slopes: Tensor, labels: Tensor) -> Tensor:
    """Whether each position's label is the class that is pushed up, or one of them."""
    own = slopes.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return (own < 0) & ((own <= slopes.amin(-1)) | (-own >= _PULL * slopes.abs().amax(-1)))


def _say_wrong(trial: Trial, slopes: Tensor, labels: Tensor, wrong: Tensor, slope: Tensor, batch: Batch) -> tuple[str, str, str]:
    """Message, cause and code."""
    task, name = trial.subject.task, loss_name(trial)
    if not bool(wrong.any()):
        return (
            f"the loss of {name} has no gradient with respect to the logits",
            "logits that were detached, rounded or turned into an argmax",
            "no_gradient_to_logits",
        )
    for said, others, cause in _other_labels(task, batch):
        reach = min(slope.shape[1], others.shape[1]) if task.is_per_position else 0
        ours, theirs = (slope[:, :reach], others[:, :reach]) if task.is_per_position else (slope, others)
        known = (theirs != IGNORED) & (ours != 0).any(-1)
        if bool(known.any()) and bool((theirs < ours.shape[-1]).all()) and bool(_pulls_to(ours, theirs)[known].all()):
            return f"{name} trains each position towards {said}", cause, "wrong_labels"
    place = wrong.nonzero()[0].tolist()
    label, target = int(labels[tuple(place)]), int(slopes[tuple(place)].argmin())
    share = int(wrong.sum()) / int((labels != IGNORED).sum())
    return (
        f"{name} trains {_place(task, place)} towards class {target}, but its label is {label} ({share:.0%} of the labels are wrong)",
        "logits and labels that are flattened along different axes (view instead of transpose), the wrong class axis in cross_entropy, rows in "
        "a different order than their labels, or labels that were changed",
        "wrong_class",
    )


def _other_labels(task: TaskSpec, batch: Batch) -> list[tuple[str, Tensor, str]]:
    """What positions may be trained towards by mistake: said in words, as labels of the positions of the logits, and why."""
    if not task.is_per_position:
        return []
    labels = batch["labels"]
    no_shift = (
        "a missing shift: the labels are the input ids, and position t predicts token t + 1, logits[:, :-1] against labels[:, 1:]. If your "
        "data is shifted already, give the model an adapter or a training step that shifts these labels"
    )
    twice = "a shift in the training step on top of the one inside the model's loss, or of labels that are shifted already"
    found = [
        ("the label of the next position", labels[:, 1:], twice),
        (
            "the label of the position before",
            torch.nn.functional.pad(labels, (1, 0), value=IGNORED),
            "a shift in the wrong direction",
        ),
    ]
    if task.task_type is TaskType.CAUSAL_LM:
        back = found.pop()
        found = [
            ("its own token, which is in the input", labels, no_shift),
            ("the token after the next", labels[:, 2:], twice),
            ("the token before its own", back[1], back[2]),
        ]
    elif batch["input_ids"].shape == labels.shape:
        found.append(
            ("its own token instead of its label", batch["input_ids"], "labels taken from `input_ids`; the batch has `labels`")
        )
    return found


def _place(task: TaskSpec, index: list[int]) -> str:
    shift = int(task.task_type is TaskType.CAUSAL_LM)
    return f"position {index[1] + shift} of row {index[0]}" if task.is_per_position else f"row {index[0]}"
