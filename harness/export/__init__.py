"""The exception of an exporter or a runtime in one line."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.errors import UserError
from harness.formats import formats as all_formats  # the name is that of a folder in here
from harness.written_in import short_name

T = TypeVar("T")

_LONGEST = 1000
"""Characters of a reason: it is never cut in a word, and seldom at all."""

_TELLING = re.compile(r"Not all values|marked .* as dynamic|data-dependent|unsupported|guard", re.IGNORECASE)
_FRAME = re.compile(r"^(/\S+|[A-Z]:\S+|<\S+>)\((\d+)\): ", re.MULTILINE)
"""A line of the stack with which TorchScript's messages tell where an operator was recorded."""

_SOURCES = re.compile(r"\S*/onnxruntime/\S+:\d+\s+[^()]*\([^()]*\)\s*(?:const\s+)?")
"""Where in ONNX Runtime's C++ a check stands, with the signature of its function."""


def one_line(error: BaseException) -> str:
    """The part of an exporter's message that says what is wrong, as one line, with the user's line where it names one."""
    from harness.user_code import is_users_file  # brings torch, which the table of formats does without

    outer, error = error, innermost(error)
    text = re.sub(r"\x1b\[[0-9;]*m|\s*\((unhinted|Size-like symbols):[^)]*\)*\)", "", str(error))
    lines = [line.strip().removeprefix("- ") for line in text.splitlines() if line.strip(" -=~^#") and not _FRAME.match(line)]
    chosen = next(filter(_TELLING.search, lines), lines[0] if lines else "no message")
    if "[ONNXRuntimeError]" in text:
        chosen = runtime_message(error)
    elif "TorchScript interpreter" in text:
        chosen = lines[-1].removeprefix(f"{type(error).__name__}: ")
    elif "data-dependent" in text:
        chosen = f"the code decides by a value that it computes, which a graph cannot hold: {chosen}"
    # TorchScript names lines of the code that it wrote into its file too.
    sources = [s for s in re.findall(r'File "([^"]+)", line (\d+)', text) if is_users_file(s[0]) and Path(s[0]).is_file()]
    traced = [s for s in _FRAME.findall(text) if is_users_file(s[0])]
    file, line = sources[-1] if sources else traced[0] if traced else _raised_at(error) or _raised_at(outer) or ("", 0)
    where = f" ({short_name(file)}:{line})" if file else ""
    return f"{type(error).__name__}: {shortened(chosen.partition(' If you')[0])}{where}"


def _raised_at(error: BaseException) -> tuple[str, int] | None:
    """The innermost line of the user's code that an exception passed, or else of a module of an installed package."""
    from torch import nn

    from harness.user_code import is_users_file, is_written_here

    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if is_users_file(frame.f_code.co_filename)]
    own = [each for each in frames if is_written_here(each[0].f_code.co_filename)]
    of_modules = [each for each in frames if isinstance(each[0].f_locals.get("self"), nn.Module)]
    return next(((frame.f_code.co_filename, line) for frame, line in reversed(own or of_modules)), None)


def innermost(error: BaseException) -> BaseException:
    """The exception from which exporters made theirs: an exporter says which of its steps failed, its cause says why.

    An exception of the user's own is the last one that is looked at, as its message was chosen by the user.
    """
    packages = {"builtins", "torch", *(package for format in all_formats().values() for package in format.packages)}
    while error.__cause__ is not None and type(error).__module__.partition(".")[0] in packages:
        error = error.__cause__
    return error


def runtime_message(error: BaseException) -> str:
    """ONNX Runtime's message without its error codes and the positions in its sources."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^\d+ : [A-Z_]+ : ", "", text.rpartition("[ONNXRuntimeError] : ")[2])
    text = re.sub(
        r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ",
        r"an error in \1 `\2`: ",
        text,
    )
    return shortened(_SOURCES.sub("", text))


def shortened(text: str, length: int = _LONGEST) -> str:
    """A text of at most some characters, cut between words."""
    return text if len(text) <= length else f"{text[:length].rpartition(' ')[0] or text[:length]} …"


def outcome(compute: Callable[[], T]) -> tuple[T | None, str]:
    """What is computed, or ``None`` and the reason in one line."""
    try:
        return compute(), ""
    except UserError as error:
        return None, shortened(str(error).splitlines()[0])
    except Exception as error:
        return None, one_line(error)
