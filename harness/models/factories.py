"""Finding what in a Python file makes its model."""

from __future__ import annotations

import ast
import dis
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from harness.errors import FactoryError, did_you_mean
from harness.models.factory import Factory
from harness.models.factory_arguments import is_model_class, with_arguments
from harness.models.written_calls import WrittenCalls

_USUAL_NAMES = ("build_model", "make_model", "get_model", "create_model", "model_factory")

_SCRIPTS = ("main", "train", "fit", "run", "test", "eval", "evaluate", "predict", "plot", "download", "load_data", "parse")
"""Names that begin a function which does something, rather than make a model."""


def factories(
    module: ModuleType, given: Mapping[str, Any], only: str | None = None, refused: dict[str, str] | None = None
) -> Iterator[Factory]:
    """What may make the model of a file, the likeliest first.

    ``build_model`` and names like it come first, then other functions that return something, then ``nn.Module`` classes that no other
    class of the file uses: a part of a model is not the model. Those come first that are assigned to what is called a model, in the file or
    beside it, and later ones, as a file usually builds up to its model. Required arguments are taken from ``given``, or else from a call
    with literal arguments in the file or beside it, or from a constant of the file; those of a usual name, such as ``num_classes``, get a
    small size. A settings object is one that the file has or makes without arguments, or else a namespace of what the model reads from it.

    Args:
        module: The imported file.
        given: Arguments by name.
        only: The one name to look at.
        refused: Takes the reason for each callable that is left out.

    Raises:
        FactoryError: There is no ``only`` in the file.
    """
    refused = {} if refused is None else refused
    written = WrittenCalls.of(module)
    callables = {
        name: value
        for name, value in vars(module).items()
        if (name in _USUAL_NAMES or getattr(value, "__module__", None) == module.__name__)
        and (inspect.isfunction(value) or is_model_class(value))
    }
    if only is not None:
        target: Any = module
        for part in only.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            raise FactoryError(
                f"{module.__file__} has no {only!r}.{did_you_mean(only, callables)} It defines: {', '.join(callables)}"
            )
        names, callables = [only], {only: target}
    else:
        functions = [name for name, value in callables.items() if inspect.isfunction(value) and _may_make_a_model(value)]
        classes = {name: value for name, value in callables.items() if inspect.isclass(value)}
        used = {name for cls in classes.values() for name in _used_by(module, cls)}  # such as a block of layers
        whole = [name for name in functions if name not in used] if classes else functions
        inner = {name for part in set(functions) & used for name in callables[part].__code__.co_names}  # one that chooses a layer
        models = [name for name in _not_parts(module, classes) if name not in inner or len(classes) == 1]
        models.reverse()
        models.sort(key=lambda name: (name not in written.models, not _is_called_like(module, name)))
        names = [
            *(name for name in _USUAL_NAMES if name in callables),
            *smallest_first([*reversed(whole)]),
            *smallest_first(models),
        ]
        names = sorted(names, key=is_only_for_training)
    for name in dict.fromkeys(names):
        factory = with_arguments(module, name, callables[name], given, written)
        if isinstance(factory, Factory):
            yield factory
        else:
            refused[name] = factory


_SIZE = re.compile(
    r"\d+|(?<![a-z])(?:atto|femto|pico|nano|tiny|mini|small|medium|base|large|huge|giant)(?![a-z])|(?<=_)[tsmblh]$"
)
_SIZES = (
    "atto",
    "femto",
    "pico",
    "nano",
    "tiny",
    "t",
    "mini",
    "small",
    "s",
    "medium",
    "m",
    "base",
    "b",
    "large",
    "l",
    "huge",
    "h",
    "giant",
)


def smallest_first(names: list[str]) -> list[str]:
    """Names with those that differ by a size only, such as ``resnet18`` and ``resnet50``, from small to large.

    Args:
        names: Names of what makes models.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_SIZE.sub("#", name.lower()), []).append(name)

    def size(name: str) -> list[int]:
        return [int(each) if each.isdigit() else _SIZES.index(each) for each in _SIZE.findall(name.lower())]

    ordered = {kind: iter(sorted(same, key=size)) for kind, same in alike.items()}
    return [next(ordered[_SIZE.sub("#", name.lower())]) for name in names]


def _is_called_like(module: ModuleType, name: str) -> bool:
    """Whether a class begins as its file is called: ``UNetModel`` in ``unet.py``."""
    stem = re.sub(r"[^a-z]", "", Path(module.__file__ or "").stem.lower())
    return stem not in ("model", "models", "net", "network", "networks") and re.sub(r"[^a-z]", "", name.lower()).startswith(stem)


_FOR_TRAINING = re.compile(
    r"discriminator|critic(?!s)|loss|criterion|(?:^|_)ema(?:_|$)|(?:arc|cos|sphere)_?(?:face|margin)|am_?softmax", re.IGNORECASE
)


def is_only_for_training(name: str) -> bool:
    """Whether a name is that of something by which the model of a file is trained, such as the discriminator beside a generator."""
    return _FOR_TRAINING.search(name) is not None and "actor" not in name.lower()


def _may_make_a_model(function: FunctionType) -> bool:
    """Whether a function returns something, and is not called like a script's steps: ``main()`` might train for hours."""
    if function.__name__.startswith("_") or function.__name__.lower().startswith(_SCRIPTS):
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return True
    takes = next(iter(inspect.signature(function).parameters), "")
    if takes.lower() in ("model", "net", "network"):  # it does something with a model
        return False
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    return function.__name__ == "<lambda>" or any(value is not None for value in returned)


def _not_parts(module: ModuleType, classes: dict[str, type]) -> list[str]:
    """Names of the classes that no other one uses; all of them where they use each other in a circle."""
    used = {part for name, cls in classes.items() for part in _used_by(module, cls) - {name}}
    used |= {base.__name__ for name in used & classes.keys() for base in classes[name].__mro__[1:]}  # what parts have in common
    return [name for name in classes if name not in used] or list(classes)


def _used_by(module: ModuleType, cls: type) -> set[str]:
    """The global names that a class's methods use, and those of classes in the tables among them, as ``blocks = {"basic": BasicBlock}``."""
    names = _names_in(cls)
    values = [vars(module).get(name) for name in names]
    tables = [
        list(value.values()) if isinstance(value, dict) else value for value in values if isinstance(value, (dict, list, tuple))
    ]
    return names | {each.__name__ for table in tables for each in table if inspect.isclass(each)}


def _names_in(cls: type) -> set[str]:
    """The global names that a class's methods use."""
    # Static and class methods hold the function, and decorated ones wrap it.
    methods = (inspect.unwrap(getattr(value, "__func__", value)) for value in vars(cls).values())
    codes = [value.__code__ for value in methods if inspect.isfunction(value)]
    names: set[str] = set()
    while codes:
        code = codes.pop()
        names.update(each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
        codes.extend(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return names
