"""A few lines of Python that show a failure without this package: written for the failure at hand, run, and handed out only if they fail too."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.evidence import Evidence
from harness.excerpts import from_here
from harness.models.arguments import factory_arguments
from harness.models.loading import ModelSource
from harness.partial_import import LEFT_OUT
from harness.properties.numerics import extreme_batch
from harness.properties.reproduction_lines import Shown, ways_to_show
from harness.properties.subject import Subject
from harness.user_code import is_written_here

_MOST_WRITTEN = 32
"""Numbers of a tensor that are written out; longer ones are drawn."""

_FEW_VALUES = 3
"""Numbers that a tensor is made of which is no random one."""

_CONTENT = re.compile(r"\bcontent=(\w+)")
"""What the inputs of a counterexample hold, where that is not the usual."""

_LOGITS = ("{}", "{}.logits", '{}["logits"]', "{}[0]")
"""Where the logits are in what a model returns."""


@dataclass(frozen=True)
class Building:
    """How a user builds the model.

    Attributes:
        folders: What the module is imported from, and what it imports from; relative to the current folder where they lie in it.
        module: Its name.
        factory: The class or function.
        kwargs: Its arguments.
    """

    folders: tuple[str, ...]
    module: str
    factory: str
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, source: ModelSource) -> Building | None:
        """How a source builds its model; ``None`` where no line of code can: weights from a file, no file of the user's, or a part of one."""
        name, _, factory = source.origin.rpartition(":")
        if not source.has_fresh_weights or source.call or not factory or LEFT_OUT:
            return None
        kwargs = factory_arguments(source.factory, source.kwargs)
        file = Path(name)
        if file.suffix != ".py":
            return cls((".",), name, factory, kwargs) if all(map(str.isidentifier, name.split("."))) else None
        return cls(_folders_of(source, file), file.stem, factory, kwargs) if file.stem.isidentifier() else None

    @property
    def call(self) -> str:
        """The call that builds it."""
        return f"{self.factory}({', '.join(f'{name}={value!r}' for name, value in self.kwargs.items())})"


def _folders_of(source: ModelSource, file: Path) -> tuple[str, ...]:
    """The folder of a factory's file, and those of the user's files that it takes something from: `init` may have written it elsewhere."""
    module = sys.modules.get(getattr(source.factory, "__module__", ""))
    if module is None or Path(module.__file__ or "").name != file.name:
        return (from_here(file.parent),)
    names = {getattr(value, "__module__", None) for value in vars(module).values()} | {module.__name__}
    files = [getattr(sys.modules.get(str(name)), "__file__", None) for name in sorted(map(str, names))]
    return tuple(dict.fromkeys(from_here(Path(each).parent) for each in files if each and is_written_here(each)))


def script_of(evidence: Evidence, subject: Subject, example: Mapping[str, Any], building: Building) -> str:
    """A script that fails as the property does; empty where none is known that was seen to fail.

    Args:
        evidence: The failure.
        subject: The model.
        example: What the property was given that shows it, such as the sizes of a batch.
        building: How the model is built.
    """
    sizes = example.get("sizes") or subject.typical
    try:
        ast.literal_eval(repr(dict(building.kwargs)))
        content = _CONTENT.search(evidence.counterexample)
        seed = int(example.get("seed", 0))
        given, logits = _recorded(
            subject, extreme_batch(subject, sizes, content[1], seed) if content else subject.batch(sizes, seed)
        )
        shown = Shown(
            evidence,
            given,
            logits,
            subject.prerequisite_failure.random,
            building.call,
            sizes.logits_shape(subject.task),
            str(example.get("dtype", "")),
        )
        written = (_script(shown, building, body) for body in ways_to_show(shown))
        return next((text for text in written if _fails(text, building.module)), "")
    except Exception:  # a call that no few lines can write down
        return ""


def _script(shown: Shown, building: Building, body: list[str]) -> str:
    """The script: what is wrong, the model, its inputs, and the lines that fail."""
    lines = [
        f"# {shown.evidence.message.splitlines()[0].partition('; ')[0]}",
        "import sys",
        "import torch",
        f"sys.path[:0] = {list(building.folders)!r}  # run it from the folder that the tests run in",
        f"from {building.module} import {building.factory.partition('.')[0]}",
        "torch.manual_seed(0)",
        f"model = {building.call}.eval()",
        f"given = {{{', '.join(f'{name!r}: {_written(value)}' for name, value in shown.given.items())}}}",
        *body,
    ]
    return "\n".join(lines) + "\n"


def _recorded(subject: Subject, batch: Batch) -> tuple[dict[str, Any], str]:
    """The arguments of forward by name, and where the logits are in what it returns."""
    model, seen = subject.fresh(), list[dict[str, Any]]()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(_copied(inspect.signature(module.forward).bind(*args, **kwargs).arguments))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with contextlib.suppress(Exception):  # a call that raises was recorded too
            subject.logits(batch, model)
    finally:
        handle.remove()
    given = {name: value for name, value in seen[0].items() if value is not None}
    with torch.no_grad(), contextlib.suppress(Exception):
        wanted, returned = subject.logits(batch, model), model(**_copied(given))
        for place in _LOGITS:
            with contextlib.suppress(Exception):
                found = eval(place.format("returned"), {"returned": returned})
                if isinstance(found, Tensor) and found.shape == wanted.shape:
                    return given, place
    return given, "{}"


def _copied(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that a model may write into."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}


def _written(value: Any) -> str:
    """The code of an argument."""
    if not isinstance(value, Tensor):
        ast.literal_eval(repr(value))
        return repr(value)
    shape = tuple(value.shape)
    if value.numel() and bool((value == value.flatten()[0]).all()):
        return f"torch.full({shape}, {value.flatten()[0].item()!r})"
    if not value.is_floating_point() and value.numel() <= _MOST_WRITTEN:
        return f"torch.tensor({value.tolist()})"
    if value.is_floating_point() and len(value.unique()) <= _FEW_VALUES < value.numel() <= _MOST_WRITTEN:
        return f"torch.tensor({value.tolist()})"
    if value.is_floating_point():
        return f"torch.randn({shape})" if bool((value < 0).any()) else f"torch.rand({shape})"
    return f"torch.randint({int(value.min())}, {int(value.max()) + 1}, {shape})"


def _fails(text: str, module: str) -> bool:
    """Whether a script ends with an exception of the model's or of its last line; what it imports is forgotten again."""
    path, top = list(sys.path), module.partition(".")[0]
    kept = {name: found for name, found in sys.modules.items() if name == top or name.startswith(f"{top}.")}
    for name in kept:
        del sys.modules[name]
    importlib.invalidate_caches()  # of the folder that is the current one
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            exec(compile(text, "<script>", "exec"), {"__name__": "__main__"})
    except AssertionError:
        return True
    except Exception:
        return not text.splitlines()[-1].lstrip().startswith("assert")  # a call that is to raise
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]
        sys.modules.update(kept)
    return False
