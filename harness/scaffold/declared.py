"""A task that no preset stands for, declared by its signature: found from a call of the model that works, with what the user said of it."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import ExampleError, FactoryError
from harness.models.attempts import Patience
from harness.models.copies import clone
from harness.models.examples import FUNCTION, Example, find_example
from harness.models.factory import Factory
from harness.models.first_call.argument import BATCH as ROWS
from harness.models.first_call.argument import Argument, GivenInput
from harness.models.first_call.hints import read_hints
from harness.models.first_call.search import find_call
from harness.models.first_call.tried import FoundCall
from harness.models.followed.call_sites import written_examples
from harness.models.followed.losses import WrittenLoss, written_losses
from harness.tasks.axes import BATCH, Formula
from harness.tasks.declared import SignatureError, read_signature
from harness.tasks.finding import signature_from_call

_FEWEST_AXES = 2
"""Axes of the inputs that are tried first."""

_ANY_AXES = 3
"""Numbers of axes that a model takes which takes any."""

_SECONDS = 5.0
"""For the search of a call, and again for what follows from it."""


@dataclass(frozen=True)
class Declared:
    """A signature as the config declares it.

    Attributes:
        keys: The keys ``inputs``, ``outputs`` and ``axes``.
        reasons: What each was read from, by the path of its key.
        called: The call that worked, for people.
    """

    keys: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)
    called: str = ""


@dataclass(frozen=True)
class SeenCall:
    """A call of the model that a run of the user's made.

    Attributes:
        example: Its arguments.
        recorded: Those of every call that was kept, as they were given.
        losses: What was computed from its outputs, by key or place of the output.
        has_own_loss: Whether the run computed its loss in a way that is no loss of PyTorch's.
    """

    example: Example
    recorded: Sequence[Mapping[str, Any]]
    losses: Mapping[str, WrittenLoss]
    has_own_loss: bool = False

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of its tensors."""
        return tuple(tuple(each.shape) for each in self.example.arguments.values() if isinstance(each, Tensor))

    @property
    def axes(self) -> int:
        """How many axes the first of them has."""
        return len(self.shapes[0])

    @property
    def may_be_usual(self) -> bool:
        """Whether a task type may take it: its arguments are tensors."""
        return bool(self.shapes) and all(isinstance(each, Tensor) for each in self.example.arguments.values())


def declare(
    build: Callable[[], nn.Module],
    made: Factory,
    module: ModuleType,
    given: Sequence[GivenInput],
    patience: Patience,
    seen: SeenCall | None = None,
) -> Declared:
    """The signature of a model, by calling it.

    Args:
        build: Returns the model as it was built, in eval mode.
        made: What makes it.
        module: The model's file.
        given: What the user said of its inputs.
        patience: Is told what is being done; each of the two parts gets its own time.
        seen: A call that a run of theirs made.

    Raises:
        UserError: No call works, or the model has no parameters.
    """
    model = build()
    example = seen.example if seen else find_example(model, module) if not given else None
    if example is not None:
        patience.stage(f"calling it with other sizes and contents (at most {_SECONDS:g} s)")
        try:
            recorded = seen.recorded if seen else ()
            found = signature_from_call(
                build(), example.arguments, axis_names=example.axis_names, recorded=recorded, seconds=_SECONDS
            )
        except ExampleError:
            if seen or example.origin.startswith(FUNCTION):  # the user's own; that of a library may be of another kind of model
                raise
        else:
            declared = Declared(found.keys, {"inputs": example.origin, **found.reasons}, example.origin)
            return _trained(declared, found.names, model, made, seen)
    call = find_call(
        build,
        lambda called: read_hints(called, made.sizes, written_examples(module, called)),
        list(_whole_arguments(given)),
        patience.again(_SECONDS),
    )
    if not given and next(model.parameters(), None) is None:
        call = _with_all_axes(made, model, call)
    patience.stage(f"calling it with other sizes and contents (at most {_SECONDS:g} s)")
    names = dict(_axis_names(call.arguments.values()))
    signature = signature_from_call(build(), call.values, axis_names=names, seconds=_SECONDS)
    keys, reasons = dict(signature.keys), {**signature.reasons, **dict(_reasons(call, signature.reasons))}
    for name in call.optional:
        if name in keys["inputs"] and "state" not in keys["inputs"][name]:
            keys["inputs"][name]["optional"] = True
    for each in given:
        keys = as_said(keys, each)
        reasons[f"inputs.{each.name}"] = "as given"
    try:
        read_signature(keys)
    except SignatureError as error:
        raise FactoryError(f"--input contradicts what forward does: {error.mistakes[0].message}") from error
    return _trained(Declared(keys, reasons, call.shown), signature.names, model, made)


def _with_all_axes(made: Factory, model: nn.Module, call: FoundCall) -> FoundCall:
    """The call of a model without parameters, with an axis of rows more where it takes that.

    Raises:
        FactoryError: It takes any number of axes, few as well, so that a call which works says nothing of what they are.
    """
    longer = [call]
    while len(longer) < _ANY_AXES:
        values = {
            name: torch.stack([each] * ROWS) if isinstance(each, Tensor) else each for name, each in longer[-1].values.items()
        }
        try:
            with torch.no_grad():
                returned = clone(model)(**values)
        except Exception:  # whatever the model raises
            return longer[-1]
        longer.append(FoundCall({name: Argument.like(name, each, "a guess") for name, each in values.items()}, values, returned))
    if any(isinstance(each, Tensor) and each.ndim > _FEWEST_AXES for each in call.values.values()):  # with fewer it was refused
        return call
    options = " ".join(f"--input {name}=batch,16" for name in call.values)
    raise FactoryError(f"{made.name} has no parameters, and takes tensors of any shape: say what yours are, as {options}")


def _trained(
    found: Declared, names: Mapping[str, str], model: nn.Module, made: Factory, seen: SeenCall | None = None
) -> Declared:
    """What was found, with what the losses say that a run trained the model by, or else the code of its repository."""
    method = made.method or "forward"
    written = dict(seen.losses) if seen else {}
    if seen is None or not (seen.losses or seen.has_own_loss):
        written = written_losses(type(model), list(inspect.signature(getattr(type(model), method)).parameters)[1:], method)
    if set(names) == {""} and "0" in written:  # of a single tensor an entry is a row
        written = {"": written["0"], **written}
    losses = {names[raw]: loss for raw, loss in written.items() if raw in names}
    keys, reasons = with_losses(found.keys, losses)
    try:
        read_signature(keys)
    except SignatureError:
        return found
    return replace(found, keys=keys, reasons={**found.reasons, **reasons})


def with_near_classes(keys: dict[str, Any], config: Path, module: tuple[Path, str] | None) -> dict[str, Any]:
    """Keys whose groups name their classes as a config says them: in the model's file only by the name, in others from the config on.

    Args:
        keys: The keys of a signature; the classes of its groups are in absolute files.
        config: The config's file.
        module: The model's file, and what stands for it before the colon; ``None`` where the config names another file.
    """
    inputs = {
        name: {**each, "class": _near(each["class"], config.resolve().parent, module)} if "class" in each else each
        for name, each in keys["inputs"].items()
    }
    return {**keys, "inputs": inputs}


def _near(source: str, folder: Path, module: tuple[Path, str] | None) -> str:
    file, _, name = source.rpartition(":")
    if module is not None and Path(file) == module[0]:
        return f"{module[1]}:{name}"
    return f"{Path(os.path.relpath(file, folder)).as_posix()}:{name}" if file.endswith(".py") else source


def _reasons(call: FoundCall, found: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What the inputs were read from, where the values that were drawn here say nothing of what they hold."""
    for name, argument in call.arguments.items():
        path = f"inputs.{name}"
        if path not in found:
            continue
        why = found[path]
        if argument.holds == "numbers" and argument.made is None:
            why = "a shape that works; normal numbers: if yours have a range, say values = {range = [0, 1]}"
        yield path, why if argument.why in ("", "a guess") or why.startswith(argument.why) else f"{argument.why}; {why}"


def said_axes(made: Factory, model: nn.Module, module: ModuleType) -> int | None:
    """How many axes the first input of a model has, where its file says so: by an annotation, a comment, or a tensor that it makes."""
    try:
        first = next(iter(read_hints(model, made.sizes, written_examples(module, model)).required.values()), None)
    except (TypeError, ValueError):  # a forward without a signature
        return None
    return len(first.sizes) if first is not None and first.is_said else None


def is_of_numbers(model: nn.Module) -> bool:
    """Whether the repository trains what a model returns first by losses of numbers or of a yes or no each, and not as scores of classes."""
    losses = written_losses(type(model), list(inspect.signature(model.forward).parameters))
    names = {loss.name for output, loss in losses.items() if output in ("", "0")}
    return bool(names) and not names & {"cross_entropy", "nll"}


def _whole_arguments(given: Sequence[GivenInput]) -> Iterator[Argument]:
    """An argument for each parameter; those with dotted names are the entries of a dict."""
    groups: dict[str, list[GivenInput]] = {}
    for each in given:
        groups.setdefault(each.name.partition(".")[0], []).append(each)
    for name, entries in groups.items():
        if entries[0].name == name:
            yield entries[0].argument()
        else:
            parts = tuple(replace(each.argument(), name=each.name.partition(".")[2]) for each in entries)
            yield Argument(name, (), "parts", why="as given", fixed=True, parts=parts)


def _axis_names(arguments: Iterable[Argument], prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    for argument in arguments:
        path = f"{prefix}{argument.name}"
        if argument.holds == "parts":
            yield from _axis_names(argument.parts, f"{path}.")
        elif argument.names:
            yield path, argument.names


def as_said(keys: Mapping[str, Any], each: GivenInput) -> dict[str, Any]:
    """The keys of a signature with one input as the user said it.

    A number that was said makes a free axis a fixed one, wherever it is; a name that was said takes the place of the one that was found.

    Args:
        keys: As they were found.
        each: What was said.
    """
    whole: dict[str, Any] = {"inputs": dict(keys["inputs"]), "outputs": dict(keys["outputs"]), "axes": dict(keys.get("axes", {}))}
    whole["limits"] = list(keys.get("limits", ()))
    found = whole["inputs"].get(each.name, {}).get("axes", [])
    for was, said in zip(found, each.keys["axes"], strict=False):
        if was == said:
            continue
        if isinstance(was, str):
            whole = _renamed(whole, was, said)
        elif isinstance(said, str) and said != "batch":
            whole["axes"][said] = {"sizes": [was]}
    whole["inputs"][each.name] = {**each.keys}
    used = {axis for part in ("inputs", "outputs") for entry in whole[part].values() for axis in entry["axes"]}
    spoken = {entry["values"].get("index_of") for entry in whole["inputs"].values() if isinstance(entry.get("values"), dict)}
    whole["axes"] = {name: entry for name, entry in whole["axes"].items() if entry and name in used | spoken}
    return {key: value for key, value in whole.items() if value}


def _renamed(keys: Mapping[str, Any], was: str, now: int | str) -> dict[str, Any]:
    """The keys with an axis of another name, or of one size."""
    axes: dict[str, Any] = {}
    computed: dict[str, int] = {}
    for name, entry in keys["axes"].items():
        formula = entry.get("from")
        if formula and formula != "measured" and re.search(rf"\b{was}\b", formula):
            formula = re.sub(rf"\b{was}\b", str(now), formula)
            if re.fullmatch(r"[\d\s()+*/-]+", formula):
                computed[name] = Formula(formula).value({})
                continue
            entry = {**entry, "from": formula}
        if name != was:
            axes[name] = entry
        elif isinstance(now, str):
            axes[now] = entry

    def other(axis: Any) -> Any:
        return now if axis == was else computed.get(axis, axis) if isinstance(axis, str) else axis

    parts = {
        part: {name: {**entry, "axes": [other(axis) for axis in entry["axes"]]} for name, entry in keys[part].items()}
        for part in ("inputs", "outputs")
    }
    limits = [re.sub(rf"\b{was}\b", str(now), limit) for limit in keys.get("limits", ())]
    return {**parts, "axes": axes, "limits": limits}


def with_losses(keys: Mapping[str, Any], losses: Mapping[str, WrittenLoss]) -> tuple[dict[str, Any], dict[str, str]]:
    """The keys of a signature with what the losses say that a repository trains by, and where each was read.

    A loss that does not fit the shape of its output says nothing.

    Args:
        keys: As they were found.
        losses: By name of the output.
    """
    outputs: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    inputs, labels = dict(keys["inputs"]), {}
    for name, entry in keys["outputs"].items():
        loss = losses.get(name)
        said = None if loss is None else _as_trained(entry, loss)
        if loss is None or said is None:
            outputs[name] = entry
            continue
        outputs[name] = said = said if loss.weight == 1 else {**said, "weight": loss.weight}
        reasons[f"outputs.{name}"] = f"trained by {loss.written} ({loss.place})"
        is_number = said.get("kind", "values") in ("values", "probabilities")
        if is_number and inputs.get(loss.label, {}).get("axes") == entry["axes"]:
            labels[name], outputs[name] = {"from": loss.label}, {**said, "fits": False}
            reasons[f"labels.{name}"] = f"the label in {loss.place}"
            if said.get("kind") == "probabilities" and "values" not in inputs[loss.label]:
                inputs[loss.label] = {**inputs[loss.label], "values": {"range": [0.0, 1.0]}}
                reasons[f"inputs.{loss.label}"] = f"labels of {loss.written} lie between 0 and 1"
    for name in outputs if reasons else ():
        if f"outputs.{name}" not in reasons and "kind" not in outputs[name]:
            outputs[name] = {**outputs[name], **({"kind": "other"} if labels else {"fits": False})}
            reasons[f"outputs.{name}"] = "no loss of it was found where the model is trained"
    return {**keys, "inputs": inputs, "outputs": outputs} | ({"labels": labels} if labels else {}), reasons


def _as_trained(entry: Mapping[str, Any], loss: WrittenLoss) -> dict[str, Any] | None:
    """The keys of an output that is trained by a loss; ``None`` where its shape or what it is known to be contradicts that."""
    kind, axes, squash = entry.get("kind", "values"), entry["axes"], loss.part.squash
    rest = {key: value for key, value in entry.items() if key not in ("range", "classes")}
    is_plain = kind == "values" and "range" not in entry and not entry.get("constant")
    if loss.name in ("cross_entropy", "nll"):
        if kind == "class_scores" and loss.name == "nll":
            return dict(entry)
        place = 1 if len(axes) > 2 and not loss.part.moved else len(axes) - 1
        has_classes = len(axes) > 1 and type(axes[place]) is int and axes[place] > 1
        if not (is_plain and has_classes and squash == ("log_softmax" if loss.name == "nll" else "")):
            return None
        return {**rest, "kind": "class_scores"} | ({} if place == len(axes) - 1 else {"classes": place})
    if loss.name == "ctc":
        may_be = kind in ("values", "class_scores") and len(axes) == 3 and type(axes[-1]) is int and BATCH in axes[:2]
        return {**rest, "kind": "ctc_scores"} | ({"blank": loss.blank} if loss.blank else {}) if may_be else None
    if kind != "values":
        return None
    if loss.name == "log_loss" and entry.get("range") == [0.0, 1.0]:
        return {**rest, "kind": "probabilities"}
    if loss.name in ("bce", "log_loss"):
        is_scores = is_plain and squash == ("sigmoid" if loss.name == "log_loss" else "")
        return {**rest, "kind": "binary_scores"} if is_scores else None
    return {**entry} if loss.name == "mse" else {**entry, "loss": loss.name}
