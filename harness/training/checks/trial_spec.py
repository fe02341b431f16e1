"""A trial as another process is given it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.config import TrainingConfig, load_config
from harness.models.loading import model_source
from harness.properties.subject import Subject
from harness.tasks import TaskSpec
from harness.training.engines.batch_formats import BatchFormat
from harness.training.trial import Trial


@dataclass(frozen=True)
class TrialSpec:
    """What it takes to train a model.

    Attributes:
        config: The training keys.
        task: What the model is for.
        batch_format: How its training step takes batches.
        batches_per_step: How many it takes before an optimizer step.
        model: The model; ``None`` where it is built from the config file.
        adapter: How it is called; ``None`` likewise.
        file: The config file.
        seed: What it is built from.
        weights: What is loaded into a model that was built; ``None`` to leave it as it is.
    """

    config: TrainingConfig
    task: TaskSpec
    batch_format: BatchFormat
    batches_per_step: int = 1
    model: nn.Module | None = None
    adapter: Adapter | None = None
    file: Path | None = None
    seed: int = 0
    weights: dict[str, Tensor] | None = None

    @staticmethod
    def of(trial: Trial, model: nn.Module | None = None) -> TrialSpec:
        """The model itself, as it is."""
        subject = trial.subject
        model = subject.fresh() if model is None else model
        return TrialSpec(trial.config, subject.task, trial.batch_format, trial.batches_per_step, model, subject.adapter)

    @staticmethod
    def rebuilding(trial: Trial, seed: int = 0, weights: dict[str, Tensor] | None = None) -> TrialSpec | None:
        """The config file to build it from; ``None`` where there is none."""
        source = trial.source
        if source is None or trial.subject.rebuild is None or not source.path.is_file():
            return None
        how = trial.batch_format, trial.batches_per_step
        return TrialSpec(trial.config, trial.subject.task, *how, file=source.path, seed=seed, weights=weights)

    def trial(self) -> Trial:
        """The trial, in whatever process this is."""
        model, adapter = self.model, self.adapter
        if model is None or adapter is None:
            assert self.file is not None
            source = load_config(self.file)
            model = model_source(source).build(self.seed)
            adapter = make_adapter(self.task, source.adapter, source.path.parent)
            if self.weights is not None:
                model.load_state_dict(self.weights)
        trial = Trial(Subject(model, adapter, self.task), self.config)
        trial.batch_format, trial.batches_per_step = self.batch_format, self.batches_per_step
        return trial
