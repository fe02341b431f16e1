"""Contents that are rare and allowed: the id of padding as a real token, and a row whose numbers are all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.evidence import Evidence
from harness.properties.gradient_tracing import first_bad_gradient
from harness.properties.independence import row_of
from harness.properties.large_tensors import largest_absolute
from harness.properties.model_variants import calibrated
from harness.properties.noise import difference
from harness.properties.prerequisites import hidden_by
from harness.properties.subject import Subject
from harness.properties.tracing import calls_of, hooked, numbered
from harness.runtime import seeded
from harness.tasks.axes import BATCH, rows_first
from harness.tasks.signature import Input
from harness.tasks.values import Ids, LengthsOf, MaskOf, Normal, Uniform

NAME = "rare_contents"

_PLACE = 1
"""Where the id of padding stands as a real token: not at an end, where much is special."""

_MOVED = 3.0
"""By how many standard deviations of its values the embedding of a token is moved."""

_SILENT = 1e-7
"""Share of the usual gradient that is none beside the rounding of the outputs."""

_ENDS = re.compile(
    r"_?(eos|eot|end_?of_?text)(_token|_tok)?(_id|_idx|_index)?|_?(end|stop)_(token_)?(id|idx|index)", re.IGNORECASE
)
"""Names by which the id that ends a text is known."""

_HOLDS_SETTINGS = re.compile(r"conf|hparam|settings|args|params", re.IGNORECASE)

_LEVEL = 3.0
"""The number that a flat row holds, where its range allows it."""


def padding_id_is_read(subject: Subject, seed: int = 0) -> Evidence:
    """A token that has the id of padding, and that the mask says is real, counts as any other: outputs elsewhere depend on it."""
    if failure := hidden_by(subject.prerequisite_failure, NAME):
        return failure
    found = _ids_with_mask(subject)
    if found is None:
        return Evidence.skipped(NAME, "forward takes no mask or lengths beside ids that have one for padding")
    each, axis = found
    assert isinstance(each.values, Ids)
    assert each.values.pad is not None
    batch = subject.batch(seed=seed)
    ids = batch[each.name]
    if ids.ndim != 2 or ids.shape[1] <= _PLACE + 1:
        return Evidence.skipped(NAME, "the texts are too short to have a token in the middle")
    for mask in subject.task.signature.inputs:
        if isinstance(mask.values, MaskOf) and mask.values.axis == axis and mask.name in batch:
            batch[mask.name] = torch.full_like(batch[mask.name], 0 if mask.values.inverted else 1)
        if isinstance(mask.values, LengthsOf) and mask.values.axis == axis and mask.name in batch:
            batch[mask.name] = torch.full_like(batch[mask.name], ids.shape[each.axes.index(axis)])
    model, effects = calibrated(subject), dict[bool, float]()
    for is_pad in (False, True):
        changed = ids.clone()
        if is_pad:
            changed[:, _PLACE] = each.values.pad
        given = {**batch, each.name: changed}
        with _moving_embedding(model, changed, moved=False) as seen:
            plain = subject.logits(given, model)
        with _moving_embedding(model, changed, moved=True):
            moved = subject.logits(given, model)
        if not seen:
            return Evidence.skipped(NAME, "no embedding is given the ids as they are")
        effects[is_pad] = difference(_elsewhere(subject, plain, axis), _elsewhere(subject, moved, axis))
    counterexample = f"{subject.typical.describe(subject.task)}, id {each.values.pad} at place {_PLACE}, all real, seed={seed}"
    if not effects[False] > subject.rounding:
        return Evidence.skipped(NAME, "no other token counts there either")
    if effects[True] > subject.rounding:
        end = end_token(model, each.values.count) if isinstance(each.values.count, int) else None
        if end == each.values.pad and (path := _with_padding_row(model, seen)):
            return _end_never_trained(path, each.values.pad, counterexample)
        message = f"a real token with id {each.values.pad}, that of padding, is read as any other"
        return Evidence.ok(NAME, message, (effects[True], subject.rounding, ""), counterexample=counterexample)
    return Evidence.warned(
        NAME,
        f"a token with id {each.values.pad}, that of padding, is not read although it is said to be real",
        (effects[True], subject.rounding, "of the outputs elsewhere"),
        counterexample=counterexample,
        cause="a mask made from the ids in forward, in place of the one that is given; fine where that id is never a real token, and wrong "
        "where padding has the id of the end of a text",
        code="real_token_taken_for_padding",
    )


def _with_padding_row(model: nn.Module, paths: list[str]) -> str:
    """The first of some embeddings with a row that gets no gradient, as `padding_idx` asks; empty where none has."""
    return next((path for path in paths if getattr(model.get_submodule(path), "padding_idx", None) is not None), "")


def _end_never_trained(path: str, pad: int, counterexample: str) -> Evidence:
    return Evidence.warned(
        NAME,
        f"the embedding of id {pad}, which ends a text and is that of padding, is never trained",
        counterexample=counterexample,
        module=path,
        cause="nn.Embedding(padding_idx=...) with the id that ends a text, whose row gets no gradient: give padding its own id",
        code="end_token_never_trained",
    )


def flat_rows_are_taught(subject: Subject, seed: int = 0) -> Evidence:
    """At a row whose numbers are all the same, a layer before the output still has a gradient."""
    if failure := hidden_by(subject.prerequisite_failure, NAME):
        return failure
    inputs = [each for each in subject.task.signature.inputs if _is_series(each)]
    if not inputs or BATCH not in subject.task.signature.main.axes:
        return Evidence.skipped(NAME, "no input is a row of several numbers")
    batch = subject.batch(seed=seed)
    flat = dict(batch)
    for each in inputs:
        if each.name in batch:
            flat[each.name] = torch.full_like(batch[each.name], _level(each))
    model = calibrated(subject)
    # A copy for each: what a model keeps of a call in eval mode may belong to the graph of that call.
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return Evidence.skipped(NAME, "no parameter is trained")
    if not subject.logits_with_grad(batch, model).requires_grad:
        return Evidence.skipped(NAME, f"output `{subject.task.signature.main.name}` is detached: it teaches no layer")
    usual, silent = (_slopes(subject, given, subject.copies.of(model).eval()) for given in (batch, flat))
    alive = {path: slope for path, slope in usual.items() if slope > 0 and path in silent}
    if not alive:
        return Evidence.skipped(NAME, "no layer with weights has a gradient at usual rows")
    worst = max(silent[path] / slope for path, slope in alive.items())
    named = ", ".join(f"`{each.name}`" for each in inputs)
    counterexample = f"{subject.typical.describe(subject.task)}, {named} all {_level(inputs[0]):g}, eval mode, seed={seed}"
    if worst > _SILENT:
        message = "a row whose numbers are all the same teaches the model"
        return Evidence.ok(NAME, message, (worst, _SILENT, "of the usual gradient"), counterexample=counterexample)
    if worst <= _SILENT and not _is_multiplied_by_nothing(subject, batch, flat):
        message = "what the layers do makes no difference where all numbers are the same, as of weights that add up to 1"
        return Evidence.ok(NAME, message, counterexample=counterexample)

    def culprit() -> str:
        least, judge = _SILENT * max(alive.values()), subject.copies.of(model).eval()
        return first_bad_gradient(judge, lambda: _backward(subject, flat, judge), lambda g: largest_absolute(g) > least)

    return Evidence.failed(
        NAME,
        "at a row whose numbers are all the same the model's answer does not depend on its layers: no weight before the output has a gradient",
        (worst, _SILENT, "of the usual gradient"),
        counterexample=counterexample,
        cause="a scale that is guarded against zero where the row is divided by it, and not where the answer is multiplied by it",
        investigate=culprit,
        code="flat_rows_teach_nothing",
    )


def _is_multiplied_by_nothing(subject: Subject, usual: Batch, flat: Batch) -> bool:
    """Whether a factor of a product is nothing in a flat batch, and something in a usual one."""
    calls = [calls_of(subject.copies.of(calibrated(subject)).eval(), partial(subject.logits, batch)) for batch in (usual, flat)]
    steps, flat_steps = ([step for call in each for step in call.steps] for each in calls)
    same = dict(numbered(flat_steps, "place", "name"))
    factors = [
        pair
        for key, step in numbered(steps, "place", "name")
        if "mul" in step.name and key in same
        for pair in zip(step.inputs, same[key].inputs, strict=False)
    ]
    return any(largest_absolute(there) <= _SILENT * largest_absolute(here) for here, there in factors if here.is_floating_point())


def end_token(model: nn.Module, size: int) -> int | None:
    """The id of the token that ends a text, as an attribute of the model, or a setting that it keeps, says; ``None`` where none does.

    Args:
        model: The model.
        size: Ids there are; a setting beyond them is the default of a larger vocabulary.
    """
    for module in model.modules():
        for holder in (vars(module), *(_entries(value) for name, value in vars(module).items() if _HOLDS_SETTINGS.search(name))):
            for name, value in holder.items():
                told = value[0] if isinstance(value, list) and value else value
                if _ENDS.fullmatch(str(name)) and type(told) is int and 0 <= told < size:
                    return told
    return None


def _entries(settings: Any) -> Mapping[str, Any]:
    if isinstance(settings, nn.Module):
        return {}
    return settings if isinstance(settings, Mapping) else getattr(settings, "__dict__", {})


def _ids_with_mask(subject: Subject) -> tuple[Input, str] | None:
    """The ids that have one for padding, and the axis along which a mask or lengths that reach the model say which are real."""
    signature = subject.task.signature
    for each in signature.inputs:
        if isinstance(each.values, Ids) and each.values.pad is not None:
            masks = [m for m in signature.inputs if isinstance(m.values, (MaskOf, LengthsOf)) and m.values.axis in each.axes]
            for mask in masks:
                if subject.adapter.takes(subject.model, mask.name):
                    return each, mask.values.axis
    return None


@contextmanager
def _moving_embedding(model: nn.Module, ids: Tensor, moved: bool) -> Iterator[list[str]]:
    """A block in which the vector of the token in the middle is another one; gives the paths of the embeddings that were met."""
    seen: list[str] = []
    handles = []

    def move(path: str, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not args or not isinstance(args[0], Tensor) or args[0].shape != ids.shape or not torch.equal(args[0], ids):
            return None
        seen.append(path)
        if not moved:
            return None
        ramp = torch.linspace(-1, 1, output.shape[-1], dtype=output.dtype, device=output.device)
        changed = output.clone()
        changed[:, _PLACE] += _MOVED * output.detach().std() * ramp.roll(1)
        return changed

    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            handles.append(module.register_forward_hook(lambda _m, args, output, path=path: move(path, args, output)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _elsewhere(subject: Subject, logits: Tensor, axis: str) -> Tensor:
    """The outputs of all places but the one of the token."""
    signature = subject.task.signature
    laid_out = [signature.main.axes[place] for place in rows_first(signature.main.axes)]
    if axis not in laid_out:
        return logits
    place = laid_out.index(axis)
    others = [index for index in range(logits.shape[place]) if index != _PLACE]
    return logits.index_select(place, torch.tensor(others, device=logits.device))


def _is_series(each: Input) -> bool:
    """Whether an input is rows of several numbers."""
    inner = [size for size in each.axes if size != BATCH]
    many = any(isinstance(size, str) or size > 1 for size in inner)
    return isinstance(each.values, (Normal, Uniform)) and each.holds_numbers and many and BATCH in each.axes


def _level(each: Input) -> float:
    if isinstance(each.values, Uniform):
        return each.values.low + 0.7 * (each.values.high - each.values.low)
    return _LEVEL


def _slopes(subject: Subject, batch: Batch, model: nn.Module) -> dict[str, float]:
    """The largest gradient of the first row's output with respect to the outputs of each layer that has a matrix of weights.

    An expert that no row is given to is not among them.
    """
    weighted = {
        path for path, module in model.named_modules() if any(p.ndim > 1 for p in module.parameters(recurse=False)) and path
    }
    kept: dict[str, list[Tensor]] = {}

    def leave(path: str, output: Any) -> None:
        if path in weighted and isinstance(output, Tensor) and output.requires_grad and output.numel():
            output.retain_grad()
            kept.setdefault(path, []).append(output)

    with hooked(model, lambda *_: None, leave):
        _backward(subject, batch, model)
    return {
        path: max(largest_absolute(tensor.grad) if tensor.grad is not None else 0.0 for tensor in tensors)
        for path, tensors in kept.items()
    }


def _backward(subject: Subject, batch: Batch, model: nn.Module) -> None:
    model.zero_grad(set_to_none=True)
    with seeded(0), torch.enable_grad():
        row = row_of(subject.logits_with_grad(batch, model), 0, subject.task.signature.row_count(batch))
        weights = torch.randn(row.shape, generator=torch.Generator().manual_seed(0)).to(row)
        (row * weights).sum().backward()
    model.zero_grad(set_to_none=True)
