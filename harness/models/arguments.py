"""Arguments of a factory that come from a config: a table is an object of settings, or the class that the factory asks for."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import FactoryError, did_you_mean


class MissingSettingError(AttributeError, KeyError):
    """A factory reads a setting that the config does not give."""

    def __str__(self) -> str:
        return str(self.args[0])


class Table(dict[str, Any]):
    """A table of the config, read as a dict and by attributes alike, as the settings of argparse, of Hydra and of a YAML file are.

    Args:
        content: What it holds; tables within it are such tables too.
        key: Where it lies in the config, for messages.
    """

    def __init__(self, content: Mapping[str, Any], key: str) -> None:
        super().__init__({name: _opened(value, f"{key}.{name}") for name, value in content.items()})
        object.__setattr__(self, "_key", key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __missing__(self, name: str) -> Any:
        has = ", ".join(self) or "nothing"
        raise MissingSettingError(f"`{self._key}` has no {name!r}.{did_you_mean(name, self)} It has: {has}")

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """What ``vars`` gives."""
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (dict(self), self._key)


def factory_arguments(factory: Callable[..., Any], given: Mapping[str, Any], key: str = "model_kwargs") -> dict[str, Any]:
    """Keyword arguments of a factory, as its annotations ask for them.

    A table becomes an object of the class that the argument is annotated with (a dataclass, a namespace, a config of a library), and a
    ``Table`` where there is no such class.

    Args:
        factory: What is called.
        given: The arguments as the config has them.
        key: The config key that has them, for messages.

    Raises:
        FactoryError: A table does not fit the class.
    """
    wanted = _annotations(factory)
    return {name: _as(wanted.get(name), value, f"{key}.{name}") for name, value in given.items()}


def _annotations(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except Exception:  # names that only a type checker imports
        return {}


def _as(wanted: Any, value: Any, key: str) -> Any:
    cls = _class_in(wanted) if isinstance(value, Mapping) else None
    if cls is None:
        return _opened(value, key)
    if hasattr(cls, "keys"):  # a class like a dict, such as OmegaConf's DictConfig
        return cls(dict(value))  # type: ignore[call-arg]
    try:
        takes = inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return _opened(value, key)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in takes.values())
    for name in value:
        if name not in takes and not takes_any:
            raise FactoryError(
                f"`{key}`: {cls.__name__} takes no {name!r}.{did_you_mean(name, takes)} It takes: {', '.join(takes)}"
            )
    missing = [
        each.name
        for each in takes.values()
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL) and each.name not in value
    ]
    if missing:
        raise FactoryError(f"`{key}`: {cls.__name__} needs {', '.join(f'`{name}`' for name in missing)}")
    return cls(**factory_arguments(cls, value, key))


def _class_in(annotation: Any) -> type | None:
    """The class of the user's that an annotation names, also as ``Config | None``; ``None`` for a dict and the like."""
    either = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    for each in typing.get_args(annotation) if either else (annotation,):
        if isinstance(each, type) and each.__module__ not in ("builtins", "typing", "collections", "collections.abc"):
            return each
    return None


def _opened(value: Any, key: str) -> Any:
    """A value whose tables can be read by attributes too."""
    if isinstance(value, Mapping):
        return Table(value, key)
    return [_opened(each, f"{key}[{place}]") for place, each in enumerate(value)] if isinstance(value, list) else value
