"""A model judged on data as it comes: ``run_tier5_monitoring`` in code, and what ``modeltiers monitor`` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.catalogue import of_tier
from harness.config import EvalConfig, SuiteConfig
from harness.data.data_reference import DataReference
from harness.errors import ConfigError
from harness.evidence import Evidence, Status
from harness.experiments.database import ExperimentDB
from harness.experiments.records import RunRef
from harness.models.loading import model_source
from harness.monitoring import DEFAULT_LIMITS, DriftOptions, FeatureFloor, Floors, Limits, windows_at
from harness.monitoring.checks import judge_monitoring
from harness.monitoring.drift.listing import drift_table as drift_table
from harness.monitoring.memory import EarlierWindows, Memory
from harness.monitoring.monitor import Monitor
from harness.monitoring.reference import open_window
from harness.tasks import TaskSpec
from harness.wording import Answer

if TYPE_CHECKING:
    from harness.monitoring.drift.listing import DriftPage


TIER = 5


def run_tier5_monitoring(
    model: nn.Module,
    adapter: Adapter | None,
    task_spec: TaskSpec,
    eval_cfg: EvalConfig | None = None,
    *,
    db: ExperimentDB | str | Path | None = None,
    baseline_run_id: RunRef | None = None,
    reference_profile_id: RunRef | None = None,
    limits: Limits = DEFAULT_LIMITS,
    train_cfg: EvalConfig | None = None,
    folder: str | Path = ".",
    run_name: str = "monitoring",
    time: datetime | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluates a model, compares it with its baseline and its data with a reference profile.

    Args:
        model: The trained model.
        adapter: How it is called; the task's own where ``None``.
        task_spec: What it is for.
        eval_cfg: The data; the task's built-in set by default. Without labels only its distribution and the model's outputs are judged.
        db: Where runs are remembered: a database, its file or its URL.
        baseline_run_id: The run whose per-sample scores the model's are compared with, by id or by name. They are compared on the rows
            that the baseline was scored on, which may differ from those that ``eval_cfg`` names.
        reference_profile_id: The run whose profile the data is compared with.
        limits: Thresholds of metrics, allowed losses, and how much drift matters.
        train_cfg: What the model was trained on, whose tokenizer and classes the data is read with.
        folder: What relative paths are relative to.
        run_name: The name of the run that is stored when a baseline is given, and of the windows.
        time: When the data is of; ``None`` for now.
        on_batch: Told how many batches were evaluated, and of how many.

    Returns:
        ``{eval_metrics, definitions, comparison, drift, harm, checks, status}``: ``eval_metrics``, ``comparison``, ``drift`` and ``harm`` are
        ``None`` where they could not be measured; ``definitions`` says what the metrics are means over (those of ``comparison`` are means over
        rows); ``checks`` has status and message of each; ``status`` is ``ok``, ``warn`` or ``fail``.

    Raises:
        UserError: Something only the user can put right.
    """
    monitor = Monitor(
        model,
        adapter or make_adapter(task_spec),
        task_spec,
        lambda known: open_window(task_spec, eval_cfg, train_cfg, Path(folder), like=known),
        limits,
        Memory(
            db,
            baseline_run_id,
            reference_profile_id,
            run_name,
            window=DataReference(train_cfg, eval_cfg, Path(folder)),
            time=None if time is None else time.timestamp(),
        ),
        batch_size=(eval_cfg.batch_size if eval_cfg else None) or 32,
        on_batch=on_batch,
        group=eval_cfg.group if eval_cfg else None,
        slices=eval_cfg.slices if eval_cfg else (),
    )
    return results_of(all_evidence(monitor))


def all_evidence(monitor: Monitor) -> dict[str, Evidence]:
    """Every check of tier 5 that applies to the task, by the name of its test."""
    found: dict[str, Evidence] = {}
    for entry in of_tier(TIER):
        for case in (entry.cases_for(monitor.task) or ("",)) if entry.applies_to(monitor.task) else ():
            found[f"{entry.name}[{case}]" if case else entry.name] = judge_monitoring(entry.name, monitor, case)
    return found


def results_of(found: Mapping[str, Evidence]) -> dict[str, Any]:
    """What ``run_tier5_monitoring`` returns, from the evidence of its checks."""

    def detail(test: str, key: str) -> Any:
        return found[test].details.get(key) if test in found else None

    judged = [one.status for one in found.values() if one.status is not Status.SKIPPED]
    features = [
        feature for test, one in found.items() if test.startswith("drift[") for feature in one.details.get("features", [])
    ]
    return {
        "eval_metrics": detail("evaluation", "eval_metrics"),
        "definitions": detail("evaluation", "definitions"),
        "comparison": detail("baseline_regression", "comparison"),
        "drift": _drift(found, features) if features else None,
        "harm": detail("harm", "harm"),
        "checks": {name: {"status": one.status.value, "message": one.message} for name, one in found.items()},
        "status": max(judged, key=lambda status: status.severity, default=Status.OK).value,
    }


def _drift(found: Mapping[str, Evidence], features: list[dict[str, Any]]) -> dict[str, Any]:
    cases = {test[len("drift[") : -1]: one for test, one in found.items() if test.startswith("drift[")}
    judged = [one for one in cases.values() if one.status is not Status.SKIPPED]
    first = next(one for one in judged if one.details.get("features"))
    return {
        "status": max((one.status for one in judged), key=lambda status: status.severity).value,
        "drifted": [feature["feature"] for feature in features if feature["status"] == "fail"],
        "changed": [feature["feature"] for feature in features if feature["status"] == "warn"],
        "named": [feature["feature"] for feature in features if feature["is_named"]],
        "tests": first.details["tests"],
        "alpha": first.details["alpha"],
        "groups": {case: {"status": one.status.value, "message": one.message} for case, one in cases.items()},
        "features": sorted(features, key=lambda feature: -feature["contribution"]),
    }


_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL", "skipped": "-   "}


def monitor_config(
    config: SuiteConfig,
    *,
    baseline: RunRef | None = None,
    reference: RunRef | None = None,
    time: datetime | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    html: Path | None = None,
) -> Answer:
    """Monitors the model of a config on the data that it names.

    Args:
        config: The config.
        baseline: The run to compare with, instead of the config's.
        reference: The run whose profile the data is compared with, instead of the config's.
        time: When the data is of; ``None`` for now.
        on_batch: Told how many batches were evaluated, and of how many.
        html: Where a page that lists every feature is written, if anywhere.

    Raises:
        UserError: What keeps it from being monitored, in one line.
    """
    model = model_source(config).build(config.seed)
    monitor = monitor_of(config, model, on_batch=on_batch)
    memory = monitor.memory
    monitor.memory = replace(
        memory,
        baseline=baseline or memory.baseline,
        reference=reference or memory.reference,
        time=None if time is None else time.timestamp(),
    )
    found = results_of(all_evidence(monitor))
    if html is not None:
        _page(monitor, found).write(html)
    return Answer(found, _text(found))


def _page(monitor: Monitor, found: Mapping[str, Any]) -> DriftPage:
    """Every feature of the window; without a reference there is none."""
    from harness.monitoring.drift.listing import DriftPage, Said, drawings_of

    verdict, reference, window = monitor.verdict, monitor.reference, monitor.window
    if verdict is None or reference is None or window is None:
        raise ConfigError("--html: nothing to show without a reference profile: name one with `reference_profile_id`")
    checks = sorted(found["checks"].items(), key=lambda each: (-Status(each[1]["status"]).severity, each[0] != "harm"))
    said = [Said(check["status"], check["message"]) for _, check in checks if check["status"] != "skipped"]
    is_harmed = verdict.impact is not None and verdict.impact.status is Status.FAIL
    harm = verdict.impact.worst.opening if verdict.impact is not None and is_harmed else ""
    drawings = drawings_of(verdict.drift, reference.profile, window.profile)
    features = found["drift"]["features"]
    return DriftPage(monitor.data.origin.name, str(monitor.memory.reference), found["status"], said, features, drawings, harm)


def monitor_of(
    config: SuiteConfig, model: nn.Module, adapter: Adapter | None = None, on_batch: Callable[[int, int], None] | None = None
) -> Monitor:
    """A config's model, its data, and what it is compared with.

    Args:
        config: The config.
        model: Its model.
        adapter: How it is called; the config's by default.
        on_batch: Told how many batches were evaluated, and of how many.
    """
    task = config.task_spec()
    earlier = config.reference_windows
    return Monitor(
        model,
        adapter or make_adapter(task, config.adapter, config.path.parent),
        task,
        lambda known: open_window(task, config.eval, config.train, config.path.parent, like=known),
        limits_of(config),
        Memory(
            config.database,
            config.baseline_run_id,
            config.reference_profile_id,
            f"{config.run_name or config.name}-monitoring",
            config,
            DataReference(config.train, config.eval, config.path.parent),
            earlier=None if earlier is None else EarlierWindows(earlier.last, earlier.same),
        ),
        batch_size=config.eval_config().batch_size or 32,
        on_batch=on_batch,
        group=config.eval_config().group,
        slices=config.eval_config().slices,
        has_fresh_weights=model_source(config).has_fresh_weights,
    )


def limits_of(config: SuiteConfig) -> Limits:
    """What a config allows.

    Raises:
        ConfigError: The floor of a feature is impossible.
    """
    given = config.drift_floors
    floors = Floors(given.ks, given.cramers_v, _floors_of(given.features)) if given else Floors()
    windows = config.expected_windows
    is_unlimited = isinstance(windows, str)
    number = windows_at(0) if isinstance(windows, str) else windows
    drift = DriftOptions(floors=floors, min_power=config.min_power, windows=number)
    return Limits(config.thresholds, config.margins, drift, config.expected_comparisons, is_unlimited)


def _floors_of(features: Mapping[str, Mapping[Any, float]]) -> dict[str, FeatureFloor]:
    found = {}
    for name, given in features.items():
        try:
            found[name] = FeatureFloor(**given)
        except ValueError as error:
            raise ConfigError(f"`drift_floors`: `{name}`: {error}") from None
    return found


def _text(found: dict[str, Any]) -> str:
    lines = [f"{_MARKS[check['status']]}  {name:<22} {check['message']}" for name, check in found["checks"].items()]
    table = drift_table(found["drift"]["features"]) if found["drift"] else ""
    return "\n".join([*lines, *(["", table] if table else []), "", f"status: {found['status']}"])
