"""What ``modeltiers monitor`` does: as data for ``--json``, and as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.config import SuiteConfig
from harness.data.data_reference import DataReference
from harness.experiments.command import Answer
from harness.experiments.records import RunRef
from harness.models.loading import model_source
from harness.monitoring.data import open_window
from harness.monitoring.monitor import Memory, Monitor
from harness.monitoring.options import DriftOptions, Floors, Limits
from harness.monitoring.run import all_evidence, drift_table, results_of

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL", "skipped": "-   "}


def monitor_config(
    config: SuiteConfig,
    *,
    baseline: RunRef | None = None,
    reference: RunRef | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Answer:
    """Monitors the model of a config on the data that it names.

    Args:
        config: The config.
        baseline: The run to compare scores with, instead of the config's.
        reference: The run to compare the data with, instead of the config's.
        on_batch: Told how many batches were evaluated, and of how many.

    Raises:
        UserError: What keeps it from being monitored, in one line.
    """
    model = model_source(config).build(config.seed)
    monitor = monitor_of(config, model, on_batch=on_batch)
    memory = monitor.memory
    monitor.memory = replace(memory, baseline=baseline or memory.baseline, reference=reference or memory.reference)
    found = results_of(all_evidence(monitor))
    return Answer(found, _text(found))


def monitor_of(
    config: SuiteConfig, model: nn.Module, adapter: Adapter | None = None, on_batch: Callable[[int, int], None] | None = None
) -> Monitor:
    """A config's model, its data, and what it is held against.

    Args:
        config: The config.
        model: Its model.
        adapter: How it is called; the config's by default.
        on_batch: Told how many batches were evaluated, and of how many.
    """
    task = config.task_spec()
    floors = Floors() if config.drift_floors is None else Floors(**config.drift_floors.model_dump())
    return Monitor(
        model,
        adapter or make_adapter(task, config.adapter, config.path.parent),
        task,
        lambda known: open_window(task, config.eval, config.train, config.path.parent, like=known),
        Limits(config.thresholds, config.margins, DriftOptions(floors=floors), config.expected_comparisons),
        Memory(
            config.database,
            config.baseline_run_id,
            config.reference_profile_id,
            f"{config.run_name or config.name}-monitoring",
            config,
            DataReference(config.train, config.eval, config.path.parent),
        ),
        batch_size=config.eval_config().batch_size or 32,
        on_batch=on_batch,
    )


def _text(found: dict[str, Any]) -> str:
    lines = [f"{_MARKS[check['status']]}  {name:<22} {check['message']}" for name, check in found["checks"].items()]
    table = drift_table(found["drift"]["features"]) if found["drift"] else ""
    return "\n".join([*lines, *(["", table] if table else []), "", f"status: {found['status']}"])
