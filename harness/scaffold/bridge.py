"""The model's file as a module, how a config names it, and the Python file between them where a config cannot build or call the model."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from harness.adapters import ADAPTERS
from harness.errors import ConfigError, FactoryError, ModelSourceError
from harness.models.factory import Factory
from harness.models.inspection import Guess
from harness.models.settings import ObjectArgument
from harness.user_code import import_file


@dataclass(frozen=True)
class Source:
    """A model's file, imported.

    Attributes:
        file: The file, resolved.
        module: What it became.
        folder: Where a config of it lies: beside the file, or beside the package that it can only be imported as part of.
        dotted: The name by which it is imported as part of a package; empty for a file that is in no package.
    """

    file: Path
    module: ModuleType
    folder: Path
    dotted: str = ""

    @property
    def importable(self) -> str:
        """The name by which another file in ``folder`` imports it.

        Raises:
            ModelSourceError: There is none.
        """
        if self.dotted:
            return self.dotted
        stem = self.file.stem
        spec = importlib.util.find_spec(stem) if stem.isidentifier() else None
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != self.file:
            raise ModelSourceError(
                f"{self.file.name} needs a second file that imports it, which its name does not allow: it is not an identifier, or hides "
                "behind an installed module. Rename it, or write a build_model() into it"
            )
        return stem


def import_model(file: Path) -> Source:
    """Imports a model's file: by itself, or, where its imports need it, as part of its package.

    Args:
        file: The ``.py`` file.

    Raises:
        ModelSourceError: It does not import.
    """
    file = file.resolve()
    module = import_file(file, file.name)
    is_part = module.__name__.endswith(f".{file.stem}")
    dotted = module.__name__ if is_part else ""
    return Source(file, module, file.parents[dotted.count(".")], dotted)


def refuse_elsewhere(source: Source, config: Path) -> None:
    """Refuses a config that could not import the package that its model is part of.

    Raises:
        ConfigError: It lies in another folder.
    """
    if source.dotted and config.resolve().parent != source.folder:
        raise ConfigError(
            f"{source.file.name} is part of the package {source.dotted.partition('.')[0]}, and its config lies beside that package: "
            f"--output {source.folder / config.name}"
        )


BRIDGE = "modeltiers_model.py"
"""The file's name, in the folder of the config's model."""

_BUILD = '''

def build_model({parameters}):
    """The model under test."""
    return {call}
'''

_THROUGH = '''

class {name}({base}):
    """{base} has no forward: it is called through its `{through}`."""

    def forward(self, {parameters}):
        return self.{through}({arguments})
'''

_ADAPTER = '''

class ModelAdapter({base}):
    """Calls {signature} with {called}."""
{flag}
    def plan(self, model):
        """The fields of a batch, in the order in which forward takes them."""
        return CallPlan(positional={positional!r}{turned})
'''


def needs_bridge(factory: Factory, guess: Guess | None) -> bool:
    """Whether the model is built from a settings object, has no ``forward``, or is called otherwise than its signature says."""
    return needs_build(factory) or needs_adapter(guess)


def needs_build(factory: Factory) -> bool:
    """Whether it takes more than a config to build the model."""
    return bool(factory.objects) or bool(factory.through) or bool(factory.part)


def needs_adapter(guess: Guess | None) -> bool:
    """Whether the model is called otherwise than its signature and the built-in adapters say."""
    return guess is not None and guess.plan is not None and not guess.adapter


def bridge_text(source: Source, factory: Factory, guess: Guess | None, signature: str, model: nn.Module) -> str:
    """The file's content.

    Args:
        source: The model's file.
        factory: What makes the model.
        guess: Its task; ``None`` of a model whose config declares a signature.
        signature: Its ``forward``, for people.
        model: A model that the factory made.

    Raises:
        ModelSourceError: The model's file has a name that cannot be imported.
        FactoryError: A model without a ``forward`` is made by a function.
    """
    parts = [f'"""How the model in {source.file.name} is built and called. Written by `modeltiers init`; yours to change."""\n']
    objects = factory.objects
    if any("SimpleNamespace(" in each.expression for each in objects):
        parts.append("from types import SimpleNamespace\n")
    base = ADAPTERS[guess.task.title].__name__ if guess else ""
    if needs_adapter(guess):
        parts.append(f"from harness.adapters import {', '.join(sorted((base, 'CallPlan')))}\n")
    if needs_build(factory):
        names = {factory.name.partition(".")[0], *(name for each in objects for name in each.names)}
        parts += [f"{line}\n" for line in _imports(objects, source)]
        parts.append(f"from {source.importable} import {', '.join(sorted(names))}\n")
    text = "\n".join(parts)
    name = factory.name
    if factory.through:
        name = f"Called{factory.name}"
        text += _through(factory, name, model)
    if needs_build(factory):
        passed = ", ".join(
            [f"{each.argument}={each.expression}" for each in objects] + [f"{key}={key}" for key in factory.kwargs]
        )
        parameters = ", ".join(f"{key}={value!r}" for key, value in factory.kwargs.items())
        text += _BUILD.format(parameters=parameters, call=f"{name}({passed})" + (f".{factory.part}" if factory.part else ""))
    if guess is not None and needs_adapter(guess):
        assert guess.plan is not None
        turned = guess.plan.length_first
        text += _ADAPTER.format(
            base=base,
            signature=signature,
            called=guess.called,
            positional=guess.plan.positional,
            flag="\n    length_first = True\n" if turned else "",
            turned=", length_first=True" if turned else "",
        )
    return text


def _imports(objects: Iterable[ObjectArgument], source: Source) -> list[str]:
    """The lines that objects need, with the folder that they are imported from on the path, where it is not that of the model."""
    lines = list(dict.fromkeys(line for each in objects for line in each.imports))
    path = next((each.path for each in objects if each.path is not None), None)
    if path is None or path == source.folder:
        return lines
    return ["import sys", "", f"sys.path.insert(0, {str(path)!r})", "", *lines]


def _through(factory: Factory, name: str, model: nn.Module) -> str:
    """A subclass with the ``forward`` of a submodule."""
    if not inspect.isclass(factory.target):
        raise FactoryError(
            f"{factory.name}: its model has no forward. Name the class instead (--factory), or give it one that calls `{factory.through}`"
        )
    positional: list[str] = []
    arguments: list[str] = []
    for parameter in inspect.signature(model.get_submodule(factory.through).forward).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty:
            positional.append(parameter.name)
            arguments.append(parameter.name)
        elif _is_literal(parameter.default):
            positional.append(f"{parameter.name}={parameter.default!r}")
            arguments.append(f"{parameter.name}={parameter.name}")
    return _THROUGH.format(
        name=name,
        base=factory.name,
        through=factory.through,
        parameters=", ".join(positional) or "*args",
        arguments=", ".join(arguments) or "*args",
    )


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def bridge_path(folder: Path) -> Path:
    """Where the file goes."""
    return folder / BRIDGE
