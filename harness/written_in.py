"""Where code of the user's is written: a file, or a cell of a notebook, which IPython counts."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from harness.compat import FILES_OF_MODULES

_OF_A_PROMPT = "<ipython-input-"
"""How IPython begins the file names of what is typed at its prompt; a kernel's are files that do not exist."""


def cell_of(file: str | Path) -> str:
    """``In[3]``, as IPython's own tracebacks name a cell; empty for a file.

    Args:
        file: As code names its file, ``/tmp/ipykernel_7/3442962928.py``.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    named = shell.compile.format_code_name(str(file)) if shell is not None else None
    return named[1] if named else ""


def is_typed(file: str) -> bool:
    """Whether a file name is that of what is typed at IPython's prompt."""
    return file.startswith(_OF_A_PROMPT)


def short_name(file: str | Path) -> str:
    """The name of a file without its folder, or of a cell."""
    return cell_of(file) or Path(file).name


def file_of_class(cls: type) -> str:
    """The file of a class's module; of a class in a notebook, its cell as code names it; empty where it has none."""
    module = sys.modules.get(cls.__module__)
    if file := getattr(module, "__file__", None):
        return str(file)
    files = (method.__code__.co_filename for method in vars(cls).values() if inspect.isfunction(method))
    return next(filter(cell_of, files), "")


def forget_module(name: str) -> None:
    """Takes a module and its parts out of ``sys.modules``, so that another of the name can be imported.

    ``inspect`` remembers the file of each module by its name. Where a folder without an ``__init__.py`` took the place of a file, it would
    raise whenever anything asks where a frame is, as torch does when an operator is registered.
    """
    files: dict[str, str] = getattr(inspect, FILES_OF_MODULES, {})
    for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
        del sys.modules[known]
        files.pop(known, None)
