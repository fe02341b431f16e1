"""The config that a sweep varies."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import SuiteConfig, load_config
from harness.errors import ConfigError
from harness.experiments.documents import plain


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


def read_base(given: Mapping[str, Any] | SuiteConfig | str | Path) -> Base:
    """The config to vary, from a mapping of config keys, a config, or a config file.

    Raises:
        ConfigError: The file is refused, or it is none of these.
    """
    if isinstance(given, (str, Path)):
        config = load_config(given)
        return Base(config.model_dump(mode="json", exclude_unset=True), config.path, is_file=True)
    if isinstance(given, SuiteConfig):
        return Base(given.model_dump(mode="json", exclude_unset=True), given.path.resolve(), is_file=given.path.is_file())
    if not isinstance(given, Mapping):
        raise ConfigError(f"expected a config file or a mapping of config keys, got {type(given).__name__}")
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
