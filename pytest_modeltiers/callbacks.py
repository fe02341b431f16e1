"""Chosen properties at the start, at intervals and at the end of a real training: callbacks for Lightning and for Hugging Face's Trainer.

trainer = L.Trainer(callbacks=[lightning_callback(example, every=500)])
trainer = Trainer(model, args, train_dataset=rows, callbacks=[trainer_callback(every=500)])
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import distributed, nn

from harness.errors import UserError, optional_package
from harness.evidence import Status
from harness.runtime import seeded
from harness.tasks import TaskSpec
from pytest_modeltiers.live import Judgement, judge, task_of_model

USUAL = ("finite_output", "eval_deterministic", "batch_independence", "causal", "padding_ignored", "stateless", "mode_round_trip")
"""Properties that hold of a model however long it has been trained, and that take few calls."""


@dataclass
class Watch:
    """Judges a model while it is trained. The training continues as it would have without: it is copies that are judged.

    Attributes:
        example: Forward's arguments of one working call; see ``pytest_modeltiers.live.judge``.
        only: Names of properties.
        every: Steps from one judging to the next; ``None`` for the start and the end only.
        share: Seconds that one test may draw examples.
        stop: Whether a failure ends the training.
        folder: Where the report of each judging is written, in a folder for each step; ``None`` for nowhere.
        task: What the model is for; by default what its calls show.
        history: The step and the result of each judging.
    """

    example: Any = None
    only: Collection[str] = USUAL
    every: int | None = None
    share: float = 0.5
    stop: bool = False
    folder: str | Path | None = None
    task: TaskSpec | None = None
    history: list[tuple[int, Judgement]] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)
    _is_off: bool = False

    def is_due(self, step: int) -> bool:
        """Whether the model is to be judged after a step."""
        return bool(self.every) and step % (self.every or 1) == 0 and step not in {done for done, _ in self.history}

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """Judges the model after a step, says what fails that did not fail before, and returns metrics for a logger."""
        if self._is_off or step in {done for done, _ in self.history}:
            return {}
        if _is_spread(model):
            self._give_up("the weights are spread over processes, so that no copy can be judged")
            return {}
        try:
            if self.task is None:
                with seeded(0):
                    self.task = task_of_model(model, self.example)
            found = judge(model, task=self.task, only=self.only, share=self.share, progress=False, fix_seconds=0.0)
        except UserError as error:
            self._give_up(str(error))
            return {}
        self.history.append((step, found))
        for label, evidence in found.items():
            if evidence.status is Status.FAIL and label not in self._known:
                self._say(f"step {step}: {label}: {evidence.headline}")
        self._known = set(found.failed)
        if self.folder is not None:
            found.save(Path(self.folder) / f"step-{step}")
        counts = found.report.summary
        return {"modeltiers/failed": float(counts["failed"]), "modeltiers/warnings": float(counts["warnings"])}

    @property
    def has_to_stop(self) -> bool:
        """Whether the last judging ends the training."""
        return self.stop and bool(self.history) and bool(self.history[-1][1].failed)

    def _give_up(self, reason: str) -> None:
        self._is_off = True
        self._say(f"not judged: {reason}")

    def _say(self, words: str) -> None:
        print(f"modeltiers: {words}", file=sys.stderr, flush=True)


def _is_spread(model: nn.Module) -> bool:
    """Whether weights are spread over processes."""
    if not distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def lightning_callback(example: Any = None, **options: Any) -> Any:
    """A callback for Lightning's Trainer; what it found is in its ``watch.history``, and goes to the trainer's loggers.

    Args:
        example: Forward's arguments of one working call, where the model gives none (``example_input_array``).
        options: Further attributes of ``Watch``: ``only``, ``every``, ``share``, ``stop``, ``folder``, ``task``.
    """
    return _of_lightning(Watch(example, **options))


def trainer_callback(example: Any = None, **options: Any) -> Any:
    """A callback for the Trainer of Hugging Face; what it found is in its ``watch.history``.

    Args:
        example: Forward's arguments of one working call, where the model needs one.
        options: Further attributes of ``Watch``: ``only``, ``every``, ``share``, ``stop``, ``folder``, ``task``.
    """
    return _of_hugging_face(Watch(example, **options))


def _of_lightning(watch: Watch) -> Any:
    # Lightning goes by two names, whose classes are not the same.
    name = "pytorch_lightning" if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules else "lightning.pytorch"
    lightning = optional_package(name, "a Lightning callback", "lightning")

    class ModelTiers(lightning.Callback):  # type: ignore[misc, name-defined]
        """Judges the model at the start, at intervals and at the end of a fit."""

        def __init__(self, watch: Watch) -> None:
            self.watch = watch

        def __reduce__(self) -> tuple[Any, ...]:  # processes that train together may get it as a pickle
            return _of_lightning, (self.watch,)

        def _look(self, trainer: Any, module: Any) -> None:
            if not trainer.is_global_zero:
                return
            metrics = self.watch.look(module, trainer.global_step)
            for logger in trainer.loggers if metrics else ():
                logger.log_metrics(metrics, step=trainer.global_step)
            trainer.should_stop = trainer.should_stop or self.watch.has_to_stop

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._look(trainer, pl_module)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.watch.is_due(trainer.global_step):
                self._look(trainer, pl_module)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._look(trainer, pl_module)

    return ModelTiers(watch)


def _of_hugging_face(watch: Watch) -> Any:
    transformers = optional_package("transformers", "a TrainerCallback", "huggingface")

    class ModelTiers(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        """Judges the model at the start, at intervals and at the end of a training."""

        def __init__(self, watch: Watch) -> None:
            self.watch = watch

        def __reduce__(self) -> tuple[Any, ...]:  # processes that train together may get it as a pickle
            return _of_hugging_face, (self.watch,)

        def _look(self, state: Any, control: Any, model: nn.Module) -> None:
            if not state.is_world_process_zero:
                return
            metrics = self.watch.look(model, state.global_step)
            if metrics:
                state.log_history.append({**metrics, "step": state.global_step, "epoch": state.epoch})
            control.should_training_stop = control.should_training_stop or self.watch.has_to_stop

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self._look(state, control, model)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if self.watch.is_due(state.global_step):
                self._look(state, control, model)

        def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self._look(state, control, model)

    return ModelTiers(watch)
