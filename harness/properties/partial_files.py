"""A file in which a weight is missing: whoever loads it learns of that, by an error, a warning, a line of output or what is returned.

Otherwise training continues from a fresh weight, and nobody notices. The ways of loading that the user's own code has are judged: methods that
take a path, and what classes do for themselves in ``load_state_dict``.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from harness.evidence import WHOLE, Evidence, Status
from harness.models.weights import load_state
from harness.properties.loading import NAME, tied_groups, unless_owned
from harness.properties.model_variants import move
from harness.properties.noise import is_packed
from harness.properties.own_formats import pairs_by_path, written
from harness.properties.places import line_that_calls, method_of, names_read, placed_at, raising_line
from harness.properties.subject import Subject
from harness.properties.watched_lines import lines_that_load_in_part
from harness.user_code import is_written_here, raised

_LONE_LOADERS = re.compile(r"(from|load|restore|resume)(_\w+)?")
"""Names of methods that read a file of weights, where none that writes one belongs to them."""

_A_PATH = re.compile(r"path|file|ckpt|checkpoint|weights|folder|directory|pretrained", re.IGNORECASE)

_LAYOUTS: tuple[Callable[[Mapping[str, Tensor]], Any], ...] = (
    dict,
    lambda state: {"state_dict": dict(state)},
    lambda state: {"model": dict(state)},
    lambda state: {"model_state_dict": dict(state)},
    lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    lambda state: {f"module.{name}": value for name, value in state.items()},
)
"""What people save: the state dict, the same under a key, as Lightning does it, and that of `DataParallel`."""

_SHARE = 0.05
_ACCIDENTS = (KeyError, AttributeError, TypeError, IndexError)
"""What code raises that did not think of a missing key; a refusal on purpose is another error."""

_CAUSE = (
    "load_state_dict(strict=False) whose result is thrown away, or names that do not fit and are left out before; "
    "use strict=True, or raise or warn of the `missing_keys` and `unexpected_keys` that it returns"
)


@dataclass(frozen=True)
class _Loader:
    """A method that loads a model from a path.

    Attributes:
        name: Its name.
        write: Writes a model to a folder, and says which path is read.
        saves: Whether that is a method of the model's as well.
    """

    name: str
    write: Callable[[nn.Module, Path], Path]
    saves: bool = False

    def load(self, model: nn.Module, path: Path) -> Any:
        """Calls it."""
        return getattr(model, self.name)(str(path))


@dataclass(frozen=True)
class _Answer:
    """What a call of a loader came to.

    Attributes:
        result: What it returned.
        said: What it printed, logged and warned of.
        error: What it raised.
    """

    result: Any
    said: str
    error: Exception | None = None

    def tells(self, complete: _Answer) -> bool:
        """Whether the missing weight shows: the same loader said less, or returned nothing, of a file that is complete."""
        is_returned = not isinstance(self.result, nn.Module) and self.result is not None
        return self.error is not None or is_returned or self.said != complete.said


def missing_weights_are_told(subject: Subject, seed: int = 0) -> Evidence:
    """A file in which a weight is missing is refused, or its loss is told."""
    weight = _weight_to_leave_out(subject.model)
    if not weight:
        return Evidence.skipped(NAME, "the model has no weight that it could load")
    judged = [found for judge in (_by_path, _by_state_dict) if (found := judge(subject, weight)) is not None]
    worst = next((found for found in judged if found.status is not Status.OK), None)
    if judged:
        return unless_owned(subject, "partial", worst or judged[0])
    return Evidence.skipped(
        NAME, "no code of your own loads weights; PyTorch's load_state_dict refuses a file in which one is missing"
    )


def _weight_to_leave_out(model: nn.Module) -> str:
    """A weight from the beginning of the model: a head may be left out on purpose."""
    tied = {name for group in tied_groups(model) for name in group}
    own = {name: value for name, value in model.named_parameters() if name not in tied and not is_packed(value)}
    saved = model.state_dict()
    found = [name for name, value in own.items() if name in saved and value.is_floating_point() and value.requires_grad]
    return next((name for name in found if own[name].ndim > 1), next(iter(found), ""))


def _by_path(subject: Subject, weight: str) -> Evidence | None:
    """The finding on the first method that loads the model from a path; ``None`` where there is none that is understood."""
    nothing: Evidence | None = None
    for loader in _loaders(subject.model):
        source, place = subject.fresh(), line_that_calls(subject.model, WHOLE, ("load_state_dict",), loader.name)
        move(source, share=0.0 if subject.fresh_weights else _SHARE)
        with tempfile.TemporaryDirectory() as folder:
            path = loader.write(source, Path(folder))
            complete, model, lines = _loaded(subject, loader, path)
            if complete.error is not None:
                continue
            if not _has(model, source, weight):
                loads = lines or "load_state_dict" in names_read(type(subject.model), loader.name)
                if loads and not loader.saves and not complete.said and complete.result in (None, model):
                    what = f"takes a file of the model's state dict, leaves `{weight}` as it was initialised, and says nothing"
                    nothing = nothing or _hidden(f"`{loader.name}` {what}", weight, lines[0] if lines else place)
                continue
            if not _leave_out(Path(folder), source.state_dict()[weight]):
                continue
            answer, model, lines = _loaded(subject, loader, path)
        if answer.tells(complete) or _has(model, source, weight):
            return Evidence.ok(NAME, f"`{loader.name}` tells that a weight is missing in a file")
        what = f"takes a file in which `{weight}` is missing and says nothing: the weight stays as it was initialised"
        return _hidden(f"`{loader.name}` {what}", weight, lines[0] if lines else place)
    return nothing


def _loaded(subject: Subject, loader: _Loader, path: Path) -> tuple[_Answer, nn.Module, list[str]]:
    """What a loader answers, the model that it loaded, and the lines whose ``load_state_dict`` found weights missing."""
    model = subject.fresh()
    with lines_that_load_in_part() as lines:
        answer = _heard(partial(loader.load, model, path))
    return answer, answer.result if isinstance(answer.result, nn.Module) else model, list(lines)


def _hidden(told: str, weight: str, place: str) -> Evidence:
    found = Evidence.warned(NAME, told, module=weight, cause=_CAUSE, code="hides_missing_weights")
    return placed_at(found, place)


def _loaders(model: nn.Module) -> Iterator[_Loader]:
    """The methods of the user's that load a model from a path, those that belong to a method that saves first."""
    pairs = [(save, load) for save, load in pairs_by_path(model) if _is_written_here(model, load)]
    for save, load in pairs:
        yield _Loader(load, partial(_saved_by, save), saves=True)
    if pairs:
        return
    for name in dir(type(model)):
        if _LONE_LOADERS.fullmatch(name) and _is_written_here(model, name) and _takes_only_a_path(model, name):
            yield from (_Loader(name, partial(_saved_as, layout)) for layout in _LAYOUTS)


def _saved_by(save: str, model: nn.Module, folder: Path) -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        return written(model, save, folder)


def _saved_as(layout: Callable[[Mapping[str, Tensor]], Any], model: nn.Module, folder: Path) -> Path:
    torch.save(layout(model.state_dict()), folder / "model.pt")
    return folder / "model.pt"


def _is_written_here(model: nn.Module, name: str) -> bool:
    code = getattr(inspect.unwrap(getattr(type(model), name)), "__code__", None)
    return code is not None and is_written_here(code.co_filename)


def _takes_only_a_path(model: nn.Module, name: str) -> bool:
    try:
        takes = list(inspect.signature(getattr(model, name)).parameters.values())
    except (TypeError, ValueError):
        return False
    needed = [each.name for each in takes if each.default is each.empty and each.kind <= each.POSITIONAL_OR_KEYWORD]
    return len(needed) == 1 and bool(_A_PATH.search(needed[0]))


def _has(model: nn.Module, source: nn.Module, weight: str) -> bool:
    own, saved = model.state_dict().get(weight), source.state_dict()[weight]
    return own is not None and not own.is_meta and own.shape == saved.shape and torch.equal(own.to(saved), saved)


def _leave_out(folder: Path, weight: Tensor) -> bool:
    """Takes a weight out of the files of a folder; whether it was in one."""
    is_found = False
    for file in [each for each in folder.rglob("*") if each.is_file()]:
        if file.suffix == ".safetensors":
            from safetensors import safe_open
            from safetensors.torch import load_file, save_file

            held = load_file(file)
            if left := _without(held, weight):
                with safe_open(file, "pt") as opened:
                    save_file(left, file, opened.metadata())
                is_found = True
            continue
        with contextlib.suppress(Exception):  # no file of tensors only, of which nothing is known
            if left := _without(torch.load(file, weights_only=True), weight):
                torch.save(left, file)
                is_found = True
    return is_found


def _without(saved: Any, weight: Tensor) -> Any:
    """What was saved without a weight, however deep it lies; ``None`` where it does not hold it."""
    if not isinstance(saved, Mapping):
        return None
    for name, value in saved.items():
        if isinstance(value, Tensor) and value.shape == weight.shape and torch.equal(value.to(weight), weight):
            return {key: each for key, each in saved.items() if key != name}
        if (inner := _without(value, weight)) is not None:
            return {**saved, name: inner}
    return None


def _heard(call: Callable[[], Any]) -> _Answer:
    """What a call returns or raises, and what it says meanwhile."""
    said, loguru = io.StringIO(), sys.modules.get("loguru")
    sink = loguru.logger.add(said, format="{message}") if loguru else None

    def note(_logger: logging.Logger, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=said)

    result, error = None, None
    try:
        with (
            patch.object(logging.Logger, "callHandlers", note),  # loggers of libraries have handlers of their own
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("always")
            try:
                result = call()
            except Exception as raised_error:
                error = raised_error
    finally:
        if loguru:
            loguru.logger.remove(sink)
    return _Answer(result, "\n".join([said.getvalue(), *(str(each.message) for each in warned)]), error)


def _by_state_dict(subject: Subject, weight: str) -> Evidence | None:
    """The finding on modules that load in their own way; ``None`` where there are none."""
    state = subject.model.state_dict()
    own: dict[type, tuple[str, nn.Module]] = {}
    for path, module in subject.model.named_modules():
        if type(module) not in own and _loads_itself(module):
            own[type(module)] = path, module
    for path, module in own.values():
        prefix = f"{path}." if path else ""
        inside = [name for name in state if name.startswith(prefix)]
        trained = [name for name, value in module.named_parameters() if value.requires_grad]
        place = method_of(module, "_load_from_state_dict") or method_of(module, "load_state_dict")
        answer = _heard(partial(_load_without, subject, inside, strict=False))
        if isinstance(answer.error, _ACCIDENTS):
            told = f"load_state_dict(strict=False) raises {raised(answer.error)} where weights of `{path or WHOLE}` are missing"
            cause = "a _load_from_state_dict or a hook that takes a key for granted; look whether it is there"
            found = Evidence.warned(NAME, told, module=path, cause=cause, code="refuses_parts")
            return placed_at(found, raising_line(answer.error) or place)
        left = weight if not path else next((f"{prefix}{name}" for name in trained), "")
        if not left or left not in state:
            continue
        whole = _heard(partial(_load_without, subject, []))
        answer = _heard(partial(_load_without, subject, [left]))
        missing = getattr(answer.result, "missing_keys", ())
        if whole.error is None and answer.error is None and answer.said == whole.said and left not in missing:
            what = f"takes a state dict in which `{left}` is missing and says nothing: the weight stays as it was initialised"
            return _hidden(f"load_state_dict {what}", left, place)
    return Evidence.ok(NAME, "a state dict in which a weight is missing is refused") if own else None


def _loads_itself(module: nn.Module) -> bool:
    return any(_is_written_here(module, name) for name in ("load_state_dict", "_load_from_state_dict"))


def _load_without(subject: Subject, names: list[str], strict: bool = True) -> Any:
    model, state = subject.fresh(), subject.model.state_dict()
    for name in names:
        del state[name]
    return load_state(model, state, strict=strict)
