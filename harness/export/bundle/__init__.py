"""How a bundle is made: its contents are collected first, then all are written."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import nn

from harness import __version__
from harness.adapters import Adapter, make_adapter
from harness.config import ExportConfig, SuiteConfig
from harness.documents import without_secrets
from harness.export.bundle.contract import make_golden, make_signature
from harness.export.bundle.folder import (
    GOLDEN,
    INFERENCE,
    MANIFEST,
    SIGNATURE,
    Draft,
    all_artifacts,
    check_target,
    copy_artifact,
    make_manifest,
    new_folder,
    remember,
)
from harness.export.bundle.texts import LAYOUTS, check_layouts, inference_script, readme, requirements, write_layout
from harness.export.exports import Exports
from harness.export.formats import ExportError
from harness.export.store import Artifact
from harness.export.store.identity import versions
from harness.files import file_hash
from harness.health import ExportHealthReport
from harness.properties.calling import mode
from harness.runtime import threads_for
from harness.tasks import TaskSpec


def create_export_bundle(
    model: nn.Module,
    config: Any,
    task_spec: TaskSpec,
    training_config: Any = None,
    run_health_checks: bool = True,
    *,
    output_dir: str | Path | None = None,
    layouts: Sequence[str] = (),
    adapter: Adapter | None = None,
) -> Path:
    """Exports a model in eval mode, checks it, and writes the bundle; the model stays in the mode it was in.

    Args:
        model: The model.
        config: A ``SuiteConfig``, an ``ExportConfig``, or any mapping or object. The keys it shares with ``ExportConfig`` say what is
            exported; all of it is stored in ``configs/``, without passwords and keys.
        task_spec: What the model is for.
        training_config: How it was trained, which is stored too; a ``SuiteConfig`` says it itself. Its ``export_formats`` are exported where
            ``config`` names no formats.
        run_health_checks: Whether the bundle gets a health report. A check that fails is reported there, and stops nothing.
        output_dir: The bundle's folder; by default ``<config>-bundle`` beside the config's file, or ``<task>-bundle`` here.
        layouts: Folders for servers to add: ``triton``, ``mlflow``.
        adapter: How the model is called; by default as a ``SuiteConfig`` says, or the task's own.

    Returns:
        The bundle's folder. A bundle that was there is replaced.

    Raises:
        UserError: A format cannot be exported, or the folder cannot be written or is something else; nothing is left behind.
    """
    from harness.export.health import ExportHealthChecker

    if adapter is None and isinstance(config, SuiteConfig):
        adapter = make_adapter(task_spec, config.adapter, config.path.parent)
    try:
        checker = ExportHealthChecker(model, _with_formats_of(training_config, config), task_spec, adapter)
    except ValidationError as error:
        mistake = error.errors()[0]
        raise ExportError(f"config: {'.'.join(map(str, mistake['loc']))}: {mistake['msg']}") from None
    target = check_target(Path(output_dir) if output_dir is not None else _default_target(model, config, task_spec))
    check_layouts(layouts, checker.exports.formats)
    report = checker.run_all_checks(formats=checker.options.formats) if run_health_checks else None
    if isinstance(config, SuiteConfig):
        training_config = training_config or config.training_config()
        checker.exports.config = config.path if config.path.is_file() else None
    configs = {"config": config, "task_spec": task_spec, "training_config": training_config}
    with mode(model, train=False):
        return write_bundle(checker.exports, target, configs=configs, report=report, layouts=layouts)


def write_bundle(
    exports: Exports,
    target: Path,
    *,
    configs: Mapping[str, Any],
    report: ExportHealthReport | None = None,
    layouts: Sequence[str] = (),
) -> Path:
    """Writes the bundle of a model's exports.

    Args:
        exports: The exports.
        target: The bundle's folder.
        configs: What ``configs/<name>.json`` hold; the task is there in any case, and ``None`` is left out.
        report: The health report.
        layouts: Folders for servers to add.

    Returns:
        The folder, absolute. A bundle that was there is replaced.

    Raises:
        UserError: A format cannot be exported, or the folder cannot be written or is something else; nothing is left behind.
    """
    target = check_target(target)
    check_layouts(layouts, exports.formats)
    artifacts = all_artifacts(exports)
    with threads_for(exports.reference):
        batches, golden = make_golden(exports)
        signature = make_signature(exports, {format: artifact.path.name for format, artifact in artifacts.items()})
    with new_folder(target) as folder:
        for artifact in artifacts.values():
            copy_artifact(artifact, folder / "artifacts")
        if report is not None:
            _save_report(report, artifacts, folder)
        for name, content in {"task_spec": exports.subject.task, **configs}.items():
            if content is not None:
                _write_json(folder / "configs" / f"{name}.json", without_secrets(content))
        _write_json(folder / GOLDEN, golden)
        for name, arrays in batches.items():
            np.savez(folder / "golden" / name, **arrays)  # type: ignore[arg-type]
        _write_json(folder / SIGNATURE, signature)
        _write_json(folder / "environment.json", _environment())
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        draft = Draft(folder, target.name, signature, f"pytest-modeltiers {__version__}", created, exports.identity)
        for layout in layouts:
            write_layout(layout, draft)
        texts = {
            INFERENCE: inference_script(artifacts),
            "requirements.txt": requirements(artifacts),
            "README.md": readme(draft, report, {name: LAYOUTS[name].what for name in layouts}),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        _write_json(folder / MANIFEST, make_manifest(draft, layouts))
        sha256 = file_hash(folder / MANIFEST)
    remember(sha256, exports.config)
    return target


def _with_formats_of(training_config: Any, config: Any) -> ExportConfig:
    """The export part of a config; where it names no formats, those that the training config wants exported."""
    from harness.export.health import export_options

    options = export_options(config)
    wanted = list(getattr(training_config, "export_formats", None) or ())
    return options if not wanted or "formats" in options.model_fields_set else options.model_copy(update={"formats": wanted})


def _default_target(model: nn.Module, config: Any, task: TaskSpec) -> Path:
    if isinstance(config, SuiteConfig) and config.path.is_file():
        return config.path.parent / f"{config.name}-bundle"
    return Path(f"{Path(task.task_name).name or type(model).__name__}-bundle")


def _save_report(report: ExportHealthReport, artifacts: Mapping[str, Artifact], folder: Path) -> None:
    """Writes the health report, in which artifacts have the paths of the bundle rather than of this machine."""
    places = {str(artifact.path): f"artifacts/{artifact.path.name}" for artifact in artifacts.values()}

    def moved(value: Any) -> Any:
        if isinstance(value, str):
            for place, name in places.items():
                value = value.replace(place, name)
            return value
        if isinstance(value, Mapping):
            return {key: moved(entry) for key, entry in value.items()}
        return [moved(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    checks = [replace(check, message=moved(check.message), details=moved(check.details)) for check in report.checks]
    shown = replace(report, checks=checks)
    shown.save_json(folder / "artifacts" / "health_report.json")
    shown.save_html(folder / "artifacts" / "health_report.html")
    shown.save_markdown(folder / "health_report.md")


def _write_json(path: Path, content: Any) -> None:
    """Writes a JSON file into a new folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _environment() -> dict[str, Any]:
    found = versions()
    packages = {name: found[name] for name in found if name not in ("python", "machine", "system")}
    return {"python": found["python"], "platform": platform.platform(), "machine": found["machine"], "packages": packages}
