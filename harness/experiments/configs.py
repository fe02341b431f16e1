"""The configs of runs, by kind: ``training``, ``task``, ``eval``, ``suite``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from harness.experiments.documents import plain
from harness.experiments.tables import configs
from harness.experiments.upsert import put


def sorted_by_kind(config: Any, task_spec: Any, eval_config: Any) -> dict[str, Any]:
    """What a run was given, by kind, as JSON values; a ``SuiteConfig`` also gives its task.

    Raises:
        ExperimentError: Something cannot be stored as JSON.
    """
    if hasattr(config, "task_spec"):  # a SuiteConfig
        given = {"suite": config, "task": task_spec or config.task_spec(), "eval": eval_config}
    else:
        given = {"training": config, "task": task_spec, "eval": eval_config}
    return {kind: plain(content) for kind, content in given.items() if content is not None}


def task_of(given: Mapping[str, Any]) -> str:
    """The task's name; empty where nothing names one."""
    for content in (given.get("task"), given.get("suite"), given.get("training")):
        found = content if isinstance(content, str) else isinstance(content, dict) and content.get("task_name")
        if found:
            return str(found)
    return ""


def name_of(given: Mapping[str, Any], task: str) -> str:
    """The name that the configs give to a run, or the task and the time."""
    for content in given.values():
        if isinstance(content, dict) and content.get("run_name"):
            return str(content["run_name"])
    return f"{task or 'run'}-{datetime.now():%Y%m%d-%H%M%S}"


def write(connection: Connection, run_id: int, kind: str, content: Any) -> None:
    """Writes a run's config of one kind, in place of an earlier one."""
    put(connection, configs, run_id=run_id, kind=kind, content=content)


def read(connection: Connection, run_id: int) -> dict[str, Any]:
    """A run's configs by kind."""
    found = connection.execute(select(configs).where(configs.c.run_id == run_id).order_by(configs.c.kind))
    return {row.kind: row.content for row in found}
