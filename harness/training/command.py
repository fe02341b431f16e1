"""What ``modeltiers train`` does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from harness.adapters import make_adapter
from harness.config import SuiteConfig
from harness.experiments.records import SweepPoint
from harness.experiments.store import address_of, place_of
from harness.files import text_hash
from harness.models.loading import model_source
from harness.training.checkpoints import CheckpointFolder
from harness.training.run import run_training
from harness.wording import figure


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
    results = run_training(
        model,
        adapter,
        config.training_config(),
        task,
        config.eval,
        train_cfg=config.train,
        db=db_path,
        run_name=config.run_name or config.name,
        seed=config.seed,
        folder=config.path.parent,
        progress=progress,
        sweep=sweep,
        suite=config,
        facts={"config_path": str(config.path), "model": source.origin, **source.facts},
    )
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
    paths = {name: _text(results[name]) for name in ("best_checkpoint", "last_checkpoint", "bundle")}
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
    head = f"trained {results['epochs']} epochs, {results['steps']} steps in {results['seconds']:.1f} s"
    return "\n".join([head, *rows, *lines])


def _nearby(place: str) -> str:
    """A path as one types it here."""
    path, here = Path(place), Path.cwd()
    return shlex.quote(str(path.relative_to(here)) if path.is_relative_to(here) else place)


def _figure(value: float | None) -> str:
    return "" if value is None else figure(value, 4)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
