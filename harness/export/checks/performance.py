"""How long calls take, with confidence intervals.

Percentiles are order statistics, and so are their confidence bounds, which assume nothing of the distribution but that calls are
alike. A percentile needs a sample large enough for a bound above it: 44 calls for the 90th, 459 for the 99th, as in the early
stopping of MLPerf's LoadGen (Reddi et al., "MLPerf Inference Benchmark", ISCA 2020).
"""

from __future__ import annotations

import math
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.batches import Batch
from harness.evidence import Evidence
from harness.export.exports import Exports
from harness.export.formats import ExportError
from harness.export.program import Outputs
from harness.export.store.identity import versions
from harness.files import json_hash
from harness.processes import without_collector

Call = Callable[[], object]

FEWEST_ITERATIONS = 50
"""Timed calls of each side that may be asked for; a time budget may allow fewer."""

_CONFIDENCE = 0.99
_MS = 1e6
_WARM_UP_SHARE = 0.2


@dataclass(frozen=True)
class Latency:
    """Times of repeated calls, in milliseconds.

    Attributes:
        iterations: Calls that were timed.
        mean: Their mean.
        p50: Their median.
        p90: The time that nine calls in ten did not exceed.
        p99: The same for 99 in a hundred; ``None`` below the 459 calls that support it.
        p50_bounds: Below and above the true median, each with 99% confidence.
        p90_bounds: The same for the 90th percentile; ``None`` below the 44 calls that support it.
    """

    iterations: int
    mean: float
    p50: float
    p90: float
    p99: float | None
    p50_bounds: tuple[float, float]
    p90_bounds: tuple[float, float] | None

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """What a sample says.

        Args:
            times: Milliseconds of at least seven calls, in any order.

        Raises:
            ValueError: There are too few for a bound on the median.
        """
        ordered = sorted(times)
        median = _bounds(ordered, 0.5)
        if median is None:
            raise ValueError(f"got {len(ordered)} times, expected at least {fewest_calls(0.5)}: fewer do not bound a median")
        return cls(
            iterations=len(ordered),
            mean=math.fsum(ordered) / len(ordered),
            p50=_percentile(ordered, 0.5),
            p90=_percentile(ordered, 0.9),
            p99=_percentile(ordered, 0.99) if len(ordered) >= fewest_calls(0.99) else None,
            p50_bounds=median,
            p90_bounds=_bounds(ordered, 0.9),
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Latency:
        """The inverse of ``to_json``."""
        p90_bounds = data["p90_bounds"]
        bounds = {"p50_bounds": tuple(data["p50_bounds"]), "p90_bounds": None if p90_bounds is None else tuple(p90_bounds)}
        return cls(**{**data, **bounds})


@dataclass(frozen=True)
class Comparison:
    """An artifact and the model it was made from, timed turn by turn."""

    artifact: Latency
    eager: Latency

    @property
    def speed_up(self) -> float:
        """How many times faster the artifact's median call is."""
        return self.eager.p50 / self.artifact.p50

    @property
    def slower(self) -> bool:
        """Whether the artifact is slower for certain; wrong at most once in fifty of equally fast pairs, as either bound may miss."""
        return self.artifact.p50_bounds[0] > self.eager.p50_bounds[1]

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON-ready values."""
        return {
            "artifact": self.artifact.to_json(),
            "eager": self.eager.to_json(),
            "speed_up": self.speed_up,
            "slower": self.slower,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Comparison:
        """The inverse of ``to_json``."""
        return cls(Latency.from_json(data["artifact"]), Latency.from_json(data["eager"]))


def compare_latency(
    artifact: Call,
    eager: Call,
    iterations: int = 60,
    warm_up: int = 5,
    budget: float = 10.0,
    seed: int = 0,
    synchronise: Call | None = None,
) -> Comparison:
    """Times two calls turn by turn, so that whatever else the machine does meets both alike.

    Args:
        artifact: A call of the artifact.
        eager: The same call of the model itself.
        iterations: Timed calls of each, at least 50.
        warm_up: Calls of each beforehand; they take a fifth of the budget at most, but for the first.
        budget: Seconds for all of it. Where they do not allow ``iterations`` calls, there are fewer, but always the seven that
            bound a median.
        seed: Of the order within each pair.
        synchronise: Waits for the device, such as ``torch.cuda.synchronize``; its wait after a call counts as time of the call.

    Raises:
        ValueError: Fewer than 50 iterations were asked for.
    """
    if iterations < FEWEST_ITERATIONS:
        raise ValueError(f"`iterations`: got {iterations}, expected at least {FEWEST_ITERATIONS}; lower `budget` instead")
    started = time.perf_counter()
    sides = (artifact, eager)
    times: tuple[list[float], list[float]] = ([], [])
    order = random.Random(seed)
    with without_collector():
        for done in range(warm_up):
            if done and time.perf_counter() - started > budget * _WARM_UP_SHARE:
                break
            for call in sides:
                _milliseconds(call, synchronise)
        timing = time.perf_counter()
        while len(times[0]) < iterations and not _spent(len(times[0]), timing, started + budget):
            for side in order.sample((0, 1), 2):
                times[side].append(_milliseconds(sides[side], synchronise))
    return Comparison(Latency.of(times[0]), Latency.of(times[1]))


def order_statistic_bounds(n: int, quantile: float) -> tuple[int | None, int | None]:
    """Which of ``n`` sorted observations bound a quantile from below and from above.

    The number of observations below the quantile is binomial, whatever their distribution (David and Nagaraja, "Order Statistics",
    section 7.1).

    Returns:
        Positions from 0 of the largest observation that is below and the smallest that is above; ``None`` where there are too few.
    """
    below, above = math.log(quantile), math.log1p(-quantile)
    ways = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    mass = [math.exp(log_ways + k * below + (n - k) * above) for k, log_ways in enumerate(ways)]
    lower = _positions_within(mass, 1 - _CONFIDENCE)
    upper = _positions_within(mass[::-1], 1 - _CONFIDENCE)
    return (lower - 1 if lower else None), (n - upper if upper else None)


def fewest_calls(quantile: float) -> int:
    """The smallest sample whose largest observation is above a quantile with the confidence that is asked for."""
    return math.ceil(math.log(1 - _CONFIDENCE) / math.log(quantile))


def _positions_within(mass: Sequence[float], allowed: float) -> int:
    """How many terms from the front may be added up before their sum exceeds what is allowed."""
    total = 0.0
    for position, term in enumerate(mass):
        total += term
        if total > allowed:
            return position
    return len(mass)


def _percentile(ordered: Sequence[float], quantile: float) -> float:
    return ordered[max(0, math.ceil(len(ordered) * quantile) - 1)]


def _bounds(ordered: Sequence[float], quantile: float) -> tuple[float, float] | None:
    lower, upper = order_statistic_bounds(len(ordered), quantile)
    return None if lower is None or upper is None else (ordered[lower], ordered[upper])


def _spent(done: int, began: float, deadline: float) -> bool:
    """Whether another pair, as long as the ones before, would end after the deadline."""
    if done < fewest_calls(0.5):
        return False
    now = time.perf_counter()
    return now + (now - began) / done > deadline


def _milliseconds(call: Call, synchronise: Call | None) -> float:
    if synchronise is not None:
        synchronise()
    begin = time.perf_counter_ns()
    result = call()
    if synchronise is not None:
        synchronise()
    end = time.perf_counter_ns()
    del result  # kept until here, as freeing it is not part of the call
    return max(1, end - begin) / _MS  # a coarse clock may not have moved


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
    figures = f"mean {artifact.mean:.3f} ms, median {artifact.p50:.3f} ms, {times.speed_up:.2f} times as fast as the model ({eager.p50:.3f} ms)"
    at = exports.program.sizes.describe(exports.program.task)
    if bound is not None and artifact.p50_bounds[0] > bound:
        message = f"{format}: {figures}: slower than {bound:g} ms"
        return Evidence.failed(
            name, message, (artifact.p50, bound, "ms"), counterexample=at, details=details, code="slower_than_bound"
        )
    if bound is None and artifact.p50_bounds[0] > max(_MUCH * eager.p50_bounds[1], eager.p50_bounds[1] + _OVERHEAD_MS):
        message = f"{format}: slower than the model itself: {figures}"
        cause = "operators without a fast kernel in the runtime, threads that wait for each other, or a model too small to gain"
        return Evidence.warned(
            name,
            message,
            (artifact.p50, _MUCH * eager.p50, "ms"),
            counterexample=at,
            cause=cause,
            details=details,
            code="slower_than_model",
        )
    return Evidence.ok(name, figures, (artifact.p50, bound, "ms"), counterexample=at, details=details)


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
        [_floating(plain(batch)) for batch in batches],
    )
    times = compared_latency(exports, format, exporter.quantised_from)
    slower = times.artifact.p50_bounds[0] > _SLOWER * times.eager.p50_bounds[1]
    bound = least_decibels(exports)
    details = {**asdict(quality), "speed_up_over_float": times.speed_up}
    worst = quality.worst_tensors[0] if quality.worst_tensors else None
    where = f" in output `{quality.output}`" if quality.output else ""
    figures = (
        f"{quality.sqnr_db:.1f} dB{where}, {quality.operators_quantised} of {quality.operators_quantisable} operators, "
        f"{quality.bytes_after / quality.bytes_before:.0%} of the size, {times.speed_up:.2f} times as fast as the float file"
    )
    facts: dict[str, Any] = {"measured": (quality.sqnr_db, bound, "dB"), "details": details}
    if quality.sqnr_db < bound:
        changed = f"output `{quality.output}`" if quality.output else "the logits"
        message = f"{format}: quantisation changes {changed} too much: {figures}"
        named = f" (worst weight: `{worst.name}`, {worst.sqnr_db:.1f} dB)" if worst else ""
        cause = "weights with outliers, or a calibration that saw other inputs; leave the worst layers in float"
        return Evidence.failed(
            name, message + named, module=worst.module if worst else "", cause=cause, code="logits_too_noisy", **facts
        )
    if slower:
        cause = "operators too small to gain, or conversions to integers that cost more than they save; quantise fewer operators, or none"
        return Evidence.failed(
            name, f"{format}: slower than the float file: {figures}", cause=cause, code="slower_than_float_file", **facts
        )
    has_classes = exports.program.task.signature.main.classes == -1
    if has_classes and quality.argmax_agreement is not None and quality.argmax_agreement < _AGREEMENT:
        message = f"{format}: only {quality.argmax_agreement:.1%} of positions keep their largest logit; {figures}"
        return Evidence.warned(
            name, message, cause="classes whose logits are closer than the quantisation noise", code="classes_change", **facts
        )
    return Evidence.ok(name, figures, **facts)


def _floating(outputs: Outputs) -> Outputs:
    """The outputs of which there is noise."""
    return {name: tensor for name, tensor in outputs.items() if tensor.is_floating_point()}


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
    against = exports.runner(other) if other else exports.plainly
    where = [platform.node(), os.cpu_count(), torch.get_num_threads(), versions()]
    key = json_hash("latency", files.manifest and files.manifest.files, other, exports.identity, where)

    def measure() -> dict[str, object]:
        return compare_latency(lambda: run(batch), lambda: against(batch), budget=_BUDGET).to_json()

    return Comparison.from_json(exports.cache.values(key, measure, lambda _found: files.ours, read=Comparison.from_json))
