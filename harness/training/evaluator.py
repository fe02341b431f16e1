"""The evaluation after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from harness.adapters import Adapter
from harness.data.loader import Loader
from harness.tasks import TaskSpec
from harness.training.conductor import Forward

if TYPE_CHECKING:
    from harness.evaluation.evaluation import Evaluation

PREFIX = "val_"
"""What the names of metrics begin with while training goes on."""


class Evaluator:
    """Judges a model that is being trained, on held-out data.

    Args:
        model: The model.
        adapter: How it is called.
        task: What it is for.
        loader: The held-out data.
        on_batch: Told how many batches are done, and of how many.

    Attributes:
        newest: What the last evaluation found.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        task: TaskSpec,
        loader: Loader,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> None:
        self._model = model
        self._adapter = adapter
        self._task = task
        self._loader = loader
        self._on_batch = on_batch
        self.newest: Evaluation | None = None

    def __call__(self, forward: Forward) -> dict[str, float]:
        """The metrics, by names such as ``val_loss``."""
        from harness.evaluation.evaluation import evaluate

        device = next((parameter.device for parameter in self._model.parameters()), None)
        self.newest = evaluate(
            self._model, self._adapter, self._task, self._loader, device=device, forward=forward, on_batch=self._on_batch
        )
        return {f"{PREFIX}{name}": value for name, value in self.newest.summary.items()}
