"""The config that a sweep varies."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from harness.config import EvalConfig, SuiteConfig, TrainingConfig, load_config
from harness.config_keys import TaskKeys
from harness.errors import ConfigError
from harness.experiments.documents import plain
from harness.experiments.run_parts import task_keys
from harness.export.bundle.configs import json_ready
from harness.tasks import TaskSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Base:
    """The config that a sweep varies.

    Attributes:
        keys: Its keys, JSON-ready.
        path: Its file, which relative paths are relative to; one that need not be there where the keys come from Python.
        is_file: Whether they come from that file.
    """

    keys: Mapping[str, Any]
    path: Path
    is_file: bool = False

    @property
    def place(self) -> str:
        """Where its keys were written, for messages."""
        return str(self.path) if self.is_file else "config"

    def config(self, params: Mapping[str, Any]) -> SuiteConfig:
        """The config with some values in place of its own.

        Args:
            params: Values by key, dotted where it is nested.

        Raises:
            pydantic.ValidationError: There is no such config.
        """
        keys = deepcopy(dict(self.keys))
        for key, value in params.items():
            _put(keys, key, deepcopy(value))
        config = SuiteConfig.model_validate(keys)
        config._path = self.path
        return config


def read_base(
    given: Mapping[str, Any] | SuiteConfig | TrainingConfig | str | Path,
    task: TaskSpec | None = None,
    train: EvalConfig | None = None,
    evaluation: EvalConfig | None = None,
) -> Base:
    """The config to vary, from a mapping of config keys, a config, or a config file.

    Args:
        given: The config; a ``TrainingConfig`` says nothing of the task, which must be given beside it.
        task: The task, in place of what the config says of it.
        train: The training data, in the same way.
        evaluation: The evaluation data, in the same way.

    Raises:
        ConfigError: The file is refused, or something is of another type.
    """
    found = _read(given)
    _checked("task_spec", task, TaskSpec)
    if isinstance(given, TrainingConfig) and not isinstance(given, SuiteConfig) and task is None:
        raise ConfigError(
            "a TrainingConfig does not say what is trained: give `task_spec` beside it, or config keys with a `task_name`"
        )
    beside = {"train": _checked("train_cfg", train, EvalConfig), "eval": _checked("eval_cfg", evaluation, EvalConfig)}
    data = {key: config.model_dump(mode="json", exclude_unset=True) for key, config in beside.items() if config is not None}
    keys = {key: value for key, value in found.keys.items() if task is None or key not in TaskKeys.model_fields}
    return replace(found, keys={**keys, **task_keys(json_ready(task) if task is not None else {}), **data})


def _checked(name: str, given: T | None, kind: type[T]) -> T | None:
    if given is not None and not isinstance(given, kind):
        raise ConfigError(f"`{name}` is {_article(kind)}, not {type(given).__name__}")
    return given


def _article(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"


def _read(given: Mapping[str, Any] | SuiteConfig | TrainingConfig | str | Path) -> Base:
    if isinstance(given, (str, Path)):
        config = load_config(given)
        return Base(config.model_dump(mode="json", exclude_unset=True), config.path, is_file=True)
    if isinstance(given, SuiteConfig):
        return Base(given.model_dump(mode="json", exclude_unset=True), given.path.resolve(), is_file=given.path.is_file())
    if isinstance(given, TrainingConfig):
        return Base(given.model_dump(mode="json", exclude_unset=True), Path("config").resolve())
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"expected a config file, a mapping of config keys or a TrainingConfig to vary, got {type(given).__name__}"
        )
    keys = plain(dict(given))
    keys.pop("$schema", None)
    return Base(keys, Path("config").resolve())


def _put(keys: dict[str, Any], key: str, value: Any) -> None:
    group, _, rest = key.partition(".")
    if not rest:
        keys[group] = value
        return
    inner = keys.get(group)
    keys[group] = dict(inner) if isinstance(inner, Mapping) else {}
    _put(keys[group], rest, value)
