"""What the behaviour of code depends on: the parts of a function, a class or a module that its hash must include.

The functions here take one thing apart by one level; ``ObjectHash`` hashes the parts, and takes them apart in turn.

Code that is installed (packages, the standard library, this project) is known by its name, its package's version and its file. The user's
own code is read as it is in memory: bytecode, constants, defaults, closures and the globals it reads. So is code that is not what its name
in an installed module says, such as a wrapper that a decorator made, or a method that was replaced at run time.
"""

from __future__ import annotations

import dis
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from harness.files import file_hash
from harness.user_code import is_users_file

Parts = tuple[object, ...]
"""What a thing consists of: plain values, and objects that are taken apart in turn."""

_ROUTINES = (FunctionType, classmethod, staticmethod, property)
_STANDARD_LIBRARY = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


class Empty:
    """A variable of a closure that was never set."""


def code_parts(code: CodeType) -> Parts:
    """Bytecode, constants, names, and the file with its lines: an export remembers which line an operator came from."""
    file = code.co_filename if Path(code.co_filename).is_file() else ""
    return (
        file,
        code.co_firstlineno,
        code.co_linetable,
        code.co_name,
        code.co_flags,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        code.co_code,
        code.co_consts,
        (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        getattr(code, "co_exceptiontable", b""),
    )


def function_parts(function: FunctionType) -> Parts:
    """What a function is: by name where it is installed, by its code and all that this reads where it is not."""
    module, named = str(function.__module__), (function.__module__, function.__qualname__)
    installed = is_installed_code(function)
    if installed and by_name(module, function.__qualname__) is function:
        return ("installed", *named, installed_file(module))
    cells = tuple(_content(cell) for cell in function.__closure__ or ())
    state = tuple(sorted(vars(function).items()))
    live = ("function", named, function.__code__, function.__defaults__, function.__kwdefaults__, cells, state)
    return live if installed else (*live, tuple(_globals_read(function)))


def class_parts(cls: type) -> Parts:
    """What a class is: by name where it is installed, by its methods, attributes and bases where it is not."""
    named = (cls.__module__, cls.__qualname__)
    if is_installed_module(cls.__module__) and by_name(*named) is cls:
        replaced = tuple((name, value) for name, value in vars(cls).items() if _is_own_function(value))
        return ("installed", *named, installed_file(cls.__module__), replaced)
    content = tuple((name, value) for name, value in vars(cls).items() if _is_behaviour(name, value))
    return ("class", named, file_of_module(cls.__module__), type(cls), cls.__bases__, content)


def module_parts(module: ModuleType) -> Parts:
    """What a module is that is kept as a value: by name where it is installed, with all it holds where it is not."""
    if is_installed_module(module.__name__):
        return ("installed", module.__name__, installed_file(module.__name__))
    content = tuple((name, value) for name, value in vars(module).items() if not _is_dunder(name))
    return ("module", module.__name__, getattr(module, "__file__", None) or "", content)


def is_installed_code(function: FunctionType) -> bool:
    """Whether a function's code was written in an installed package, the standard library or this project."""
    file = function.__code__.co_filename
    return is_installed_module(str(function.__module__)) if file.startswith("<") else _is_installed_path(file)


def is_installed_module(name: str) -> bool:
    """Whether a module is of an installed package, the standard library or this project."""
    if name == "__main__":  # whatever program this is, what a console or a notebook compiles says that it is of it
        return False
    module = sys.modules.get(name)
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    files = [place for place in places if place and Path(place).is_absolute()]
    if files:
        return _is_installed_path(files[0])
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names or (top != name and is_installed_module(top))


def is_own_file(file: Path) -> bool:
    """Whether a file is the user's own."""
    return not _is_installed_path(str(file))


@lru_cache(maxsize=4096)
def _is_installed_path(filename: str) -> bool:
    path = Path(filename)
    if {"site-packages", "dist-packages"} & set(path.parts) or any(folder in path.parents for folder in _STANDARD_LIBRARY):
        return True
    return not is_users_file(filename)


def file_of_module(name: str) -> str:
    """The file of a module that is imported; empty where it has none."""
    return getattr(sys.modules.get(name), "__file__", None) or ""


def by_name(module: str | None, qualname: str) -> object:
    """What a name in an imported module stands for; ``None`` where it stands for nothing."""
    found: object = sys.modules.get(module or "")
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


@lru_cache(maxsize=4096)
def installed_file(module: str | None) -> str:
    """What is known of the code of an installed module: its package's version, and a hash of its file."""
    file = Path(file_of_module(module or ""))
    content = file_hash(file) if file.suffix == ".py" and file.is_file() else ""
    return f"{package_version(module or '')} {content}"


@lru_cache(maxsize=512)
def _version_of(package: str) -> str:
    try:
        return version(package)
    except (PackageNotFoundError, ValueError):
        return str(getattr(sys.modules.get(package), "__version__", ""))


def package_version(module: str) -> str:
    """The version of the package that a module belongs to; empty where it has none, as in the standard library."""
    top = module.partition(".")[0]
    return "" if not top or top in sys.stdlib_module_names else _version_of(top)


def _globals_read(function: FunctionType) -> Iterator[tuple[str, object]]:
    """The globals that a function reads, by name; of a module, what is used of it."""
    for name in _names_loaded(function.__code__):
        if name in function.__globals__:
            value = function.__globals__[name]
            if isinstance(value, ModuleType):
                yield from _used_of(value, name, _all_names(function.__code__), set())
            else:
                yield name, value


def _used_of(module: ModuleType, path: str, names: frozenset[str], seen: set[str]) -> Iterator[tuple[str, object]]:
    """What code that speaks of a module and of some names may use of it; of an installed one, only what the user replaced in it."""
    if module.__name__ in seen:
        return
    seen.add(module.__name__)
    own = not is_installed_module(module.__name__)
    yield path, ("module", module.__name__, "" if own else package_version(module.__name__))
    for name in sorted(names & vars(module).keys()):
        value = vars(module)[name]
        if isinstance(value, ModuleType):
            yield from _used_of(value, f"{path}.{name}", names, seen)
        elif own or _is_own_function(value):
            yield f"{path}.{name}", value


@lru_cache(maxsize=16384)
def _names_loaded(code: CodeType) -> tuple[str, ...]:
    """Names that code looks up among its globals, with the code of the functions and comprehensions in it."""
    found = {
        str(step.argval): None
        for part in _with_inner(code)
        for step in dis.get_instructions(part)
        if step.opname.startswith("LOAD_") and ("GLOBAL" in step.opname or step.opname == "LOAD_NAME")
    }
    return tuple(found)


@lru_cache(maxsize=16384)
def _all_names(code: CodeType) -> frozenset[str]:
    """Every name in code, and every string, as ``getattr(module, "name")`` uses one."""
    parts = list(_with_inner(code))
    texts = (constant for part in parts for constant in part.co_consts if isinstance(constant, str))
    return frozenset(name for part in parts for name in part.co_names).union(texts)


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _content(cell: object) -> object:
    try:
        return cell.cell_contents  # type: ignore[attr-defined]
    except ValueError:
        return Empty


def _is_own_function(value: object) -> bool:
    return isinstance(value, FunctionType) and not is_installed_code(value)


def _is_behaviour(name: str, value: object) -> bool:
    """Whether an attribute of a class may decide what its instances do; annotations and the interpreter's own notes do not."""
    return isinstance(value, _ROUTINES) or not (_is_dunder(name) or name == "_abc_impl")


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
