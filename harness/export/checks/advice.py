"""What to do about a failed check of tier 4."""

from __future__ import annotations

from harness.evidence import WHOLE, Evidence, Status

_ADVICE = {
    "parameter_validation": "Train again with a lower learning rate and gradient clipping, or go back to a checkpoint without NaN",
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
