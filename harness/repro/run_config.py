"""The config of a run: as it was stored, or put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from harness.config import SuiteConfig
from harness.data.data_reference import DataReference
from harness.experiments.documents import flat
from harness.experiments.run_parts import task_keys
from harness.export.bundle.configs import json_ready
from harness.repro.errors import ReproError
from harness.repro.python_model import PythonModel, model_of
from harness.repro.recorded import RecordedRun

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
        notes.append(f"left out of config.json, as no config has such keys: {', '.join(unknown)}")
    values = _given({key: value for key, value in json_ready(values).items() if key not in unknown})
    if values.get("resume_from_checkpoint") == "last":  # a resumed run ends as the whole one does
        del values["resume_from_checkpoint"]
    mistake = mistake_in(values)
    if mistake:
        raise ReproError(
            f"{recorded.title}: what is known of it makes no config: {mistake}; give training_cfg, task_spec and eval_cfg"
        )
    hidden = [key for key, value in flat(values).items() if isinstance(value, str) and HIDDEN in value and key != "db_path"]
    notes += [f"{key} was a secret and is left out of config.json: put it back before a rerun" for key in hidden]
    if not made_in_python and not any(values.get(key) for key in _MODEL_KEYS):
        notes.append("the config names no model, so a rerun trains the embedded stub of its task")
    return RunConfig(values, tuple(notes), made.missing, made_in_python)


def _as_mapping(part: Any, recorded: RecordedRun) -> dict[str, Any]:
    """A config as JSON values without secrets; a name alone is the task's."""
    if isinstance(part, str):
        return {"task_name": part}
    found = {} if part is None else json_ready(part)
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
