"""``run_training``: a model, its configs, and what came of it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.config import EvalConfig, TrainingConfig
from harness.data.data_reference import DataReference
from harness.experiments.database import ExperimentDB
from harness.experiments.records import SweepPoint
from harness.experiments.run import Run
from harness.tasks import TaskSpec
from harness.training.bundle import bundle_trained
from harness.training.compute import leads
from harness.training.coordinator import TrainingCoordinator
from harness.training.model_record import FACT, record_model


def run_training(
    model: nn.Module,
    adapter: Adapter | None,
    training_cfg: TrainingConfig,
    task_spec: TaskSpec,
    eval_cfg: EvalConfig | None = None,
    *,
    train_cfg: EvalConfig | None = None,
    db: ExperimentDB | str | Path | None = None,
    run_name: str | None = None,
    seed: int = 0,
    folder: str | Path = ".",
    engine: str = "auto",
    progress: bool = True,
    sweep: SweepPoint | None = None,
    suite: Any = None,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains a model, in place.

    Args:
        model: The model; a ``LightningModule`` is trained by its own ``training_step`` and ``configure_optimizers``.
        adapter: How it is called, and its loss; ``None`` for the task's own.
        training_cfg: Epochs, batch size, rate, strategy, precision and the rest.
        task_spec: What the model is for.
        eval_cfg: What it is judged on; by default the validation split of what it learns from.
        train_cfg: What it learns from; by default the training split of what it is judged on, or the task's built-in set.
        db: Where the run is remembered: a database, its file or its URL; ``None`` for nowhere.
        run_name: The run's name; by default the task's.
        seed: Of the order of the rows and of everything drawn.
        folder: What relative paths are relative to.
        engine: ``lightning``, ``plain``, or ``auto`` for Lightning where it is installed.
        progress: Whether progress is shown, on stderr.
        sweep: The run's place in a sweep.
        suite: The whole config, to be remembered with the run.
        facts: Further facts to be remembered.

    Returns:
        What ``TrainingCoordinator.train`` returns, ``run_id``, and ``bundle``: the folder of the bundle that ``export_bundle`` asks for,
        else ``None``.

    Raises:
        UserError: What keeps it from being trained, in one line.
    """
    adapter = adapter or make_adapter(task_spec)
    name = run_name or task_spec.task_name
    coordinator = TrainingCoordinator(
        model,
        adapter,
        training_cfg,
        task_spec,
        eval_cfg,
        train_cfg,
        Path(folder),
        name,
        seed,
        engine=engine,
        progress=progress,
    )
    results = _train_logged(coordinator, db, run_name, sweep, suite, facts)
    bundle = None
    if training_cfg.export_bundle and leads():
        bundle = bundle_trained(model, adapter, training_cfg, task_spec, name=name, folder=Path(folder), suite=suite)
    return {**results, "bundle": bundle}


def _train_logged(
    coordinator: TrainingCoordinator,
    db: ExperimentDB | str | Path | None,
    run_name: str | None,
    sweep: SweepPoint | None,
    suite: Any,
    facts: dict[str, Any] | None,
) -> dict[str, Any]:
    """Trains, and remembers the run where there is a database."""
    if db is None or not leads():
        return {**coordinator.train(), "run_id": None}
    with ExitStack() as stack:
        opened = db if isinstance(db, ExperimentDB) else stack.enter_context(ExperimentDB(db))
        config, task, judged = coordinator.config, coordinator.task, coordinator.eval_config
        data = DataReference(coordinator.train_config, judged, coordinator.folder)
        known = {"data": data.to_json(), **(facts or {})}
        run = stack.enter_context(opened.start_run(run_name, suite or config, task, judged, sweep, facts=known))
        coordinator.run = run
        if suite is None:
            _keep_model(coordinator, run)
        results = coordinator.train()
        for kind, path in {**results["dashboard"], "checkpoint": results["last_checkpoint"]}.items():
            run.log_artifact(path, kind if kind == "checkpoint" else "dashboard")
        if results["best_checkpoint"] is not None:
            run.log_artifact(results["best_checkpoint"], "best_checkpoint")
        run.add_facts(notes=results["notes"], steps=results["steps"], strategy=results["strategy"], devices=results["devices"])
        return {**results, "run_id": run.id}


def _keep_model(coordinator: TrainingCoordinator, run: Run) -> None:
    """Keeps what the run can be repeated from where no config says it: the model as it is now, its adapter, and the seed."""
    folder = coordinator.checkpoints.folder / "start"
    record = record_model(coordinator.model, coordinator.adapter, coordinator.task, folder, f"run-{run.id}")
    run.add_facts(**{FACT: record.facts}, seed=coordinator.seed)
    for kind, path in record.files.items():
        run.log_artifact(path, kind)
