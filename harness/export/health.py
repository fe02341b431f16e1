"""The health of a model that is to be shipped, and of its exported files: the checks of tier 4 without pytest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.catalogue import of_tier
from harness.config import ExportConfig, SuiteConfig
from harness.evidence import Evidence, Status, guarded
from harness.export.checks import judge_export, recommendation
from harness.export.exports import Exports
from harness.health import ExportHealthReport
from harness.health.checks import CheckResult, CheckStatus, SkippedCheck
from harness.models.wrapped import taken
from harness.properties.calling import mode
from harness.properties.places import located
from harness.properties.subject import Subject
from harness.runtime import threads_for
from harness.tasks import TaskSpec

CustomCheck = Callable[[Exports], "Evidence | CheckResult"]
"""A check of the user's own."""

_STATUS: dict[Status, CheckStatus] = {Status.OK: "passed", Status.WARN: "warning", Status.FAIL: "failed"}


class ExportHealthChecker:
    """Checks a model and its exported files.

    Args:
        model: The model.
        config: A ``SuiteConfig``, an ``ExportConfig``, or any mapping or object with some of an ``ExportConfig``'s keys, such as
            ``formats``; what else it holds is left alone.
        task_spec: What the model is for.
        adapter: How it is called; by default the task's own.
    """

    def __init__(self, model: nn.Module, config: Any, task_spec: TaskSpec, adapter: Adapter | None = None) -> None:
        self.options = export_options(config)
        self.subject = Subject(taken(model), adapter or make_adapter(task_spec), task_spec)
        self.exports = Exports(self.subject, self.options)
        self.custom: dict[str, CustomCheck] = {}

    def add_check(self, name: str, check: CustomCheck) -> None:
        """Adds a check of the user's own, which runs after the others."""
        self.custom[name] = check

    def run_all_checks(self, export_dir: str | Path | None = None, formats: Iterable[str] | None = None) -> ExportHealthReport:
        """Checks the model in eval mode, and leaves it in the mode it was in; with files to judge, every check.

        Without arguments these are the checks of the model itself, which come before any export.

        Args:
            export_dir: Where the exported files are, or go where there are none; with only ``formats`` they stay in the cache.
            formats: The formats; with only ``export_dir`` those of the config.
        """
        options = self.options.model_copy(update={} if formats is None else {"formats": list(formats)})
        folder = None if export_dir is None else Path(export_dir)
        self.exports = Exports(self.subject, options, folder, cache=self.exports.cache)
        with mode(self.subject.model, train=False):
            return check_exports(self.exports, self.custom, files=export_dir is not None or formats is not None)


def check_exports(exports: Exports, custom: Mapping[str, CustomCheck] | None = None, files: bool = True) -> ExportHealthReport:
    """Runs every check on the exports of a model, and the user's own after them."""
    task, model = exports.subject.task, exports.subject.model
    report = ExportHealthReport(type(model).__name__)
    formats_checked = exports.formats if files else ()
    report.model_facts = {"task": task.title, **({"formats": ", ".join(formats_checked)} if files else {})}
    with threads_for(model):
        for name in (entry.name for entry in of_tier(4) if not entry.formats):
            _add(report, model, name, {"": partial(judge_export, name, exports)})
        for format in formats_checked:
            _add(report, model, f"{format}_validation", {format: partial(judge_export, "validation", exports, format)})
        for entry in of_tier(4):
            formats = entry.cases_for(task, formats_checked) if files and entry.name != "validation" else ()
            if formats:
                name = entry.name
                _add(report, model, name, {format: partial(judge_export, name, exports, format) for format in formats})
        for name, own in (custom or {}).items():
            _add_custom(report, model, name, partial(own, exports))
    return report


def export_options(config: Any) -> ExportConfig:
    """The export part of whatever describes a model.

    Raises:
        ValidationError: A key it shares with ``ExportConfig`` has an impossible value.
    """
    if isinstance(config, ExportConfig):
        return config
    if isinstance(config, SuiteConfig):
        return config.export_options
    found = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    inner = found.get("export")
    chosen = inner if isinstance(inner, Mapping) else found
    return ExportConfig.model_validate({key: chosen[key] for key in ExportConfig.model_fields if key in chosen})


def _add(report: ExportHealthReport, model: nn.Module, name: str, checks: Mapping[str, Callable[[], Evidence]]) -> None:
    """Adds one check of a model, or what several formats' checks of one name come to: the worst of them."""
    started = time.perf_counter()
    found = {format: located(_measured(name, check).investigated(), model) for format, check in checks.items()}
    judged = {format: evidence for format, evidence in found.items() if evidence.status is not Status.SKIPPED}
    if not judged:
        for format, evidence in found.items():
            report.skipped.append(SkippedCheck(f"{name}[{format}]" if len(found) > 1 else name, evidence.message, 4))
        return
    worst = max(judged.values(), key=lambda evidence: (evidence.status.severity, evidence.excess))
    bad = [evidence for evidence in judged.values() if evidence.status is worst.status]
    message = "; ".join(evidence.headline for evidence in bad) if worst.status is not Status.OK else _all_good(judged)
    details: dict[str, Any] = {
        "tier": 4,
        "module": worst.module,
        "place": worst.place,
        "excerpt": worst.excerpt.to_json() if worst.excerpt is not None else None,
        "cause": worst.cause,
        "comparison": worst.comparison,
    }
    details |= {"counterexample": worst.counterexample, "property": worst.name}
    by_format = {format: {"status": e.status.value, "message": e.message, **e.details} for format, e in found.items()}
    details |= {"by_format": by_format} if len(found) > 1 else found[next(iter(found))].details
    kept = {key: value for key, value in details.items() if value not in (None, "")}
    seconds = round(time.perf_counter() - started, 4)
    report.add_check(CheckResult(name, _STATUS[worst.status], message, kept, seconds, recommendation(worst)))


def _all_good(judged: Mapping[str, Evidence]) -> str:
    if len(judged) == 1:
        return next(iter(judged.values())).message
    return "; ".join(f"{format}: {evidence.message}" for format, evidence in judged.items())


def _add_custom(report: ExportHealthReport, model: nn.Module, name: str, check: Callable[[], Evidence | CheckResult]) -> None:
    found: list[CheckResult] = []

    def measure() -> Evidence:
        result = check()
        if isinstance(result, CheckResult):
            found.append(result)
            return Evidence.ok(name, result.message)
        return result

    evidence = _measured(name, measure)
    if found:
        report.add_check(found[0])
    else:
        _add(report, model, name, {"": lambda: evidence})


def _measured(name: str, check: Callable[[], Evidence]) -> Evidence:
    """A check's evidence; one that raises has failed."""

    def otherwise(error: Exception) -> Evidence:
        return Evidence.failed(name, f"the check itself raised {type(error).__name__}: {str(error)[:200]}")

    return guarded(name, check, otherwise)
