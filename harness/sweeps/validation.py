"""Every combination of a grid held against the config's schema, before the first is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from harness.config import SuiteConfig
from harness.config_mistakes import explain
from harness.errors import ConfigError, did_you_mean
from harness.sweeps.base import Base
from harness.sweeps.grid import Combination, Grid, shown

_OF_THE_SWEEP = ("db_path", "log_to_db")
_MOST_LINES = 5


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
    """A mistake with what it is a mistake of: a key of the grid, the config itself, or what they are together."""
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
