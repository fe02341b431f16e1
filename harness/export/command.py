"""What the command line does with a config's exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.adapters import make_adapter
from harness.config import SuiteConfig, load_config
from harness.data.examples import example_maker
from harness.errors import ConfigError
from harness.export.exports import Exports
from harness.export.formats.exporter import check_formats
from harness.models.loading import model_source
from harness.properties.subject import Subject


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
        fresh_weights=source.weights is None,
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
    from harness.export.bundle.write import write_bundle
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
