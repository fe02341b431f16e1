"""How a YAML file beside a model builds it: a table whose ``_target_`` names the class, as Hydra instantiates it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import UserError
from harness.models.loading import refuse_dangerous
from harness.models.settings import ObjectArgument
from harness.models.written_calls import WrittenCalls
from harness.scan import training_calls
from harness.user_code import import_dotted

_TARGET = "_target_"
_LEVELS = 4
"""How far above a model the folder is looked for that its packages are imported from."""


@dataclass(frozen=True)
class Instantiated:
    """The arguments of a class as a file has them.

    Attributes:
        place: The file, and the path of the table in it.
        kwargs: Those that are plain values.
        objects: Those that have their own ``_target_``.
    """

    place: str
    kwargs: dict[str, Any]
    objects: tuple[ObjectArgument, ...]


@dataclass(frozen=True)
class _Made:
    """A value of a table.

    Attributes:
        expression: As it is written in Python.
        make: Makes it.
        imports: Lines that the expression needs.
        path: The folder that these are imported from; ``None`` where they are installed.
    """

    expression: str
    make: Callable[[], Any]
    imports: tuple[str, ...] = ()
    path: Path | None = None


class _UnknownError(Exception):
    """A value that cannot be made."""


def instantiated(
    name: str, parameters: Mapping[str, inspect.Parameter], given: Collection[str], written: WrittenCalls
) -> Instantiated | None:
    """The arguments of the first table that makes a class and says all that it needs.

    Args:
        name: The class.
        parameters: Its parameters.
        given: Names of arguments that are known.
        written: What the files around the model say.
    """
    for table in written.tables:
        if str(table.values.get(_TARGET, "")).rpartition(".")[2] != name:
            continue
        said = {key: value for key, value in table.values.items() if key in parameters and key not in given}
        needed = {key for key, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
        if not needed <= {*said, *given}:
            continue
        try:
            plain = {key: value for key, value in said.items() if _is_plain(value)}
            objects = tuple(_argument(key, value, written.folders) for key, value in said.items() if key not in plain)
        except _UnknownError:
            continue
        return Instantiated(table.place, plain, objects)
    return None


def _argument(name: str, value: Any, folders: Collection[Path]) -> ObjectArgument:
    made = _made(value, folders)
    return ObjectArgument(name, made.expression, made.make, imports=made.imports, path=made.path)


def _made(value: Any, folders: Collection[Path]) -> _Made:
    """What a value of a table stands for.

    Raises:
        _UnknownError: It refers to other values, or is made by something else than a class of the repository or of PyTorch.
    """
    if value is None or _is_plain(value):
        return _Made(repr(value), lambda: value)
    if not isinstance(value, dict) or not isinstance(value.get(_TARGET), str) or "_args_" in value:
        raise _UnknownError
    module, _, name = value[_TARGET].rpartition(".")
    cls, path = _class(module, name, folders)
    inner = {key: _made(each, folders) for key, each in value.items() if not key.startswith("_")}
    passed = [f"{key}={each.expression}" for key, each in inner.items()]
    imports = [line for each in inner.values() for line in each.imports]
    path = path or next((each.path for each in inner.values() if each.path), None)

    def make() -> Any:
        arguments = {key: each.make() for key, each in inner.items()}
        return partial(cls, **arguments) if value.get("_partial_") else cls(**arguments)

    imports.append(f"from {module} import {name}")
    if value.get("_partial_"):
        return _Made(f"partial({', '.join([name, *passed])})", make, ("from functools import partial", *imports), path)
    return _Made(f"{name}({', '.join(passed)})", make, tuple(imports), path)


def _class(module: str, name: str, folders: Collection[Path]) -> tuple[type, Path | None]:
    """A class of PyTorch, or of a module in the repository, which is imported, with the folder that this starts from."""
    top, path = module.partition(".")[0], None
    if top != "torch":
        path = next((folder for folder in _above(folders) if (folder / top).is_dir() or (folder / f"{top}.py").is_file()), None)
        if path is None:
            raise _UnknownError
    try:
        if path is not None:
            refuse_dangerous(path.joinpath(*module.split(".")).with_suffix(".py"), module)
        found = getattr(import_dotted(module, path or Path.cwd(), module), name, None)
    except UserError:
        raise _UnknownError from None
    if not inspect.isclass(found):
        raise _UnknownError
    return found, path


def class_in(file: Path, name: str, module: ModuleType) -> tuple[ModuleType, type, str, Path | None] | None:
    """A class of a file of the repository: its module, itself, the line that imports it, and the folder that this starts from.

    The line is empty for a class of the model's own file. ``None`` for a file that would not import without harm.

    Args:
        file: The file.
        name: The class.
        module: The model's file.
    """
    near = Path(module.__file__ or "").resolve()
    if file == near:
        return (module, found, "", None) if inspect.isclass(found := getattr(module, name, None)) else None
    loaded = next((each.__name__ for each in list(sys.modules.values()) if getattr(each, "__file__", None) == str(file)), None)
    shared = [folder for folder in file.parents[: _LEVELS + 1] if folder in near.parents]
    folders = [file.parents[loaded.count(".")]] if loaded else [*shared, *(f for f in file.parents[:1] if f not in shared)]
    for folder in folders:
        dotted = ".".join(file.relative_to(folder).with_suffix("").parts)
        try:
            refuse_dangerous(file, file.name)
            if next(training_calls(file), None) is not None:
                return None
            home = import_dotted(dotted, folder, file.name)
        except UserError:
            continue
        found = getattr(home, name, None)
        return (home, found, f"from {dotted} import {name}", folder) if inspect.isclass(found) else None
    return None


def _above(folders: Collection[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (folder, *folder.parents[:_LEVELS])


def _is_plain(value: Any) -> bool:
    """Whether a value can stand in a config as it is; a reference to another one, as ``${data.size}``, cannot."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and "${" not in value)
