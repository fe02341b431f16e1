"""The user's own Python files: imported under unique names, and quoted by line when they raise."""

from __future__ import annotations

import argparse
import ast
import dis
import importlib
import importlib.util
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, reduce
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from harness.errors import LeavesProcessError, ModelSourceError, did_you_mean
from harness.files import NO_FILE, text_hash
from harness.partial_import import imported_in_part, or_as_first, others_need, part_without, run_part, standing_in
from harness.runtime import seeded
from harness.scan import part_run
from harness.written_in import forget_module, is_typed, short_name

_OUT_OF_MEMORY = "out of memory: a smaller max_seq_len or image_size in the config, or a machine with more of it"

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""How a terminal is told colours, as in messages of torch."""

_LEVELS = 6
"""How far above a file the root of its repository is looked for."""

_ROOT_FILES = (".git", "pyproject.toml", "setup.py", "setup.cfg")
"""What lies in the root of a repository."""

FOLDERS_OF_CONFIGS: set[str] = set()
"""What was put on ``sys.path`` for the sake of a config's files."""

_OF_A_SCRIPT = (ImportError, OSError, NameError, LookupError, SystemExit)
"""What a script raises that runs elsewhere than at its author's: without a package, its data, a notebook, variables or arguments."""

_OF_DATA = ("datasets", "torchvision", "torchtext", "torchaudio", "gym", "gymnasium", "pandas", "PIL")
"""Packages whose errors say that there is no data, or none that they could download, whatever their class."""

_OURS = (Path(__file__).parent, Path(__file__).parent.parent / "pytest_modeltiers")
_spec = importlib.util.find_spec("torch")
_NOT_THE_USERS = (
    *_OURS,
    *((Path(_spec.origin).parent,) if _spec is not None and _spec.origin else ()),
)


def import_file(path: Path, key: str) -> ModuleType:
    """Imports a Python file under a unique name, so that its classes can be pickled and its siblings imported.

    Of a file whose import would train a model, or raises in a statement that its models do not need, only the part is run that they need,
    which ``LEFT_OUT`` says.

    Args:
        path: The file.
        key: The config key that named it, for messages.

    Raises:
        ModelSourceError: The file is missing, is no Python file, or raises on import.
    """
    if path.is_dir():
        raise ModelSourceError(f"`{key}`: {path} is a folder, expected a .py file{_pretrained_hint(path)}")
    if not path.is_file():
        if path.exists():
            raise ModelSourceError(f"`{key}`: {path} is {NO_FILE}, expected a .py file")
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        file, _, name = str(path).rpartition(":")
        if key == "model_file" and name.isidentifier() and Path(file).is_file():
            raise ModelSourceError(f"`{key}`: expected a .py file only; give the name in it as `model_factory`: {name}")
        raise ModelSourceError(f"`{key}`: no such file {path}.{did_you_mean(path.name, near)}")
    name = f"{path.stem}_{text_hash(str(path))[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if path.suffix == ".ipynb":
        raise ModelSourceError(
            f"`{key}`: {path} is a notebook, expected a .py file; put the model's code into one, or write it with "
            f"`jupyter nbconvert --to script {path.name}`. In the notebook itself, call judge_model"
        )
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelSourceError(f"`{key}`: {path} is not a Python file; expected a name ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before = list(sys.path)
    _make_siblings_importable(path.parent)
    part = part_run(path)
    try:
        with seeded(0), command_line_of(path), imported_in_part(FOLDERS_OF_CONFIGS), standing_in(is_written_here):
            if part is not None:
                run_part(module, part.tree, part.why)
            else:
                spec.loader.exec_module(module)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        sys.modules.pop(name, None)
        if isinstance(error, KeyboardInterrupt) and not is_raised_by_code(error):
            raise
        root = _root_wanted(path, error)
        if root is None and part is None and (found := _again_in_part(path, name, error)) is not None:
            return found
        if root is None:
            refused = f"`{key}`: importing {path} raised {raised(error)}{missing_package(error)}"
            if others_need(path, error, is_written_here):
                with or_as_first(refused):
                    return import_file(path, key)
            raise ModelSourceError(refused) from error
        sys.path[:] = before
        sys.modules[name] = module = _import_as_part(path, root, key)
    return module


def _again_in_part(path: Path, name: str, error: BaseException) -> ModuleType | None:
    """A file's module with only the part run that its models need; ``None`` where what raised is in it, or it raises too."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in frames if frame.filename == str(path)), None)
    spec = importlib.util.spec_from_file_location(name, path)
    raising = Path(frames[-1].filename).parts if frames else ()
    is_of_data = "site-packages" in raising and any(each in raising for each in _OF_DATA)
    is_refused = isinstance(error, PermissionError)  # isolation says what it refused, and so what the file does
    is_excused = not is_refused and (isinstance(error, _OF_A_SCRIPT) or is_of_data)
    tree = part_without(path, line) if line is not None and is_excused else None
    if tree is None or spec is None:
        return None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        with seeded(0), command_line_of(path), imported_in_part(FOLDERS_OF_CONFIGS):
            run_part(module, tree, f"line {line} raises {raised(error).rpartition(' (')[0]}")
    except (Exception, SystemExit):
        sys.modules.pop(name, None)
        return None
    return module


def _root_wanted(path: Path, error: BaseException) -> Path | None:
    """The folder that a file's imports need on the path, if they failed because it is missing; ``None`` if that is not the reason."""
    if "no known parent package" in str(error):
        package = package_of(path)
        levels = [node.level for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ImportFrom)]
        depth = max(len(package[1].split(".")) - 1 if package else 0, *levels)
        root = path.parents[min(depth, len(path.parents) - 1)]
        return root if not any("." in part for part in path.parent.relative_to(root).parts) else None
    missing = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    for folder in path.parents[1:_LEVELS] if missing else ():
        if (folder / missing).is_dir() or (folder / f"{missing}.py").is_file():
            # A file that hides the package it lies in, `net/net.py`, is why a folder on the path does not help.
            return folder if str(folder) not in sys.path or "is not a package" in str(error) else None
        if any((folder / name).exists() for name in _ROOT_FILES):
            return None
    return None


def _import_as_part(path: Path, root: Path, key: str) -> ModuleType:
    """Imports a file by its dotted name from the root of its repository, as its own code does."""
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    top = name.partition(".")[0]
    loaded = sys.modules.get(top)
    places = [Path(place) for place in getattr(loaded, "__path__", ())]
    if loaded is not None and root / top not in places and not any(map(_is_installed, places)):
        forget_module(top)
    sys.path[:] = [str(root), *(folder for folder in sys.path if folder != str(root))]
    FOLDERS_OF_CONFIGS.add(str(root))
    importlib.invalidate_caches()
    return import_dotted(name, root, key)


@contextmanager
def command_line_of(path: str | Path) -> Iterator[None]:
    """Lets a user's file see a command line that names only itself.

    A file that parses arguments while it is imported would otherwise read ours. Arguments that it cannot do without end the import with
    the sentence of ``argparse`` instead of its usage text.

    Args:
        path: The file, which becomes ``sys.argv[0]``.
    """
    argv, refuse = sys.argv, argparse.ArgumentParser.error
    sys.argv = [str(path)]
    argparse.ArgumentParser.error = _refuse_arguments  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        sys.argv = argv
        argparse.ArgumentParser.error = refuse  # type: ignore[method-assign]


class CommandLineExit(SystemExit):
    """A user's file wants arguments on the command line."""

    def __str__(self) -> str:
        return f"the file parses a command line: {self.args[0]}. Give those arguments defaults, or parse them in the `__main__` block"


def _refuse_arguments(_parser: argparse.ArgumentParser, message: str) -> NoReturn:
    raise CommandLineExit(message)


def package_of(path: Path) -> tuple[Path, str] | None:
    """The folder beside a file's outermost package, and the file's dotted name from there; ``None`` for a file of no package.

    Args:
        path: A Python file, resolved.
    """
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").is_file() and folder.name.isidentifier() and folder.parent != folder:
        parts.insert(0, folder.name)
        folder = folder.parent
    return (folder, ".".join(parts)) if len(parts) > 1 else None


def import_dotted(name: str, folder: Path, key: str) -> ModuleType:
    """Imports a module by its dotted name, from a folder or from what is installed.

    Args:
        name: The dotted name.
        folder: A folder that is put on the path.
        key: The config key that named it, for messages.

    Raises:
        ModelSourceError: The module, or a package around it, does not import.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        FOLDERS_OF_CONFIGS.add(str(folder))
    try:
        with seeded(0), command_line_of(name), _without_shadows(folder, name), standing_in(is_written_here):
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        file = folder.joinpath(*name.split(".")).with_suffix(".py")
        other = _root_wanted(file, error) if isinstance(error, ModuleNotFoundError) and os.path.isfile(file) else None
        if other is not None and str(other) not in sys.path:  # a file that imports from two folders, such as its root and `src`
            sys.path.append(str(other))
            FOLDERS_OF_CONFIGS.add(str(other))
            return import_dotted(name, folder, key)
        refused = f"`{key}`: importing {name!r} raised {raised(error)}{missing_package(error)}"
        if others_need(file, error, is_written_here):
            with or_as_first(refused):
                return import_dotted(name, folder, key)
        raise ModelSourceError(refused) from error


@contextmanager
def _without_shadows(folder: Path, name: str) -> Iterator[None]:
    """Leaves folders out of the path in which a file is called like the package that is wanted: ``model/model.py``, another ``model.py``.

    Without an ``__init__.py`` the package would lose against that file.
    """
    top = name.partition(".")[0]
    root = folder.resolve()
    others = [each for each in sys.path if Path(each or ".").resolve() != root] if "." in name and (root / top).is_dir() else []
    shadows = [each for each in others if Path(each or ".", f"{top}.py").is_file()]
    loaded = sys.modules.get(top)
    if shadows and loaded is not None and not hasattr(loaded, "__path__"):
        forget_module(top)
    sys.path[:] = [each for each in sys.path if each not in shadows]
    try:
        yield
    finally:
        sys.path += shadows


def import_named(source: str, folder: Path, key: str) -> Any:
    """What a user's ``file.py:name`` or ``pkg.mod:name`` names.

    Args:
        source: The name; a dotted one after the colon is an attribute of an attribute.
        folder: What the file is relative to.
        key: The config key that named it, for messages.

    Raises:
        ModelSourceError: There is no such file, module or name.
    """
    file, _, name = source.rpartition(":")
    in_file = file.endswith(".py")
    module = import_file((folder / Path(file).expanduser()).resolve(), key) if in_file else import_dotted(file, folder, key)
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError:
        public = [each for each, found in vars(module).items() if callable(found) and not each.startswith("_")]
        raise ModelSourceError(f"`{key}`: {file} has no {name!r}.{did_you_mean(name, public)}") from None


def _pretrained_hint(folder: Path) -> str:
    """What to write for a folder of ``save_pretrained``."""
    try:
        classes = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError):
        return ""
    name = classes[0] if isinstance(classes, list) and classes and str(classes[0]).isidentifier() else "its model"
    return f'. It looks like a folder of save_pretrained with {name}: write "model": "{folder}" instead'


def missing_package(error: BaseException) -> str:
    """What to install for a module that is not there."""
    missing = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
    if missing == "pytorch_lightning":
        here = importlib.util.find_spec("lightning") is not None
        other = (
            "The package `lightning` is here, which has the same classes: write `import lightning.pytorch as pl`, or run"
            if here
            else "Run"
        )
        return f". {other} `pip install pytorch-lightning`"
    return f". Install the package that has `{missing}` in this environment" if missing else ""


def raised(error: BaseException) -> str:
    """``ZeroDivisionError: division by zero (model.py, line 7)``: an exception and the innermost line of the user's own code.

    Where that is in a function that forward calls, the line of the call stands beside it.
    """
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({short_name(error.filename or '')}, line {error.lineno})"
    text = [_OUT_OF_MEMORY] if _is_out_of_memory(error) else _COLOURS.sub("", str(error)).strip().splitlines()
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_users_file(frame.filename) and not _is_standard_library(frame.filename)]
    place = f" ({short_name(own[-1].filename)}, line {own[-1].lineno}{_called_at(own)})" if own else ""
    silent = f"`{own[-1].line}`" if own and own[-1].line else "no message"  # a bare assertion is its own message
    kind = "" if isinstance(error, LeavesProcessError) else f"{type(error).__name__}: "
    return f"{kind}{text[0] if text else silent}{place}"


def _called_at(frames: list[traceback.FrameSummary]) -> str:
    """Where the function was called that raised; empty for a forward, which torch calls, and for code outside of functions."""
    inner, outer = frames[-1], frames[-2] if len(frames) > 1 else None
    if (
        outer is None
        or not is_written_here(outer.filename)
        or inner.name in ("forward", "__init__")
        or inner.name.startswith("<")
    ):
        return ""
    other = "" if outer.filename == inner.filename else f"{short_name(outer.filename)}, "
    return f", called at {other}line {outer.lineno}"


def is_raised_by_code(error: BaseException) -> bool:
    """Whether a ``raise`` raised an exception, as opposed to Ctrl-C, which comes in the middle of anything."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and dis.opname[step.tb_frame.f_code.co_code[step.tb_lasti]] == "RAISE_VARARGS"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch says so in a RuntimeError on the CPU, and in its own error class on a GPU."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError"


@cache
def is_users_file(filename: str) -> bool:
    """Whether a frame's file is neither torch's nor this project's."""
    return (is_typed(filename) or not filename.startswith("<")) and not any(
        folder in Path(filename).parents for folder in _NOT_THE_USERS
    )


@cache
def is_written_here(filename: str) -> bool:
    """Whether a file is the user's to change: neither torch's, nor this project's, nor that of an installed package."""
    return is_users_file(filename) and not _is_installed(Path(filename).parent)


def _is_standard_library(filename: str) -> bool:
    parts = Path(filename).parts
    return Path(traceback.__file__).parent in Path(filename).parents and not {"site-packages", "dist-packages"} & set(parts)


@cache
def is_ours(filename: str) -> bool:
    """Whether a frame's file is this project's."""
    return any(folder in Path(filename).parents for folder in _OURS)


def _make_siblings_importable(folder: Path) -> None:
    """Puts a folder first on the path, and forgets modules of another folder that have the names of its files."""
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
    FOLDERS_OF_CONFIGS.add(str(folder))
    for file in folder.glob("*.py"):
        loaded = getattr(sys.modules.get(file.stem), "__file__", None)
        others = Path(loaded).parent if loaded else folder
        if others != folder and str(others) in sys.path and not _is_installed(others):
            forget_module(file.stem)


def _is_installed(folder: Path) -> bool:
    return (
        folder.name in ("site-packages", "dist-packages")
        or Path(sys.prefix) in folder.parents
        or Path(sys.base_prefix) in folder.parents
    )
