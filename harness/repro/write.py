"""Making a repro bundle."""

from __future__ import annotations

import json
import re
import socket
import warnings
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness import __version__
from harness.documents import without_secrets
from harness.errors import did_you_mean
from harness.experiments import ExperimentDB, RunRef
from harness.repro.bundle import write_archive
from harness.repro.comparison import MetricRecords
from harness.repro.contents import Contents, check_names, collect, files_below, free_place
from harness.repro.environment import OURS, needed, requirements
from harness.repro.environment import env_snapshot as snapshot
from harness.repro.manifest import (
    CONFIG,
    ENVIRONMENT,
    MANIFEST,
    METRICS,
    README,
    REQUIREMENTS,
    FileFacts,
    Manifest,
    ReproError,
)
from harness.repro.recorded import RecordedRun, config_of, read_run, why_not_rebuilt
from harness.wording import and_others

_DASHBOARDS = "dashboards"
_CLOCK_SECONDS = 2.0
"""The clocks of a database and of a file system may differ by so much."""


def create_repro_bundle(
    run_id: RunRef,
    training_cfg: Any = None,
    task_spec: Any = None,
    eval_cfg: Any = None,
    env_snapshot: Mapping[str, Any] | None = None,
    db: ExperimentDB | str | Path | None = None,
    dashboard_paths: Iterable[str | Path] | None = None,
    output_dir: str | Path = ".",
) -> Path:
    """Packs what rebuilds a run: its config, code, data, environment, metrics and dashboards.

    Args:
        run_id: The run: its id, a named reference, or its name.
        training_cfg: The training config, where it is not the one stored with the run; may be a whole ``SuiteConfig``.
        task_spec: The same for the task.
        eval_cfg: The same for the evaluation data.
        env_snapshot: What ``env_snapshot()`` gave where the run was trained; by default the ``environment`` stored with the run, or a new one.
        db: The database of the run, its file or its URL; by default ``experiments.db`` here.
        dashboard_paths: Files or folders of its dashboard; by default those logged with the run.
        output_dir: Where the zip goes.

    Returns:
        The zip, ``<name>-<id>-repro.zip``. The same run gives the same bytes.

    Warns:
        UserWarning: The zip cannot rebuild the run, as something is missing: it is only a record of it, and says so in its manifest.

    Raises:
        ExperimentError: There is no such run or database.
        ReproError: Something that the run was trained from is missing, or the zip cannot be written; nothing is left behind.
    """
    recorded = read_run(run_id, db)
    config = config_of(recorded, training_cfg, task_spec, eval_cfg)
    contents = collect(config.values, recorded.config_folder)
    known = env_snapshot if env_snapshot is not None else recorded.configs.get("environment")
    environment = without_secrets(snapshot() if known is None else known)
    names, unknown = needed(contents.imports, contents.data_names)
    notes = [*config.notes, *contents.notes, *(f"`{name}` is imported, and belongs to no installed package" for name in unknown)]
    notes += _changed_since(recorded, contents)
    missing = config.missing
    if config.is_python_model and not missing:
        missing = (*_not_in_it(contents, unknown), *why_not_rebuilt(recorded, contents))
    if known is None and recorded.record.host != socket.gethostname():
        notes.append("environment.json describes the machine that made the bundle; the run was trained on another")
    files: dict[str, Path | bytes] = {**contents.files, **_dashboards(recorded, dashboard_paths)}
    files |= {
        CONFIG: _json({**contents.config, "log_to_db": True}),
        ENVIRONMENT: _json(environment),
        METRICS: _json(MetricRecords.of_run(recorded).to_json()),
        REQUIREMENTS: requirements(names).encode(),
    }
    check_names(files)
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", recorded.record.name)
    target = Path(output_dir).expanduser().resolve() / f"{stem}-{recorded.record.id}-repro.zip"
    files[README] = _readme(recorded, target.name, contents, notes, missing).encode()
    facts = {name: _facts(content) for name, content in files.items()}
    manifest = _json(_manifest(recorded, facts, contents, notes, missing).to_json())
    write_archive(target, {**files, MANIFEST: manifest}, {**facts, MANIFEST: _facts(manifest)})
    if missing:
        warnings.warn(
            f"{target.name} is a record of {recorded.title} and cannot rebuild it. Missing: {'; '.join(missing)}",
            UserWarning,
            stacklevel=2,
        )
    return target


def _not_in_it(contents: Contents, unknown: Iterable[str]) -> list[str]:
    """The module of the model, where neither the bundle nor an installed package has it."""
    name = str(contents.config.get("model_import", "")).partition(":")[0].partition(".")[0]
    return [f"the package `{name}`, which is neither installed nor beside the run's data"] if name in unknown else []


def _manifest(
    recorded: RecordedRun, facts: dict[str, FileFacts], contents: Contents, notes: list[str], missing: tuple[str, ...]
) -> Manifest:
    record = recorded.record
    return Manifest(
        run={"id": record.id, "name": record.name, "task": record.task, "status": record.status},
        created=(record.finished or record.heartbeat).isoformat(timespec="seconds"),
        git_commit=record.git_commit,
        git_dirty=record.git_dirty,
        files=facts,
        external={name: FileFacts.of(path) for name, path in contents.external.items()},
        notes=tuple(notes),
        tool=f"{OURS} {__version__}",
        missing=missing,
    )


def _dashboards(recorded: RecordedRun, given: Iterable[str | Path] | None) -> dict[str, Path]:
    logged = [artifact.path for artifact in recorded.artifacts if artifact.kind == "dashboard"]
    paths = [Path(path).expanduser().resolve() for path in (logged if given is None else given)]
    missing = [path for path in paths if not path.exists()]
    if missing and given is not None:
        near = [entry.name for entry in missing[0].parent.iterdir()] if missing[0].parent.is_dir() else []
        raise ReproError(f"no such dashboard {missing[0]}.{did_you_mean(missing[0].name, near)}")
    files: dict[str, Path] = {}
    for path in dict.fromkeys(path for path in paths if path not in missing):
        folder = free_place(_DASHBOARDS, path, files).rpartition("/")[0]
        files.update({f"{folder}/{name}": file for name, file in files_below(path).items()})
    return files


def _changed_since(recorded: RecordedRun, contents: Contents) -> list[str]:
    """A note that names the files written after the run began, which may not be what it was trained from."""
    began = recorded.record.created.timestamp() + _CLOCK_SECONDS
    later = [name for name, path in (*contents.files.items(), *contents.external.items()) if path.stat().st_mtime > began]
    shown = f"{later[0]}{and_others(len(later) - 1, 'file')}" if later else ""
    return [f"{shown} changed after the run began, so it may have been trained from another version"] if later else []


def _facts(content: Path | bytes) -> FileFacts:
    return FileFacts(sha256(content).hexdigest(), len(content)) if isinstance(content, bytes) else FileFacts.of(content)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _readme(recorded: RecordedRun, filename: str, contents: Contents, notes: list[str], missing: tuple[str, ...]) -> str:
    record = recorded.record
    rows = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(recorded.last.items()))
    needs = " --data-dir FOLDER" if contents.external else ""
    commit = f" from commit {record.git_commit}{' with changes' if record.git_dirty else ''}" if record.git_commit else ""
    remarks = "".join(f"- {note}\n" for note in notes)
    how = f"""    pip install -r requirements.txt
    modeltiers repro {filename} --trust{needs}

rebuilds the run and compares its metrics with these. By hand: `modeltiers train --config config.json` in the unpacked folder."""
    if missing:
        how = "This is a record of the run. It cannot rebuild it. Missing:\n\n" + "\n".join(
            f"- {sentence}" for sentence in missing
        )
    return f"""# {recorded.title}

{record.task}, trained on {record.created:%Y-%m-%d}{commit}; {record.status}.

{how}

| metric | last value |
|---|---|
{rows}

{remarks}"""
