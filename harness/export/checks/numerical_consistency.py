"""Whether an artifact computes what the model computes, at shapes its exporter never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.export.blame.verdict import Blame
from harness.export.exports import Exports
from harness.export.failure_reason import one_line
from harness.export.formats.exporter import ExportError, WrongFile
from harness.export.shape_grid import Point
from harness.properties.noise import FACTOR, difference
from harness.wording import counted

_NAME = "numerical_consistency"


@dataclass(frozen=True)
class Compared:
    """An artifact's logits beside the model's, at one point.

    Attributes:
        point: The point.
        absolute: Largest absolute difference; infinite where shapes differ, nothing was compared or only one side is NaN.
        relative: The same, divided by the largest absolute logit.
        bound: What ``absolute`` is held to.
        agreement: Share of positions at which both have the same largest logit; ``None`` for a scalar output.
        wrong: What is wrong other than a difference of values; empty where nothing is.
    """

    point: Point
    absolute: float
    relative: float
    bound: float
    agreement: float | None
    wrong: str = ""


def numerical_consistency(exports: Exports, format: str) -> Evidence:
    """An artifact's logits equal the model's within its rounding noise, over a grid of shapes.

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
            found.append(compare(exports, format, point, run(exports.batch(point))))
        except Exception as error:
            refused[point] = _message(error)
    if not any(not compared.point.seen(exports.program) for compared in found):
        return _nothing_unseen(exports, format, found, refused)
    worst = max(found, key=_excess)
    details = _details(found, refused, exports)
    facts: dict[str, Any] = {
        "measured": worst.absolute,
        "bound": worst.bound,
        "counterexample": worst.point.describe(exports.program),
        "details": details,
    }
    if worst.absolute <= worst.bound:
        return Evidence(_NAME, Status.OK, _agrees(found, exports), **facts)
    if _is_rounding(exports, format, worst, details):
        return Evidence(
            _NAME, Status.OK, f"{_agrees(found, exports)}; the remaining difference is rounding: it vanishes in float64", **facts
        )
    return _differs(exports, format, worst, facts)


def compare(exports: Exports, format: str, point: Point, logits: Tensor) -> Compared:
    """Holds an artifact's logits at a point against the model's."""
    expected = exports.expected(point).float() if exports.expected(point).dtype == torch.bfloat16 else exports.expected(point)
    scale = float(expected.abs().nan_to_num(0, 0, 0).max()) if expected.numel() else 0.0
    bound = _bound(exports, scale)
    wrong, absolute = "", float("inf")
    if logits.shape != expected.shape:
        wrong = f"logits of shape {tuple(logits.shape)} instead of {tuple(expected.shape)}"
    elif not torch.equal(logits.isfinite(), expected.isfinite()):
        wrong = f"{counted(int((logits.isfinite() != expected.isfinite()).sum()), 'logit')} finite only on one side"
    else:
        sound = expected.isfinite()
        absolute = difference(logits[sound], expected[sound])
    agreement = None
    if not wrong and expected.ndim > 1 and not exports.program.task.is_regression:
        agreement = float((logits.argmax(-1) == expected.argmax(-1)).double().mean())
    return Compared(point, absolute, absolute / scale if scale else absolute, bound, agreement, wrong)


def _bound(exports: Exports, scale: float) -> float:
    chosen = exports.subject.task.tolerances.get(_NAME)
    if chosen is not None:
        return chosen
    floor = exports.floor
    # The floor was measured at typical contents; at larger logits rounding is larger in proportion.
    return floor.bound * max(1.0, scale / floor.scale if floor.scale else 1.0)


def _is_rounding(exports: Exports, format: str, worst: Compared, details: dict[str, Any]) -> bool:
    """Whether a difference above the bound is rounding after all: small, and gone in float64."""
    if worst.wrong or _NAME in exports.subject.task.tolerances:
        return False
    if min(worst.absolute, worst.relative) > exports.exporter(format).tolerance:
        return False
    confirmed = _difference_in_float64(exports, format, worst.point)
    if confirmed is None:
        return False
    details["float64_difference"] = confirmed
    return confirmed < worst.absolute / FACTOR


def _difference_in_float64(exports: Exports, format: str, point: Point) -> float | None:
    """The difference when model and artifact both compute in float64; ``None`` where they cannot."""
    double = exports.subject.double
    if double is None:
        return None
    batch = exports.batch(point)
    try:
        logits = exports.exporter(format).run_in_float64(exports.artifact(format).path, batch)
    except ExportError:
        return None
    return None if logits is None else difference(logits, exports.subject.logits(batch, double).cpu())


def _differs(exports: Exports, format: str, worst: Compared, facts: dict[str, Any]) -> Evidence:
    unseen = "" if worst.point.seen(exports.program) else ", a shape its exporter did not see"
    at = worst.point.sizes.describe(exports.program.task)
    what = worst.wrong or f"logits differ from the model's by {worst.absolute:.1e}"
    blame = _blame(exports, format, worst)
    operator = (
        f"; first diverging operator: {blame.operator}" + (f" at {blame.line}" if blame.line else "") if blame.operator else ""
    )
    details = {**facts.pop("details"), "blame": blame.to_json()}
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{format}: {what} at {at}{unseen}{operator}",
        module=blame.module,
        code="different_form" if worst.wrong else "different_logits",
        cause=blame.explanation or _CAUSE,
        details=details,
        **facts,
    )


_CAUSE = "the exporter froze a decision or translated an operator wrongly, or the file holds other weights"


def _excess(compared: Compared) -> float:
    if compared.bound:
        return compared.absolute / compared.bound
    return float("inf") if compared.absolute else 0.0


def _blame(exports: Exports, format: str, worst: Compared) -> Blame:
    """The first operator that diverges; empty of weights, which only fill a model, and where the runtime shows no operators."""
    artifact = exports.artifact(format)
    try:
        wrong = WrongFile(
            artifact.path,
            exports.runner(format),
            exports.program,
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
        return Evidence(
            _NAME, Status.FAIL, message, cause="the file does not run", code="nothing_compared", details={"refused": len(refused)}
        )
    worst = max(found, key=_excess)
    facts: dict[str, Any] = {
        "measured": worst.absolute,
        "bound": worst.bound,
        "counterexample": worst.point.describe(exports.program),
    }
    details = _details(found, refused, exports)
    if worst.absolute > worst.bound:
        return _differs(exports, format, worst, {**facts, "details": details})
    message = f"equal within rounding on {_batches(found)} of the exported sizes"
    if refused:
        message += f"; refuses all {len(refused)} others (see dynamic_axes)"
    return Evidence(_NAME, Status.OK, message, details=details, **facts)


def _agrees(found: list[Compared], exports: Exports) -> str:
    unseen = len({compared.point.sizes for compared in found if not compared.point.seen(exports.program)})
    return f"equal within rounding on {_batches(found)}, with {counted(unseen, 'shape')} that the exporter never saw"


def _batches(found: list[Compared]) -> str:
    return "1 batch" if len(found) == 1 else f"{len(found)} batches"


def _details(found: list[Compared], refused: dict[Point, str], exports: Exports) -> dict[str, Any]:
    agreements = [compared.agreement for compared in found if compared.agreement is not None]
    return {
        "max_abs_diff": max(compared.absolute for compared in found),
        "max_rel_diff": max(compared.relative for compared in found),
        "argmax_agreement": min(agreements, default=None),
        "batches": len(found),
        "shapes_unseen": len({c.point.sizes for c in found if not c.point.seen(exports.program)}),
        "refused": {point.describe(exports.program): reason for point, reason in refused.items()},
        "noise_floor": exports.floor.value,
    }


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else one_line(error)
