"""What a model made in Python can be rebuilt from: the source of its class, its arguments, its first weights."""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.tasks import TaskSpec

FACT = "python_model"
"""The fact of a run that holds a record."""

WEIGHTS, MODEL_SOURCE, ADAPTER_SOURCE = "initial_weights", "model_source", "adapter_source"
"""The kinds of a record's files among a run's artifacts."""

EMBEDDED = "harness.models."
"""Where the models of presets are, which a config makes by naming none."""

_LARGEST = 1 << 30
_SCALARS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class ModelRecord:
    """How a model was made, and what must be the same when it is made again.

    Attributes:
        facts: As JSON values: ``model`` and ``adapter`` (``None`` for the task's own one) with ``name``, ``module``, ``file``, ``arguments``
            and ``attributes``; the ``structure`` of the model; and why something is ``missing``, a sentence each.
        files: The files of the record by their kind.
    """

    facts: dict[str, Any]
    files: dict[str, Path]


def record_model(model: nn.Module, adapter: Adapter, task: TaskSpec, folder: Path, name: str) -> ModelRecord:
    """Keeps what a model and its adapter can be made from again, before the model is trained."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    missing: list[str] = []
    made: dict[str, dict[str, Any] | None] = {"model": _made(model, folder / f"{name}-model.py", missing)}
    own = type(adapter) is not type(make_adapter(task))
    made["adapter"] = _made(adapter, folder / f"{name}-adapter.py", missing) if own else None
    for kind, part in ((MODEL_SOURCE, made["model"]), (ADAPTER_SOURCE, made["adapter"])):
        if part is not None and part.pop("is_written"):
            files[kind] = Path(part["file"])
    size = sum(
        tensor.numel() * tensor.element_size() for tensor in model.state_dict().values() if isinstance(tensor, torch.Tensor)
    )
    if size > _LARGEST:
        missing.append(f"the initial weights were not kept: {size:,} bytes, allowed {_LARGEST:,}")
    else:
        try:
            torch.save(model.state_dict(), folder / f"{name}-weights.pt")
        except (OSError, RuntimeError) as error:  # a full disk; the training itself may need less
            missing.append(f"the initial weights could not be written: {str(error).splitlines()[0]}")
        else:
            files[WEIGHTS] = folder / f"{name}-weights.pt"
    return ModelRecord({**made, "structure": structure_of(model), "missing": missing}, files)


def structure_of(model: nn.Module) -> str:
    """A hash of a model's modules, the shapes of its tensors, and which of its parameters are trained."""
    content = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        content.update(f"{name}\0{tuple(getattr(tensor, 'shape', ()))}\0".encode())
    for name, parameter in model.named_parameters():
        content.update(f"{name}\0{parameter.requires_grad}\0".encode())
    return content.hexdigest()


def attributes_of(thing: object) -> dict[str, Any]:
    """The numbers, truth values and texts that an object holds by name."""
    found = getattr(thing, "__dict__", {})
    return {name: value for name, value in found.items() if not name.startswith("_") and isinstance(value, _SCALARS)}


def definitions_in(source: str) -> str:
    """The imports, classes, functions and constants of a source, without what it does.

    Raises:
        SyntaxError: It is no Python.
    """
    lines = source.splitlines()
    kept = [node for node in ast.parse(source).body if _is_definition(node)]
    return "\n\n".join("\n".join(lines[_first_line(node) - 1 : node.end_lineno]) for node in kept) + "\n"


def _made(thing: object, target: Path, missing: list[str]) -> dict[str, Any]:
    """How an object was made; what cannot be told is added to ``missing``."""
    kind = type(thing)
    if kind.__module__.startswith(EMBEDDED):
        return {
            "name": kind.__qualname__,
            "module": kind.__module__,
            "file": None,
            "is_written": False,
            "arguments": {},
            "attributes": {},
        }
    file, text = _source_of(kind)
    if text is not None:
        target.write_text(text, encoding="utf-8")
        file = target
    if file is None:
        missing.append(f"the source of {kind.__qualname__} is not in a file")
    if "<locals>" in kind.__qualname__ or "." in kind.__qualname__:
        missing.append(f"{kind.__qualname__} is defined inside a function or class; define it at the top level of a file")
    arguments, lacking = _arguments_of(thing)
    if lacking and isinstance(thing, nn.Module):
        missing.append(
            f"{kind.__name__} needs {', '.join(f'`{name}`' for name in lacking)}, which the model does not keep; store the value in an "
            "attribute of that name"
        )
    return {
        "name": kind.__qualname__,
        "module": kind.__module__,
        "file": None if file is None else str(file),
        "is_written": text is not None,
        "arguments": arguments,
        "attributes": attributes_of(thing),
    }


def _source_of(kind: type) -> tuple[Path | None, str | None]:
    """The file of a class; for one of a script or a notebook, the definitions beside it as text."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if kind.__module__ != "__main__" and file and file.endswith(".py"):
        return Path(file).resolve(), None
    places = [member.__code__.co_filename for member in vars(kind).values() if inspect.isfunction(member)]
    lines = linecache.getlines(places[0]) if places else []
    try:
        return None, definitions_in("".join(lines)) if lines else None
    except SyntaxError:
        return None, None


def _arguments_of(thing: object) -> tuple[dict[str, Any], list[str]]:
    """The arguments of the constructor that the object keeps under their names, and those that it needs and does not keep."""
    try:
        parameters = list(inspect.signature(type(thing)).parameters.values())
    except (TypeError, ValueError):
        return {}, []
    known = attributes_of(thing)
    plain = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    arguments = {one.name: known[one.name] for one in plain if one.name in known and known[one.name] != one.default}
    return arguments, [one.name for one in plain if one.default is one.empty and one.name not in known]


def _is_definition(node: ast.stmt) -> bool:
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return True
    value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
    if value is None:
        return False
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])
