"""What ``modeltiers profile`` does: as data for ``--json``, and as text."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.adapters import make_adapter
from harness.config import EvalConfig, SuiteConfig
from harness.data.data_reference import open_datasets
from harness.data.dataset import Dataset
from harness.errors import ConfigError, UserError
from harness.experiments.database import ExperimentDB
from harness.experiments.run_parts import measure
from harness.models.loading import model_source
from harness.monitoring.accuracy_estimate import AnsweredRows
from harness.monitoring.dependence import Groups, one_row_a_group
from harness.monitoring.drift.listing import summary_rows, summary_table
from harness.monitoring.drift.location import ReferenceSlices
from harness.monitoring.familiarity import WIDEST, Familiarity, familiarity_of, has_vectors, vectors_of
from harness.monitoring.profiles import Profile
from harness.monitoring.profiles.windows import FEWEST_WINDOWS
from harness.monitoring.reference import KnownEncoding, Reference, open_window, weights_of
from harness.monitoring.simulated_shifts import estimator_of
from harness.monitoring.spread import WindowSpread, spread_of_dataset, with_spread
from harness.monitoring.window import kept_rows, measure_window, measures_of
from harness.wording import Answer, counted

if TYPE_CHECKING:
    from torch import nn

    from harness.experiments.database import ExperimentDB
    from harness.experiments.records import RunRef


Part = Literal["eval", "train"]

_WHOLE = "[0%:100%]"
"""The part that a whole file is of, which goes without saying."""


def profile_config(
    config: SuiteConfig,
    db_path: str | Path | None = None,
    *,
    run: RunRef | None = None,
    name: str | None = None,
    part: Part = "eval",
    model: nn.Module | None = None,
    familiarity: bool | None = None,
    joint: bool = False,
) -> Answer:
    """Profiles the data that a config names, and the outputs of its model where that is trained.

    The model is trained where the config names ``weights``, or where ``run`` names a run whose last checkpoint is at hand.
    By default it is the evaluation data: a model is surer of what it was trained on than of anything it will meet.

    Args:
        config: The config.
        db_path: Where the profile is stored; by default where the config says, if ``log_to_db`` or a run or a name asks for it.
        run: The run it is stored with; a new one by default.
        name: A name, such as ``"production"``, that refers to that run from now on.
        part: Which data.
        model: The trained model; by default the config's, with its ``weights`` or those of the run.
        familiarity: Whether accuracy is estimated by how near rows are to training rows, of which up to 1,000 are kept; by default where there
            are such, of at most 1,024 numbers each.
        joint: Whether the numbers of up to 1,000 rows are kept, so that rows can be compared as a whole.

    Raises:
        UserError: What keeps it from being profiled or stored, in one line.
    """
    if db_path is None and (config.log_to_db or name is not None or run is not None):
        db_path = config.database
    data = _independent_rows(config, part)
    weights = _weights(config, db_path, run) if model is None else RunWeights(None)
    if weights.path is not None:
        config = config.model_copy(update={"weights": str(weights.path)})
    named = (config.eval if part == "eval" else config.train) or config.eval_config()
    reference = reference_of(config, data, model, named, familiarity=familiarity, joint=joint)
    profile = reference.profile
    run_id = None if db_path is None else _store(config, reference, db_path, run, name)
    note = "; ".join(filter(None, (_note(profile, weights), _kept(reference), _judged(profile))))
    return Answer({**_data(profile, data, run_id, name), "note": note}, _text(profile, data, run_id, name, note))


def reference_of(
    config: SuiteConfig,
    data: Dataset,
    model: nn.Module | None = None,
    named: EvalConfig | None = None,
    *,
    familiarity: bool | None = None,
    joint: bool = False,
) -> Reference:
    """What later data is compared with: the profile of a config's data, and what estimates its model's accuracy without labels.

    Args:
        config: The config.
        data: The data.
        model: The trained model; by default the config's, where it names ``weights``.
        named: What else is said of its columns: ``slices``, ``also`` and ``windows``.
        familiarity: Whether training rows are kept for that; by default where they can be.
        joint: Whether rows of it are kept, by which windows are compared as a whole.
    """
    named = named or EvalConfig()
    if model is None and config.weights:
        model = model_source(config).build(config.seed)
    task = config.task_spec()
    adapter = make_adapter(task, config.adapter, config.path.parent) if model is not None else None
    batch_size = config.eval_config().batch_size or 32
    window = measure_window(data, task, model=model, adapter=adapter, batch_size=batch_size, also=named.also)
    if named.windows:

        def measured(rows: Dataset) -> Profile:
            return measure_window(
                rows, task, reference=window.profile, model=model, adapter=adapter, batch_size=batch_size
            ).profile

        of_rows = partial(kept_rows, task=task, batch_size=batch_size) if joint else None
        spread = spread_of_dataset(data, window.profile, named.windows, measured, of_rows)
        window = replace(window, profile=with_spread(window.profile, spread))
    encoding, slices = KnownEncoding.of(data), named.slices
    parts = ReferenceSlices.of(data, task, slices, window.profile, window.correct, batch_size) if slices else None
    rows = kept_rows(data, task, batch_size) if joint else None
    weights = None if model is None else weights_of(model)
    if model is None or window.predicted is None or window.correct is None or not np.isfinite(window.correct).any():
        if familiarity:
            raise ConfigError(_NO_FAMILIARITY)
        return Reference(window.profile, encoding=encoding, slices=parts, rows=rows, weights=weights)
    near = _familiarity(config, data, familiarity)
    measures = measures_of(data, window, near)
    assert measures is not None
    if near is not None and window.labels is not None:
        near = near.beside(measures, window.labels)
    known = AnsweredRows(measures.values, window.correct)
    estimator = estimator_of(data, task, known, model, adapter, near, batch_size)
    return Reference(window.profile, estimator, near, encoding, parts, rows, weights)


_NO_FAMILIARITY = (
    "`--familiarity` needs images or a table with labels, and a classifier with weights; "
    "leave it out to use the model's confidence"
)


def _familiarity(config: SuiteConfig, data: Dataset, asked: bool | None) -> Familiarity | None:
    """How near rows are to the training rows; ``None`` where it is not asked for, or they cannot be kept."""
    task = config.task_spec()
    if asked is False:
        return None
    if not has_vectors(task):
        if asked:
            raise ConfigError(_NO_FAMILIARITY)
        return None
    if asked is None and vectors_of(list(islice(iter(data), 1)), task).shape[1] > WIDEST:
        return None
    try:
        return familiarity_of(task, _opened(config, "train"))
    except UserError:
        if asked:
            raise
        return None  # there need be no training data where a reference is made


def _weights(config: SuiteConfig, db_path: str | Path | None, run: RunRef | None) -> RunWeights:
    """The weights of the run that is profiled, where the config names none."""
    if config.weights:
        return RunWeights(config.resolve(config.weights))
    if run is None or db_path is None:
        return RunWeights(None, "the config names no `weights`, and no trained run is named by --run")
    with ExperimentDB(db_path) as db:
        return weights_of_run(db, run)


def _note(profile: Profile, weights: RunWeights) -> str:
    """Of which weights the outputs are, or why there are none."""
    if any(name.startswith("output.") for name in profile.features):
        return f"outputs and scores are those of {weights.path.name}" if weights.path else ""
    return f"without outputs and scores, so only inputs can be compared: {weights.lacking}" if weights.lacking else ""


def _kept(reference: Reference) -> str:
    """By what accuracy will be estimated, and what was kept for that."""
    if reference.estimator is None:
        return ""
    by = "the model's confidence"
    if reference.familiarity is not None:
        kept = len(reference.familiarity.labels)
        by = f"nearness to training rows, of which {kept:,} are kept (--no-familiarity keeps none)"
    kinds = counted(len(reference.estimator.kinds), "kind")
    return f"without labels, accuracy is estimated by {by}, learnt and checked on {kinds} of simulated shifts"


def _judged(profile: Profile) -> str:
    """By what drift will be judged beside chance."""
    spread = WindowSpread.of_profile(profile)
    if spread is not None:
        return f"drift will be judged beside chance by how far {spread.name} differ"
    return (
        f"drift will be judged by chance only until {FEWEST_WINDOWS} windows were compared: if `eval` has a column of dates or batches, "
        "name it by `windows`"
    )


def _store(config: SuiteConfig, reference: Reference, db_path: str | Path, run: RunRef | None, name: str | None) -> int:
    with ExperimentDB(db_path) as db:
        if run is not None:
            run_id = reference.store(db, run)
        else:
            with db.start_run(
                f"{config.run_name or config.name}-profile", config, facts={"config_path": str(config.path)}
            ) as new:
                run_id = reference.store(db, new.id)
        if name is not None:
            db.set_name(name, run_id)
    return run_id


def _opened(config: SuiteConfig, part: Part) -> Dataset:
    task, folder = config.task_spec(), config.path.parent
    if part == "eval":
        return open_window(task, config.eval, config.train, folder)
    return open_datasets(task, config.train, config.eval, folder).train


def _independent_rows(config: SuiteConfig, part: Part) -> Dataset:
    """The rows that are profiled: one of each group, where a group is named."""
    data = _opened(config, part)
    named = (config.eval if part == "eval" else config.train) or config.eval_config()
    return one_row_a_group(data, Groups.of_data(data, named.group))


def _data(profile: Profile, data: Dataset, run_id: int | None, name: str | None) -> dict[str, Any]:
    return {
        "status": "ok",
        "data": data.origin.describe(),
        "rows": profile.n,
        "bytes": len(profile.to_bytes()),
        "edges_id": profile.edges_id,
        "features": summary_rows(profile),
        "reference_profile_id": run_id,
        "name": name,
    }


def _text(profile: Profile, data: Dataset, run_id: int | None, name: str | None, note: str) -> str:
    origin = data.origin
    part = "" if origin.part == _WHOLE else f", {origin.part}"
    features = counted(len(profile.features), "feature")
    head = f"{origin.name}{part}: {counted(profile.n, 'row')}, {features}, {len(profile.to_bytes()):,} bytes"
    lines = [head, "", summary_table(profile)]
    if note:
        lines += ["", note]
    if run_id is not None:
        known = f", known as {name!r}" if name else ""
        lines += ["", f'stored with run {run_id}{known}: "reference_profile_id": {json.dumps(name or run_id)}']
    return "\n".join(lines)


_LAST = "checkpoint"


@dataclass(frozen=True)
class RunWeights:
    """The last checkpoint of a run, or why it cannot be used.

    Attributes:
        path: The file; ``None`` where it cannot be used.
        lacking: Why, in words; empty where it can.
    """

    path: Path | None
    lacking: str = ""


def weights_of_run(db: ExperimentDB, run: RunRef) -> RunWeights:
    """The last checkpoint of a run, whose weights are those that its stored scores are of.

    Raises:
        UnknownRunError: There is no such run.
    """
    logged = [artifact for artifact in db.get_artifacts(run) if artifact.kind == _LAST]
    if not logged:
        return RunWeights(None, "the run has no checkpoint")
    path = Path(logged[-1].path)
    if not path.is_file():
        return RunWeights(None, f"the run's checkpoint {path} is gone")
    if measure(path).sha256 != logged[-1].sha256:
        return RunWeights(None, f"the run's checkpoint {path} was changed since")
    return RunWeights(path)
