"""Whether an exported file is sound in itself, and alive in a process that never saw the exporter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.export.clean_process.run import CleanRun, run_in_clean_process
from harness.export.exports import Exports
from harness.export.shape_grid import Point
from harness.export.store.identity import versions
from harness.files import json_hash
from harness.properties.noise import difference

_REPLAYED = 2
"""Batches of the shape grid that are replayed in the fresh process."""


def validation(exports: Exports, format: str) -> Evidence:
    """The file can be read, is whole, has the opset asked for, and gives finite logits.

    Raises:
        UserError: There is no artifact.
    """
    name = "validation"
    artifact = exports.artifact(format)
    try:
        inspection = exports.inspection(format)
        logits = exports.example_logits(format)
    except UserError as error:
        cause = "a file that was cut short or damaged, weights of another model, or an operator that the runtime cannot run as written"
        return Evidence(name, Status.FAIL, f"{format}: {error}", cause=cause, details={"path": str(artifact.path)})
    details: dict[str, Any] = {"path": str(artifact.path), **inspection.facts}
    problems = list(inspection.problems)
    if not bool(logits.isfinite().all()):
        problems.append(f"{int((~logits.isfinite()).sum())} logits are NaN or infinite")
    if problems:
        cause = "weights that diverged, a file changed by hand, or an exporter that could not give what was asked for"
        return Evidence(name, Status.FAIL, f"{format}: {'; '.join(problems)}", cause=cause, details=details)
    known = {"opset": "opset", "nodes": "nodes", "tensors": "tensors"}
    facts = ", ".join(f"{label} {inspection.facts[key]}" for key, label in known.items() if key in inspection.facts)
    return Evidence(name, Status.OK, f"sound, {artifact.size / 2**20:.2f} MiB" + (f", {facts}" if facts else ""), details=details)


def fresh_process(exports: Exports, format: str) -> Evidence:
    """The file loads in a fresh process and gives the model's logits there; cold start, first call and peak memory are measured.

    Raises:
        UserError: There is no artifact.
    """
    artifact = exports.artifact(format)
    exports.runner(format)  # a file that must not be loaded is not loaded elsewhere either
    key = json_hash(
        "fresh process", artifact.manifest and artifact.manifest.files, exports.identity, versions(), torch.get_num_threads()
    )
    if not artifact.ours:
        return _judge_fresh(exports, format)
    found = exports.cache.values(key, lambda: _judge_fresh(exports, format).to_json(), lambda e: e["status"] == Status.OK.value)
    return Evidence.from_json(found)


def _judge_fresh(exports: Exports, format: str) -> Evidence:
    name = "fresh_process"
    points = exports.points[:_REPLAYED]
    run = run_in_clean_process(
        type(exports.exporter(format)),
        exports.artifact(format).path,
        exports.program.fields,
        [exports.batch(point) for point in points],
        config=exports.config,
        expected=exports.reference.state_dict(),
        threads=torch.get_num_threads(),
    )
    details = _figures(run)
    if run.error:
        cause = "code or weights that exist in this process alone, such as a tensor the state dict does not hold"
        return Evidence(name, Status.FAIL, f"{format}: {run.error}", cause=cause, details=details)
    here = _outputs_here(exports, format, points)
    if here is None:
        return Evidence(
            name, Status.SKIPPED, f"{format}: gives other logits at every call (see inference_mode[{format}])", details=details
        )
    measured = max(map(difference, run.outputs, here)) if run.outputs else None
    bound = exports.floor.repeat_bound
    if measured is not None and measured > bound:
        message = f"{format}: gives other logits in a fresh process than in this one"
        cause = "code or weights that exist in this process alone, such as a tensor the state dict does not hold"
        return Evidence(name, Status.FAIL, message, measured, bound, cause=cause, details=details)
    message = (
        f"loads in {details['load_ms']:.0f} ms, first call {details['first_call_ms']:.1f} ms, peak {details['peak_mib']:.0f} MiB"
    )
    return Evidence(name, Status.OK, message, measured, bound, details=details)


def _outputs_here(exports: Exports, format: str, points: Sequence[Point]) -> list[Tensor] | None:
    """The artifact's logits in this process; ``None`` where they change from call to call."""
    run = exports.runner(format)
    first, again = ([run(exports.batch(point)) for point in points] for _ in range(2))
    return first if all(difference(a, b) == 0 for a, b in zip(first, again, strict=True)) else None


def _figures(run: CleanRun) -> dict[str, Any]:
    def ms(seconds: float | None) -> float:
        return 0.0 if seconds is None else round(seconds * 1e3, 3)

    return {
        "import_ms": ms(run.import_seconds),
        "load_ms": ms(run.load_seconds),
        "first_call_ms": ms(run.first_call_seconds),
        "warm_call_ms": ms(run.warm_call_seconds),
        "cold_start_ms": round(ms(run.import_seconds) + ms(run.load_seconds) + ms(run.first_call_seconds), 3),
        "peak_mib": 0.0 if run.peak_bytes is None else round(run.peak_bytes / 2**20, 1),
    }
