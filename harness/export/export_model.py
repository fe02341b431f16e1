"""A model, or the model of a config, exported, validated and bundled in one call each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.catalogue import of_tier
from harness.config import ExportConfig, SuiteConfig, load_config
from harness.data.examples import example_maker
from harness.errors import ConfigError, UserError
from harness.export.checks import judge_export, overall, summary_of
from harness.export.exports import Exports
from harness.export.formats import check_formats
from harness.formats import default_formats
from harness.models.loading import model_source
from harness.models.wrapped import taken
from harness.properties.calling import mode
from harness.properties.subject import Subject
from harness.tasks import TaskSpec

Quantisation = Literal["dynamic", "static"]


def export_model(
    model: nn.Module,
    adapter: Adapter | None,
    task_spec: TaskSpec,
    export_dir: str | Path,
    formats: Iterable[str],
    quantization: Quantisation | None = None,
    *,
    opset_version: int | None = None,
) -> dict[str, Path]:
    """Exports a model in eval mode into a folder; the model stays in the mode it was in.

    Args:
        model: The model.
        adapter: How it is called; the task's own where ``None``.
        task_spec: What it is for.
        export_dir: Where the files go, each with a manifest beside it.
        formats: Names of formats.
        quantization: Also writes an 8-bit file of each format that can be quantised.
        opset_version: Version of ONNX's operators; by default one that current runtimes share.

    Returns:
        The file of each format.

    Raises:
        UserError: A format does not exist, is not available here, or the model cannot be exported to it.
    """
    exports = exports_of(model, adapter, task_spec, export_dir, formats, quantization, opset_version)
    with mode(model, train=False):
        return {format: exports.artifact(format).path for format in exports.formats}


def run_tier4_export_validation(
    model: nn.Module,
    adapter: Adapter | None,
    task_spec: TaskSpec,
    export_dir: str | Path | None = None,
    formats: Iterable[str] | None = None,
    quantization: Quantisation | None = None,
) -> dict[str, Any]:
    """Exports a model and runs every check of tier 4 on the files; see ``export_model`` for the arguments.

    By default, the formats are those that a config exports which names none.

    Returns:
        By format ``{status, max_abs_diff, max_rel_diff, latency_ms, path, checks}``, and the overall ``status``.

    Raises:
        UserError: A format does not exist.
    """
    exports = exports_of(model, adapter, task_spec, export_dir, formats, quantization)
    with mode(model, train=False):
        results: dict[str, Any] = {format: validate_format(exports, format) for format in exports.formats}
    return {**results, "status": overall(result["status"] for result in results.values())}


def validate_format(exports: Exports, format: str) -> dict[str, Any]:
    """The checks of one format, and their main figures."""
    wanted = [entry.name for entry in of_tier(4) if entry.is_judged_for(format)]
    found = {name: judge_export(name, exports, format) for name in wanted}
    return summary_of({name: evidence.investigated() for name, evidence in found.items()})


def exports_of(
    model: nn.Module,
    adapter: Adapter | None,
    task_spec: TaskSpec,
    export_dir: str | Path | None,
    formats: Iterable[str] | None,
    quantization: Quantisation | None = None,
    opset_version: int | None = None,
) -> Exports:
    """The exports of a model object.

    Raises:
        UserError: The formats and the quantisation do not go together, or a format does not exist.
    """
    from pydantic import ValidationError

    names = default_formats() if formats is None else list(formats)
    check_formats(names)
    try:
        options = ExportConfig.model_validate({"formats": names, "quantization": quantization, "opset_version": opset_version})
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    folder = None if export_dir is None else Path(export_dir)
    return Exports(Subject(taken(model), adapter or make_adapter(task_spec), task_spec), options, folder)


def exports_of_config(config: SuiteConfig, folder: Path | None) -> Exports:
    """The exports of a config's model.

    Args:
        config: The config.
        folder: Where the files go; ``None`` leaves them in the cache.
    """
    task, source = config.task_spec(), model_source(config)
    model = source.build(config.seed)
    subject = Subject(
        model,
        make_adapter(task, config.adapter, config.path.parent),
        task,
        rebuild=source.build,
        seed=config.seed,
        fresh_weights=source.has_fresh_weights,
        make=example_maker(config),
    )
    return Exports(subject, config.export_options, folder, config=config.path)


def export_config(path: Path, folder: Path | None, formats: Sequence[str] = ()) -> dict[str, Path]:
    """Exports the model of a config.

    Args:
        path: The config.
        folder: Where the files go; by default the config's ``export_dir``.
        formats: The formats; by default those of the config.

    Returns:
        The file of each format.

    Raises:
        UserError: The config, the model or the folder does not allow it.
    """
    config = load_config(path)
    target = folder if folder is not None else _configured_folder(config)
    if target is None:
        raise ConfigError(f"{path}: nowhere to write to: give --output DIR, or `export_dir` in the config's `export`")
    check_formats(formats)
    exports = exports_of_config(config, target)
    return {name: exports.artifact(name).path for name in formats or exports.formats}


def bundle_config(path: Path, folder: Path | None, layouts: Sequence[str], health: bool) -> dict[str, Any]:
    """Writes the bundle of a config's model.

    Returns:
        ``{status, bundle, formats, health_score, grade, failed}``.

    Raises:
        UserError: The config, the model or the folder does not allow it.
    """
    from harness.export.bundle import write_bundle
    from harness.export.health import check_exports

    config = load_config(path)
    exports = exports_of_config(config, None)
    report = check_exports(exports) if health else None
    target = folder if folder is not None else config.path.parent / f"{config.path.stem}-bundle"
    configs = {"config": config.model_dump(mode="json"), "training_config": config.training_config().model_dump(mode="json")}
    written = write_bundle(exports, target, configs=configs, report=report, layouts=layouts)
    failed = [] if report is None else [f"{check.check_name}: {check.message}" for check in report.get_failed_checks()]
    return {
        "status": "fail" if failed else "ok",
        "bundle": str(written),
        "formats": list(exports.formats),
        "health_score": None if report is None else report.health_score,
        "grade": None if report is None else report.grade,
        "failed": failed,
    }


def _configured_folder(config: SuiteConfig) -> Path | None:
    chosen = config.export_options.export_dir
    return config.resolve(chosen) if chosen else None
