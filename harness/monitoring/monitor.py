"""A model held against what is remembered of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.data.digest import dataset_id
from harness.data.loader import make_loader
from harness.experiments.database import ExperimentDB
from harness.experiments.errors import ExperimentError
from harness.experiments.records import RunRef
from harness.monitoring.drift.compare import compare_profiles
from harness.monitoring.expectations import Expectations
from harness.monitoring.gate import Comparisons, compare_with_baseline
from harness.monitoring.reference import Reference, load_reference
from harness.monitoring.shifted import ShiftedRow, shifted_rows
from harness.monitoring.slices import slices_of
from harness.monitoring.sureness import sureness_of
from harness.monitoring.verdict import WindowVerdict
from harness.monitoring.window import Window, input_columns, measure_window
from harness.tasks import TaskSpec, TaskType
from harness.threads import threads_for

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from harness.adapters import Adapter
    from harness.data.dataset import Dataset
    from harness.evaluation.evaluation import Evaluation

_BATCH = 32


@dataclass(frozen=True)
class Memory:
    """Where runs are remembered, and which of them a model is held against.

    Attributes:
        db: The database, its file or its URL; ``None`` for nowhere.
        baseline: The run whose scores the model's are compared with.
        reference: The run whose profile the data is compared with.
        run_name: The name of the run that is stored for the comparison.
        config: What is stored with it.
    """

    db: ExperimentDB | str | Path | None = None
    baseline: RunRef | None = None
    reference: RunRef | None = None
    run_name: str = "monitoring"
    config: Any = None

    def opened(self, purpose: str) -> Any:
        """The database, as a context; one of the caller's own stays open.

        Args:
            purpose: The key that needs it.

        Raises:
            ExperimentError: There is none.
        """
        if self.db is None:
            raise ExperimentError(f"`{purpose}` names a run, and there is no database to find it in: give `db_path`")
        return nullcontext(self.db) if isinstance(self.db, ExperimentDB) else closing(_existing(self.db))


@dataclass
class Monitor:
    """A model, the data it is monitored on, and what it is held against; each part is measured once, when it is asked for.

    Attributes:
        model: The model.
        adapter: How it is called.
        task: What it is for.
        open_data: Opens the data, with or without labels.
        expectations: What is put up with.
        memory: What it is held against.
        batch_size: Rows at once.
        on_batch: Told how many batches were evaluated, and of how many.
    """

    model: nn.Module
    adapter: Adapter
    task: TaskSpec
    open_data: Callable[[], Dataset]
    expectations: Expectations = field(default_factory=Expectations)
    memory: Memory = field(default_factory=Memory)
    batch_size: int = _BATCH
    on_batch: Callable[[int, int], None] | None = None

    @cached_property
    def data(self) -> Dataset:
        """The data.

        Raises:
            DataError: It is missing, unreadable, or does not fit the task.
        """
        return self.open_data()

    @cached_property
    def has_labels(self) -> bool:
        """Whether it can be said what is right."""
        return self.task.task_type is TaskType.MASKED_LM or "labels" in next(iter(self.data))

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """How well the model does; ``None`` without labels."""
        if not self.has_labels:
            return None
        from harness.evaluation.evaluation import evaluate

        task = replace(self.task, metrics=self.expectations.metrics(self.task))
        loader = make_loader(self.data, task, self.batch_size)
        with threads_for(self.model):
            return evaluate(self.model, self.adapter, task, loader, on_batch=self.on_batch)

    @cached_property
    def comparison(self) -> Comparisons | None:
        """The model against its baseline; ``None`` where none is named, or without labels.

        The scores are stored as a run of their own, so that all comparisons with one baseline keep their error rate together.
        """
        baseline, evaluation = self.memory.baseline, self.evaluation
        if baseline is None or evaluation is None:
            return None
        with self.memory.opened("baseline_run_id") as db:
            known = db.resolve(baseline)  # before a run is made for nothing, or for another of that name
            with db.start_run(self.memory.run_name, self.memory.config, self.task) as run:
                run.log_metrics(evaluation.summary)
                for metric, values in evaluation.scores.items():
                    run.log_scores(metric, values, dataset_id(self.data))
                expected = self.expectations
                return compare_with_baseline(
                    db,
                    run.id,
                    known,
                    margins=expected.score_margins,
                    alpha=expected.alpha,
                    slices=slices_of(self.data, evaluation),
                    expected_looks=expected.expected_comparisons,
                )

    @cached_property
    def reference(self) -> Reference | None:
        """What the data is held against; ``None`` where no profile is named."""
        if self.memory.reference is None:
            return None
        with self.memory.opened("reference_profile_id") as db:
            return load_reference(db, self.memory.reference)

    @cached_property
    def window(self) -> Window | None:
        """The data, measured on the reference's scales; ``None`` without a reference."""
        if self.reference is None:
            return None
        has_outputs = any(name.startswith("output.") for name in self.reference.profile.features)
        return measure_window(
            self.data,
            self.task,
            reference=self.reference.profile,
            model=self.model if has_outputs else None,
            adapter=self.adapter,
            batch_size=self.batch_size,
        )

    @cached_property
    def verdict(self) -> WindowVerdict | None:
        """How the data differs from the reference, and what that does to the model; ``None`` without a reference."""
        reference, window = self.reference, self.window
        if reference is None or window is None:
            return None
        drift = compare_profiles(
            reference.profile, window.profile, alpha=self.expectations.alpha, floors=self.expectations.floors
        )
        sureness = sureness_of(self.data, window, reference.familiarity)
        return WindowVerdict.of(drift, reference, window, sureness, self.expectations.harm_margin)

    @cached_property
    def shifted(self) -> list[ShiftedRow]:
        """The rows whose inputs have become more frequent, at most ten; they are read once more."""
        if self.verdict is None or self.reference is None or self.window is None:
            return []
        columns = input_columns(self.data, self.task, self.batch_size)
        return shifted_rows(self.verdict.drift, self.reference.profile, self.window.profile, columns)


def _existing(db_path: str | Path) -> ExperimentDB:
    from harness.experiments.address import address_of, file_of

    file = file_of(address_of(db_path))
    if file is not None and not file.exists():
        raise ExperimentError(f"{file}: no such database: nothing is remembered there to be compared with")
    return ExperimentDB(db_path)
