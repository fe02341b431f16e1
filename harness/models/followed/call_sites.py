"""The calls in a repository that make its model and that give it inputs: its scripts, notebooks and README are followed by reading them."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from harness.models.followed import UNKNOWN, Built, Object, ReachedError, ReadCall, Settings, TooLongError, gives_all
from harness.models.followed.interpreter import Interpreter
from harness.models.followed.outside import LARGEST_FILE
from harness.runtime import Allowance, seeded
from harness.user_code import is_ours

_MOST_FILES, _MOST_FOLDERS, _MOST_ENTRIES = 400, 400, 2_000
_MOST_SCRIPTS, _MOST_CALLS = 12, 40
_SECONDS = 5.0
_LEVELS = 2
"""How far from the file that calls a model the scripts are that lead there."""

_CONFIGS = (".yaml", ".yml")
_OF_SETTINGS = re.compile(r"conf|cfg|param|setting")
"""What is in the path of a JSON file that holds settings."""

_ROOT = (".git", "pyproject.toml", "setup.py")
_ABOVE = 5

_SCRIPTS = (r"train|main", r"run|demo|sample|infer|predict|generate", r"test|eval|export|convert")
"""Names of scripts, those first that make the model which people mean."""

_TRIALS = (r"test|readme", r"demo|example|usage|sample|infer|predict|export|onnx|flops|bench|profile|summary", r"run|main|train")
"""Names of scripts, those first that try a model on small values."""


@dataclass(frozen=True)
class FoundCall:
    """A call of what makes a model.

    Attributes:
        values: The arguments by name; settings as dicts.
        settings: Names of those that are objects of settings.
        place: The file and line.
        parts: Modules among the arguments, by name: what makes them, and with what.
    """

    values: Mapping[str, Any]
    settings: tuple[str, ...]
    place: str
    parts: Mapping[str, Object | Built] = field(default_factory=dict)


def found_call(target: Any, required: Collection[str]) -> FoundCall | None:
    """The first call of a function or class in its repository of which every required argument is known, or else most of them.

    Args:
        target: What is called.
        required: Names of its arguments.
    """
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(target)) or "").resolve()
    except TypeError:
        return None
    root = repository_of(file)
    if root is None:
        return None
    best: FoundCall | None = None
    for call in _calls(root, file, target.__name__, required=required):
        found = _bound(target, call, root)
        known = {} if found is None else {**found.parts, **found.values}
        missing = [name for name in required if known.get(name) is None]
        if found is not None and not missing:
            return found
        if (
            found is not None
            and (found.settings or _has_table(found.values) or 2 * len(missing) <= len(required))
            and (best is None or len(found.values) > len(best.values))
        ):
            best = found
    return best


def repository_of(file: Path) -> Path | None:
    """The root of the repository that a file is in; ``None`` where there is none, nor a README above it."""
    for marks in (_ROOT, ("README.md", "readme.md", "README.rst", "README")):
        found = next((each for each in file.parents[:_ABOVE] if any((each / mark).exists() for mark in marks)), None)
        if found is not None:
            return found
    return None


def _has_table(values: Mapping[str, Any]) -> bool:
    """Whether one of the arguments is a dict of settings."""
    return any(isinstance(value, dict) and value for value in values.values())


def _found_inputs(model: type, makers: Collection[str] = ()) -> Iterator[ReadCall]:
    """The calls of a model in its repository with the values that could be worked out, those in the model's file first.

    Args:
        model: The class of the model.
        makers: Names of functions that make it.
    """
    if (file := _file_of(model)) is None:
        return
    # A file outside a repository says only of itself how it is called.
    yield from _calls(repository_of(file), file, model.__name__, makers, of_instances=True)


def _file_of(model: type) -> Path | None:
    """The file of a model's class; ``None`` where there is none, and for the embedded models, which nobody else calls."""
    try:
        file = Path(inspect.getsourcefile(model) or "").resolve()
    except TypeError:
        return None
    return None if is_ours(str(file)) else file


def _calls(
    root: Path | None,
    file: Path,
    name: str,
    makers: Collection[str] = (),
    of_instances: bool = False,
    required: Collection[str] = (),
) -> Iterator[ReadCall]:
    """The calls that scripts lead to, and those in functions that no script was seen to call."""
    texts = dict(_python_files(root, file)) if root is not None else {file: _text_of(file)}
    names = (name, *makers)
    speak = [path for path, text in texts.items() if re.search(rf"\b(?:{'|'.join(map(re.escape, names))})\b", text)]
    scripts = [path for path in _leading_to(texts, speak) if path != file or of_instances or "__main__" in texts[path]]
    configs = list(_configs(root, file.stem, name)) if root is not None else []
    root = root or file.parent
    time = Allowance(_SECONDS)
    scripts.sort(key=lambda path: (path != file, _rank(path, root, file if of_instances else None)))
    for script in scripts[:_MOST_SCRIPTS]:
        if time.is_over:
            return
        interpreter = Interpreter(root, (file, name), _parsed, configs, of_instances, required)
        try:
            scope = interpreter.run(script)
            for function in _functions_calling(_parsed(script), names, of_instances, required):
                interpreter.enter(scope, function)
        except ReachedError as reached:
            yield reached.call
        except (TooLongError, RecursionError):
            pass
        yield from interpreter.calls


@lru_cache(maxsize=4)
def training_files(model: type) -> tuple[list[tuple[Path, ast.Module]], Callable[[str], tuple[Path, ast.Module] | None]]:
    """The files of a repository that speak of a model or import what does, those first that train, and what finds a function's file.

    Args:
        model: The class of the model.
    """
    if (file := _file_of(model)) is None:
        return [], lambda _: None
    root = repository_of(file)
    texts = dict(_python_files(root, file)) if root is not None else {file: _text_of(file)}
    speak = [path for path, text in texts.items() if re.search(rf"\b{re.escape(model.__name__)}\b", text)]
    spoken = set(speak)
    near = sorted(_leading_to(texts, speak), key=lambda path: (path not in spoken, _rank(path, root or file.parent, None)))

    def defining(function: str) -> tuple[Path, ast.Module] | None:
        paths = (path for path, text in texts.items() if f"def {function}(" in text)
        return next(((path, tree) for path in paths if (tree := _parsed(path)) is not None), None)

    return [(path, tree) for path in near[: 2 * _MOST_SCRIPTS] if (tree := _parsed(path)) is not None], defining


def _python_files(root: Path, file: Path) -> Iterator[tuple[Path, str]]:
    """The files of a repository that have Python in them: modules, the READMEs above the model, notebooks."""
    above = [folder for folder in file.parents if folder.is_relative_to(root)]
    readmes = [path for folder in above for path in sorted(folder.glob("*.md")) if path.stem.lower().startswith("readme")]
    for path in dict.fromkeys((*_files(root, (".py",)), *readmes, *_files(root, (".ipynb",))[:_MOST_SCRIPTS])):
        with suppress(OSError):
            if path.stat().st_size <= LARGEST_FILE:
                yield path.resolve(), _text_of(path)


_CODE = re.compile(r"^[ \t]*```(?:python|py)\s*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_COMMAND = re.compile(r"^\s*[%!]", re.MULTILINE)


def _text_of(path: Path) -> str:
    """The Python of a module, of the examples of a README, or of the cells of a notebook."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".md":
        parts = [textwrap.dedent(code) for code in _CODE.findall(text)]
    elif path.suffix == ".ipynb":
        try:
            cells = json.loads(text).get("cells", ())
            parts = ["".join(cell["source"]) for cell in cells if cell.get("cell_type") == "code"]
        except (ValueError, TypeError, KeyError, AttributeError):
            return ""
        parts = [_COMMAND.sub(lambda found: f"# {found[0].strip()}", part) for part in parts]
    else:
        return text
    return "\n".join(part for part in parts if _tree_of(part) is not None)


def _files(root: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of a repository with certain endings, the shallowest first; not those of environments and of large trees of data."""
    found: list[Path] = []
    folders = [root]
    for folder in folders:
        try:
            inside = sorted(folder.iterdir())[:_MOST_ENTRIES]
        except OSError:
            continue
        found += [path for path in inside if path.suffix in endings and path.is_file()]
        folders += [path for path in inside if _is_source(path)][: _MOST_FOLDERS - len(folders)]
        if len(found) >= _MOST_FILES:
            break
    return found[:_MOST_FILES]


def _is_source(path: Path) -> bool:
    name = path.name
    is_left = name.startswith((".", "__")) or name in ("node_modules", "site-packages", "venv", "env", "build", "dist", "wandb")
    return not is_left and path.is_dir() and not path.is_symlink() and not (path / "pyvenv.cfg").exists()


def _configs(root: Path, stem: str, name: str) -> list[Path]:
    """The config files of a repository, those first that speak of the model."""
    tables = [path for path in _files(root, (".json",)) if _OF_SETTINGS.search(str(path.relative_to(root)).lower())]
    files = [*_files(root, _CONFIGS), *tables]

    def order(path: Path) -> tuple[bool, bool, int, str]:
        text = path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= LARGEST_FILE else ""
        speaks = re.search(rf"\b(?:{re.escape(stem)}|{re.escape(name)})\b", text) is not None
        return not speaks, path.suffix == ".json", len(path.relative_to(root).parts), str(path)

    return sorted(files, key=order)


def _leading_to(texts: Mapping[Path, str], speak: Collection[Path]) -> list[Path]:
    """The files that speak of something, and those that import them, directly or through another one."""
    found = dict.fromkeys(speak)
    for _ in range(_LEVELS):
        stems = {path.parent.name if path.stem == "__init__" else path.stem for path in found} - {"utils"}
        importing = re.compile(rf"^\s*(?:from|import)\s.*\b(?:{'|'.join(map(re.escape, sorted(stems)))})\b", re.MULTILINE)
        found |= dict.fromkeys(path for path, text in texts.items() if stems and path not in found and importing.search(text))
    return list(found)


def _rank(path: Path, root: Path, first: Path | None) -> tuple[bool, int, int, str]:
    """Where a script comes among others; of those that try the model, tests and examples come before what trains it."""
    words = _SCRIPTS if first is None else _TRIALS
    kind = next((place for place, each in enumerate(words) if re.search(each, path.stem.lower())), len(words))
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
    is_test = first is None and (path.stem.startswith("test_") or "tests" in parts)
    return path != first, kind + 2 * is_test, len(parts), str(path)


@lru_cache(maxsize=2 * _MOST_FILES)
def _parsed(path: Path) -> ast.Module | None:
    try:
        return _tree_of(_text_of(path))
    except OSError:
        return None


def _tree_of(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the user's strings
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _functions_calling(
    tree: ast.Module | None, names: Collection[str], or_any_model: bool, required: Collection[str]
) -> Iterator[str]:
    """The functions of a module in which a name is used, or whatever is called ``model``, or all arguments are given by name."""
    used = {*names, *(("model", "net") if or_any_model else ())}
    for node in tree.body if tree is not None else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and any(
            (isinstance(inner, ast.Name) and inner.id in used) or gives_all(inner, required) for inner in ast.walk(node)
        ):
            yield node.name


def _bound(target: Any, call: ReadCall, root: Path) -> FoundCall | None:
    """A call with its arguments by name, as far as a config can hold them."""
    try:
        signature = inspect.signature(target)
        bound = signature.bind_partial(*call.arguments, **call.keywords)
    except (TypeError, ValueError):
        return None
    given = dict(bound.arguments)
    parameters = signature.parameters
    given |= given.pop(next((p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD), ""), {})
    given.pop(next((p.name for p in parameters.values() if p.kind is p.VAR_POSITIONAL), ""), None)
    words = _words_of(root)
    values: dict[str, Any] = {}
    settings: list[str] = []
    parts = {name: value for name, value in given.items() if is_module(value)}
    for name, value in ((name, value) for name, value in given.items() if name not in parts):
        is_settings = isinstance(value, (Settings, Object))
        held = held_value(value)
        if is_settings and isinstance(held, dict):
            held = {key: item for key, item in held.items() if key in words}
            settings += [name] if held else []
        if held is not UNKNOWN and not (is_settings and not held):
            values[name] = held
    return FoundCall(values, tuple(settings), f"{call.file.name}, line {call.line}", parts)


def is_module(value: Any) -> bool:
    """Whether a value is a module that is made as it was read: of a class of the repository, or by a package and not changed since."""
    return (isinstance(value, Object) and value.passed is not None) or (isinstance(value, Built) and not value.is_changed)


def held_value(value: Any, around: tuple[Any, ...] = ()) -> Any:
    """A value as a config can hold it; without the entries that it cannot, and without those that hold it themselves."""
    if any(value is each for each in around):
        return UNKNOWN
    around = (*around, value)
    if isinstance(value, Object):
        value = value.names
    if isinstance(value, dict):
        entries = {str(key): held_value(item, around) for key, item in value.items() if isinstance(key, (str, int))}
        return {key: item for key, item in entries.items() if item is not UNKNOWN}
    if isinstance(value, (list, tuple)):
        items = [held_value(item, around) for item in value]
        return UNKNOWN if any(item is UNKNOWN for item in items) else items
    return value if value is None or isinstance(value, (bool, int, float, str)) else UNKNOWN


def _words_of(root: Path) -> frozenset[str]:
    """The words of the repository's modules that are loaded, which are those that the model is made of."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    near = [Path(file) for file in files if file and file.endswith(".py") and file.startswith(f"{root}/")]
    return frozenset(word for file in near for word in re.findall(r"\w+", file.read_text(encoding="utf-8", errors="replace")))


def written_examples(module: ModuleType, model: nn.Module) -> dict[str, tuple[Any, str]]:
    """Values for the parameters of a model's forward, and where they are written; empty where the repository has none.

    Args:
        module: The model's file, imported.
        model: The model.
    """
    signature = inspect.signature(model.forward)
    needed = {p.name for p in signature.parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    own = Path(module.__file__ or "").resolve()
    best: dict[str, tuple[Any, str]] = {}
    with seeded(0):
        for call in islice(_found_inputs(type(model), tuple(_makers(module, type(model).__name__))), _MOST_CALLS):
            try:
                bound = signature.bind_partial(*call.arguments, **call.keywords).arguments
            except TypeError:
                continue
            values = {name: value for name, value in bound.items() if _is_passed(value)}
            if not values or not needed <= set(values) or not (call.is_sure or len(needed) > 1 or not best):
                continue
            if not call.is_sure and call.file != own:
                continue
            place = f"line {call.line}" if call.file == own else f"{call.file.name}, line {call.line}"
            whose = "the file" if call.file == own else "the repository"
            found = {name: (value, f"an input that {whose} makes, {place}") for name, value in values.items()}
            if call.is_sure:
                return found
            best = best or found
    return best


def _is_passed(value: Any) -> bool:
    """Whether a value is a tensor, or several that are passed together."""
    if isinstance(value, dict):
        return bool(value) and all(isinstance(name, str) for name in value) and all(map(_is_passed, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and bool(value) and all(map(_is_passed, value)))


def _makers(module: ModuleType, name: str) -> Iterator[str]:
    """The functions of a file that speak of a class."""
    try:
        tree = ast.parse(Path(module.__file__ or "").read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and re.search(rf"\b{re.escape(name)}\(", ast.unparse(node)):
            yield node.name
