"""A state that one call returns and the next one takes: it carries what is needed, and nothing of another request."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import SignatureAdapter
from harness.batches import Batch, Sizes
from harness.compat import tree_leaves
from harness.evidence import WHOLE, Evidence
from harness.properties.calling import ModelRaisedError
from harness.properties.dependence import where_lost
from harness.properties.noise import differs, first_failure, judge_equal, remembered
from harness.properties.promises import first_returning
from harness.properties.subject import Subject
from harness.properties.tracing import (
    Call,
    Step,
    first_divergence,
    numbered,
    recording,
    whole,
)
from harness.tasks.axes import Axis, fits_shape, rows_first, shape_text
from harness.tasks.values import LengthsOf

_NAME = "carried_state"
_CUTS = 3
"""At how many places a call is cut in two; it is cut into the smallest pieces besides."""

_KEEPS = "a state that forward does not pass on, keeps on the module, or takes from another place than it returned it to"

Outputs = dict[str, Any]
Calls = Callable[[nn.Module], Outputs]
"""From a model to the outputs of the last of some calls."""

Culprit = Callable[[nn.Module], str]
"""From a model to the module that is to blame."""


def chunks_equal_whole(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """A call that is cut in two, or into small pieces, gives what the whole gives, where each piece continues from the state of the last."""
    if reason := _unseen(subject):
        return Evidence.skipped(_NAME, reason)
    base = subject.batch(sizes, seed)
    entire = remembered(subject, lambda model: subject.outputs(base, model))
    found = []
    for axis in chunked_axes(subject):
        length = subject.task.signature.complete(sizes.by_axis(subject.task))[axis.name]
        for cuts in _cuts(axis, length):
            joined = remembered(subject, partial(_joined, subject, base, axis.name, cuts))
            culprit = partial(_where_parted, subject, base, axis.name, cuts)
            at = f"{sizes.describe(subject.task)}, seed={seed}"
            found.append(_same(subject, entire, joined, axis.name, length, cuts, at, culprit))
    return first_failure(found) if found else Evidence.skipped(_NAME, "a call of these sizes cannot be cut")


def requests_apart(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """A second call gives the same whether or not another request was served between it and the first one."""
    if reason := _unseen(subject):
        return Evidence.skipped(_NAME, reason)
    first, second, other = (subject.batch(sizes, seed + number) for number in range(3))

    def follow(between: bool, model: nn.Module) -> Outputs:
        state = subject.outputs(first, model)
        if between:
            subject.outputs(other, model)
        return subject.outputs(going_on(subject, second, state), model)

    alone, among = (remembered(subject, partial(follow, between)) for between in (False, True))

    def culprit(model: nn.Module) -> str:
        traces = []
        for between in (False, True):
            with recording(model, lines=True) as calls:
                follow(between, model)
            traces.append(calls)
        last = [calls[max(0, len(calls) - len(traces[0]) // 2) :] for calls in traces]
        return first_divergence(last[0], last[1], whole) or WHOLE

    told = "output `{}` of a request changes when another request is served between its calls"
    return _same_outputs(subject, alone, among, told, f"{sizes.describe(subject.task)}, seed={seed}", culprit)


def state_is_used(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Some output of a call depends on the state that it continues from."""
    if reason := _unseen(subject):
        return Evidence.skipped(_NAME, reason)
    model = subject.double if subject.double is not None else subject.model
    states = [subject.outputs(subject.batch(sizes, seed + number), model) for number in range(2)]
    second = subject.batch(sizes, seed + 2)
    counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
    for each in subject.task.signature.states:
        # One state at a time, so that each is seen to matter.
        if any(state[each.state] is None for state in states):
            return Evidence.failed(
                _NAME,
                f"output `{each.state}` is None, so no call can continue from it",
                counterexample=counterexample,
                module=WHOLE,
                code="missing_state",
            )
        given = going_on(subject, second, states[0])
        other: Batch = {**given, each.name: going_on(subject, second, states[1])[each.name]}
        before, after = (_tensors(subject.outputs(batch, model)) for batch in (given, other))
        if not any(differs(a, b) for a, b in zip(before, after, strict=False)):
            return Evidence.failed(
                _NAME,
                f"no output depends on the state `{each.name}` that an earlier call returned",
                counterexample=counterexample,
                investigate=partial(_where_unused, subject, given, other),
                cause="a state that forward takes and does not use, such as a recurrent layer called without it, or returns as it was given",
                code="ignored_state",
            )
    return Evidence.ok(_NAME, "every state matters", counterexample=counterexample)


def state_shape(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Every tensor of a state has the declared shape, after the first call and after the next one."""
    if reason := _unseen(subject):
        return Evidence.skipped(_NAME, reason)
    signature = subject.task.signature
    counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
    batch = subject.batch(sizes, seed)
    grown: dict[str, int] = {}
    for number in (1, 2):
        try:
            outputs = subject.outputs(batch)
        except ModelRaisedError as error:
            if number == 1:
                raise
            return Evidence.failed(
                _NAME,
                f"forward raises when it is given its own state: {error}",
                counterexample=counterexample,
                module=error.module,
                cause="a state of another shape or nesting than forward takes",
                code="raises",
            )
        sized = signature.complete({**sizes.by_axis(subject.task), **grown})
        for each in signature.states:
            output = next(output for output in signature.outputs if output.name == each.state)
            laid_out = [output.axes[place] for place in rows_first(output.axes)]
            for leaf in tree_leaves(outputs[output.name]):
                if not isinstance(leaf, Tensor) or not output.axes:
                    continue
                expected = tuple(axis if isinstance(axis, int) else sized[axis] for axis in laid_out)
                if not fits_shape(leaf.shape, expected):
                    return Evidence.failed(
                        _NAME,
                        f"state `{output.name}` has shape {list(leaf.shape)} after call {number}, promised {shape_text(expected)}",
                        counterexample=counterexample,
                        investigate=partial(_where_returned, subject, batch, leaf),
                        cause="layers, directions or heads that the declared axes do not count, or an axis in another place",
                        code="wrong_shape",
                    )
                read = [each.axes[place] for place in rows_first(each.axes)]
                grown |= {
                    axis: size
                    for axis, size in zip(read, leaf.shape, strict=False)
                    if isinstance(axis, str) and _is_own(subject, axis)
                }
        batch = going_on(subject, subject.batch(sizes, seed + number), outputs)
    return Evidence.ok(_NAME, "states have their declared shape", counterexample=counterexample)


def chunked_axes(subject: Subject) -> list[Axis]:
    """The causal axes of inputs, along which a call can be cut."""
    signature = subject.task.signature
    read = {axis for each in signature.inputs if not each.state for axis in each.axes}
    return [axis for axis in signature.with_order("causal") if axis.name in read]


def _cuts(axis: Axis, length: int) -> list[tuple[int, ...]]:
    """The sizes of the pieces of some ways to cut a call."""
    least = next(iter(axis.choices()))
    step = max(1, least, axis.multiple_of)
    ways = [(size, length - size) for size in range(step, length) if axis.allows(size) and axis.allows(length - size)]
    spread = torch.linspace(0, len(ways) - 1, min(len(ways), _CUTS)).round().long().unique().tolist() if ways else []
    found = [ways[place] for place in spread]
    pieces = (step,) * (length // step)
    if len(pieces) > 2 and sum(pieces) == length and axis.allows(step):
        found.append(pieces)
    return found


def _joined(subject: Subject, base: Batch, axis: str, cuts: tuple[int, ...], model: nn.Module) -> Outputs:
    """The outputs of a call that is cut into pieces, put together along the axis; what has no such axis is the last piece's."""
    signature = subject.task.signature
    parts: list[Outputs] = []
    start = 0
    for size in cuts:
        piece = dict(base) if not parts else going_on(subject, base, parts[-1])
        for each in signature.inputs:
            if each.state or each.name not in piece:
                continue
            for place, name in enumerate(each.axes[place] for place in rows_first(each.axes)):
                if name == axis:
                    piece[each.name] = piece[each.name].narrow(place, start, size)
            if isinstance(each.values, LengthsOf) and each.values.axis == axis:
                piece[each.name] = torch.full_like(piece[each.name], size)
        parts.append(subject.outputs(piece, model))
        start += size
    joined = dict(parts[-1])
    for output in signature.outputs:
        laid_out = [output.axes[place] for place in rows_first(output.axes)]
        along = next(
            (place for place, name in enumerate(laid_out) if isinstance(name, str) and signature.axes[name].follows(axis)), None
        )
        if along is not None and isinstance(joined[output.name], Tensor) and output.name not in _continued(subject):
            joined[output.name] = torch.cat([part[output.name] for part in parts], along)
    return joined


def _where_parted(subject: Subject, base: Batch, axis: str, cuts: tuple[int, ...], model: nn.Module) -> str:
    """The first module that makes something else of the pieces of a call than of the whole."""
    with recording(model, lines=True) as calls:
        subject.outputs(base, model)
    with recording(model, lines=True) as pieces:
        _joined(subject, base, axis, cuts, model)
    per_call = len(pieces) // len(cuts)
    parts = [dict(numbered(pieces[start : start + per_call], "module")) for start in range(0, len(pieces), max(1, per_call))]
    together = [
        _put_together(call, same)
        for key, call in numbered(calls, "module")
        if len(same := [part[key] for part in parts if key in part]) > 1
    ]
    return first_divergence(calls, together, whole) or WHOLE


def _put_together(call: Call, parts: list[Call]) -> Call:
    """The calls of a module in pieces as one call, as far as that can be compared with the call of the whole."""
    steps = [dict(numbered(part.steps, "place", "name")) for part in parts]
    joined = [
        Step(
            step.place,
            step.name,
            _all_of(step.inputs, [s.inputs for s in same], 0),
            _all_of(step.outputs, [s.outputs for s in same]),
        )
        for key, step in numbered(call.steps, "place", "name")
        if len(same := [part[key] for part in steps if key in part]) == len(parts)
    ]
    return Call(
        call.module,
        _all_of(call.inputs, [part.inputs for part in parts], 0),
        _all_of(call.outputs, [part.outputs for part in parts]),
        joined,
    )


def _all_of(tensors: list[Tensor], parts: list[list[Tensor]], carried: int = -1) -> list[Tensor]:
    """Tensors of pieces put together to the shapes of those of a whole: along an axis, or one of them where it is carried along."""
    return [
        _whole_of(tensor, [part[place] for part in parts if place < len(part)], carried) for place, tensor in enumerate(tensors)
    ]


def _whole_of(tensor: Tensor, parts: list[Tensor], carried: int) -> Tensor:
    if parts and all(part.ndim == tensor.ndim for part in parts):
        for place in range(tensor.ndim):
            rest = {(*part.shape[:place], *part.shape[place + 1 :]) for part in parts}
            if rest == {(*tensor.shape[:place], *tensor.shape[place + 1 :])} and tensor.shape[place] == sum(
                part.shape[place] for part in parts
            ):
                return torch.cat(parts, place)
        if parts[carried].shape == tensor.shape:
            return parts[carried]
    # Without a counterpart what was given counts as something else, and what was returned as the same.
    return tensor if carried else torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else ~tensor


def _where_unused(subject: Subject, given: Batch, other: Batch) -> str:
    return where_lost(subject, given, other) or WHOLE


def _where_returned(subject: Subject, batch: Batch, state: Tensor) -> str:
    with recording(subject.model, lines=True) as calls:
        subject.outputs(batch)
    found = (call.module for call in calls if any(each.shape == state.shape for each in call.outputs))
    return first_returning(calls, state) or next(found, WHOLE)


def going_on(subject: Subject, batch: Batch, outputs: Outputs) -> Batch:
    """A batch that continues from the states of an earlier call."""
    states = {each.name: outputs[each.state] for each in subject.task.signature.states}
    return {**batch, **{name: value for name, value in states.items() if value is not None}}


def _unseen(subject: Subject) -> str:
    """Why no state can be passed on; empty where one can."""
    is_own = not isinstance(subject.adapter, SignatureAdapter)
    return "the config's own `adapter` returns the main output only" if is_own else ""


def _continued(subject: Subject) -> set[str]:
    return {each.state for each in subject.task.signature.states}


def _is_own(subject: Subject, axis: str) -> bool:
    """Whether only states have an axis, which begins at 0 and grows from call to call."""
    return subject.task.signature.axes[axis].is_free and axis not in {each.name for each in subject.task.signature.free_axes}


def _same(
    subject: Subject, entire: Calls, joined: Calls, axis: str, length: int, cuts: tuple[int, ...], at: str, culprit: Culprit
) -> Evidence:
    pieces = " + ".join(map(str, cuts)) if len(cuts) < 6 else f"{len(cuts)} pieces of {cuts[0]}"
    told = f"output `{{}}` of a call along `{axis}` changes when the call is cut in {len(cuts)} and each piece continues from the last state"
    return _same_outputs(subject, entire, joined, told, f"{at}, {axis}={length} cut into {pieces}", culprit)


def _same_outputs(subject: Subject, left: Calls, right: Calls, told: str, counterexample: str, culprit: Culprit) -> Evidence:
    """Whether every floating tensor that two ways to call return is the same; a state counts where it is one tensor."""

    def compare(name: str, model: nn.Module) -> tuple[Tensor, Tensor]:
        return left(model)[name], right(model)[name]

    there = left(subject.model)
    judged = [output for output in subject.task.signature.outputs if isinstance(there.get(output.name), Tensor)]
    judged = [output for output in judged if there[output.name].is_floating_point()]
    return first_failure(
        judge_equal(
            subject.judging(output.name),
            _NAME,
            partial(compare, output.name),
            told.format(output.name),
            counterexample,
            _KEEPS,
            culprit,
            code="depends_on_split",
        )
        for output in judged
    )


def _tensors(outputs: Outputs) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
