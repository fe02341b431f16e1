"""How fast an artifact is beside the model itself, and what quantisation cost and brought."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from harness.batches import Batch
from harness.evidence import Evidence, Status
from harness.export.checks.latency import Comparison, compare_latency
from harness.export.exports import Exports
from harness.export.formats.exporter import ExportError
from harness.export.store.identity import versions
from harness.files import json_hash

_MUCH = 1.5
"""An artifact slower than the model by this factor is worth a warning; below it, what runs it may just be another machine."""

_OVERHEAD_MS = 0.2
"""A gap below this is what calling any runtime costs, and says nothing of the model."""

_SLOWER = 1.1
_FEWEST_DECIBELS = 20.0
_AGREEMENT = 0.95
_BUDGET = 8.0


def performance_benchmark(exports: Exports, format: str) -> Evidence:
    """The artifact is no slower than the model; mean, percentiles and speed-up are measured, the two taking turns.

    With a bound of the user's, in milliseconds, the artifact fails where even the lower confidence bound of its median is above it.
    Without one, it is a warning where the artifact is slower than the model by half, beyond the confidence bounds of both.

    Raises:
        UserError: There is no artifact that can be loaded.
    """
    name = "performance_benchmark"
    times = compared_latency(exports, format)
    artifact, eager = times.artifact, times.eager
    bound = exports.subject.task.tolerances.get(name)
    details = {**times.to_json(), "speed_up": times.speed_up}
    figures = f"mean {artifact.mean:.3f} ms, median {artifact.p50:.3f} ms, {times.speed_up:.2f} times the model's speed ({eager.p50:.3f} ms)"
    at = exports.program.sizes.describe(exports.program.task)
    if bound is not None and artifact.p50_bounds[0] > bound:
        message = f"{format}: {figures}: slower than {bound:g} ms"
        return Evidence(name, Status.FAIL, message, artifact.p50, bound, "ms", at, details=details)
    if bound is None and artifact.p50_bounds[0] > max(_MUCH * eager.p50_bounds[1], eager.p50_bounds[1] + _OVERHEAD_MS):
        message = f"{format}: slower than the model itself: {figures}"
        cause = "operators without a fast kernel in the runtime, threads that wait for each other, or a model too small to gain"
        return Evidence(name, Status.WARN, message, artifact.p50, _MUCH * eager.p50, "ms", at, cause=cause, details=details)
    return Evidence(name, Status.OK, figures, artifact.p50, bound, "ms", at, details=details)


def quantisation(exports: Exports, format: str) -> Evidence:
    """The quantised file keeps the float file's answers, and is not slower.

    Signal over quantisation noise of the logits is held to the user's bound or 20 dB (errors a tenth of the logits); fewer than 95% equal
    largest logits are a warning. It fails where it is certainly slower than the float file by a tenth.

    Raises:
        UserError: There is no artifact that can be loaded.
    """
    name, exporter = "quantisation", exports.exporter(format)
    plain, batches = exports.runner(exporter.quantised_from), _accepted(exports, exporter.quantised_from)
    quality = exporter.quality(
        exports.artifact(exporter.quantised_from).path,
        exports.artifact(format).path,
        batches,
        [plain(batch) for batch in batches],
    )
    times = compared_latency(exports, format, exporter.quantised_from)
    slower = times.artifact.p50_bounds[0] > _SLOWER * times.eager.p50_bounds[1]
    bound = least_decibels(exports)
    details = {**asdict(quality), "speed_up_over_float": times.speed_up}
    worst = quality.worst_tensors[0] if quality.worst_tensors else None
    figures = (
        f"{quality.sqnr_db:.1f} dB, {quality.operators_quantised} of {quality.operators_quantisable} operators, "
        f"{quality.bytes_after / quality.bytes_before:.0%} of the size, {times.speed_up:.2f} times the float file's speed"
    )
    facts: dict[str, Any] = {"measured": quality.sqnr_db, "bound": bound, "unit": "dB", "details": details}
    if quality.sqnr_db < bound:
        message = f"{format}: quantisation destroys the logits: {figures}"
        named = f" (worst weight: `{worst.name}`, {worst.sqnr_db:.1f} dB)" if worst else ""
        cause = "weights with outliers, or a calibration that saw other inputs; leave the worst layers in float"
        return Evidence(name, Status.FAIL, message + named, module=worst.module if worst else "", cause=cause, **facts)
    if slower:
        cause = "operators too small to gain, or a layout that converts to and fro; quantise fewer operators, or none"
        return Evidence(name, Status.FAIL, f"{format}: slower than the float file: {figures}", cause=cause, **facts)
    if quality.argmax_agreement is not None and quality.argmax_agreement < _AGREEMENT:
        message = f"{format}: the largest logit stays the same at {quality.argmax_agreement:.1%} of positions only; {figures}"
        return Evidence(name, Status.WARN, message, cause="classes whose logits lie closer than the quantisation noise", **facts)
    return Evidence(name, Status.OK, figures, **facts)


def least_decibels(exports: Exports) -> float:
    """The least signal over quantisation noise of a quantised file's logits, in dB: the user's bound, or 20."""
    return exports.subject.task.tolerances.get("quantisation", _FEWEST_DECIBELS)


def _accepted(exports: Exports, format: str) -> list[Batch]:
    """The batches of the shape grid that a file takes; which it should take is judged by ``dynamic_axes``."""
    run, accepted = exports.runner(format), []
    for batch in map(exports.batch, exports.points):
        with suppress(ExportError):
            run(batch)
            accepted.append(batch)
    return accepted


def compared_latency(exports: Exports, format: str, other: str | None = None) -> Comparison:
    """Times of an artifact beside those of another one or of the model itself; remembered for this machine."""
    run, files = exports.runner(format), exports.artifact(format)
    batch = exports.batch(exports.points[0])
    subject, model = exports.subject, exports.reference  # as it is called in PyTorch, by whatever path is fast
    against = exports.runner(other) if other else partial(subject.logits, model=model)
    where = [platform.node(), os.cpu_count(), torch.get_num_threads(), versions()]
    key = json_hash("latency", files.manifest and files.manifest.files, other, exports.identity, where)

    def measure() -> dict[str, object]:
        return compare_latency(lambda: run(batch), lambda: against(batch), budget=_BUDGET).to_json()

    return Comparison.from_json(exports.cache.values(key, measure, lambda _found: files.ours))
