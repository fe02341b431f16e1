"""What a database holds of a run: its metrics, its config, and the model of a run that was made in Python."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from harness.adapters import make_adapter
from harness.config import SuiteConfig
from harness.data.data_reference import DataReference
from harness.documents import flat, without_secrets
from harness.errors import UserError
from harness.experiments import ArtifactRecord, ExperimentDB, MetricColumns, RunRecord, RunRef
from harness.experiments.database import existing_database
from harness.experiments.run_parts import measure, task_keys
from harness.models.loading import model_source
from harness.repro.contents import Contents
from harness.repro.manifest import ReproError
from harness.training.model_record import ADAPTER_SOURCE, EMBEDDED, FACT, MODEL_SOURCE, WEIGHTS, attributes_of, structure_of

DEFAULT_DB = "experiments.db"
_NO_DATABASE = "; give the one that the run was logged to"


@dataclass(frozen=True)
class RecordedRun:
    """What a database holds of a run."""

    record: RunRecord
    configs: dict[str, Any]
    last: dict[str, float]
    history: MetricColumns
    artifacts: list[ArtifactRecord]

    @property
    def title(self) -> str:
        """``run 3 (cli-run-01)``."""
        return f"run {self.record.id} ({self.record.name})"

    @property
    def config_folder(self) -> Path:
        """The folder that the paths of its config are relative to; the current one where the run does not say."""
        path = self.record.facts.get("config_path")
        if isinstance(path, str) and path:
            return Path(path).parent
        data = DataReference.from_json(self.record.facts.get("data"))
        return Path.cwd() if data is None else data.folder


def read_run(run: RunRef, db: ExperimentDB | str | Path | None) -> RecordedRun:
    """Reads a run.

    Raises:
        ExperimentError: There is no such run or database, or it cannot be read.
    """
    with nullcontext(db) if isinstance(db, ExperimentDB) else existing_database(db or DEFAULT_DB, _NO_DATABASE) as opened:
        record = opened.get_run(run)
        (last,) = opened.get_last_metrics([record])
        return RecordedRun(record, opened.get_configs(record), last, opened.get_metrics(record), opened.get_artifacts(record))


def read_newest(path: Path) -> RecordedRun | None:
    """The newest run of a database; ``None`` where there is no database, or no run in it."""
    if not path.is_file():
        return None
    with ExperimentDB(path) as db:
        newest = next(iter(db.list_runs(limit=1)), None)
        return None if newest is None else read_run(newest, db)


UNKNOWN = "which model was trained: the run was not made by `modeltiers train` or `run_training`"
_KINDS = (WEIGHTS, MODEL_SOURCE, ADAPTER_SOURCE)


@dataclass(frozen=True)
class PythonModel:
    """What a run says of its model.

    Attributes:
        keys: Keys of a config that make it, with paths of this machine.
        missing: What they lack to make it, a sentence each.
    """

    keys: dict[str, Any]
    missing: tuple[str, ...]


def model_of(recorded: RecordedRun) -> PythonModel:
    """The model of a run whose config names none."""
    record = recorded.record.facts.get(FACT)
    if not isinstance(record, Mapping):
        return PythonModel({}, (UNKNOWN,))
    keys: dict[str, Any] = {"seed": recorded.record.facts.get("seed", 0)}
    missing = [str(sentence) for sentence in record["missing"]]
    missing += [
        f"{Path(a.path).name} is gone or was changed"
        for a in recorded.artifacts
        if a.kind in _KINDS and not _is_as_it_was(a.path, a.sha256)
    ]
    weights = [artifact.path for artifact in recorded.artifacts if artifact.kind == WEIGHTS]
    if weights:
        keys["weights"] = weights[-1]
    model, adapter = record["model"], record["adapter"]
    if not model["module"].startswith(EMBEDDED):
        keys |= _place_of(model)
    if adapter is not None:
        keys["adapter"] = f"{adapter['file']}:{adapter['name']}"
    return PythonModel(keys, tuple(missing))


def why_not_rebuilt(recorded: RecordedRun, contents: Contents) -> tuple[str, ...]:
    """Builds the model from what goes into the bundle; why it is not the model of the run, empty where it is."""
    record = recorded.record.facts[FACT]
    with TemporaryDirectory(prefix="modeltiers-rebuild-") as folder:
        for name, source in contents.files.items():
            if not name.startswith("data/"):
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        config = SuiteConfig.model_validate(contents.config)
        config._path = Path(folder, "config.json")
        try:
            model = model_source(config.model_copy(update={"device": "cpu"})).build(config.seed)
            adapter = make_adapter(config.task_spec(), config.adapter, config._path.parent)
        except UserError as error:
            return (f"its model cannot be made again from its source: {str(error).splitlines()[0]}",)
    name = record["model"]["name"]
    if structure_of(model) != record["structure"]:
        return (
            f"{name}, made again from its source, has other modules, shapes or frozen parameters than the model that was trained; "
            "keep its arguments as attributes of their names, or name a `model_file` and `model_factory` in training_cfg",
        )
    told = [(model, record["model"]), (adapter, record["adapter"])]
    for made, known in told:
        if known is not None:
            now = attributes_of(made)
            other = [key for key, value in known["attributes"].items() if key != "training" and now.get(key) != value]
            if other:
                return (
                    f"`{other[0]}` of {known['name']} was {known['attributes'][other[0]]!r}, and is {now.get(other[0])!r} when it is made again",
                )
    return ()


def _place_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that name a class and its arguments."""
    arguments = {"model_kwargs": model["arguments"]} if model["arguments"] else {}
    if model["file"] is None:
        return {}
    if "." in model["module"]:  # a part of a package, which imports its neighbours
        return {"model_import": f"{model['module']}:{model['name']}", **arguments}
    return {"model_file": model["file"], "model_factory": model["name"], **arguments}


def _is_as_it_was(path: str, sha256: str) -> bool:
    return Path(path).is_file() and measure(path).sha256 == sha256


HIDDEN = "***"
"""Stands where a password or key was."""

_MODEL_KEYS = ("model_file", "model_import", "gist_id", "preset")


@dataclass(frozen=True)
class RunConfig:
    """The config of a run.

    Attributes:
        values: JSON values by key, those of ``SuiteConfig``; without passwords and keys.
        notes: What a rerun should know of it, a sentence each.
        missing: What it lacks to rebuild the run, a sentence each.
        is_python_model: Whether its model was made in Python, and is found by what the run kept of it.
    """

    values: dict[str, Any]
    notes: tuple[str, ...]
    missing: tuple[str, ...] = ()
    is_python_model: bool = False


def config_of(recorded: RecordedRun, training_cfg: Any = None, task_spec: Any = None, eval_cfg: Any = None) -> RunConfig:
    """The whole config of a run.

    Args:
        recorded: The run. Its ``suite`` config is taken, or else its ``training``, ``task`` and ``eval`` configs together.
        training_cfg: Takes the place of the stored one, key by key; may be a whole ``SuiteConfig``.
        task_spec: The same for the task.
        eval_cfg: The same for the evaluation data.

    Raises:
        ReproError: They make no config.
    """
    stored = recorded.configs
    values = dict(stored.get("suite") or {})
    parts = [training_cfg, task_spec, eval_cfg]
    if not values:
        parts = [
            part if part is not None else stored.get(kind) for part, kind in zip(parts, ("training", "task", "eval"), strict=True)
        ]
    training, task, evaluation = (_as_mapping(part, recorded) for part in parts)
    task = task_keys(task)
    values = {**values, **training, **task, **({"eval": _given(evaluation)} if evaluation else {})}
    made_in_python = not stored.get("suite") and not any(values.get(key) for key in _MODEL_KEYS)
    made = model_of(recorded) if made_in_python else PythonModel({}, ())
    values |= made.keys
    data = DataReference.of_run(recorded.record.facts, stored)
    if "train" not in values and data is not None and data.train is not None:
        values["train"] = data.to_json()["train"]
    notes = []
    unknown = [key for key in values if key not in SuiteConfig.model_fields]
    if unknown:
        notes.append(f"left out of config.json because a config has no such keys: {', '.join(unknown)}")
    values = _given({key: value for key, value in without_secrets(values).items() if key not in unknown})
    if values.get("resume_from_checkpoint") == "last":  # a resumed run ends as the whole one does
        del values["resume_from_checkpoint"]
    mistake = mistake_in(values)
    if mistake:
        raise ReproError(
            f"{recorded.title}: what is stored of it is not a valid config: {mistake}; give training_cfg, task_spec and eval_cfg"
        )
    hidden = [key for key, value in flat(values).items() if isinstance(value, str) and HIDDEN in value and key != "db_path"]
    notes += [f"{key} was a secret and is left out of config.json: put it back before a rerun" for key in hidden]
    if not made_in_python and not any(values.get(key) for key in _MODEL_KEYS):
        notes.append("the config names no model, so a rerun trains the embedded stub of its task")
    return RunConfig(values, tuple(notes), made.missing, made_in_python)


def _as_mapping(part: Any, recorded: RecordedRun) -> dict[str, Any]:
    """A config as JSON values without secrets; a bare name is the task's."""
    if isinstance(part, str):
        return {"task_name": part}
    found = {} if part is None else without_secrets(part)
    if not isinstance(found, Mapping):
        raise ReproError(f"{recorded.title}: a config is keys and values, not {type(part).__name__}")
    return dict(found)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are set, in groups too."""
    return {
        key: _given(value) if key in ("train", "eval", "export") and isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def mistake_in(values: Mapping[str, Any]) -> str:
    """The first thing that is wrong with a config, in one line; empty where nothing is."""
    try:
        SuiteConfig.model_validate(values)
    except ValidationError as error:
        mistake = error.errors()[0]
        place = ".".join(map(str, mistake["loc"]))
        return " ".join(f"{place + ': ' if place else ''}{mistake['msg'].removeprefix('Value error, ')}".split())
    return ""
