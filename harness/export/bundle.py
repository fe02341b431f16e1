"""A bundle: one folder with everything that a model needs to be run, checked and served elsewhere; it is whole, or it is not there."""

from __future__ import annotations

import glob
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.batches import make_batch
from harness.config import SuiteConfig
from harness.errors import UserError
from harness.export.artifact import Artifact, find_artifact, manifest_path
from harness.export.bundle_layouts import (
    Shipped,
    check_layouts,
    inference_script,
    json_ready,
    make_signature,
    readme,
    requirements,
    write_layout,
)
from harness.export.cache import Cache, file_hash, key_of
from harness.export.exported_program import one_line
from harness.export.exporter import ExportError
from harness.export.exports import Exports
from harness.export.identity import versions
from harness.export.lattice import Point
from harness.export.parity import DEFAULT_TOLERANCES, compare
from harness.export.replay import digest, state_facts
from harness.health.report import ExportHealthReport
from harness.tasks import TaskSpec
from harness.threads import threads_for

KIND = "pytest-modeltiers bundle"
MANIFEST, SIGNATURE, GOLDEN, INFERENCE = "manifest.json", "signature.json", "golden/golden.json", "inference.py"

Arrays = dict[str, np.ndarray[Any, Any]]

VERSION = 1
_OTHER_TOLERANCE = 1e-6
_MOST_LOGITS = 1 << 26
"""Further batches with more than these are left out, so that a bundle is not mostly golden logits."""

_SLACK = 2
"""Rounding that was seen when the bundle was made may be this many times as large on another machine."""


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
    """Exports a model, checks it, and writes the bundle.

    Args:
        model: The model.
        config: A ``SuiteConfig``, an ``ExportConfig``, or any mapping or object. The keys it shares with ``ExportConfig`` say what is
            exported; all of it is stored in ``configs/``, without passwords and keys.
        task_spec: What the model is for.
        training_config: How it was trained, which is stored too; a ``SuiteConfig`` says it itself.
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
        checker = ExportHealthChecker(model, config, task_spec, adapter)
    except ValidationError as error:
        mistake = error.errors()[0]
        raise ExportError(f"config: {'.'.join(map(str, mistake['loc']))}: {mistake['msg']}") from None
    target = _check_target(Path(output_dir) if output_dir is not None else _default_target(model, config, task_spec))
    check_layouts(layouts, checker.exports.formats)
    report = checker.run_all_checks() if run_health_checks else None
    if isinstance(config, SuiteConfig):
        training_config = training_config or config.training_config()
        checker.exports.config = config.path if config.path.is_file() else None
    configs = {"config": config, "task_spec": task_spec, "training_config": training_config}
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
    target = _check_target(target)
    check_layouts(layouts, exports.formats)
    artifacts = _artifacts(exports)
    with threads_for(exports.reference):
        batches, golden = _golden(exports)
        signature = make_signature(exports, {format: artifact.path.name for format, artifact in artifacts.items()})
    with _new_folder(target) as folder:
        for artifact in artifacts.values():
            _copy(artifact, folder / "artifacts")
        if report is not None:
            _save_report(report, artifacts, folder / "artifacts")
        for name, content in {"task_spec": exports.subject.task, **configs}.items():
            if content is not None:
                write_json(folder / "configs" / f"{name}.json", json_ready(content))
        write_json(folder / GOLDEN, golden)
        for name, arrays in batches.items():
            np.savez(folder / "golden" / name, **arrays)  # type: ignore[arg-type]
        write_json(folder / SIGNATURE, signature)
        write_json(folder / "environment.json", _environment())
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        shipped = Shipped(folder, target.name, signature, _tool(), created, exports.identity)
        for layout in layouts:
            write_layout(layout, shipped)
        texts = {
            INFERENCE: inference_script(),
            "requirements.txt": requirements(artifacts),
            "README.md": readme(shipped, report, layouts),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        write_json(folder / MANIFEST, _manifest(shipped, layouts))
        sha256 = file_hash(folder / MANIFEST)
    _remember(sha256, exports.config)
    return target


def made_here(folder: Path) -> dict[str, Any]:
    """What this machine remembers of making a bundle, such as the ``config`` its model is built from; empty of one made elsewhere."""
    return Cache().values(_origin(file_hash(folder / MANIFEST)), dict, keep=bool)


def files_in(folder: Path) -> Iterator[str]:
    """Relative names of everything below a folder that is no folder itself; links are named, and not followed."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        yield from sorted((Path(parent) / name).relative_to(folder).as_posix() for name in (*names, *links))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file into a new folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _default_target(model: nn.Module, config: Any, task: TaskSpec) -> Path:
    if isinstance(config, SuiteConfig) and config.path.is_file():
        return config.path.parent / f"{config.name}-bundle"
    return Path(f"{Path(task.task_name).name or type(model).__name__}-bundle")


def _artifacts(exports: Exports) -> dict[str, Artifact]:
    """The file of every format.

    Raises:
        ExportError: There is one that cannot be had; the message has the reason, and the formats that can.
    """
    found: dict[str, Artifact] = {}
    failed: dict[str, str] = {}
    for format in exports.formats:
        try:
            artifact = exports.artifact(format)
            exports.runner(format)
        except UserError as error:
            failed[format] = str(error)
            continue
        if artifact.ours:
            found[format] = artifact
        else:
            failed[format] = f"{artifact.path} is not what this project exported; delete it to have it exported anew"
    if failed:
        reasons = "; ".join(f"{format}: {reason}" for format, reason in failed.items())
        rest = f"; {', '.join(found)} can be bundled: name these alone in `formats`" if found else ""
        raise ExportError(f"no bundle was written, for lack of {reasons}{rest}")
    return found


def _copy(artifact: Artifact, folder: Path) -> None:
    """Copies an artifact with its manifest."""
    assert artifact.manifest is not None
    folder.mkdir(exist_ok=True)
    for name in (*artifact.manifest.files, manifest_path(artifact.path).name):
        shutil.copyfile(artifact.path.with_name(name), folder / name)
    copied = find_artifact(folder / artifact.path.name)
    if copied is None or not copied.ours:
        raise ExportError(f"{artifact.path} was changed while it was copied; make the bundle again")


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
    shown.save_json(folder / "health_report.json")
    shown.save_markdown(folder / "health_report.md")
    shown.save_html(folder / "health_report.html")


def _golden(exports: Exports) -> tuple[dict[str, Arrays], dict[str, Any]]:
    """The golden batches by file name, and what ``golden.json`` says of them.

    Raises:
        ExportError: There is a format that takes none of them.
        UserError: The model itself does not.
    """
    made_up = exports
    if exports.subject.make is not make_batch:  # rows of the user's data are no one else's business
        made_up = Exports(replace(exports.subject, make=make_batch), exports.options, cache=exports.cache)
    points = _golden_points(made_up)
    files: dict[str, Arrays] = {}
    for number, point in enumerate(points):
        files[f"inputs_{number}.npz"] = {name: _array(tensor) for name, tensor in made_up.batch(point).items()}
        files[f"outputs_{number}.npz"] = {"logits": _array(made_up.expected(point))}
    state = exports.reference.state_dict()
    facts = {
        "batches": [
            {"inputs": f"inputs_{number}.npz", "outputs": f"outputs_{number}.npz", "sizes": point.describe(made_up.program)}
            for number, point in enumerate(points)
        ],
        "noise_floor": made_up.floor.value,
        "formats": {format: _held(exports, format, made_up, points) for format in exports.formats},
        "state": {name: {**known, "sha256": digest(state[name])} for name, known in state_facts(state).items()},
    }
    return files, facts


def _golden_points(exports: Exports) -> tuple[Point, ...]:
    """The exporter's own example; the nearest shape it did not see; and one of those that is padded, where that means anything."""
    first, *others = exports.points

    def distance(point: Point) -> int:
        sizes, own = point.sizes, exports.program.sizes
        return abs(sizes.batch - own.batch) + abs(sizes.seq - own.seq) + abs(sizes.target_seq - own.target_seq)

    plain = [point for point in others if point.content == "typical"]
    unseen = sorted((point for point in plain if not point.padded), key=lambda p: (p.seen(exports.program), distance(p)))
    padded = sorted((point for point in plain if point.padded), key=lambda p: (p.seen(exports.program), distance(p)))
    small = [p for p in (*unseen[:1], *padded[:1]) if math.prod(p.sizes.logits_shape(exports.program.task)) <= _MOST_LOGITS]
    return tuple(dict.fromkeys((first, *small)))


def _held(exports: Exports, format: str, made_up: Exports, points: Sequence[Point]) -> list[dict[str, Any]]:
    """For each batch, how far a format's logits are from the model's, and how far they may be; or why it does not take the batch."""
    held: list[dict[str, Any]] = []
    for point in points:
        try:
            found = compare(made_up, format, point, exports.runner(format)(made_up.batch(point)))
        except Exception as error:  # runtimes have exceptions of their own
            held.append({"refused": str(error) if isinstance(error, UserError) else one_line(error)})
            continue
        tolerance, sound = found.bound, math.isfinite(found.absolute)
        rounding = found.relative <= DEFAULT_TOLERANCES.get(format, _OTHER_TOLERANCE)
        if sound and (rounding or exports.exporter(format).runs_as):  # what runs as another format is an approximation of it
            tolerance = max(tolerance, _SLACK * found.absolute)
        held.append({"difference": found.absolute if sound else None, "tolerance": tolerance})
    if all("refused" in batch for batch in held):
        raise ExportError(f"no bundle was written: the {format} file does not even take its own example: {held[0]['refused']}")
    return held


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _environment() -> dict[str, Any]:
    found = versions()
    packages = {name: found[name] for name in found if name not in ("python", "machine", "system")}
    return {"python": found["python"], "platform": platform.platform(), "machine": found["machine"], "packages": packages}


def _manifest(shipped: Shipped, layouts: Sequence[str]) -> dict[str, Any]:
    """What a bundle is, and the sha256 and size of every file that is in it so far."""
    paths = {name: shipped.folder / name for name in files_in(shipped.folder)}
    return {
        "kind": KIND,
        "version": VERSION,
        "created": shipped.created,
        "tool": shipped.tool,
        "model": shipped.signature["model"],
        "identity": shipped.identity,
        "formats": {format: artifact["file"] for format, artifact in shipped.artifacts.items()},
        "layouts": list(layouts),
        "files": {name: {"sha256": file_hash(path), "bytes": path.stat().st_size} for name, path in sorted(paths.items())},
    }


def _tool() -> str:
    try:
        return f"pytest-modeltiers {version('pytest-modeltiers')}"
    except PackageNotFoundError:
        return "pytest-modeltiers"


def _origin(sha256: str) -> str:
    return key_of("bundle", sha256)


def _remember(sha256: str, config: Path | None) -> None:
    """Remembers that a bundle was made here, and what its model is built from; a path of this machine has no place in the bundle."""
    Cache().values(_origin(sha256), lambda: {"made": True, "config": None if config is None else str(config.resolve())})


def _check_target(target: Path) -> Path:
    """The target, absolute.

    Raises:
        ExportError: There is something that is no bundle, or a bundle that holds something else.
    """
    target = target.expanduser().resolve()
    with _one_line_for(target):
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return target
        listed = _listed(target)
        if listed is None:
            raise ExportError(f"{target} is there and is no bundle, so it is not replaced; name another folder, or delete it")
        foreign = [name for name in files_in(target) if name not in listed and "__pycache__" not in name]
        if foreign:
            raise ExportError(
                f"{target} holds {foreign[0]}, which is no part of the bundle there; move it away, or name another folder"
            )
    return target


def _listed(folder: Path) -> set[str] | None:
    """Names of the files of a bundle; ``None`` of a folder that is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {*found["files"], MANIFEST} if found["kind"] == KIND else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """An empty folder that takes the target's name, and its place, once the block is done; where it fails, nothing was there."""
    with _one_line_for(target):
        missing = [parent for parent in target.parents if not parent.exists()]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _clean_up(target)
            partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
            try:
                with FileLock(partial / "lock"):  # held for as long as this process lives
                    new = partial / "new"
                    new.mkdir()
                    yield new
                    _exchange(new, target, partial / "old")
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except BaseException:
            with suppress(OSError):
                for parent in missing:
                    parent.rmdir()
            raise


def _exchange(new: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _clean_up(target: Path) -> None:
    """Removes what a process that was killed left of the same bundle, and puts back one that it had just moved away."""
    for partial in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        with suppress(OSError, Timeout), FileLock(partial / "lock", timeout=0):
            if (partial / "old").is_dir() and not target.exists():
                (partial / "old").rename(target)
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _one_line_for(target: Path) -> Iterator[None]:
    """Says in one line why a bundle cannot be written."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and Path(error.filename) in target.parents else ""
        raise ExportError(
            f"cannot write the bundle {target}: {error.strerror or error}{where}; nothing was written there"
        ) from None
