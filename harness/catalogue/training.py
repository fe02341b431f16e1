"""Tier 3: what must hold of a model's training."""

from __future__ import annotations

from harness.catalogue.entry import Case, Property

TRAINING = (
    Property(
        "initial_loss",
        3,
        "The first loss of the training step is that of a uniform guess",
        "harness.training.checks.initial_loss:initial_loss",
        "how far the first loss may be above that of a uniform guess, in nats",
        needs=lambda task: task.has_classes,
    ),
    Property(
        "overfits_one_batch",
        3,
        "The model can overfit one small batch with its own optimizer",
        "harness.training.checks.overfits_one_batch:overfits_one_batch",
        owned_by=("gradient_flow", "logit_range", "training_loss", "optimizer_coverage", "step_updates"),
    ),
    Property(
        "step_updates",
        3,
        "An optimizer step changes every parameter that is trained, and no other",
        "harness.training.checks.step_updates:step_updates",
    ),
    Property(
        "optimizer_coverage",
        3,
        "The optimizers hold every trainable parameter exactly once, and nothing else",
        "harness.training.checks.optimizer_coverage:optimizer_coverage",
    ),
    Property(
        "training_loss",
        3,
        "The loss is averaged over the labels, and trains each position towards its own label",
        cases={
            "reduction": Case(
                "The loss of a batch is averaged over its labels",
                "harness.training.checks.training_loss:reduction",
                owned_by=("training_loss[targets]",),
            ),
            "ignored_labels": Case(
                "Positions labelled -100 contribute neither loss nor gradient",
                "harness.training.checks.training_loss:ignored_labels",
                needs=lambda task: task.is_per_position,
                owned_by=("training_loss[targets]",),
            ),
            "targets": Case("Each position is trained towards its own label", "harness.training.checks.loss_targets:targets"),
        },
    ),
    Property(
        "accumulation",
        3,
        "Gradients accumulated over several small batches equal those of one large batch",
        "harness.training.checks.accumulation:accumulation",
        owned_by=("training_loss[reduction]",),
    ),
    Property(
        "seeded_repeat",
        3,
        "Training twice with the same seed and batches gives the same weights, also in another process",
        "harness.training.checks.seeded_repeat:seeded_repeat",
    ),
    Property(
        "resume", 3, "A training resumed from a checkpoint ends as the uninterrupted one", "harness.training.checks.resume:resume"
    ),
    Property(
        "distributed",
        3,
        "Training in two processes gives the gradients of one process with the whole batch",
        "harness.training.checks.distributed:distributed",
    ),
    Property(
        "fine_tuning",
        3,
        "The last layer can be trained while the rest is frozen",
        "harness.training.checks.fine_tuning:fine_tuning",
    ),
    Property(
        "hyperparameter_sensitivity",
        3,
        "The model learns at the configured learning rate, which is neither far too low nor close to diverging",
        "harness.training.checks.hyperparameter_sensitivity:hyperparameter_sensitivity",
    ),
    Property(
        "baseline_comparison",
        3,
        "After a short training the model beats the best answer that ignores the inputs",
        "harness.training.checks.baseline_comparison:baseline_comparison",
    ),
)
