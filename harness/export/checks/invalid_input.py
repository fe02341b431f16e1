"""What an artifact does with input that no model should get."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.batches import Batch, Sizes
from harness.evidence import Evidence, Status
from harness.export import outcome
from harness.export.checks.performance import least_decibels
from harness.export.clean_process import Answer, ExportedFile
from harness.export.exports import Exports
from harness.export.onnx.quantisation import logits_sqnr
from harness.export.program import LOGITS, Program
from harness.properties.noise import difference
from harness.tasks.axes import BATCH
from harness.tasks.signature import Input
from harness.tasks.values import Ids, IndexOf, Normal, Uniform

_EMPTY = "an empty batch"
_IMAGE_AXES = 4
"""From so many axes on, numbers are taken for the pixels of images."""


def invalid_input(exports: Exports, format: str) -> Evidence:
    """What the model refuses, the artifact refuses too; what the model computes after all, it computes alike.

    An artifact that refuses more than the model does is loud about it, which is reported and no failure.

    Raises:
        UserError: There is no artifact that can be loaded.
    """
    manifest = exports.artifact(format).manifest
    fixed = frozenset(manifest.static if manifest else ())  # whose sizes are the matter of dynamic_axes
    returns = f"returns {exports.program.returns}"
    cases, behaviour, found = list(invalid_cases(exports, fixed)), dict[str, str](), list[Evidence]()
    for case, answer in zip(cases, _answers(exports, format, cases), strict=True):
        expected, reason = outcome(partial(exports.eager, case.batch))
        behaviour[case.name] = f"model: {reason or returns}; {format}: {answer.refusal or returns}"
        if answer.is_fatal:
            found.append(_fatal(exports, format, case, answer.refusal, behaviour))
        actual = answer.outputs
        if actual is None or (case.empty and not any(tensor.numel() for tensor in actual.values())):
            continue
        if expected is None:
            what = f"returns {exports.program.returns} where the model raises ({reason})"
            found.append(_silent(exports, format, case, what, "accepts_invalid_input", behaviour))
        elif exports.subject.prerequisite_failure.random:
            continue  # two calls of the model differ as well
        elif differing := [name for name in expected if not _alike(exports, format, name, actual[name], expected[name])]:
            what = "logits that differ" if differing[0] == LOGITS else f"values of output `{differing[0]}` that differ"
            found.append(_silent(exports, format, case, f"gives {what} from the model's", "different_logits", behaviour))
    if found:
        return max(found, key=lambda evidence: evidence.status.severity)
    message = f"behaves like the model on {', '.join(behaviour)}"
    return Evidence.ok("invalid_input", message, details={"behaviour": behaviour})


def _alike(exports: Exports, format: str, name: str, actual: Tensor, expected: Tensor) -> bool:
    """Whether an output is the model's: up to rounding, or up to what quantisation may cost where the file is quantised."""
    if actual.shape != expected.shape or not torch.equal(actual.isnan(), expected.isnan()):
        return False
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(actual, expected)
    actual, expected = actual.nan_to_num(), expected.nan_to_num()
    floor = exports.floors[name]
    scale = max(1.0, float(expected.abs().max()) / floor.scale) if floor.scale else 1.0
    if difference(actual, expected) <= floor.bound * scale:
        return True
    return bool(exports.exporter(format).quantised_from) and logits_sqnr([expected], [actual]) >= least_decibels(exports)


@dataclass(frozen=True)
class InvalidCase:
    """A batch that no model should get."""

    name: str
    batch: Batch
    field: str

    @property
    def empty(self) -> bool:
        """Whether there are no rows, for which no logits are as good an answer as a refusal."""
        return self.name == _EMPTY


def invalid_cases(exports: Exports, fixed: Container[str] = ()) -> Iterator[InvalidCase]:
    """Batches that are wrong in one way each."""
    program, point = exports.program, exports.points[0]
    batch, task = exports.batch(point), exports.program.task
    inputs = [task.signature.input(name) for name in program.fields]
    for each in inputs:
        for name, wrong in _wrong_ids(each, batch[each.name], point.sizes.by_axis(task)):
            yield InvalidCase(name, {**batch, each.name: wrong}, each.name)
    if BATCH in program.limits and BATCH not in fixed:
        rows = {name: p for name, axes in program.axes.items() for p, axis in axes.items() if axis == BATCH}
        nothing = {name: tensor.narrow(rows[name], 0, 0) if name in rows else tensor for name, tensor in batch.items()}
        yield InvalidCase(_EMPTY, nothing, program.fields[0])
    for axis, most in _limited(program, fixed).items():
        sizes = {**point.sizes.by_axis(task), axis: most + 3 * program.step(axis)}
        field = next(name for name, axes in program.axes.items() if axis in axes.values())
        longer = exports.batch(replace(point, sizes=Sizes.for_task(task, sizes)))
        yield InvalidCase(
            "a sequence that is too long" if axis == "seq" else f"a size of `{axis}` beyond its limit", longer, field
        )
    for each in inputs:
        place = next((p for p, size in enumerate(each.axes) if isinstance(size, int)), None)
        if isinstance(each.values, (Normal, Uniform)) and place is not None and each.dtype.startswith("float"):
            wrong = torch.cat((batch[each.name], batch[each.name].narrow(place, 0, 1)), place)
            name = "one channel too many" if len(each.axes) >= _IMAGE_AXES else "one feature too many"
            yield InvalidCase(name, {**batch, each.name: wrong}, each.name)


def _wrong_ids(each: Input, ids: Tensor, sizes: Mapping[str, int]) -> Iterator[tuple[str, Tensor]]:
    """Ids or positions with a last one that is none of the table's, and what is wrong with it."""
    if isinstance(each.values, Ids):
        count = each.values.count[-1] if isinstance(each.values.count, tuple) else each.values.count
        what, beyond = "id", "an id beyond the vocabulary"
    elif isinstance(each.values, IndexOf) and each.values.axis in sizes:
        count, what, beyond = sizes[each.values.axis], "position", f"a position beyond `{each.values.axis}`"
    else:
        return
    for name, value in ((f"a negative {what}", -1), (beyond, count)):
        wrong = ids.clone(memory_format=torch.contiguous_format)
        wrong.view(-1)[-1:] = value
        yield name, wrong


def _limited(program: Program, fixed: Container[str]) -> dict[str, int]:
    """The first free axis of ids that has an upper limit, as there are positions for so many only; with that limit."""
    inputs = (program.task.signature.input(name) for name in program.fields)
    axes = dict.fromkeys(axis for each in inputs if isinstance(each.values, Ids) for axis in each.axes if isinstance(axis, str))
    read = next((axis for axis in axes if axis != BATCH and axis in program.limits), "")
    axis = program.task.signature.axes.get(read)
    has_places = axis is not None and axis.order != "none" and read not in fixed
    return {read: axis.most} if axis is not None and axis.most is not None and has_places else {}


def _answers(exports: Exports, format: str, cases: list[InvalidCase]) -> list[Answer]:
    """What the artifact makes of each batch; in its own process where a wrong input may end that."""
    run, exporter = exports.runner(format), exports.exporter(format)
    if exporter.may_crash:
        path, program = exports.artifact(format).path, exports.program
        return ExportedFile(type(exporter), path, program.fields, program.outputs).answers([case.batch for case in cases])
    return [Answer(*outcome(partial(run, case.batch))) for case in cases]


def _fatal(exports: Exports, format: str, case: InvalidCase, end: str, behaviour: dict[str, str]) -> Evidence:
    """An empty batch is a warning: who serves a model need not call it for nothing."""
    return Evidence(
        "invalid_input",
        Status.WARN if case.empty else Status.FAIL,
        f"{format}: the process that runs it crashes on {case.name} in `{case.field}`: {end}",
        counterexample=f"{exports.points[0].describe(exports.program)}, with {case.name} in `{case.field}`",
        cause="the runtime's kernel does not check sizes: check them before the call",
        details={"behaviour": behaviour},
        code="process_crashes",
    )


def _silent(exports: Exports, format: str, case: InvalidCase, what: str, code: str, behaviour: dict[str, str]) -> Evidence:
    """Ids that a runtime or a file of the user's own does not check are a warning: who serves it can check them before the call."""
    is_id = isinstance(exports.program.task.signature.input(case.field).values, (Ids, IndexOf))
    if is_id and exports.exporter(format).accepts_any_id:
        status, cause = Status.WARN, "the runtime accepts any id: check ids before the call"
    else:
        status = Status.WARN if is_id and exports.artifact(format).manifest is None else Status.FAIL
        lookup = "the lookup counts negative indices from the end or clips them; export with this project, which adds a guard, or"
        cause = f"{lookup if is_id else 'the file leaves out what Python code checks:'} check the input before the call"
    return Evidence(
        "invalid_input",
        status,
        f"{format}: {what}, on {case.name} in `{case.field}`",
        counterexample=f"{exports.points[0].describe(exports.program)}, with {case.name} in `{case.field}`",
        cause=cause,
        details={"behaviour": behaviour},
        code=code,
    )
