"""A model trained, and what came of it: ``run_training``, ready-made configs, and what ``modeltiers train`` does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.config import EvalConfig, ExportConfig, SuiteConfig, TrainingConfig
from harness.data.data_reference import DataReference
from harness.errors import ConfigError, did_you_mean
from harness.experiments.database import ExperimentDB
from harness.experiments.recorder import send_unsent
from harness.experiments.records import SweepPoint
from harness.experiments.run import Run
from harness.experiments.store import address_of, place_of
from harness.files import text_hash
from harness.models.loading import model_source
from harness.properties.calling import mode
from harness.tasks import TaskSpec
from harness.training.checkpoints import CheckpointFolder, file_name
from harness.training.compute import leads
from harness.training.coordinator import TrainingCoordinator
from harness.training.model_record import FACT, record_model
from harness.wording import counted, figure

Mode = Literal["FAST_DEV", "STANDARD_EXPERIMENT", "ABLATION_SWEEP"]

_TRAINING: dict[str, dict[str, Any]] = {
    "FAST_DEV": {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3},
    "STANDARD_EXPERIMENT": {"epochs": 10, "batch_size": 32, "learning_rate": 2e-3, "early_stopping_patience": 3},
    "ABLATION_SWEEP": {"epochs": 3, "batch_size": 32, "learning_rate": 2e-3, "deterministic": True},
}
_EVALUATION: dict[str, dict[str, Any]] = {
    "FAST_DEV": {"max_eval_examples": 32, "batch_size": 32},
    "STANDARD_EXPERIMENT": {"batch_size": 64},
    "ABLATION_SWEEP": {"batch_size": 64},
}


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

    Returns:
        What ``TrainingCoordinator.train`` returns, ``run_id``, and ``bundle``: the folder of the bundle that ``export_bundle`` asks for,
        else ``None``.

    Raises:
        UserError: What keeps it from being trained, in one line.
    """
    coordinator = TrainingCoordinator(
        model,
        adapter or make_adapter(task_spec),
        training_cfg,
        task_spec,
        eval_cfg,
        train_cfg,
        Path(folder),
        run_name or task_spec.task_name,
        seed,
        engine=engine,
        progress=progress,
    )
    return _trained(coordinator, _Record(db, run_name))


@dataclass(frozen=True)
class _Record:
    """What is remembered of a training.

    Attributes:
        db: Where: a database, its file or its URL; ``None`` for nowhere.
        run_name: The run's name.
        suite: The whole config, where there is one.
        sweep: The run's place in a sweep.
        facts: Further facts.
    """

    db: ExperimentDB | str | Path | None
    run_name: str | None
    suite: SuiteConfig | None = None
    sweep: SweepPoint | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def _trained(coordinator: TrainingCoordinator, record: _Record) -> dict[str, Any]:
    """Trains, remembers the run, and writes the bundle that is asked for."""
    results, bundle = _train_logged(coordinator, record), None
    if coordinator.config.export_bundle and leads():
        given = coordinator.model, coordinator.adapter, coordinator.config, coordinator.task
        bundle = bundle_trained(*given, name=coordinator.name, folder=coordinator.folder, suite=record.suite)
    return {**results, "bundle": bundle}


def _train_logged(coordinator: TrainingCoordinator, record: _Record) -> dict[str, Any]:
    """Trains, and remembers the run where there is a database."""
    db, suite = record.db, record.suite
    if db is None or not leads():
        return {**coordinator.train(), "run_id": None}
    with ExitStack() as stack:
        opened = db if isinstance(db, ExperimentDB) else stack.enter_context(ExperimentDB(db))
        send_unsent(opened.store, coordinator.checkpoints.folder)
        config, task, judged = coordinator.config, coordinator.task, coordinator.eval_config
        data = DataReference(coordinator.train_config, judged, coordinator.folder)
        known = {"data": data.to_json(), **record.facts}
        begun = opened.start_run(record.run_name, suite or config, task, judged, record.sweep, facts=known)
        run = stack.enter_context(begun)
        run.keep_unsent_in(coordinator.checkpoints.folder)
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


def bundle_trained(
    model: nn.Module,
    adapter: Adapter,
    training_cfg: TrainingConfig,
    task_spec: TaskSpec,
    *,
    name: str,
    folder: Path,
    suite: SuiteConfig | None = None,
) -> Path:
    """Exports a trained model, checks it, and writes the bundle.

    Args:
        model: The model; its device and mode are afterwards what they were.
        adapter: How it is called.
        training_cfg: ``export_formats`` says what is exported; by default what ``ExportConfig`` exports.
        task_spec: What it is for.
        name: The run's name; the bundle is ``<name>-bundle``.
        folder: Where the bundle goes.
        suite: The whole config, where there is one; its ``export`` keys count, and the bundle goes beside its file.

    Returns:
        The bundle's folder. A bundle that was there is replaced.

    Raises:
        UserError: A format cannot be exported, or the folder cannot be written.
    """
    from harness.export.bundle import create_export_bundle

    options = suite.export_options if suite is not None else ExportConfig()
    options = options.model_copy(update={"formats": training_cfg.export_formats or options.formats})
    with _at_rest(model):
        if suite is not None:
            return create_export_bundle(model, suite.model_copy(update={"export": options}), task_spec)
        target = folder / f"{file_name(name)}-bundle"
        return create_export_bundle(model, options, task_spec, training_cfg, output_dir=target, adapter=adapter)


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """The model on the CPU and in eval mode."""
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)
    with mode(model, train=False):
        model.cpu()
        try:
            yield
        finally:
            if device is not None:
                model.to(device)


def build_configs_for_mode(mode: Mode, task_name: str = "lm_tiny") -> tuple[TrainingConfig, TaskSpec, EvalConfig]:
    """The configs of a mode, for ``run_training``.

    Args:
        mode: ``FAST_DEV`` for a first look, ``STANDARD_EXPERIMENT`` for a run that counts, ``ABLATION_SWEEP`` for the many of a sweep, which
            must be comparable.
        task_name: A preset.

    Raises:
        ConfigError: There is no such mode or preset.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"no mode {mode!r}.{did_you_mean(mode, get_args(Mode))} Modes: {', '.join(get_args(Mode))}")
    try:
        task = SuiteConfig.model_validate({"task_name": task_name}).task_spec()
    except ValueError as error:
        raise ConfigError(f"no preset {task_name!r}; presets are lm_tiny, cls_tiny, seq2seq_tiny, vision_tiny") from error
    return TrainingConfig(**_TRAINING[mode]), task, EvalConfig(**_EVALUATION[mode])


def train_config(
    config: SuiteConfig, *, sweep: SweepPoint | None = None, db_path: str | Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Trains the model of a config, and writes the bundle that it asks for.

    Args:
        config: The config.
        sweep: The run's place in a sweep.
        db_path: Where the run is remembered; by default where the config says, if it says so.
        progress: Whether progress is shown.

    Returns:
        What ``run_training`` returns, ``database``, where the run is, and ``see``, the command that shows it; both ``None`` without a run.

    Raises:
        UserError: What keeps it from being trained, in one line.
    """
    if sweep is not None:
        config = _in_sweep(config, sweep)
    task = config.task_spec()
    source = model_source(config.model_copy(update={"device": "cpu"}))  # the engine moves it
    model = source.build(config.seed)
    adapter = make_adapter(task, config.adapter, config.path.parent)
    by_config = db_path is None
    if db_path is None and config.log_to_db:
        db_path = config.database
    name, facts = config.run_name or config.name, {"config_path": str(config.path), "model": source.origin, **source.facts}
    coordinator = TrainingCoordinator(
        model,
        adapter,
        config.training_config(),
        task,
        config.eval,
        config.train,
        config.path.parent,
        name,
        config.seed,
        progress=progress,
    )
    results = _trained(coordinator, _Record(db_path, name, config, sweep, facts))
    run, place = results["run_id"], None if db_path is None else place_of(address_of(db_path))
    if run is None or place is None:
        return {**results, "database": None, "see": None}
    where = f"--config {_nearby(str(config.path))}" if by_config else f"--db {_nearby(place)}"
    return {**results, "database": place, "see": f"modeltiers runs {run} {where}"}


def _in_sweep(config: SuiteConfig, sweep: SweepPoint) -> SuiteConfig:
    """The config with a checkpoint folder for this trial, from which it is resumed after it was killed."""
    values = ",".join(f"{key}={value}" for key, value in sweep.params.items())
    own = re.sub(r"[^A-Za-z0-9_.,=-]+", "_", values)[:100]
    digest = text_hash(values)[:8]
    folder = config.resolve(config.checkpoint_dir or "checkpoints") / f"sweep-{sweep.sweep_id}" / f"{own}-{digest}"
    goes_on = config.resume_from_checkpoint is None and CheckpointFolder(folder).last.is_file()
    return config.model_copy(update={"checkpoint_dir": str(folder), **({"resume_from_checkpoint": "last"} if goes_on else {})})


def summary_of(results: dict[str, Any]) -> dict[str, Any]:
    """A training's results as JSON values, for ``modeltiers train --json``."""
    paths = {name: results[name] and str(results[name]) for name in ("best_checkpoint", "last_checkpoint", "bundle")}
    dashboard = {name: str(path) for name, path in results["dashboard"].items()}
    numbers = {
        name: results[name]
        for name in ("steps", "epochs", "seconds", "strategy", "devices", "precision", "run_id", "database", "see", "notes")
    }
    return {
        "status": "ok",
        "eval_summary": results["eval_summary"],
        "initial_eval": results["initial_eval"],
        **paths,
        "dashboard": dashboard,
        **numbers,
    }


def text_of(results: dict[str, Any]) -> str:
    """A training's results for people."""
    before, after = results["initial_eval"], results["eval_summary"]
    rows = [f"  {name:<20} {_figure(before.get(name)):>10}  ->  {_figure(value)}" for name, value in after.items()]
    facts = {
        "best checkpoint": results["best_checkpoint"],
        "last checkpoint": results["last_checkpoint"],
        "dashboard": results["dashboard"].get("html"),
        "bundle": results["bundle"],
        "run": results["run_id"] and f"{results['run_id']} in {results['database']}",
        "to see it": results["see"],
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if value is not None]
    head = f"trained {counted(results['epochs'], 'epoch')}, {counted(results['steps'], 'step')} in {results['seconds']:.1f} s"
    return "\n".join([head, *rows, *lines])


def _nearby(place: str) -> str:
    """A path as one types it here."""
    path, here = Path(place), Path.cwd()
    return shlex.quote(str(path.relative_to(here)) if path.is_relative_to(here) else place)


def _figure(value: float | None) -> str:
    return "" if value is None else figure(value, 4)
