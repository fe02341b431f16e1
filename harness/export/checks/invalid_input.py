"""What an artifact does with input that no model should get."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.batches import Batch, Sizes
from harness.evidence import Evidence, Status
from harness.export.checks.performance import least_decibels
from harness.export.clean_process.run import Answer, answers
from harness.export.exports import Exports
from harness.export.failure_reason import outcome
from harness.export.onnx.quantisation_quality import logits_sqnr
from harness.properties.noise import difference

_ID_FIELDS: tuple[str, ...] = ("input_ids", "decoder_input_ids")
_VALUE_FIELDS: tuple[str, ...] = ("features", "pixel_values")


def invalid_input(exports: Exports, format: str) -> Evidence:
    """What the model refuses, the artifact refuses too; what the model computes after all, it computes alike.

    An artifact that refuses more than the model does is loud about it, which is reported and no failure.

    Raises:
        UserError: There is no artifact that can be loaded.
    """
    manifest = exports.artifact(format).manifest
    fixed = frozenset(manifest.static if manifest else ())  # whose sizes are the matter of dynamic_axes
    cases, behaviour, found = list(invalid_cases(exports, fixed)), dict[str, str](), list[Evidence]()
    for case, answer in zip(cases, _answers(exports, format, cases), strict=True):
        expected, reason = outcome(partial(exports.eager, case.batch))
        behaviour[case.name] = f"model: {reason or 'returns logits'}; {format}: {answer.refusal or 'returns logits'}"
        if answer.is_fatal:
            found.append(_fatal(exports, format, case, answer.refusal, behaviour))
        actual = answer.logits
        if actual is None or (actual.numel() == 0 and case.empty):
            continue
        if expected is None:
            found.append(
                _silent(
                    exports, format, case, f"returns logits where the model raises ({reason})", "accepts_invalid_input", behaviour
                )
            )
        elif not _alike(exports, format, actual, expected):
            found.append(
                _silent(exports, format, case, "gives logits that differ from the model's", "different_logits", behaviour)
            )
    if found:
        return max(found, key=lambda evidence: evidence.status.severity)
    message = f"behaves like the model on {', '.join(behaviour)}"
    return Evidence("invalid_input", Status.OK, message, details={"behaviour": behaviour})


def _alike(exports: Exports, format: str, actual: Tensor, expected: Tensor) -> bool:
    """Whether logits are the model's: up to rounding, or up to what quantisation may cost where the file is quantised."""
    if actual.shape != expected.shape or not torch.equal(actual.isnan(), expected.isnan()):
        return False
    actual, expected = actual.nan_to_num(), expected.nan_to_num()
    scale = max(1.0, float(expected.abs().max()) / exports.floor.scale) if expected.numel() and exports.floor.scale else 1.0
    if difference(actual, expected) <= exports.floor.bound * scale:
        return True
    return bool(exports.exporter(format).quantised_from) and logits_sqnr([expected], [actual]) >= least_decibels(exports)


@dataclass(frozen=True)
class InvalidCase:
    """A batch that no model should get.

    Attributes:
        name: What is wrong with it.
        batch: The batch.
        field: The field that is wrong.
    """

    name: str
    batch: Batch
    field: str

    @property
    def empty(self) -> bool:
        """Whether there are no rows, for which no logits are as good an answer as a refusal."""
        return len(self.batch[self.field]) == 0


def invalid_cases(exports: Exports, fixed: Container[str] = ()) -> Iterator[InvalidCase]:
    """Batches that are wrong in one way each.

    Args:
        exports: The model.
        fixed: Axes of which the artifact takes one size alone.
    """
    program, point = exports.program, exports.points[0]
    batch, task = exports.batch(point), exports.program.task
    for field in (f for f in _ID_FIELDS if f in program.fields):
        for name, token in (("a negative id", -1), ("an id beyond the vocabulary", task.vocabulary_of(field) or 0)):
            ids = batch[field].clone()
            ids[-1, -1] = token
            yield InvalidCase(name, {**batch, field: ids}, field)
    if "batch" in program.limits and "batch" not in fixed:
        yield InvalidCase("an empty batch", {name: tensor[:0] for name, tensor in batch.items()}, program.fields[0])
    if "seq" in program.limits and "seq" not in fixed and "input_ids" in program.fields:
        longer = replace(point, sizes=Sizes(point.sizes.batch, (task.max_seq_len or 1) + 3, point.sizes.target_seq))
        yield InvalidCase("a sequence that is too long", exports.batch(longer), "input_ids")
    for field in (f for f in _VALUE_FIELDS if f in program.fields):
        wrong = torch.cat((batch[field], batch[field][:, :1]), 1)
        yield InvalidCase(
            "one channel too many" if field == "pixel_values" else "one feature too many", {**batch, field: wrong}, field
        )


def _answers(exports: Exports, format: str, cases: list[InvalidCase]) -> list[Answer]:
    """What the artifact makes of each batch; in a process of its own where a wrong input may end that."""
    run, exporter = exports.runner(format), exports.exporter(format)
    if exporter.may_crash:
        path, fields = exports.artifact(format).path, exports.program.fields
        return answers(type(exporter), path, fields, [case.batch for case in cases])
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
    is_id = case.field in _ID_FIELDS
    if is_id and exports.exporter(format).accepts_any_id:
        status, cause = Status.WARN, "the runtime accepts any id: check ids before the call"
    else:
        status = Status.WARN if is_id and exports.artifact(format).manifest is None else Status.FAIL
        cause = (
            "the lookup counts negative indices from the end or clips them; export with this project, which adds a guard, or check "
            "the input before the call"
        )
    return Evidence(
        "invalid_input",
        status,
        f"{format}: {what}, on {case.name} in `{case.field}`",
        counterexample=f"{exports.points[0].describe(exports.program)}, with {case.name} in `{case.field}`",
        cause=cause,
        details={"behaviour": behaviour},
        code=code,
    )
