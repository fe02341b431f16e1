"""The configs of a sweep: the one that it varies, and one for each combination of a grid, checked before the first is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from harness.config import EvalConfig, SuiteConfig, TrainingConfig, load_config
from harness.config_keys import TaskKeys
from harness.config_mistakes import explain
from harness.documents import plain, without_secrets
from harness.errors import ConfigError, did_you_mean
from harness.experiments.run_parts import task_keys
from harness.sweeps.grid import Combination, Grid, shown
from harness.tasks import TaskSpec

_OF_THE_SWEEP = ("db_path", "log_to_db")
_MOST_LINES = 5

T = TypeVar("T")

BaseConfig: TypeAlias = Mapping[str, Any] | SuiteConfig | TrainingConfig | str | Path
"""What a sweep may vary: config keys, a config, or a config file."""


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
        """The config with some values replaced.

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
    given: BaseConfig,
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
    return replace(found, keys={**keys, **task_keys(without_secrets(task) if task is not None else {}), **data})


def _checked(name: str, given: T | None, kind: type[T]) -> T | None:
    if given is not None and not isinstance(given, kind):
        raise ConfigError(f"`{name}` is {_article(kind)}, not {type(given).__name__}")
    return given


def _article(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"


def _read(given: BaseConfig) -> Base:
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


def configs_of(base: Base, grid: Grid) -> list[SuiteConfig]:
    """The configs of a grid's combinations, in their order.

    Raises:
        ConfigError: A combination is no config, or the same one as another; one line a mistake, which names the key and the value.
    """
    for key in grid.values:
        _check_key(key)
    configs: list[SuiteConfig] = []
    lines: dict[str, str] = {}
    for combination in grid.combinations():
        try:
            configs.append(base.config(combination.params))
        except ValidationError as error:
            for line in _explained(error):
                lines.setdefault(line, _placed(line, combination, base))
        if len(lines) >= _MOST_LINES:
            break
    if lines:
        raise ConfigError("\n".join([*lines.values()][:_MOST_LINES]))
    _check_different(configs, grid.combinations())
    return configs


def check_processes(configs: Sequence[SuiteConfig], environment: Mapping[str, str]) -> None:
    """Checks that the sweep is one process, and that each of its trainings will be.

    A training in several processes starts each of them by running the command of the first again, which here would be the whole sweep.

    Raises:
        ConfigError: It is not so.
    """
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a sweep is one process and starts the others: run it without torchrun")
    for config in configs:
        devices = len(config.devices) if isinstance(config.devices, list) else config.devices
        many = devices != "auto" and devices > 1
        if many or config.num_nodes > 1:
            asked = f"`devices` {config.devices}" if many else f"`num_nodes` {config.num_nodes}"
            raise ConfigError(f"{asked}: each trial of a sweep trains in one process; use 1, and several workers")


def keys_at(path: Sequence[str]) -> list[str] | None:
    """The valid keys of a group of the config, by the group's path; ``None`` where any key is, none where it is no group."""
    group: type[BaseModel] = SuiteConfig
    for name in path:
        field = group.model_fields.get(name)
        kinds = [kind for kind in _kinds(field.annotation) if isinstance(kind, type)] if field else []
        groups = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if not groups:
            return None if dict in kinds else []
        group = groups[0]
    return list(group.model_fields)


def _kinds(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without their own arguments."""
    if getattr(annotation, "__origin__", None) is dict:
        return [dict]
    inner = get_args(annotation)
    return [kind for part in inner for kind in _kinds(part)] if inner else [annotation]


def _check_key(key: str) -> None:
    names = key.split(".")
    for depth, name in enumerate(names):
        group = names[:depth]
        valid = keys_at(group)
        if valid is None:
            return
        if not valid:
            raise ConfigError(f"grid: unknown key `{key}`: `{'.'.join(group)}` is a value and holds no keys")
        if name not in valid:
            near = did_you_mean(".".join([*group, name]), [".".join([*group, other]) for other in valid])
            raise ConfigError(f"grid: unknown key `{key}`.{near}")
    if key in _OF_THE_SWEEP:
        raise ConfigError(f"grid: `{key}` is the same for the whole sweep, which records every run, and cannot be varied")


def _explained(error: ValidationError) -> list[str]:
    return [mistake.message for mistake in explain(error, lambda path: keys_at(path) or [])]


def _placed(line: str, combination: Combination, base: Base) -> str:
    """A mistake with its origin: a key of the grid, the config itself, or their combination."""
    named = re.match(r"`([^`]+)`:", line)
    if named and any(f"{named[1]}.".startswith(f"{key}.") for key in combination.params):
        return f"grid {line}"
    try:
        base.config({})
    except ValidationError as error:
        if line in _explained(error):
            return f"{base.place}: {line}"
    return f"grid, with {combination}: {line}"


def _check_different(configs: Sequence[SuiteConfig], combinations: Sequence[Combination]) -> None:
    seen: dict[str, Combination] = {}
    for config, combination in zip(configs, combinations, strict=True):
        same = seen.setdefault(config.model_dump_json(), combination)
        if same is not combination:
            differ = [key for key, value in combination.params.items() if value != same.params[key]]
            one, other = (", ".join(f"`{key}` {shown(of.params[key])}" for key in differ) for of in (same, combination))
            raise ConfigError(f"grid: {one} and {other} are the same config")
