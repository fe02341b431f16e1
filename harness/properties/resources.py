"""Memory and work: bounded, and not growing from call to call.

Growth is judged by counting, not by timing: bytes of tensors that stay alive and operators that run are the same on every machine,
so a verdict on them raises no false alarm under load.
"""

from __future__ import annotations

import gc
import time
import weakref
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Sizes
from harness.compat import TorchDispatchMode, storage_key, tree_leaves, without_compiler
from harness.evidence import WHOLE, Blame, Evidence, Status
from harness.owners import owned_by
from harness.properties.calling import mode
from harness.properties.prerequisites import GRADIENT_OWNER
from harness.properties.subject import Subject
from harness.properties.watched_lines import largest_line
from harness.runtime import seeded

MIB = 1 << 20
_CALLS = 5
_WARN_BYTES = 1 << 30
_CONFIDENCE = 0.99


@without_compiler
class LiveBytes(TorchDispatchMode):
    """Follows the tensors that operators make while it is active, until they are freed.

    Attributes:
        live: Bytes alive now.
        peak: Most bytes alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator and notes the storages it made."""
        before = {storage_key(leaf) for leaf in tree_leaves((args, kwargs)) if _has_storage(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if _has_storage(leaf) and storage_key(leaf) not in before:
                self._follow(leaf)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage_key(tensor), storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@without_compiler
class OperatorCount(TorchDispatchMode):
    """Counts the operators that run while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts and runs the operator."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def memory_footprint(subject: Subject, seed: int = 0) -> Evidence:
    """What one call holds at its peak is within bounds, and nothing it made stays alive call after call.

    The bound is the user's, in MiB; without one, more than 1 GiB is a warning.
    """
    name = "memory_footprint"
    find_out_first(subject)
    model = subject.fresh()
    parameters = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    tracker = LiveBytes()
    left = {label: _left_behind(subject, model, tracker, label == "train", seed) for label in ("eval", "train")}
    peak = parameters + tracker.peak
    counterexample = f"{subject.typical.describe(subject.task)}, {_CALLS} calls, seed={seed}"
    details = {"parameter_bytes": parameters, "activation_peak_bytes": tracker.peak}
    for label, totals in left.items():
        growth = _growth(totals)
        if min(growth) > 0:
            # Reference cycles are not a leak: what the collector frees does not count.
            growth = _growth(_left_behind(subject, model, tracker, label == "train", seed, collect=True))
        if min(growth) > 0:
            # A graph that refers to itself is never freed, and cannot be gone back through either.
            owner = owned_by(GRADIENT_OWNER) if label == "train" and subject.backward_raises() else {}
            return Evidence.failed(
                name,
                f"every call in {label} mode leaves {growth[-1]:,} bytes allocated: memory grows until it runs out",
                (int(growth[-1]), 0, "bytes a call"),
                counterexample=counterexample,
                module=_growing(subject, model, label == "train"),
                cause="outputs, losses or hidden states appended to a list on the module, with or without their graph",
                details=details | owner,
                code="leaks_memory",
            )
    bound = subject.task.tolerances.get(name)
    status = Status.OK
    if bound is not None:
        status = Status.FAIL if peak / MIB > bound else Status.OK
    elif peak > _WARN_BYTES:
        status = Status.WARN
    message = f"one call holds {peak / MIB:.2f} MiB at its peak, {parameters / MIB:.2f} of it parameters"
    shown = bound if bound is not None else _WARN_BYTES / MIB
    return Evidence.judged(
        name,
        status,
        message,
        (peak / MIB, shown, "MiB"),
        counterexample=counterexample,
        details=details,
        code="" if status is Status.OK else "too_much_memory",
        investigate=None if parameters > tracker.peak else lambda: _largest(subject, seed),
    )


def _largest(subject: Subject, seed: int) -> Blame:
    """The line that makes the largest tensor of a call."""
    return Blame(WHOLE, largest_line(lambda: subject.raw_logits(subject.batch(seed=seed))))


def inference_speed(subject: Subject, seed: int = 0) -> Evidence:
    """A call runs as many operators as the one before, their number does not grow with each row, and the median call is fast enough.

    The bound on time is the user's, in milliseconds at the typical sizes; it fails only where even the lower confidence bound of the
    median (order statistics, 99%) is above it. Without one the time is reported.
    """
    name = "inference_speed"
    find_out_first(subject)
    model = subject.fresh()
    counts = [_operators(subject, model, subject.typical, seed) for _ in range(_CALLS)]
    counterexample = f"{subject.typical.describe(subject.task)}, {_CALLS} calls, seed={seed}"
    if counts[-1] > counts[-2] > counts[-3]:
        return Evidence.failed(
            name,
            f"every call does more work than the one before: {counts[-3]}, {counts[-2]}, {counts[-1]} operators",
            (int(counts[-1] - counts[-2]), 0, "more operators a call"),
            counterexample=counterexample,
            module=_growing(subject, model, train=False),
            cause="a loop over something that grows with every call, such as a history kept on the module",
            code="grows",
        )
    bound = subject.task.tolerances.get(name)
    times = _timings(subject, model, seed, calls=3 if bound is None else 50)  # without a bound the time is told, and not judged
    middle = times[len(times) // 2]
    details: dict[str, Any] = {
        "p50_ms": middle,
        "p90_ms": times[int(len(times) * 0.9)],
        "calls": len(times),
        "operators": counts[-1],
    }
    figures = f"median call {middle:.2f} ms, {counts[-1]} operators"
    if bound is not None and _median_lower_bound(times) > bound:
        message = f"{figures}: slower than {bound:g} ms"
        return Evidence.failed(
            name,
            message,
            (middle, bound, "ms"),
            counterexample=counterexample,
            cause="",
            details=details,
            code="slower_than_bound",
        )
    by_rows = [_operators(subject, model, replace(subject.typical, batch=rows), seed) for rows in (2, 4, 8)]
    details["operators_by_rows"] = by_rows
    steps = (by_rows[1] - by_rows[0]) / 2, (by_rows[2] - by_rows[1]) / 4
    if steps[0] == steps[1] >= 1 and not subject.reads_length_first:  # what loops over the length is no loop over the batch
        return Evidence.warned(
            name,
            f"each row of a batch costs {steps[0]:g} operators: batching saves no work",
            (steps[0], 0.0, "operators a row"),
            counterexample=counterexample,
            cause="a Python loop over the batch",
            details=details,
            code="loops_over_rows",
        )
    return Evidence.ok(name, figures, (middle, bound, "ms"), counterexample=counterexample, details=details)


def find_out_first(subject: Subject) -> None:
    """Has found out what is found out once about a model, so that a measurement is the same whether or not another test came before it."""
    _ = subject.prerequisite_failure


def _has_storage(leaf: Any) -> bool:
    """Whether a value is a tensor with its own memory; a sparse one consists of tensors that have."""
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided


def _left_behind(
    subject: Subject, model: nn.Module, tracker: LiveBytes, train: bool, seed: int, collect: bool = False
) -> list[int]:
    """Bytes alive after each of a few calls."""
    left = []
    with tracker, mode(model, train), seeded(seed):
        for call in range(_CALLS):
            batch = subject.batch(seed=seed + call)
            _call_once(subject, model, batch, gradient=train)
            del batch
            if collect:
                gc.collect()
            left.append(tracker.live)
    return left


def _growth(totals: list[int]) -> list[int]:
    """Bytes by which each call after the second added to what is alive; the first ones may fill caches."""
    return [later - earlier for earlier, later in pairwise(totals[1:])]


def _call_once(subject: Subject, model: nn.Module, batch: dict[str, Tensor], gradient: bool) -> None:
    if gradient:
        loss = subject.adapter.loss(subject.logits_with_grad(batch, model), batch)
        del loss
    else:
        subject.logits(batch, model)


def _operators(subject: Subject, model: nn.Module, sizes: Sizes, seed: int) -> int:
    batch = subject.batch(sizes, seed)
    with OperatorCount() as counter:
        subject.logits(batch, model)
    return counter.count


def _timings(subject: Subject, model: nn.Module, seed: int, calls: int) -> list[float]:
    """Milliseconds of repeated calls of a model that was called before, sorted."""
    batch = subject.batch(seed=seed)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < min(5, calls) or (len(times) < calls and time.perf_counter() - started < 0.25):
        begin = time.perf_counter()
        subject.logits(batch, model)
        if subject.device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) * 1e3)
    return sorted(times)


def _median_lower_bound(times: list[float]) -> float:
    """The largest order statistic that is below the true median with the stated confidence; 0 when there are too few."""
    total, below, mass = len(times), -1, 0.0
    weight = 0.5**total
    for k in range(total):
        mass += weight
        if mass > 1 - _CONFIDENCE:
            break
        below = k
        weight = weight * (total - k) / (k + 1)
    return times[below] if below >= 0 else 0.0


def _growing(subject: Subject, model: nn.Module, train: bool) -> str:
    """Path of a container attribute that a call makes longer."""

    def lengths() -> dict[str, int]:
        return {
            f"{path}.{name}".lstrip("."): len(value)
            for path, module in model.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, (list, dict, set)) or type(value).__name__ == "deque"
        }

    before = lengths()
    with mode(model, train), seeded(0):
        _call_once(subject, model, subject.batch(), gradient=train)
    return next((path for path, size in lengths().items() if size > before.get(path, 0)), "")
