"""Errors in this project's own code: told apart from the model's by their traceback, written to a file, and reported as a failure.

A check runs the model's code, torch's and its own. Which of the three was at fault when it raises is read from the traceback, innermost frame
first: a frame of the user's code, or of a module that runs its forward, means the model; a frame of this project means an internal error.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
import sysconfig
import tempfile
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from harness.compat import BACKWARD_FUNCTION, FORWARD_FUNCTIONS
from harness.errors import MemoryFullError, UserError
from harness.files import text_hash

CODE = "internal_error"
"""The code of a finding that is an error of this project."""

_PROJECT = "pytest-modeltiers"
_HERE = Path(__file__).parent
_OURS = (_HERE, _HERE.parent / "pytest_modeltiers")
_MODELS = _HERE / "models" / "stubs.py"
"""Models of the project itself: what they raise is an error of the model under test."""

_ENVIRONMENT = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EDQUOT, errno.ENOMEM}
"""Errors of the operating system that no code can avoid: a full disk, a folder that may not be written to."""


@dataclass
class _Reports:
    """Where traceback files go.

    Attributes:
        folder: The folder; ``None`` until one is chosen or the first file is written.
    """

    folder: Path | None = None


_reports = _Reports()


def write_tracebacks_to(folder: Path | None) -> None:
    """Chooses the folder of traceback files; ``None`` for a temporary one."""
    _reports.folder = folder


def is_internal(error: BaseException, libraries: bool = True) -> bool:
    """Whether an exception comes from this project's own code, and not from the model, its libraries or the machine.

    Args:
        error: The exception.
        libraries: Whether what a library raises when this project calls it is an error of this project. Where libraries run what the user
            configured, such as an optimizer, it is not.
    """
    if isinstance(error, (UserError, MemoryError)) or _is_environment(error):
        return False
    for frame in reversed([frame for frame, _ in traceback.walk_tb(error.__traceback__)]):
        path = Path(frame.f_code.co_filename)
        if path == _MODELS:
            return False
        if any(folder in path.parents for folder in _OURS):
            return True
        if not libraries or _is_the_models(frame):
            return False
    return False


def is_from_backward(error: BaseException) -> bool:
    """Whether torch raised while it ran a backward pass, outside of any module's forward."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(frame.f_code.co_name == BACKWARD_FUNCTION for frame in frames)


def describe(check: str, error: BaseException) -> tuple[str, dict[str, Any]]:
    """One line that says that a check of this project raised and what to report, and the details of the finding.

    Args:
        check: The check that raised.
        error: What it raised.
    """
    text = _report(check, error)
    said = str(error).strip().splitlines()
    what = f"internal error in the check `{check}` of {_PROJECT}: {type(error).__name__}: {said[0] if said else 'no message'}"
    try:
        file = _write(check, text)
    except OSError:
        return f"{what}; please report it", {"code": CODE, "traceback": text}
    return f"{what}; please report it with {file}", {"code": CODE, "traceback_file": str(file)}


def missing_operator(error: BaseException) -> str:
    """The operator that a tensor class, such as that of a quantised weight, does not implement; empty of any other error."""
    if not isinstance(error, NotImplementedError):
        return ""
    found = re.search(r"unimplemented operator/function: func=<OpOverload\(op='([\w.]+)'", str(error))
    return found[1] if found else ""


def _is_environment(error: BaseException) -> bool:
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in _ENVIRONMENT):
        return True
    return "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError"


def _is_the_models(frame: FrameType) -> bool:
    """Whether a frame that is not ours belongs to the user's code, to a module that runs its forward, or to a backward pass."""
    if is_users(frame.f_code) or frame.f_code.co_name == BACKWARD_FUNCTION:
        return True
    from torch import nn

    return frame.f_code.co_name in FORWARD_FUNCTIONS and isinstance(frame.f_locals.get("self"), nn.Module)


@cache
def is_users(code: CodeType) -> bool:
    """Whether code is from a file of the user's: neither installed, nor part of Python, nor generated."""
    if code.co_filename.startswith("<"):
        return False
    path = Path(code.co_filename)
    return not any(folder in path.parents for folder in _libraries())


@cache
def _libraries() -> tuple[Path, ...]:
    found = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    installed = {Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    return (*found, *installed, *([Path(torch).parent] if torch else []))


def _report(check: str, error: BaseException) -> str:
    torch = getattr(sys.modules.get("torch"), "__version__", "not imported")
    head = f"{_PROJECT}: internal error in the check `{check}`\npython {platform.python_version()}, torch {torch}, {platform.platform()}\n"
    return head + "\n" + "".join(traceback.format_exception(error))


def _write(check: str, text: str) -> Path:
    """Writes a traceback; the same one of the same check always into the same file."""
    if _reports.folder is None:
        _reports.folder = Path(tempfile.mkdtemp(prefix="modeltiers-"))
    _reports.folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "_", check).strip("_")
    file = _reports.folder / f"internal_error_{name}_{text_hash(text)[:8]}.txt"
    file.write_text(text, encoding="utf-8")
    return file


def refuse_full_memory(error: BaseException) -> None:
    """Stops with ``MemoryFullError`` where an error says that memory is full, although the machine has enough for the request.

    Args:
        error: What was raised; what it was raised from counts too.

    Raises:
        MemoryFullError: It says so.
    """
    cause: BaseException | None = error
    while cause is not None:
        said = next(iter(str(cause).splitlines()), "")
        asked = _REFUSED.search(said) if isinstance(cause, RuntimeError) else None
        if type(cause).__name__ == "OutOfMemoryError" or (asked and int(asked[1]) < _memory()):
            raise MemoryFullError(f"memory is full: {said}") from error
        cause = cause.__cause__


_REFUSED = re.compile(r"(?:can't allocate|not enough) memory: you tried to allocate (\d+) bytes")
"""What the CPU's allocator of PyTorch says; that of a device raises an ``OutOfMemoryError``."""


def _memory() -> int:
    """Bytes of memory that the machine has; a model that asks for more has a bug."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 1 << 40
