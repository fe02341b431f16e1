"""The cases of ``training_loss``."""

from __future__ import annotations

from collections.abc import Callable

from harness.evidence import Evidence
from harness.training.checks.ignored_labels import ignored_labels
from harness.training.checks.reduction import reduction
from harness.training.checks.targets import targets
from harness.training.trial import Trial

TRAINING_LOSS: dict[str, Callable[[Trial], Evidence]] = {
    "reduction": reduction,
    "ignored_labels": ignored_labels,
    "targets": targets,
}
"""By name of the case."""
