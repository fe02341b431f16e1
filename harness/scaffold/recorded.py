"""A config from what a run of the user's own command showed: its model, a call of it, its losses and how it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import ExampleError, FactoryError
from harness.files import write_whole
from harness.models.attempts import Patience
from harness.models.examples import Example
from harness.models.factory import Factory
from harness.models.inspection import signature_of
from harness.models.loading import refuse_dangerous
from harness.recording import Command, Recording, SeenModel
from harness.scaffold import Scaffold
from harness.scaffold.beside import EXAMPLE, FilesBeside, refuse_existing
from harness.scaffold.bridge import Source, import_model
from harness.scaffold.building import built
from harness.scaffold.config_text import config_text
from harness.scaffold.declared import Declared, SeenCall, with_near_classes
from harness.scaffold.task import Told, task_of
from harness.scaffold.trained_by import named_losses, said_of_loss
from harness.tasks.axes import BATCH
from harness.user_code import is_written_here, raised
from harness.wording import joined

_ROWS = 4
"""Rows of a larger batch that are kept as the example."""


def scaffold_recorded(
    found: Recording,
    command: Command,
    target: Path | None = None,
    *,
    overwrite: bool = False,
    trust: bool = False,
    patience: Patience | None = None,
) -> Scaffold:
    """Writes a config of what a run showed, and the files beside it.

    Args:
        found: What the run showed.
        command: What was run.
        target: Where the config goes; by default ``modeltiers.toml`` in the folder from which the model is imported.
        overwrite: Whether existing files are replaced.
        trust: Whether the model's file may start processes and use the network when it is imported.
        patience: The time there is, and who is told what is being done.

    Raises:
        UserError: No model was called, or it cannot be built or called outside of the run; one line.
    """
    model, patience = _model_of(found, command), patience or Patience()
    source = _source_of(model) if model.kwargs is not None else None
    target = target or _home(model, source) / "modeltiers.toml"
    beside = FilesBeside(found, model, command, target.resolve().parent, builds=source is None)
    refuse_existing((target, *(beside.paths if beside.builds else ())), overwrite)
    patience.stage(f"building {model.name} as the run did")
    if source is None:
        beside.write()
        source = import_model(beside.python)
        factory = Factory("build_model", source.module.build_model, {}, place=model.made_at)
    else:
        factory = Factory(model.name, _inside(source, model.name), dict(model.kwargs or {}), place=model.made_at)
    if not trust:
        refuse_dangerous(source.file, source.file.name, factory.name, factory.kwargs)
    whole, made = built(replace(factory, method=model.method))
    _compare(model, made)
    seen = _seen(found, made, model)
    patience.start()
    guess, declared = task_of(whole, made, source.module, Told(seen=seen, trust=trust, call=model.method), (), patience)
    more = dict(_training_keys(found))
    if declared is not None:
        if not beside.builds:
            refuse_existing(beside.paths, overwrite)
            beside.write()
        near = None if beside.builds else (source.file, source.dotted)
        declared = _with_sizes(found, declared)
        declared = replace(declared, keys=with_near_classes(declared.keys, target, near))
        more["example"] = (f"{beside.python.name}:{EXAMPLE}", f"what {model.called_at} gave, which `inputs` must fit")
    if beside.is_written:
        beside.save_example(seen.example.arguments)
    if found.weights is not None:
        more["weights"] = (beside.save_weights(found.weights), "as they were when the recording ended")
    result = Scaffold(
        target,
        source,
        None,
        whole,
        guess,
        declared,
        signature_of(made),
        (),
        trust,
        written_by=command.written_by,
        note=said_of_loss(found),
        more=more,
        files=tuple(beside.files),
    )
    write_whole(target, config_text(result))
    return result


def _model_of(found: Recording, command: Command) -> SeenModel:
    """The model that a run called, and whose making can be written.

    Raises:
        FactoryError: There is none.
    """
    model = found.model
    if model is None or not found.inputs:
        called = "called no model" + (f" {command.model}" if command.model else "")
        also = f" Seen: {', '.join(f'{name} ({place})' for name, place in found.others.items())}." if found.others else ""
        raise FactoryError(
            f"`{command.shown}` {called}: {found.ended or 'it ran to its end'}.{also} Run a command that calls it, or `modeltiers init FILE`"
        )
    if model.refused:
        raise FactoryError(f"`{command.shown}` made {model.name} in {model.made_at or '?'}: {model.refused}")
    return model


def _home(model: SeenModel, source: Source | None) -> Path:
    """The folder from which the model is imported."""
    if source is not None:
        return source.folder
    return Path(model.folders[-1]) if model.folders else Path.cwd()


def _source_of(model: SeenModel) -> Source | None:
    """The file of the model's class; ``None`` where that is a package's, whose class a config names through a file of its own."""
    file = Path(model.file)
    if not model.file or not is_written_here(str(file)) or "." in model.name:
        return None
    return import_model(file)


def _inside(source: Source, name: str) -> Any:
    found = getattr(source.module, name, None)
    if found is None:
        raise FactoryError(f"{source.file.name} has no {name} when it is imported and not run")
    return found


def _compare(model: SeenModel, made: nn.Module) -> None:
    """Refuses a model that is built otherwise than the run's was.

    Raises:
        FactoryError: It has other parameters or buffers.
    """
    shapes = {name: list(value.shape) for name, value in made.state_dict().items() if isinstance(value, Tensor)}
    differ = [name for name in {**model.shapes, **shapes} if model.shapes.get(name) != shapes.get(name)]
    if differ:
        name = differ[0]
        raise FactoryError(
            f"the run changed {model.name} after {model.made_at} made it: `{name}` is {model.shapes.get(name, 'not there')} in the run and "
            f"{shapes.get(name, 'not there')} as it is built. Write a build_model() that returns the whole model, and run `modeltiers init`"
        )


def _seen(found: Recording, made: nn.Module, model: SeenModel) -> SeenCall:
    """The first call that works outside of the run too, with few rows."""
    losses = named_losses(found)
    has_own = (bool(found.losses) and not losses) or (found.total is not None and not found.total.parts)
    why: Exception | None = None
    for arguments in (each for inputs in found.inputs for each in (_few(inputs), inputs)):
        try:
            with torch.no_grad():
                made.eval()(**arguments) if not _positional(arguments) else made.eval()(*arguments.values())
        except Exception as error:  # whatever a model raises of what it was given by the run
            why = error
        else:
            return SeenCall(Example(arguments, f"the call in {model.called_at}"), found.inputs, losses, has_own)
    assert why is not None
    raise ExampleError(f"{model.name}, built again and called as in {model.called_at}, raised {raised(why)}") from why


def _positional(arguments: Mapping[str, Any]) -> bool:
    return any(name.startswith("input") and name[5:].isdigit() for name in arguments)


def _few(arguments: dict[str, Any]) -> dict[str, Any]:
    """The first rows of a batch whose tensors all have as many; the arguments themselves where they do not."""
    tensors = list(_tensors(arguments))
    sizes = {each.shape[0] for each in tensors if each.ndim}
    if len(sizes) != 1 or next(iter(sizes)) <= _ROWS or not all(each.ndim for each in tensors):
        return arguments
    return {name: _cut(value) for name, value in arguments.items()}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def _cut(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value[:_ROWS].clone()
    if isinstance(value, Mapping):
        return {key: _cut(each) for key, each in value.items()}
    return type(value)(map(_cut, value)) if type(value) in (list, tuple) else value


def _training_keys(found: Recording) -> Iterator[tuple[str, tuple[Any, str]]]:
    for name, (value, place) in found.training.settings.items():
        yield (
            name,
            (
                value,
                f"{found.training.optimizer.partition('(')[0]} in {place}"
                if name in ("learning_rate", "weight_decay")
                else place,
            ),
        )


def _with_sizes(found: Recording, declared: Declared) -> Declared:
    """The signature, whose reasons say which sizes the run called with: an axis that it never varied is free by assumption."""
    reasons, said = dict(declared.reasons), set()
    for name, entry in declared.keys["inputs"].items():
        for place, axis in enumerate(entry.get("axes", ())):
            sizes = list(dict.fromkeys(call[name][place] for call in found.calls if len(call.get(name, ())) > place))
            if axis in said or not sizes or (len(sizes) == 1 and (isinstance(axis, int) or axis == BATCH)):
                continue
            where = f"`{axis}`" if isinstance(axis, str) else f"axis {place}"
            reasons[f"inputs.{name}"] += f"; {where} was " + (
                f"{joined(list(map(str, sizes)))} in the run"
                if len(sizes) > 1
                else f"always {sizes[0]} in the run: that it may differ is assumed"
            )
            said |= {axis} if isinstance(axis, str) else set()
    return replace(declared, reasons=reasons)
