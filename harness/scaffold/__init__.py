"""``modeltiers init``: a config for a model file, written by looking at the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from harness.errors import ConfigError, FactoryError, ModelSourceError, UserError
from harness.health.report import write_whole
from harness.models.factories import Factory, factories
from harness.models.inspection import Guess, guess_task, signature_of
from harness.scaffold.bridge import BRIDGE, bridge_text, needs_bridge
from harness.scaffold.config_text import config_text
from harness.user_code import import_file, raised

_WHAT_TO_ADD = (
    "Add to the file a function build_model() that returns the model, or name what makes it: --factory NAME, with its arguments as "
    "--arg NAME=VALUE. A model whose forward takes other inputs, or returns its logits elsewhere, needs an adapter, and then a config "
    "written by hand: docs/extending.md"
)


@dataclass(frozen=True)
class Scaffold:
    """What was written, and from which findings.

    Attributes:
        config: The config file.
        bridge: The Python file beside the model that calls it, where the config alone cannot say how.
        factory: What makes the model.
        guess: The task, with reasons.
        signature: The model's ``forward``.
        others: Other names in the file that may make a model.
    """

    config: Path
    bridge: Path | None
    factory: Factory
    guess: Guess
    signature: str
    others: tuple[str, ...]


def scaffold(
    model_file: Path,
    target: Path | None = None,
    *,
    overwrite: bool = False,
    factory: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Scaffold:
    """Writes a config for a model file.

    Args:
        model_file: The ``.py`` file.
        target: Where the config goes, as TOML or, by its ending, JSON; ``modeltiers.toml`` beside the model by default.
        overwrite: Whether existing files are replaced.
        factory: Name of what makes the model, where the file has several.
        arguments: Arguments of the factory by name.

    Raises:
        UserError: The file does not import, makes no model, fits no task, or the config exists already.
    """
    target = target or model_file.parent / "modeltiers.toml"
    if target.suffix not in (".toml", ".json"):
        raise ConfigError(f"{target}: a config ends in .toml or .json")
    bridge = model_file.parent / BRIDGE
    _refuse_existing(target, overwrite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the model's own code; the suite shows them
        made, model_signature, guess, others = _find(model_file, factory, arguments or {})
    bridged = needs_bridge(made, guess)
    if bridged:
        _refuse_existing(bridge, overwrite)
        write_whole(bridge, bridge_text(model_file, made, guess, model_signature))
    found = Scaffold(target, bridge if bridged else None, made, guess, model_signature, others)
    write_whole(target, config_text(found, model_file.resolve()))
    return found


def _find(model_file: Path, only: str | None, arguments: Mapping[str, Any]) -> tuple[Factory, str, Guess, tuple[str, ...]]:
    """The first thing in the file that makes a model which fits a task."""
    module = _imported(model_file)
    tried: dict[str, str] = {}
    possible = list(factories(module, arguments, only, tried))
    for index, made in enumerate(possible):
        try:
            signature = signature_of(made.source.build())
            guess = guess_task(made.source.build)
        except (Exception, SystemExit) as error:  # a model may do anything while it is looked at
            why = str(error) if isinstance(error, UserError) else f"cannot be looked at: {raised(error)}"
            tried[made.call if made.kwargs or made.settings else made.name] = why.removeprefix(f"{made.name} ")
        else:
            return made, signature, guess, tuple(other.name for other in possible[index + 1 :] if not _is_loss(other.name))
    tried |= dict.fromkeys(_instances(module), "is made when the file is imported; return it from a function")
    found = "".join(f"\n  {name} {why}" for name, why in tried.items()) or "\n  no function and no nn.Module class"
    raise FactoryError(f"{model_file}: nothing here is a model that a suite can be written for. Tried:{found}\n{_WHAT_TO_ADD}")


def _imported(model_file: Path) -> ModuleType:
    try:
        return import_file(model_file.resolve(), "MODEL.py")
    except ModelSourceError as error:
        if not (model_file.resolve().parent / "__init__.py").exists():
            raise
        package = model_file.resolve().parent.name
        raise ModelSourceError(
            f"{error}. It is part of the package {package}: beside that package's folder make a file with the line "
            f"`from {package}.{model_file.stem} import YourModel as build_model`, and init that"
        ) from error


def _instances(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, nn.Module)]


def _is_loss(name: str) -> bool:
    return name.lower().endswith(("loss", "criterion"))


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists already; --force replaces it, --output writes the config elsewhere")
