"""Tier 4 in a few figures a format, and what to do about what failed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.evidence import WHOLE, Evidence, Status


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
