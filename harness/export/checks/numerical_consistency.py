"""Whether an artifact computes what the model computes, at shapes its exporter never saw."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.batches import Batch
from harness.errors import UserError
from harness.evidence import Evidence
from harness.export import one_line
from harness.export.blame import Blame
from harness.export.checks.lines import deciding_line, line_of_a_decision, line_of_a_size
from harness.export.exports import Exports
from harness.export.formats import ExportError, WrongFile, outputs_by_name
from harness.export.program import LOGITS, Outputs, promised_outputs
from harness.export.shape_grid import Point
from harness.properties.calling import ModelRaisedError
from harness.properties.noise import FACTOR, difference
from harness.properties.tracing import recording
from harness.wording import counted, figure

_NAME = "numerical_consistency"

_CAUSE = "the exporter froze a decision or translated an operator wrongly, or the file holds other weights"


@dataclass(frozen=True)
class Compared:
    """One output of an artifact beside the model's, at one point.

    Attributes:
        point: The point.
        output: Name of the output.
        absolute: Largest absolute difference; infinite where shapes differ, nothing was compared or only one side is NaN.
        relative: The same, divided by the largest absolute value.
        bound: What ``absolute`` is held to; 0 for whole numbers and truth values.
        agreement: Share of positions at which both have the same largest score; ``None`` for an output without classes.
        wrong: What is wrong other than a difference of values; empty where nothing is.
    """

    point: Point
    output: str
    absolute: float
    relative: float
    bound: float
    agreement: float | None
    wrong: str = ""


def numerical_consistency(exports: Exports, format: str) -> Evidence:
    """Every output of an artifact equals the model's within its rounding noise, over a grid of shapes.

    The bound is the user's, or ten times the model's noise floor. A difference above a derived bound is still put down to rounding where
    it stays below the format's default tolerance and vanishes when both compute in float64.

    Raises:
        UserError: There is no artifact that can be loaded.
    """
    run = exports.runner(format)
    found: list[Compared] = []
    refused: dict[Point, str] = {}
    for point in exports.points_for(format):
        try:
            found += compare(exports, point, run(exports.batch(point)))
        except Exception as error:
            refused[point] = _message(error)
    compared_outputs = {compared.output for compared in found}
    if empty := [name for name in exports.program.outputs if name not in compared_outputs and not refused]:
        message = f"{format}: nothing could be compared: output `{empty[0]}` is empty at every size"
        return Evidence.failed(_NAME, message, code="nothing_compared")
    if not any(not compared.point.seen(exports.program) for compared in found):
        return _nothing_unseen(exports, format, found, refused)
    worst = max(found, key=_excess)
    details = _details(found, refused, exports)
    facts: dict[str, Any] = {
        "measured": (worst.absolute, worst.bound, ""),
        "counterexample": worst.point.describe(exports.program),
        "details": details,
    }
    if worst.absolute <= worst.bound:
        return Evidence.ok(_NAME, _agrees(found, exports), **facts)
    if _is_rounding(exports, format, worst, details):
        return Evidence.ok(
            _NAME, f"{_agrees(found, exports)}; the remaining difference is rounding: it vanishes in float64", **facts
        )
    by_size = _by_size(found, refused, worst.output, exports)
    return _frozen(exports, format, found, worst, facts, by_size) or _differs(exports, format, worst, facts, by_size)


def compare(exports: Exports, point: Point, outputs: Outputs) -> list[Compared]:
    """Holds an artifact's outputs at a point against the model's; without those that are empty on both sides."""
    expected = exports.expected(point).items()
    differing = [(name, tensor) for name, tensor in expected if tensor.numel() or outputs[name].shape != tensor.shape]
    return [_compared(exports, point, name, outputs[name], tensor) for name, tensor in differing]


def _compared(exports: Exports, point: Point, name: str, found: Tensor, expected: Tensor) -> Compared:
    expected = expected.float() if expected.dtype == torch.bfloat16 else expected
    scale = float(expected.double().abs().nan_to_num(0, 0, 0).max()) if expected.numel() else 0.0
    bound = _bound(exports, name, scale) if expected.is_floating_point() else 0.0
    wrong, absolute = "", float("inf")
    if found.shape != expected.shape:
        wrong = f"of shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    elif not torch.equal(found.isfinite(), expected.isfinite()):
        count = int((found.isfinite() != expected.isfinite()).sum())
        wrong = f"{counted(count, 'logit' if name == LOGITS else 'value')} finite only on one side"
    else:
        sound = expected.isfinite()
        absolute = difference(found[sound], expected[sound]) if bool(sound.any()) else 0.0
    agreement = None
    classes = _classes(exports, name, expected)
    if not wrong and classes is not None and expected.numel():
        agreement = float((found.argmax(classes) == expected.argmax(classes)).double().mean())
    return Compared(point, name, absolute, absolute / scale if scale else absolute, bound, agreement, wrong)


def _classes(exports: Exports, name: str, output: Tensor) -> int | None:
    """The axis of an output that holds scores of classes; ``None`` where none does."""
    promised = promised_outputs(exports.program).get(name)
    position = getattr(promised.kind, "classes", None) if promised else None
    return position if position is not None and output.ndim > 1 and -output.ndim <= position < output.ndim else None


def _bound(exports: Exports, name: str, scale: float) -> float:
    chosen = exports.subject.task.tolerances.get(_NAME)
    if chosen is not None:
        return chosen
    floor = exports.floors[name]
    # The floor was measured at typical contents; at larger values rounding is larger in proportion.
    return floor.bound * max(1.0, scale / floor.scale if floor.scale else 1.0)


def _is_rounding(exports: Exports, format: str, worst: Compared, details: dict[str, Any]) -> bool:
    """Whether a difference above the bound is rounding after all: small, and gone in float64."""
    if worst.wrong or _NAME in exports.subject.task.tolerances:
        return False
    if min(worst.absolute, worst.relative) > exports.exporter(format).tolerance:
        return False
    confirmed = _difference_in_float64(exports, format, worst)
    if confirmed is None:
        return False
    details["float64_difference"] = confirmed
    return confirmed < worst.absolute / FACTOR


def _difference_in_float64(exports: Exports, format: str, worst: Compared) -> float | None:
    """The difference when model and artifact both compute in float64; ``None`` where they cannot."""
    double = exports.subject.double
    if double is None:
        return None
    batch = exports.batch(worst.point)
    try:
        found = exports.exporter(format).run_in_float64(exports.artifact(format).path, batch)
        if found is None:
            return None
        found = outputs_by_name(exports.program.outputs, found)[worst.output]
    except ExportError:
        return None
    return difference(found, exports.call(double, batch)[worst.output].cpu())


def _by_size(found: list[Compared], refused: dict[Point, str], output: str, exports: Exports) -> dict[str, Any]:
    """How far an output is from the model's at each size, the worst of its contents, as a picture."""
    program, worst, notes = exports.program, dict[str, Compared](), dict[str, str]()
    for each in (each for each in found if each.output == output):
        label = each.point.sizes.describe(program.task) + (" (the exporter's)" if each.point.seen(program) else "")
        worst[label] = max(worst.get(label, each), each, key=_excess)
        if worst[label].wrong:
            notes[label] = worst[label].wrong
    for point in refused:
        notes.setdefault(point.sizes.describe(program.task), "refused")
    labels = sorted({*worst, *notes}, key=lambda label: [int(number) for number in re.findall(r"\d+", label)])
    values = [worst[label].absolute if label in worst and label not in notes else 0.0 for label in labels]
    return {
        "kind": "parity",
        "title": "File and model, by size",
        "caption": f"Largest difference from what the model returns{f' as {output}' if len(program.outputs) > 1 else ''}",
        "labels": labels,
        "values": [value if math.isfinite(value) else 0.0 for value in values],
        "bounds": [worst[label].bound if label in worst else 0.0 for label in labels],
        "notes": [
            notes.get(label, "" if math.isfinite(value) else "not finite") for label, value in zip(labels, values, strict=True)
        ],
    }


def _frozen(
    exports: Exports, format: str, found: list[Compared], worst: Compared, facts: dict[str, Any], by_size: dict[str, Any]
) -> Evidence | None:
    """The finding where the file is right at the exporter's example, and a line of the model runs at only one of that and the point."""
    if worst.point.seen(exports.program) or any(_excess(each) > 1 for each in found if each.point.seen(exports.program)):
        return None
    here, there = (_lines_run(exports, batch) for batch in (exports.batch(worst.point), exports.program.example))
    one_sided = [each for each in (*here, *there) if (each in here) != (each in there)]
    if not one_sided:
        return None
    ran, module = one_sided[0]
    place = deciding_line(exports.reference, ran)
    at, line = worst.point.sizes.describe(exports.program.task), ran.rpartition(":")[2]
    kept = "runs there, and the file never runs it" if one_sided[0] in here else "is skipped there, and the file always runs it"
    decided = "" if place == ran else f", as line {place.rpartition(':')[2]} decides"
    return Evidence.failed(
        _NAME,
        f"{format}: {_what_differs(exports, worst)} at {at}: line {line} {kept}{decided}",
        module=module,
        place=place,
        code="different_logits",
        cause="an `if` or a loop that follows the size of an input: a file holds one of its ways only; compute the same without it, or "
        "declare the sizes that work (`export.dynamic_shapes`)",
        details={**facts["details"], "output": worst.output, "plots": [by_size]},
        **{key: value for key, value in facts.items() if key != "details"},
    )


def _lines_run(exports: Exports, batch: Batch) -> list[tuple[str, str]]:
    """The lines of the user's code that compute something for a batch, each with its module."""
    model = exports.reference
    with recording(model, lines=True) as calls:
        exports.call(model, batch)
    return list(dict.fromkeys((step.place, call.module) for call in calls for step in call.steps))


def _differs(exports: Exports, format: str, worst: Compared, facts: dict[str, Any], by_size: dict[str, Any]) -> Evidence:
    unseen = "" if worst.point.seen(exports.program) else ", a shape its exporter did not see"
    at = worst.point.sizes.describe(exports.program.task)
    blame = _blame(exports, format, worst)
    operator = (
        f"; first diverging operator: {blame.operator}" + (f" at {blame.line}" if blame.line else "") if blame.operator else ""
    )
    place = _kept_line(exports, format, worst)
    line = place.rpartition(":")[2]
    kept = f"; the file keeps what line {line} gave at the exporter's example" if place and f":{line}: " not in operator else ""
    details = {**facts.pop("details"), "output": worst.output, "blame": blame.to_json(), "plots": [by_size]}
    return Evidence.failed(
        _NAME,
        f"{format}: {_what_differs(exports, worst)} at {at}{unseen}{operator}{kept}",
        module=blame.module,
        place=place or ":".join(blame.line.split(":")[:2]),
        code="different_form" if worst.wrong else "different_logits",
        cause=blame.explanation or _CAUSE,
        details=details,
        **facts,
    )


def _kept_line(exports: Exports, format: str, worst: Compared) -> str:
    """The line whose number or size the file keeps, where it is right at the exporter's example; empty where none is known."""
    run, program, output = exports.runner(format), exports.program, worst.output
    try:
        example, found = exports.example_outputs(format)[output], run(exports.batch(worst.point))
        is_right = difference(example, exports.eager(program.example)[output]) <= worst.bound
    except (UserError, ModelRaisedError, RuntimeError):
        return ""
    if not is_right:
        return ""
    place = line_of_a_decision(exports, worst.point, found, output, worst.bound)
    is_of_a_size = not place and worst.wrong.startswith("of shape") and not worst.point.seen(program)
    return line_of_a_size(exports, format) if is_of_a_size else place


def _what_differs(exports: Exports, worst: Compared) -> str:
    """What is wrong, with the output's name and axes where a model does not only return logits."""
    if worst.output == LOGITS:
        differing = f"logits differ from the model's by {figure(worst.absolute)}"
        return differing if not worst.wrong else f"logits {worst.wrong}" if worst.wrong.startswith("of ") else worst.wrong
    promised = promised_outputs(exports.program).get(worst.output)
    axes = f" [{', '.join(map(str, promised.axes))}]" if promised else ""
    said = worst.wrong or f"differs from the model's by {figure(worst.absolute)}"
    name = "the output" if worst.output == "_" else f"output `{worst.output}`"
    return f"{name}{axes} {'is ' if worst.wrong.startswith('of ') else 'has ' if worst.wrong else ''}{said}"


def _excess(compared: Compared) -> float:
    if compared.bound:
        return compared.absolute / compared.bound
    return float("inf") if compared.absolute else 0.0


def _blame(exports: Exports, format: str, worst: Compared) -> Blame:
    """The first operator that diverges; empty of weights, which only fill a model, and where the runtime shows no operators."""
    artifact = exports.artifact(format)
    try:
        run, place = exports.runner(format), exports.program.outputs.index(worst.output)
        wrong = WrongFile(
            artifact.path,
            lambda batch: run(batch)[worst.output],
            exports.program.only(worst.output),
            place,
            exports.batch(worst.point),
            worst.bound,
            artifact.ours,
            lambda: exports.kept(format),
            exports.failures,
        )
        return exports.exporter(format).blame(wrong)
    except Exception as error:  # the finding stands, whether or not its cause can be found
        return Blame(explanation=f"the operator could not be found: {type(error).__name__}: {error}")


def _nothing_unseen(exports: Exports, format: str, found: list[Compared], refused: dict[Point, str]) -> Evidence:
    """A verdict for an artifact that runs nowhere else than where it was exported."""
    if not found:
        point, reason = next(iter(refused.items()))
        message = f"{format}: nothing could be compared: the file refuses every batch; the first, {point.describe(exports.program)}: {reason}"
        return Evidence.failed(
            _NAME, message, cause="the file does not run", code="nothing_compared", details={"refused": len(refused)}
        )
    worst = max(found, key=_excess)
    facts: dict[str, Any] = {
        "measured": (worst.absolute, worst.bound, ""),
        "counterexample": worst.point.describe(exports.program),
    }
    details = _details(found, refused, exports)
    if worst.absolute > worst.bound:
        by_size = _by_size(found, refused, worst.output, exports)
        return _differs(exports, format, worst, {**facts, "details": details}, by_size)
    message = f"equal within rounding on {_batches(found)} of the exported sizes"
    if refused:
        message += f"; refuses all {len(refused)} others (see dynamic_axes)"
    return Evidence.ok(_NAME, message, details=details, **facts)


def _agrees(found: list[Compared], exports: Exports) -> str:
    unseen = len({compared.point.sizes for compared in found if not compared.point.seen(exports.program)})
    outputs = len(exports.program.outputs)
    every = f"{outputs} outputs " if outputs > 1 else ""
    return f"{every}equal within rounding on {_batches(found)}, with {counted(unseen, 'shape')} that the exporter never saw"


def _batches(found: list[Compared]) -> str:
    return counted(len({compared.point for compared in found}), "batch")


def _details(found: list[Compared], refused: dict[Point, str], exports: Exports) -> dict[str, Any]:
    agreements = [compared.agreement for compared in found if compared.agreement is not None]
    return {
        "max_abs_diff": max(compared.absolute for compared in found),
        "max_rel_diff": max(compared.relative for compared in found),
        "argmax_agreement": min(agreements, default=None),
        "batches": len({compared.point for compared in found}),
        "shapes_unseen": len({c.point.sizes for c in found if not c.point.seen(exports.program)}),
        "refused": {point.describe(exports.program): reason for point, reason in refused.items()},
        "noise_floor": max(floor.value for floor in exports.floors.values()),
        **({} if len(exports.program.outputs) == 1 else {"by_output": _by_output(found)}),
    }


def _by_output(found: list[Compared]) -> dict[str, float]:
    """The largest difference of each output."""
    largest: dict[str, float] = {}
    for compared in found:
        largest[compared.output] = max(compared.absolute, largest.get(compared.output, 0.0))
    return largest


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else one_line(error)
