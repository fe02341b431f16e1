"""How a check of tier 4 is run, by tests, health checker and command line; a format in a few figures; what to do about a failure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from harness.catalogue import CATALOGUE, names_of
from harness.errors import MissingPackageError, UserError
from harness.evidence import WHOLE, Evidence, Status, guarded
from harness.export.exports import Exports
from harness.owners import Selection, left_to, owned_by, owners_of, settled
from harness.properties.prerequisites import (
    FINITE_OWNER,
    RANDOM,
    RANDOM_OWNER,
    WEIGHTS_OWNERS,
    PrerequisiteFailure,
    left_to_weights,
)
from harness.runtime import threads_for
from harness.user_code import raised

_FORWARD_PASS = "forward_pass_validation"
_COMPARED = ("numerical_consistency", "fresh_process")
"""Checks that compare an artifact's logits with the model's."""


def summary_of(found: dict[str, Evidence]) -> dict[str, Any]:
    """``{status, max_abs_diff, max_rel_diff, latency_ms, path, checks}`` from the evidence of one format's checks."""

    def detail(check: str, *keys: str) -> Any:
        value: Any = found[check].details if check in found else {}
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return {
        "status": overall(evidence.status.value for evidence in found.values()),
        "max_abs_diff": detail("numerical_consistency", "max_abs_diff"),
        "max_rel_diff": detail("numerical_consistency", "max_rel_diff"),
        "latency_ms": detail("performance_benchmark", "artifact", "p50"),
        "path": detail("exports", "path"),
        "checks": {name: {"status": e.status.value, "message": e.headline} for name, e in found.items()},
    }


def overall(statuses: Iterable[str]) -> str:
    """The worst status; ``skipped`` only where everything was."""
    found = set(statuses)
    return next((status for status in ("fail", "warn", "ok", "skipped") if status in found), Status.SKIPPED.value)


_ADVICE = {
    "parameter_validation": "Train again with a lower learning rate and gradient clipping, or use an earlier checkpoint without NaN",
    "numerical_consistency": "Compare in float64, export with another opset or without optimisation, and look at the named operator",
    "memory_requirements": 'Quantise the model (`quantization: "dynamic"`), or serve it in half precision',
    "forward_pass_validation": "Look for NaN weights first, then for a softmax over rows that are all masked",
    "shape_validation": "Make forward return logits of the shape that the task promises at every batch size",
    "dynamic_axes": "Replace Python branches and loops over a size by tensor operations, or declare the axis fixed",
    "inference_mode": "Call eval() before the export, and pass `training=self.training` to functional dropout",
    "performance_benchmark": "Try another format, more threads, or a larger batch",
    "exports": "Rewrite the operator that the exporter names, or ship one of the formats that work",
    "fresh_process": "Register every tensor with the module, and keep no state outside the file",
    "invalid_input": "Check ids and shapes before the call, or export with this project, which adds guards",
    "quantisation": "Leave the worst layers in float, calibrate with real data, or ship the float model",
}


def recommendation(evidence: Evidence) -> str:
    """What to do about a failure or a warning; empty for what passed."""
    if evidence.status not in (Status.FAIL, Status.WARN):
        return ""
    advice = _ADVICE.get(evidence.name, "")
    where = f" (in `{evidence.module}`)" if evidence.module not in ("", WHOLE) else ""
    cause = f"usual cause: {evidence.cause}" if evidence.cause else ""
    return ". ".join(part for part in (f"{advice}{where}" if advice else "", cause) if part)


def judge_export(name: str, exports: Exports, format: str = "", judged: Collection[str] | None = None) -> Evidence:
    """The verdict of one check of an artifact, or of the model itself; see ``find_export``.

    Args:
        name: The check.
        exports: The exports.
        format: The format, of a check of an artifact.
        judged: Names of the checks of this run; by default all of this tier.
    """
    label = f"{name}[{format}]" if format else name
    return settled(find_export(name, exports, format), label, Selection(names_of(4) if judged is None else judged))


def find_export(name: str, exports: Exports, format: str = "") -> Evidence:
    """What one check finds, whatever else is judged.

    A file that is not there, cannot be loaded, or does not run is a finding of ``exports`` or ``validation``; NaN weights are one of
    ``parameter_validation``.
    """
    measured = partial(_of_file, name, exports, format) if format else partial(_of_model, name, exports)
    return guarded(name, measured, lambda error: _raised(name, error))


def _of_file(name: str, exports: Exports, format: str) -> Evidence:
    try:
        exports.exporter(format)
    except MissingPackageError as error:
        return Evidence.skipped(name, str(error))
    with threads_for(exports.subject.model):
        return _judge(name, exports, format)


def _of_model(name: str, exports: Exports) -> Evidence:
    found = CATALOGUE[name].load()(exports)
    if name == "parameter_validation" or found.status is not Status.FAIL:
        return found
    found = left_to_weights(exports.subject.prerequisite_failure, found)
    return _left_to_tier_1(exports.subject.prerequisite_failure, found) if name == _FORWARD_PASS else found


def _left_to_tier_1(failure: PrerequisiteFailure, found: Evidence) -> Evidence:
    """What tier 1 says as well is left to it where it runs."""
    owner = RANDOM_OWNER if failure.random else FINITE_OWNER if failure.not_finite else ""
    if not owner or owners_of(found):
        return found
    return replace(found, details={**found.details, **owned_by(owner, _FORWARD_PASS)})


def _raised(name: str, error: Exception) -> Evidence:
    return Evidence.failed(
        name, str(error) if isinstance(error, UserError) else f"cannot be judged: {raised(error)}", code="not_measured"
    )


def _judge(name: str, exports: Exports, format: str) -> Evidence:
    subject = exports.subject
    owner, reason = _trouble(exports, format)
    if owner not in ("", name) and name != "exports":
        code = "export_failed" if owner == "exports" else "unreadable_file"
        return left_to(name, f"{owner}[{format}]", f"{format}: {reason}", code=code)
    if name in _COMPARED and subject.prerequisite_failure.random:
        return Evidence.failed(name, RANDOM, details=owned_by(RANDOM_OWNER, _FORWARD_PASS), code="random_logits")
    if name in _ON_LOGITS and subject.prerequisite_failure.weight:
        return subject.prerequisite_failure.weight.evidence(name)
    found = CATALOGUE[name].load()(exports, format)
    if name != "validation" or found.status is not Status.FAIL or subject.prerequisite_failure.weight is None:
        return found
    return replace(found, details={**found.details, **owned_by(*WEIGHTS_OWNERS)})  # a file holds what the model does


_ON_LOGITS = (*_COMPARED, "inference_mode", "invalid_input", "quantisation")
"""Checks that need logits without NaN."""


def _trouble(exports: Exports, format: str) -> tuple[str, str]:
    """The check that says why there is no artifact that runs, and the reason; empty where there is one."""
    try:
        exports.artifact(format)
    except UserError as error:
        return "exports", str(error)
    try:
        exports.example_outputs(format)
    except UserError as error:
        return "validation", str(error)
    return "", ""
