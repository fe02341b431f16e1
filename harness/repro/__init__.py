"""Repro bundles: a zip that rebuilds a run elsewhere and compares its metrics. Here it is rebuilt and run."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias

from harness.evidence import Status
from harness.processes import module_command
from harness.repro.bundle import Bundle, create_repro_bundle, open_bundle
from harness.repro.comparison import (
    FirstDifference,
    MetricRecords,
    MetricRow,
    Tolerance,
    Verdict,
    compare_metrics,
    first_difference,
)
from harness.repro.contents import OUTPUTS, files_named, is_function, text_at
from harness.repro.manifest import (
    CONFIG,
    ENVIRONMENT,
    METRICS,
    REQUIREMENTS,
    EnvironmentChange,
    FileFacts,
    ReproError,
    env_snapshot,
    environment_changes,
    is_inside,
    names_in,
)
from harness.repro.recorded import DEFAULT_DB, mistake_in, read_newest
from harness.wording import aligned, and_others, counted, six_digits

__all__ = ["ReproResult", "create_repro_bundle", "env_snapshot", "repro"]

_WRONG = (Verdict.DIFFERENT, Verdict.MISSING)


@dataclass(frozen=True)
class Code:
    """Something that a rerun would run.

    Attributes:
        name: A file of the bundle, or what the config asks for.
        sha256: Of the file; empty for what is no file.
    """

    name: str
    sha256: str = ""

    def to_json(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ReproResult:
    """What came of a repro bundle.

    Attributes:
        title: The run, as ``run 3 (name)``.
        code: What of the bundle a rerun runs.
        rows: The metrics of run and rerun; empty where nothing was run.
        changes: What differs in the environment.
        parted: Where the curves part first; ``None`` where they do not.
        folder: Where the run was rebuilt; ``None`` where nothing was run.
        notes: What the bundle's maker noted.
    """

    title: str
    code: tuple[Code, ...] = ()
    rows: tuple[MetricRow, ...] = ()
    changes: tuple[EnvironmentChange, ...] = ()
    parted: FirstDifference | None = None
    folder: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The worst that was found.

        ``ok`` where every metric came out the same; ``warn`` where they are as close as another environment allows, where curves part in the
        same environment though they end the same, and where nothing was run; ``fail`` where a metric came out otherwise or none did.
        """
        verdicts = {row.verdict for row in self.rows} - {Verdict.NOT_JUDGED}
        if self.folder is None:
            return Status.WARN
        if not verdicts or verdicts & {*_WRONG}:
            return Status.FAIL
        return Status.WARN if Verdict.CLOSE in verdicts or self._wandered else Status.OK

    @property
    def _wandered(self) -> bool:
        """Whether something is left to chance, though the last values do not show it."""
        return self.parted is not None and not self.changes

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        if self.folder is None:
            return f"{self.title}: all hashes match; nothing was run because the bundle contains code: read it, then run with --trust"
        judged = [row for row in self.rows if row.verdict is not Verdict.NOT_JUDGED]
        wrong = [row.metric for row in judged if row.verdict in _WRONG]
        if not judged:
            return f"{self.title}: the rerun has no metric to compare"
        if wrong:
            first = f"; first difference: {self.parted}" if self.parted else ""
            return f"{self.title} was not reproduced: other values of {wrong[0]}{and_others(len(wrong) - 1, 'metric')}{first}"
        if self._wandered:
            return f"{self.title} ends with the same metrics but differs on the way, so something in it is random: {self.parted}"
        if self.status is Status.WARN:
            return f"{self.title} was reproduced as closely as a different environment allows"
        return f"{self.title} was reproduced: {counted(len(judged), 'metric')}, equal to the bit"

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "status": self.status.value,
            "message": self.headline,
            "metrics": [row.to_json() for row in self.rows],
            "environment_changes": [change.to_json() for change in self.changes],
            "first_difference": self.parted and self.parted.to_json(),
            "code": [code.to_json() for code in self.code],
            "folder": self.folder and str(self.folder),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """The result for people."""
        parts = [self.headline]
        if self.folder is None and self.code:
            parts.append(aligned([["CODE", "SHA256"], *([code.name, code.sha256] for code in self.code)]))
        if self.rows:
            rows = [[row.metric, six_digits(row.then), six_digits(row.now), row.verdict.value] for row in self.rows]
            parts.append(aligned([["METRIC", "THEN", "NOW", ""], *rows]))
        if self.changes:
            parts.append(aligned([["ENVIRONMENT", "THEN", "NOW"], *([c.name, c.then, c.now] for c in self.changes)]))
        if self.notes:
            parts.append("\n".join(f"note: {note}" for note in self.notes))
        if self.folder is not None:
            parts.append(f"rebuilt in {self.folder}")
        return "\n\n".join(parts)


_CODE = (".py", ".pyc", ".pyd", ".so", ".dylib", ".dll", ".pth")


def code_in(bundle: Bundle, config: Mapping[str, Any]) -> tuple[Code, ...]:
    """Everything of a bundle that a rerun would run; empty for an embedded model on data without code."""
    files = bundle.manifest.files
    named = {name for key, name in files_named(config).items() if key == "model_file" or is_function(key)}
    found = [Code(name, files[name].sha256) for name in sorted(files) if name in named or _is_code(name)]
    if text_at(config, "model_import"):
        found.append(Code(f"`model_import` {config['model_import']}, which calls whatever of that name is installed"))
    if text_at(config, "gist_id"):
        found.append(Code(f"`gist_id` {config['gist_id']}, which is downloaded"))
    if text_at(config, "resume_from_checkpoint"):
        found.append(Code(f"`resume_from_checkpoint` {config['resume_from_checkpoint']}, whose state is restored"))
    export = config.get("export")
    if isinstance(export, Mapping) and export.get("trust"):
        found.append(Code("`export.trust`, which allows files that can run code"))
    return tuple(found)


def check_config(bundle: Bundle) -> dict[str, Any]:
    """The config of a bundle, which reads nothing but the bundle's files and writes nowhere but beside them.

    Raises:
        ReproError: It is none, or names another place.
    """
    config = bundle.read_json(CONFIG)
    if not isinstance(config, dict):
        raise ReproError(f"{bundle.path}: {CONFIG} contains no config")
    mistake = mistake_in(config)
    if mistake:
        raise ReproError(f"{bundle.path}: {CONFIG} is refused: {mistake}")
    listed = (*bundle.manifest.files, *bundle.manifest.external)
    for key, name in files_named(config).items():
        if not is_inside(name) or not any(file == name or file.startswith(f"{name}/") for file in listed):
            raise ReproError(f"{bundle.path}: {CONFIG}: `{key}` names {name!r}, which is not in the bundle")
    for key in OUTPUTS:
        place = text_at(config, key)
        if place is not None and not is_inside(place):
            raise ReproError(f"{bundle.path}: {CONFIG}: `{key}` names {place!r}, a place outside the bundle")
    run_name = text_at(config, "run_name")
    if run_name is not None and text_at(config, "checkpoint_dir") is None and _leads_away(run_name):
        raise ReproError(f"{bundle.path}: {CONFIG}: checkpoints of a `run_name` {run_name!r} would be outside the bundle")
    return config


def _leads_away(name: str) -> bool:
    """Whether a folder of this name may lie elsewhere, on any system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return any(path.is_absolute() or path.anchor or ".." in path.parts for path in paths)


def _is_code(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _CODE or "__pycache__" in PurePosixPath(name).parts


_ORDER_NOTE = "GPU kernels may sum in a different order each time, unless `deterministic` is true in the config"

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
        train: Trains the unpacked config; by default ``modeltiers train`` in its own process.

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
            raise ReproError(f"{source} is not the file that the run was trained on: its sha256 differs")
        found[name] = source
    return found


def _environment_of(bundle: Bundle) -> Mapping[str, Any]:
    found = bundle.read_json(ENVIRONMENT)
    if not isinstance(found, Mapping):
        raise ReproError(f"{bundle.path}: {ENVIRONMENT} contains no environment")
    return found


def _metrics_of(bundle: Bundle) -> MetricRecords:
    try:
        return MetricRecords.from_json(bundle.read_json(METRICS))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ReproError(f"{bundle.path}: {METRICS} contains no metrics: {error}") from None
