"""The monitor: a model and a window of data compared with the stored reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.columns import UNKNOWN_CLASS
from harness.data.data_reference import DataReference, dataset_id
from harness.data.dataset import Stream
from harness.data.loader import make_loader
from harness.errors import ComparisonError
from harness.evidence import Status
from harness.experiments.database import ExperimentDB
from harness.experiments.records import WindowRecord
from harness.monitoring import DriftOptions, Limits, windows_at
from harness.monitoring.dependence import Groups, OrderDependence, first_rows, one_row_a_group, order_dependence
from harness.monitoring.drift import compare_profiles
from harness.monitoring.drift.location import ReferenceSlices, ShiftedRow, SliceDrift, drifted_slices, shifted_rows
from harness.monitoring.gate import GateOptions, compare_with_baseline
from harness.monitoring.gate.comparison import Comparisons
from harness.monitoring.joint import JointDrift, RowsKept, joint_drift, joint_effect
from harness.monitoring.memory import SENT_BEFORE, Memory, merged_profile, profiles_of, without_once
from harness.monitoring.profiles import Profile
from harness.monitoring.profiles.windows import FEWEST_WINDOWS
from harness.monitoring.reference import (
    BaselineRows,
    Reference,
    find_baseline_rows,
    load_reference,
    reference_encoder,
    weights_of,
)
from harness.monitoring.slices import Parts, SliceLoss, SliceVerdict, slices_of, slices_that_lost
from harness.monitoring.spread import EFFECTS, FIRST_WINDOWS, WindowSpread, first_windows, spread_of_windows, with_spread
from harness.monitoring.verdict import WindowVerdict, measured_of, sound_effects
from harness.monitoring.window import Window, input_columns, kept_rows, measure_window, unlabelled_measures, without_also
from harness.runtime import threads_for
from harness.tasks import TaskSpec

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter
    from harness.data.dataset import Dataset
    from harness.data.encoding import Encoder
    from harness.evaluation.evaluation import Evaluation

_BATCH = 32


@dataclass
class Monitor:
    """A model, the data it is monitored on, and what it is compared with; each part is measured once, when it is asked for.

    Attributes:
        model: The model.
        adapter: How it is called.
        task: What it is for.
        open_data: Opens the data, with or without labels; told how the reference was read, where that is known.
        limits: What is allowed.
        memory: What it is compared with.
        batch_size: Rows at once.
        on_batch: Told how many batches were evaluated, and of how many.
        group: The column that says which rows belong together; ``None`` where rows are independent.
        slices: Columns whose values are parts to be judged one by one.
        has_fresh_weights: Whether the weights are those that the model is made with.
    """

    model: nn.Module
    adapter: Adapter
    task: TaskSpec
    open_data: Callable[[Encoder | None], Dataset]
    limits: Limits = field(default_factory=Limits)
    memory: Memory = field(default_factory=Memory)
    batch_size: int = _BATCH
    on_batch: Callable[[int, int], None] | None = None
    group: str | None = None
    slices: Sequence[str] = ()
    has_fresh_weights: bool = False

    @cached_property
    def data(self) -> Dataset:
        """The data.

        Raises:
            DataError: It is missing, unreadable, or does not fit the task.
        """
        return self.open_data(self._known_encoder)

    @property
    def _known_encoder(self) -> Encoder | None:
        """How the rows of the reference, or of the baseline, were read: new rows need not hold every class."""
        run = self.memory.reference or self.memory.baseline
        if run is None:
            return None
        known = self.reference.encoding if self.reference is not None else None
        with self.memory.opened("reference_profile_id" if self.memory.reference else "baseline_run_id") as db:
            data = DataReference.of_run(db.get_run(run).facts, db.get_configs(run))
        return reference_encoder(self.task, data, known)

    @cached_property
    def has_labels(self) -> bool:
        """Whether it can be said what is right."""
        signature, first = self.task.signature, next(iter(self.data))
        labels = (signature.label_name(signature.main), *(each.name for each in signature.labels))
        return self.task.has_random_labels or any(name in first for name in labels)

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """How well the model does; ``None`` without labels. Answers to rows of a class that the model does not know are wrong."""
        found = self._evaluated(self.data) if self.has_labels else None
        if found is None or "accuracy" not in found.summary or not self.unknown_rows:
            return found
        known = int(np.isfinite(found.scores["correct"]).sum())
        right = found.summary["accuracy"] * known / (known + self.unknown_rows)
        return replace(found, summary={**found.summary, "accuracy": right})

    @cached_property
    def unknown_rows(self) -> int:
        """Rows of a class that the model does not know; known once the data was read."""
        if not self.data.origin.encoder.unknown_classes:
            return 0
        key = self.task.signature.label_name(self.task.signature.main)
        examples = self.data if isinstance(self.data, Stream) else self.data.examples
        return sum(int(example[key]) <= UNKNOWN_CLASS for example in examples if not example[key].ndim)

    @cached_property
    def baseline_rows(self) -> BaselineRows | None:
        """The rows that the baseline was scored on; ``None`` where no baseline is named.

        Raises:
            ExperimentError: There is no such run.
            ComparisonError: The run has no scores.
        """
        if self.memory.baseline is None:
            return None
        with self.memory.opened("baseline_run_id") as db:
            known = db.get_run(self.memory.baseline)
            scored_on = db.get_score_datasets(known)
            reference = DataReference.of_run(known.facts, db.get_configs(known))
        if not scored_on:
            raise ComparisonError(
                f"run {known.id} ({known.name}) has no per-sample scores to compare with: name a run of `modeltiers train`"
            )
        window = self.memory.window
        name = next(iter(scored_on.values()))
        return find_baseline_rows(name, self.data, reference, self.task, window.folder if window else Path())

    @cached_property
    def comparison(self) -> Comparisons | None:
        """The model against its baseline, on the rows that the baseline was scored on.

        ``None`` where no baseline is named, where those rows are not at hand, and where they are the data, which has no labels. The scores
        are stored as their own run, so that all comparisons with one baseline keep their error rate together.
        """
        baseline, rows = self.memory.baseline, self.baseline_rows
        if baseline is None or rows is None or rows.data is None:
            return None
        evaluation = self.evaluation if rows.is_window else self._evaluated(rows.data)
        if evaluation is None:
            return None
        with self.memory.opened("baseline_run_id") as db:
            known = db.resolve(baseline)  # before a run is made that may have its name
            reference = self._scored_on(db, known, rows)
            facts = {"data": reference.to_json()} if reference is not None else {}
            with db.start_run(self.memory.run_name, self.memory.config, self.task, facts=facts) as run:
                run.log_metrics((self.evaluation or evaluation).summary)
                for metric, values in evaluation.scores.items():
                    run.log_scores(metric, values, rows.name)
                options = GateOptions(
                    margins=self.limits.score_margins,
                    alpha=self.limits.drift.alpha,
                    expected_comparisons=self.limits.expected_comparisons,
                    min_power=self.limits.drift.min_power,
                )
                slices = {**slices_of(rows.data, evaluation), **self._parts(rows.data).labels}
                groups = Groups.of_data(rows.data, self.group)
                return compare_with_baseline(db, run.id, known, options=options, slices=slices, groups=groups)

    def _scored_on(self, db: ExperimentDB, baseline: int, rows: BaselineRows) -> DataReference | None:
        """Where the rows are that the model's scores are of."""
        if rows.is_window:
            return self.memory.window
        return DataReference.of_run(db.get_run(baseline).facts, db.get_configs(baseline))

    def _evaluated(self, data: Dataset) -> Evaluation:
        from harness.evaluation.evaluation import evaluate

        task = replace(self.task, metrics=self.limits.metrics(self.task))
        with threads_for(self.model):
            return evaluate(self.model, self.adapter, task, make_loader(data, task, self.batch_size), on_batch=self.on_batch)

    @cached_property
    def reference(self) -> Reference | None:
        """What the data is compared with; ``None`` where no profile is named."""
        if self.memory.reference is None:
            return None
        with self.memory.opened("reference_profile_id") as db:
            return load_reference(db, self.memory.reference)

    @cached_property
    def groups(self) -> Groups | None:
        """Which rows of the data belong together; ``None`` where nothing says so.

        Raises:
            DataError: There is no such column, or all rows are of one group.
        """
        return Groups.of_data(self.data, self.group)

    @cached_property
    def independent_rows(self) -> Dataset:
        """The rows whose distribution is judged: one of each group, or all."""
        return one_row_a_group(self.data, self.groups)

    @cached_property
    def order(self) -> OrderDependence | None:
        """What the order of the rows says against their independence; ``None`` where it says nothing, or a group is named.

        Where it is known how far windows differ, that holds what the rows of a window have in common.
        """
        if self.group is not None or (self.reference is not None and self.spread is not None):
            return None
        return order_dependence(first_rows(input_columns(self.data, self.task, self.batch_size)))

    @cached_property
    def window(self) -> Window | None:
        """The data, measured on the reference's scales; ``None`` without a reference."""
        if self.reference is None:
            return None
        has_outputs = any(name.startswith("output.") for name in self.reference.profile.features)
        return measure_window(
            self.independent_rows,
            self.task,
            reference=self.reference.profile,
            model=self.model if has_outputs else None,
            adapter=self.adapter,
            batch_size=self.batch_size,
        )

    @cached_property
    def sliced(self) -> SliceVerdict | None:
        """How often the model is right in the parts that the config names; ``None`` without parts, or a threshold of the accuracy."""
        limit, found = self.limits.thresholds.get("accuracy"), self.evaluation if self.slices else None
        if limit is None or found is None or "correct" not in found.scores:
            return None
        rows = None if self.groups is None else self.groups.one_of_each
        return SliceVerdict.of(found.scores["correct"], self._parts(self.data).labels, limit, rows)

    def _parts(self, data: Dataset) -> Parts:
        """The parts that the config names, cut as the reference was."""
        known = self.reference.slices if self.reference is not None else None
        return Parts.of(data, self.task, self.slices, known.cuts if known else None, self.batch_size)

    @cached_property
    def window_slices(self) -> ReferenceSlices | None:
        """The parts of the data, cut as those of the reference; ``None`` where the reference or the config names none."""
        reference, window = self.reference, self.window
        if not self.slices or window is None or reference is None or reference.slices is None:
            return None
        rows, known = self.independent_rows, reference.slices
        return ReferenceSlices.of(rows, self.task, self.slices, reference.profile, window.correct, self.batch_size, known.cuts)

    @cached_property
    def lost_slices(self) -> list[SliceLoss]:
        """The parts of the data in which the accuracy fell, the surest first."""
        found = self.window_slices
        if found is None or self.reference is None or self.reference.slices is None:
            return []
        before = self.reference.slices.right
        return slices_that_lost(before, found.right, self.limits.impact_margin, self.options.alpha, self.options.windows)

    @cached_property
    def drifted_slices(self) -> list[SliceDrift]:
        """The parts of the data that drifted, the surest first; none where the reference has no such parts."""
        found = self.window_slices
        if found is None or self.reference is None or self.reference.slices is None or self.verdict is None:
            return []
        known = self.verdict.drift.names(Status.FAIL)
        return drifted_slices(self.reference.slices.profiles, found.profiles, self.options, known)

    @cached_property
    def options(self) -> DriftOptions:
        """How the data is compared; where windows have no end, those of later years share less of alpha."""
        options = self.limits.drift
        return replace(options, windows=windows_at(len(self.before))) if self.limits.is_unlimited else options

    @cached_property
    def joint(self) -> JointDrift | None:
        """The rows as a whole, compared with those that the reference keeps; ``None`` where it keeps none, or both are the same."""
        reference = self.reference
        if reference is None or reference.rows is None or self.verdict is None or self.verdict.drift.same:
            return None
        spread = WindowSpread.of_profile(reference.profile) or first_windows(self.before)
        return joint_drift(reference.rows, self._some_rows, self.options.windows, *(spread.of_rows if spread else ()))

    @cached_property
    def _some_rows(self) -> RowsKept:
        return kept_rows(self.independent_rows, self.task, self.batch_size)

    @property
    def _effect_of_rows(self) -> dict[str, Any]:
        kept = self.reference and self.reference.rows
        return joint_effect(kept, self._some_rows) if kept else {}

    @cached_property
    def has_other_model(self) -> bool:
        """Whether the reference was profiled with other weights, so that the answers differ though the data need not."""
        return self.reference is not None and self.reference.weights not in (None, weights_of(self.model))

    @cached_property
    def sent_before(self) -> datetime | None:
        """The time of another window that had the same rows; ``None`` where there is none, or nobody says when this one is of."""
        return self.memory.sent_before(self._key)

    @cached_property
    def earlier_windows(self) -> list[WindowRecord]:
        """The windows that are the reference of the data's distribution; none where its stored profile is."""
        earlier, time = self.memory.earlier, self.memory.time
        if earlier is None:
            return []
        now = datetime.now(timezone.utc) if time is None else datetime.fromtimestamp(time, timezone.utc)
        return earlier.chosen(self.memory.before(self._key, profiles=True), now)

    @cached_property
    def compared_profile(self) -> Profile:
        """How the data was distributed before: in the stored profile, or in earlier windows."""
        assert self.reference is not None
        merged = merged_profile(self.earlier_windows, self.reference.profile)
        return self.reference.profile if merged is None else without_once(merged)

    @cached_property
    def spread(self) -> WindowSpread | None:
        """How sound windows differ from each other; ``None`` where nobody knows, and only chance within a window is allowed for.

        Those that are the reference show it, or those that the reference was profiled by, or the first ones that were compared with it.
        """
        assert self.reference is not None
        known = list(profiles_of(self.earlier_windows, self.reference.profile))
        if len(known) >= FEWEST_WINDOWS:
            return spread_of_windows(known)
        return WindowSpread.of_profile(self.reference.profile) or first_windows(self.before)

    @cached_property
    def before(self) -> list[WindowRecord]:
        """The windows that were compared with the reference before this one, by time."""
        return self.memory.before(self._key)

    @property
    def _key(self) -> str:
        return dataset_id(self.data)

    @cached_property
    def history(self) -> list[WindowRecord]:
        """The windows that were compared with the reference, by time, up to this one, which is stored among them."""
        known, verdict, window = self.memory.reference, self.verdict, self.window
        if known is None or verdict is None or window is None:
            return []
        kept: dict[str, Any] = {"series": measured_of(verdict), "data": self.data.origin.name}
        kept |= {SENT_BEFORE: self.sent_before.timestamp()} if self.sent_before is not None else {}
        if self.memory.earlier is None and len(self.before) < FIRST_WINDOWS:
            kept[EFFECTS] = sound_effects(verdict) | self._effect_of_rows
        profile = with_spread(window.profile, None).to_bytes() if self.memory.earlier is not None else b""
        status, rows, name = verdict.status.value, window.profile.n, self.memory.run_name
        with self.memory.opened("reference_profile_id") as db:
            db.log_window(known, name, self._key, kept, status=status, rows=rows, time=self.memory.time, profile=profile)
            found = list(db.get_windows(known, name))
        return found if self.memory.time is None else [one for one in found if one.time.timestamp() <= self.memory.time]

    @cached_property
    def verdict(self) -> WindowVerdict | None:
        """How the data differs from the reference, and what that does to the model; ``None`` without a reference."""
        reference, window = self.reference, self.window
        if reference is None or window is None:
            return None
        before, now = self.compared_profile, window.profile
        if before is not reference.profile:
            now = without_once(now)
        drift = compare_profiles(before, now, self.options, self.spread)
        rows, near = self.independent_rows, reference.familiarity
        measures = None if reference.estimator is None else unlabelled_measures(rows, window, near)
        found = WindowVerdict.of(drift, reference, window, measures, self.limits.impact_margin)
        return replace(found, has_other_model=self.has_other_model)

    @cached_property
    def shifted(self) -> list[ShiftedRow]:
        """The rows whose inputs have become more frequent, at most ten; they are read once more."""
        if self.verdict is None or self.reference is None or self.window is None:
            return []
        columns = input_columns(self.data, self.task, self.batch_size)
        before, now = without_also(self.compared_profile), without_also(self.window.profile)
        return shifted_rows(self.verdict.drift, before, now, columns)
