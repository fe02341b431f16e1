"""What can go wrong in training, one class a mistake."""

from __future__ import annotations

from harness.errors import UserError


class TrainingError(UserError, RuntimeError):
    """The model cannot be trained as the config asks."""

    code = "training"


class CheckpointError(UserError, ValueError):
    """A checkpoint is missing, damaged, of another model, or cannot be written."""

    code = "checkpoint"


class DivergedError(TrainingError, ArithmeticError):
    """The loss or a gradient became NaN or infinite."""

    code = "diverged"
