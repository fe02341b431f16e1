"""Tier 3: what must hold of a model's training."""

from __future__ import annotations

from harness.training.checks.table import find_training
from harness.training.trial import Trial
from pytest_modeltiers.judge import Judge


class TrainingTier:
    """Each method states one property of a model that learns as it should."""

    def test_initial_loss(self, trial: Trial, judge: Judge) -> None:
        """The first loss of the training step is that of a uniform guess."""
        _judge(judge, trial)

    def test_overfits_one_batch(self, trial: Trial, judge: Judge) -> None:
        """The model learns one small batch by heart with its own optimizer."""
        _judge(judge, trial)

    def test_step_updates(self, trial: Trial, judge: Judge) -> None:
        """A step changes every parameter that is to be trained, and nothing that is not."""
        _judge(judge, trial)

    def test_optimizer_coverage(self, trial: Trial, judge: Judge) -> None:
        """The optimizer holds every trainable parameter once, and nothing else."""
        _judge(judge, trial)

    def test_training_loss(self, trial: Trial, judge: Judge, case: str) -> None:
        """The loss is the mean over its labels, each position's own."""
        _judge(judge, trial, case)

    def test_accumulation(self, trial: Trial, judge: Judge) -> None:
        """A step over several small batches is the step over the one large batch."""
        _judge(judge, trial)

    def test_seeded_repeat(self, trial: Trial, judge: Judge) -> None:
        """The same seed and batches give the same trained weights, in another process too."""
        _judge(judge, trial)

    def test_resume(self, trial: Trial, judge: Judge) -> None:
        """A run that goes on from a checkpoint ends as the uninterrupted one."""
        _judge(judge, trial)

    def test_distributed(self, trial: Trial, judge: Judge) -> None:
        """Two processes that share the rows of a batch train as one does with all of them."""
        _judge(judge, trial)

    def test_fine_tuning(self, trial: Trial, judge: Judge) -> None:
        """The last layer can be trained while the rest stays frozen."""
        _judge(judge, trial)

    def test_hyperparameter_sensitivity(self, trial: Trial, judge: Judge) -> None:
        """The configured learning rate learns, with room on both sides."""
        _judge(judge, trial)

    def test_baseline_comparison(self, trial: Trial, judge: Judge) -> None:
        """After a short training the model knows more than how common each answer is."""
        _judge(judge, trial)


def _judge(judge: Judge, trial: Trial, case: str = "") -> None:
    judge.finds(lambda: find_training(judge.name, trial, case))
