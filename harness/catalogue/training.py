"""Tier 3: what must hold of a model's training."""

from __future__ import annotations

from harness.catalogue import facts
from harness.catalogue.entry import Case, Property
from harness.tasks import TaskSpec
from harness.tasks.teaching import guessing, has_constant_baseline, has_shares, learnable, lines_of, own_labels, targeted


def _trains(task: TaskSpec) -> bool:
    """Whether there is a loss to train by."""
    return task.signature.is_trainable


def _shares_rows(task: TaskSpec) -> bool:
    """Whether a batch may be cut: rows are independent in the loss too. A contrastive loss, and a graph, cannot be."""
    return _trains(task) and task.signature.has_rows_in_loss


def _has_scores(task: TaskSpec) -> bool:
    """Whether an output is scores that a loss by name takes as they are."""
    return any(output.loss in ("cross_entropy", "bce") for output in task.signature.taught)


TRAINING = (
    Property(
        "initial_loss",
        3,
        "The first loss of the training step is that of a uniform guess",
        "harness.training.checks.initial_loss:initial_loss",
        "how far the first loss may be above that of a uniform guess, in nats",
        needs=lambda task: bool(guessing(task.signature)),
    ),
    Property(
        "overfits_one_batch",
        3,
        "The model can overfit one small batch with its own optimizer",
        "harness.training.checks.overfits_one_batch:overfits_one_batch",
        needs=lambda task: bool(learnable(task.signature)),
        owned_by=("gradient_flow", "logit_range", "training_loss", "optimizer_coverage", "step_updates"),
    ),
    Property(
        "step_updates",
        3,
        "An optimizer step changes every parameter that is trained, and no other",
        "harness.training.checks.step_updates:step_updates",
        needs=_trains,
    ),
    Property(
        "optimizer_coverage",
        3,
        "The optimizers hold every trainable parameter exactly once, and nothing else",
        "harness.training.checks.optimizer_coverage:optimizer_coverage",
        needs=_trains,
    ),
    Property(
        "parameter_groups",
        3,
        "Weight decay and learning rates by group go to the parameters that they are meant for",
        cases={
            "decay": Case(
                "Weight decay spares norms and biases wherever it spares any, and treats equal blocks alike",
                "harness.training.checks.parameter_groups:decay",
            ),
            "rates": Case(
                "Learning rates that are configured by group stay apart, and rise or fall from block to block",
                "harness.training.checks.parameter_groups:rates",
            ),
        },
        needs=_trains,
        sign=facts.LIGHTNING,
    ),
    Property(
        "learning_rate_schedule",
        3,
        "A learning rate schedule is stepped, and ends with the run that it is made for",
        "harness.training.checks.rate_schedule:learning_rate_schedule",
        needs=_trains,
        sign=facts.LIGHTNING,
    ),
    Property(
        "gradient_clipping",
        3,
        "A step is taken with the gradients that were clipped for it",
        "harness.training.checks.gradient_clipping:gradient_clipping",
        needs=_trains,
        sign=facts.LIGHTNING,
    ),
    Property(
        "validation_pass",
        3,
        "A validation pass, with its hooks and callbacks, leaves the training as it was",
        "harness.training.checks.validation_pass:validation_pass",
        needs=_trains,
        sign=facts.LIGHTNING,
    ),
    Property(
        "memory_growth",
        3,
        "A training step leaves no graph, tensor or hook behind that the steps before it left too",
        "harness.training.checks.memory_growth:memory_growth",
        needs=_trains,
    ),
    Property(
        "averaged_weights",
        3,
        "A moving average of weights follows all of them, and their running statistics, from where they began",
        "harness.training.checks.averaged_weights:averaged_weights",
        needs=_trains,
        sign=facts.AVERAGES,
    ),
    Property(
        "training_loss",
        3,
        "The loss is averaged over the labels, and trains each position towards its own label",
        cases={
            "reduction": Case(
                "The loss of a batch is averaged over its labels",
                "harness.training.checks.training_loss:reduction",
                needs=_shares_rows,
                owned_by=("training_loss[targets]", "batch_independence"),
            ),
            "ignored_labels": Case(
                "Positions labelled -100 contribute neither loss nor gradient",
                "harness.training.checks.ignored_labels:ignored_labels",
                needs=lambda task: bool(lines_of(task.signature, of_maps=True)),
                owned_by=("training_loss[targets]", "batch_independence"),
            ),
            "targets": Case(
                "Each position is trained towards its own label",
                "harness.training.checks.loss_targets:targets",
                needs=lambda task: bool(targeted(task.signature)),
                owned_by=("training_loss[scores]",),
            ),
            "padding": Case(
                "Padding behind the rows changes nothing of what a training step sends back",
                "harness.training.checks.ignored_labels:padding",
                needs=lambda task: _trains(task) and bool(facts.padded(task)),
                owned_by=("padding_ignored", "training_loss[targets]", "training_loss[ignored_labels]"),
                sign=facts.LIGHTNING,
            ),
            "one_class": Case(
                "Loss and gradients are finite where every label of a batch is of one class, and at the first and last id of each row",
                "harness.training.checks.training_loss:one_class",
                needs=lambda task: _trains(task) and bool(own_labels(task.signature)),
            ),
            "end_of_text": Case(
                "The token that ends a text is taught, also where it has the id of padding",
                "harness.training.checks.ignored_labels:end_of_text",
                needs=lambda task: any(task.signature.next_of(output) for output in task.signature.taught),
                owned_by=("training_loss[targets]",),
                sign=facts.END_OF_TEXT,
            ),
            "rows": Case(
                "A loss over the batch compares its rows with each other",
                "harness.training.checks.training_loss:rows",
                needs=lambda task: task.signature.has_rows and bool(task.signature.loss_over),
            ),
            "scores": Case(
                "The loss takes scores as they are, through no softmax, sigmoid, tanh or ReLU",
                "harness.training.checks.loss_targets:scores",
                needs=_has_scores,
                owned_by=("initial_loss",),
            ),
            "balance": Case(
                "The balance loss of a mixture of experts leads away from one expert for all",
                "harness.training.checks.balance_loss:balance",
                needs=_trains,
                sign=facts.ROUTERS,
            ),
            "weights": Case(
                "Each output has the share in the loss that its weight declares",
                "harness.training.checks.training_loss:weights",
                needs=lambda task: has_shares(task.signature),
                owned_by=("training_loss[targets]",),
            ),
        },
    ),
    Property(
        "accumulation",
        3,
        "Gradients accumulated over several small batches equal those of one large batch",
        "harness.training.checks.accumulation:accumulation",
        needs=_shares_rows,
        owned_by=("training_loss[reduction]", "batch_independence"),
    ),
    Property(
        "seeded_repeat",
        3,
        "Training twice with the same seed and batches gives the same weights, also in another process",
        "harness.training.checks.seeded_repeat:seeded_repeat",
        needs=_trains,
    ),
    Property(
        "resume",
        3,
        "A training resumed from a checkpoint ends as the uninterrupted one",
        "harness.training.checks.resume:resume",
        needs=_trains,
    ),
    Property(
        "distributed",
        3,
        "Training in two processes gives the gradients of one process with the whole batch",
        "harness.training.checks.distributed:distributed",
        needs=_shares_rows,
    ),
    Property(
        "fine_tuning",
        3,
        "The last layer can be trained while the rest is frozen",
        "harness.training.checks.fine_tuning:fine_tuning",
        needs=_trains,
    ),
    Property(
        "hyperparameter_sensitivity",
        3,
        "The model learns at the configured learning rate, which is neither far too low nor close to diverging",
        "harness.training.checks.hyperparameter_sensitivity:hyperparameter_sensitivity",
        needs=_trains,
    ),
    Property(
        "baseline_comparison",
        3,
        "After a short training the model beats the best answer that ignores the inputs",
        "harness.training.checks.baseline_comparison:baseline_comparison",
        needs=lambda task: has_constant_baseline(task.signature),
    ),
)
