"""What the files near a model show: calls, tensors made to try it, the defaults of a command line, settings in JSON and YAML."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

_LARGEST_FILE = 1_000_000
_MANY_FILES = 100
_MAKERS = ("randn", "rand", "zeros", "ones", "empty", "randint")
"""Functions of torch that make a tensor of a shape."""

_ROOT = (".git", "pyproject.toml", "setup.py", "README.md")
"""What lies at the root of a repository."""

_LEVELS = 4
"""How far above a file the root is looked for."""

_UNKNOWN = object()


@dataclass(frozen=True)
class WrittenCall:
    """A call of a callable with arguments that can be read from the source.

    Attributes:
        kwargs: The arguments by name.
        place: The file and line.
        complete: Whether every argument could be read.
        is_own: Whether it is in the model's own file.
    """

    kwargs: dict[str, Any]
    place: str
    complete: bool = True
    is_own: bool = False


@dataclass(frozen=True)
class WrittenCalls:
    """The calls and shapes in the source of a module, and the calls in the files beside it.

    Attributes:
        calls: Calls by the last part of the name that is called, those of the file itself first.
        shapes: Shapes of tensors that the file makes.
        defaults: What the options of the command lines there are by default.
        folders: The folders that were read.
        models: Names of what makes something that is called a model: ``model = Net(…)``.
    """

    calls: dict[str, list[WrittenCall]]
    shapes: tuple[tuple[int, ...], ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    models: frozenset[str] = frozenset()

    @classmethod
    def of(cls, module: ModuleType) -> WrittenCalls:
        """Reads a module's file, and the calls of its names in the other files of its folder and at the root of its repository."""
        path = Path(module.__file__ or "")
        names = {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("__")}
        calls: dict[str, list[WrittenCall]] = {}
        tree = _parsed(path)
        own = list(_calls(tree, names, vars(module) | _named_under_main(tree, vars(module)), path.name)) if tree else []
        others = (file for folder in _folders(path) for file in sorted(folder.glob("*.py"))[:_MANY_FILES] if file != path)
        trees = {file: parsed for file in others if (parsed := _parsed(file))}
        beside = [call for file, other in trees.items() for call in _calls(other, names, {}, file.name)]
        for name, call in (*own, *beside):
            calls.setdefault(name, []).append(call)
        for name, call in own:
            calls[name][calls[name].index(call)] = replace(call, is_own=True)
        shapes = tuple(dict.fromkeys(_shapes(tree, vars(module)))) if tree else ()
        defaults: dict[str, Any] = {}
        for each in (*([tree] if tree else []), *trees.values()):
            defaults = option_defaults(each) | defaults
        models = frozenset(name for each in (tree, *trees.values()) if each for name in _models(each))
        return cls(calls, shapes, defaults, _folders(path), models)

    def first(self, name: str) -> WrittenCall | None:
        """The first call of a name whose arguments can all be read."""
        return next((call for call in self.calls.get(name, ()) if call.complete), None)

    def table(self, names: Collection[str]) -> SettingsTable | None:
        """The first table of a JSON or YAML file beside the model that has a value for each name."""
        return next((table for table in self.tables if set(names) <= set(table.values)), None) if names else None

    @cached_property
    def tables(self) -> tuple[SettingsTable, ...]:
        """The tables of the JSON and YAML files beside the model."""
        return tuple(settings_tables(self.folders))

    def places(self, name: str) -> list[str]:
        """Where a name is called."""
        return [call.place for call in self.calls.get(name, ())]


_CALLED_MODELS = re.compile(r"(?:self\.)?(?:\w+_)?(?:model|net|network|policy|agent|generator)", re.IGNORECASE)


def _models(tree: ast.Module) -> Iterator[str]:
    """The last part of the name of what makes something that is called a model."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(_CALLED_MODELS.fullmatch(ast.unparse(each)) for each in node.targets):
            value = node.value
            while (
                isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Call)
            ):
                value = value.func.value  # `Net(…).to(device)`
            if isinstance(value, ast.Call):
                yield value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes()) if path.stat().st_size <= _LARGEST_FILE else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _folders(path: Path) -> tuple[Path, ...]:
    """The folder of a file, the one above it, and the root of the repository that they are in; only the first where there is no repository."""
    folder = path.parent
    if any((folder / mark).exists() for mark in _ROOT):
        return (folder,)
    above = folder.parents[:_LEVELS]
    root = next((each for marks in (_ROOT[:-1], _ROOT) for each in above if any((each / mark).exists() for mark in marks)), None)
    return (folder,) if root is None else tuple(dict.fromkeys((folder, folder.parent, root)))


def _named_under_main(tree: ast.Module, known: dict[str, Any]) -> dict[str, Any]:
    """The plain values that names get under ``if __name__ == "__main__"``, which an import does not run."""
    found: dict[str, Any] = {}
    for block in tree.body:
        if not (isinstance(block, ast.If) and "__name__" in ast.unparse(block.test)):
            continue
        for statement in block.body:
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                continue
            target, value = statement.targets[0], statement.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                pairs = list(zip(target.elts, value.elts, strict=True))
            for name, each in pairs:
                plain = _value(each, known | found)
                if isinstance(name, ast.Name) and plain is not _UNKNOWN:
                    found[name.id] = plain
    return found


def _calls(tree: ast.Module, names: dict[str, Any], known: dict[str, Any], file: str) -> Iterator[tuple[str, WrittenCall]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in names:
            yield name, _bound(node, names[name], known, f"{file}, line {node.lineno}")


def _bound(node: ast.Call, target: Any, known: dict[str, Any], place: str) -> WrittenCall:
    """A call with its arguments by name."""
    try:
        signature = inspect.signature(target)
        starred = any(isinstance(argument, ast.Starred) for argument in node.args) or any(k.arg is None for k in node.keywords)
        bound = signature.bind(*node.args, **{keyword.arg or "": keyword.value for keyword in node.keywords})
        given = dict(bound.arguments)
        given |= given.pop(next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), ""), {})
    except (TypeError, ValueError):
        return WrittenCall({}, place, complete=False)
    single = {name: value for name, value in given.items() if isinstance(value, ast.expr)}
    values = {name: _value(value, known) for name, value in single.items()}
    complete = not starred and len(single) == len(given) and _UNKNOWN not in values.values()
    return WrittenCall({name: value for name, value in values.items() if value is not _UNKNOWN}, place, complete)


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """The literal that an expression is, or the plain value of a name of the module."""
    if isinstance(node, ast.Name):
        value = known.get(node.id, _UNKNOWN)
        return value if isinstance(value, (bool, int, float, str)) else _UNKNOWN
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _UNKNOWN
    return value if _is_plain(value) else _UNKNOWN


def _is_plain(value: Any) -> bool:
    """Whether a config file can hold a value as it is; a tuple becomes a list there, which most models take as well."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


def _shapes(tree: ast.Module, known: dict[str, Any]) -> Iterator[tuple[int, ...]]:
    """Shapes in calls such as ``torch.randn(2, 3, 224, 224)``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MAKERS:
            arguments = node.args
            inner = next((a for a in arguments if isinstance(a, (ast.Tuple, ast.List))), None)
            sizes = [_value(argument, known) for argument in (inner.elts if inner is not None else arguments)]
            if len(sizes) >= 2 and all(type(size) is int and size > 0 for size in sizes):
                yield tuple(sizes)


_FOLDERS = ("", "config", "configs", "conf", "hparams")
_ENDINGS = (".json", ".yaml", ".yml")
_MANY_TABLES, _LARGEST_TABLE, _DEEPEST = 60, 100_000, 4

_OF_SETTINGS = re.compile(r"(?i:hparams|namespace|easydict|edict)$")
"""What makes an object of settings of its keywords."""

_SETTINGS = re.compile(r"(?:_?c(?:onf|fg)|config|opts?|args|params|hparams)\.\w+$")
"""A setting that is assigned: ``conf.embedding_size``."""

_FLAGS = {"store_true": False, "store_false": True}
"""What an option is by default, by its action."""


@dataclass(frozen=True)
class SettingsTable:
    """One table of a file.

    Attributes:
        place: The file, and the path of the table in it.
        values: By name.
    """

    place: str
    values: Mapping[str, Any]


def option_defaults(tree: ast.Module) -> dict[str, Any]:
    """What the options of a file's ``argparse`` are by default, by the name of their value, and what its objects of settings hold."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _OF_SETTINGS.search(ast.unparse(node.func)):
            said = {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
            found = {name: value for name, value in said.items() if value is not None} | found
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Attribute)
            and _SETTINGS.match(ast.unparse(node.targets[0]))
        ):
            value = _literal(node.value)
            found |= {node.targets[0].attr: value} if value is not None and node.targets[0].attr not in found else {}
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"):
            continue
        flags = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        given = {each.arg: each.value for each in node.keywords if each.arg}
        name = next((flag for flag in flags if flag.startswith("--")), "").lstrip("-").replace("-", "_")
        name = str(_literal(given["dest"])) if "dest" in given else name
        value = _literal(given["default"]) if "default" in given else _FLAGS.get(str(_literal(given.get("action"))))
        if name and value is not None:
            found.setdefault(name, value)
    return found


def settings_tables(folders: Collection[Path]) -> Iterator[SettingsTable]:
    """The tables of the JSON and YAML files beside a model, those of names first that speak of models.

    Args:
        folders: The model's folder, and the root of its repository.
    """
    places = [folder / name for folder in folders for name in _FOLDERS if (folder / name).is_dir()]
    places += [inner for place in places if place.name in _FOLDERS for inner in sorted(place.iterdir(), key=_last_of_models)]
    files = [file for place in places if place.is_dir() for ending in _ENDINGS for file in sorted(place.glob(f"*{ending}"))]
    for file in files[:_MANY_TABLES]:
        yield from _tables_in(_read(file), file.name, 0)


def _last_of_models(folder: Path) -> tuple[bool, str]:
    """Orders the folders of a folder of configs: those that speak of models first."""
    return not re.match(r"model|net|arch", folder.name.lower()), folder.name


def _tables_in(value: Any, place: str, depth: int) -> Iterator[SettingsTable]:
    if not isinstance(value, dict) or depth > _DEEPEST:
        return
    named = {name: inner for name, inner in value.items() if isinstance(name, str)}
    yield SettingsTable(place, named)
    for name, inner in named.items():
        yield from _tables_in(inner, f"{place}, {name}" if depth == 0 else f"{place}.{name}", depth + 1)


def _read(file: Path) -> Any:
    """What a file holds; ``None`` where it cannot be read."""
    try:
        if file.stat().st_size > _LARGEST_TABLE:
            return None
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            return json.loads(text)
        import yaml

        return yaml.safe_load(text)
    except Exception:  # a file of another kind, or no reader of YAML: it says nothing
        return None


def _literal(node: ast.expr | None) -> Any:
    """The plain value of an expression; ``None`` where it is not one."""
    if node is None:
        return None
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, (bool, int, float, str, list)) else None
