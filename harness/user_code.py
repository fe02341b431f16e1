"""The user's own Python files: imported under names of their own, and quoted by line when they raise."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from harness.errors import ModelSourceError, did_you_mean
from harness.randomness import seeded

_OUT_OF_MEMORY = "out of memory: a smaller max_seq_len or image_size in the config, or a machine with more of it"

_OURS = Path(__file__).parent
_spec = importlib.util.find_spec("torch")
_NOT_THE_USERS = (_OURS, *((Path(_spec.origin).parent,) if _spec is not None and _spec.origin else ()))


def import_file(path: Path, key: str) -> ModuleType:
    """Imports a Python file under a name of its own, so that its classes can be pickled and its siblings imported.

    Args:
        path: The file.
        key: The config key that named it, for messages.

    Raises:
        ModelSourceError: The file is missing, is no Python file, or raises on import.
    """
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ModelSourceError(f"`{key}`: no such file {path}.{did_you_mean(path.name, near)}")
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelSourceError(f"`{key}`: {path} is not a Python file; expected a name ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _make_siblings_importable(path.parent)
    try:
        with seeded(0):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelSourceError(f"`{key}`: importing {path} raised {raised(error)}") from error
    return module


def raised(error: BaseException) -> str:
    """``ZeroDivisionError: division by zero (model.py, line 7)``: an exception and the innermost line of the user's own code."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({Path(error.filename or '').name}, line {error.lineno})"
    text = [_OUT_OF_MEMORY] if _is_out_of_memory(error) else str(error).strip().splitlines()
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users_file(frame.filename)]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text[0] if text else 'no message'}{place}"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch says so in a RuntimeError on the CPU, and in an error of its own on a GPU."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError"


def is_users_file(filename: str) -> bool:
    """Whether a frame's file is neither torch's nor this project's."""
    return not filename.startswith("<") and not any(folder in Path(filename).parents for folder in _NOT_THE_USERS)


def _make_siblings_importable(folder: Path) -> None:
    """Puts a folder first on the path, and forgets modules of another folder that have the names of its files."""
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
    for file in folder.glob("*.py"):
        loaded = getattr(sys.modules.get(file.stem), "__file__", None)
        others = Path(loaded).parent if loaded else folder
        if others != folder and str(others) in sys.path and not _is_installed(others):
            del sys.modules[file.stem]


def _is_installed(folder: Path) -> bool:
    return (
        folder.name in ("site-packages", "dist-packages")
        or Path(sys.prefix) in folder.parents
        or Path(sys.base_prefix) in folder.parents
    )
