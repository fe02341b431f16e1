"""A run rebuilt from its bundle, and its metrics held to what they were."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from harness.processes import module_command
from harness.repro.bundle import Bundle, open_bundle
from harness.repro.comparison import Tolerance, compare_metrics, first_difference
from harness.repro.distributions import names_in
from harness.repro.environment import env_snapshot
from harness.repro.environment_changes import environment_changes
from harness.repro.errors import ReproError
from harness.repro.manifest import CONFIG, ENVIRONMENT, METRICS, REQUIREMENTS, FileFacts
from harness.repro.metric_records import MetricRecords
from harness.repro.recorded import DEFAULT_DB, read_newest
from harness.repro.result import ReproResult
from harness.repro.trust import check_config, code_in

_ORDER_NOTE = "kernels of a GPU may add in another order each time, unless `deterministic` is true in the config"

Train: TypeAlias = Callable[[Path], Mapping[str, Any]]
"""Trains a config file, and returns its results."""


def repro(
    zip_path: str | Path,
    *,
    trust: bool = False,
    output_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    train: Train | None = None,
) -> ReproResult:
    """Rebuilds a run from its bundle, and compares the metrics.

    Args:
        zip_path: The bundle.
        trust: Whether the code in it may be run. Without it the hashes are checked and the code is listed; a bundle without code is run.
        output_dir: Where it is unpacked, a folder that is empty or not there; by default a new one among the temporary files.
        data_dir: Where the data files are that the bundle does not hold.
        train: Trains the unpacked config; by default ``modeltiers train`` in a process of its own.

    Raises:
        ReproError: It is no bundle, or not whole, or its data is missing, or it cannot be trained.
    """
    with open_bundle(Path(zip_path).expanduser()) as bundle:
        config = check_config(bundle)
        code = code_in(bundle, config)
        manifest = bundle.manifest
        if manifest.missing:
            raise ReproError(
                f"{manifest.title} cannot be rebuilt from this bundle, which is only a record of it. Missing: {'; '.join(manifest.missing)}"
            )
        if code and not trust:
            return ReproResult(manifest.title, code, notes=manifest.notes)
        then, before = _metrics_of(bundle), _environment_of(bundle)
        packages = names_in(bundle.read(REQUIREMENTS).decode(errors="replace"))
        folder = _rebuilt(bundle, output_dir, _data_files(bundle, data_dir))
    results = (train or _train)(folder / CONFIG)
    recorded = read_newest(folder / DEFAULT_DB)
    now = MetricRecords.of_run(recorded) if recorded is not None else MetricRecords.of_results(results)
    here = env_snapshot()
    changes = environment_changes(before, here, packages)
    rows = compare_metrics(then, now, Tolerance.of(config) if changes else None)
    parted = first_difference(then, now)
    notes = [*manifest.notes, *([_ORDER_NOTE] if parted and here["gpus"] and not config.get("deterministic") else [])]
    return ReproResult(manifest.title, code, rows, changes, parted, folder, tuple(notes))


def _train(config: Path) -> Mapping[str, Any]:
    """Trains in a process that has nothing of this one: no modules of the same names, no threads, no random state."""
    command = module_command("harness", "train", "--config", str(config), "--json", "--quiet")
    done = subprocess.run(command, cwd=config.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ReproError(
            f"the rerun failed: {said[-1].removeprefix('modeltiers: ') if said else f'exit status {done.returncode}'}"
        )
    found: Mapping[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _empty_folder(path: str | Path | None) -> Path:
    if path is None:
        return Path(tempfile.mkdtemp(prefix="modeltiers-repro-"))
    folder = Path(path).expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ReproError(f"{folder} is not empty; name another folder")
    except OSError as error:
        raise ReproError(f"{folder} cannot be used: {error.strerror or error}") from error
    return folder


def _rebuilt(bundle: Bundle, output_dir: str | Path | None, data: Mapping[str, Path]) -> Path:
    """A folder with everything that the run was trained from; where it cannot be filled, it is left empty.

    Raises:
        ReproError: It cannot be written.
    """
    folder = _empty_folder(output_dir)
    try:
        bundle.unpack(folder)
        for name, source in data.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except BaseException as error:
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if output_dir is None:
            folder.rmdir()
        if isinstance(error, OSError):
            raise ReproError(f"{folder} cannot be written: {error.strerror or error}; nothing was left there") from None
        raise
    return folder


def _data_files(bundle: Bundle, data_dir: str | Path | None) -> dict[str, Path]:
    """Where the data is that the bundle does not hold, by the names its config has for it.

    Raises:
        ReproError: A file is missing, or another one.
    """
    found: dict[str, Path] = {}
    for name, facts in bundle.manifest.external.items():
        if data_dir is None:
            raise ReproError(
                f"{name} is not in the bundle ({facts.bytes} bytes, sha256 {facts.sha256}); say where it is by --data-dir"
            )
        relative = Path(*Path(name).parts[1:])
        source = Path(data_dir).expanduser() / relative
        if not source.is_file():
            raise ReproError(f"{source}: no such file; --data-dir must have {relative}")
        if FileFacts.of(source) != facts:
            raise ReproError(f"{source} is not the file that the run was trained on: its sha256 is another one")
        found[name] = source
    return found


def _environment_of(bundle: Bundle) -> Mapping[str, Any]:
    found = bundle.read_json(ENVIRONMENT)
    if not isinstance(found, Mapping):
        raise ReproError(f"{bundle.path}: {ENVIRONMENT} holds no environment")
    return found


def _metrics_of(bundle: Bundle) -> MetricRecords:
    try:
        return MetricRecords.from_json(bundle.read_json(METRICS))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ReproError(f"{bundle.path}: {METRICS} holds no metrics: {error}") from None
