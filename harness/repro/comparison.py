"""The metrics of a run, and those of its rerun compared with them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from harness.repro.recorded import RecordedRun


@dataclass(frozen=True)
class Curve:
    """The values of one metric in the order in which they were logged.

    Attributes:
        steps: Steps; ``None`` where none was given.
        epochs: Epochs; ``None`` where none was given.
        values: The values, NaN and infinities too.
    """

    steps: list[int | None] = field(default_factory=list)
    epochs: list[float | None] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """The largest finite magnitude; 0 where there is none."""
        return max((abs(value) for value in self.values if math.isfinite(value)), default=0.0)


@dataclass(frozen=True)
class MetricRecords:
    """The metrics of a run.

    Attributes:
        last: The last value of each metric.
        history: The curves, of those metrics that have one.
    """

    last: dict[str, float]
    history: dict[str, Curve] = field(default_factory=dict)

    @staticmethod
    def of_run(recorded: RecordedRun) -> MetricRecords:
        """What a database holds of a run."""
        columns = recorded.history
        history: dict[str, Curve] = {}
        for name, step, epoch, value in zip(columns.name, columns.step, columns.epoch, columns.value.tolist(), strict=True):
            curve = history.setdefault(name, Curve())
            curve.steps.append(step)
            curve.epochs.append(epoch)
            curve.values.append(value)
        return MetricRecords(dict(recorded.last), history)

    @staticmethod
    def of_results(results: Mapping[str, Any]) -> MetricRecords:
        """The numbers of a training's ``eval_summary``; those of a group inside it have dotted names."""
        return MetricRecords(dict(_numbers(results.get("eval_summary"), "")))

    def to_json(self) -> dict[str, Any]:
        """Strict JSON values: NaN and infinities are text, and every number comes back to the last bit."""
        history = {
            name: {"step": curve.steps, "epoch": curve.epochs, "value": [strict(value) for value in curve.values]}
            for name, curve in sorted(self.history.items())
        }
        return {"last": {name: strict(value) for name, value in sorted(self.last.items())}, "history": history}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> MetricRecords:
        """The inverse of ``to_json``.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: It is something else.
        """
        history = {
            str(name): Curve(list(curve["step"]), list(curve["epoch"]), [float(value) for value in curve["value"]])
            for name, curve in data["history"].items()
        }
        return MetricRecords({str(name): float(value) for name, value in data["last"].items()}, history)


def strict(value: float | None) -> float | str | None:
    """A number as strict JSON has it: NaN and infinities are text."""
    return str(value) if value is not None and not math.isfinite(value) else value


def _numbers(value: Any, name: str) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        groups = (_numbers(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
        return [pair for group in groups for pair in group]
    if value is None or isinstance(value, (str, bytes, list, tuple)):
        return []
    try:
        return [(name, float(value))]
    except (TypeError, ValueError, RuntimeError):  # torch raises RuntimeError for several elements
        return []


_RELATIVE = 5e-3
_EARLY, _EARLY_STEPS = 1e-4, 10
_EPSILON = {"bf16": 2.0**-8, "16": 2.0**-11, "32": 2.0**-24, "64": 2.0**-53}
_SHARE = {"bf16": 0.06, "16": 0.06, "32": 0.03, "64": 0.03}

_TIMING = re.compile(
    r"(?:^|[_/.\- ])(?:seconds?|secs?|ms|time|duration|elapsed|eta|throughput|latency|speed|memory|rss)(?:$|[_/.\- ])"
    r"|per_(?:second|sec|s)(?:$|[^a-z])",
    re.IGNORECASE,
)
_GRADIENT = re.compile(r"grad(?:ient)?_?norm", re.IGNORECASE)
_COUNTED = re.compile(
    r"(?:^|[_/.\- ])(?:acc|accuracy|f1|precision|recall|auc|auroc|exact_match|error_rate|calibration_error|mcc|kappa|bleu|rouge_l|top_?\d+|hits)"
    r"(?:$|[_/.\-@ ])",
    re.IGNORECASE,
)
_EXPONENTIAL = re.compile(r"(?:^|[_/.\- ])(?:perplexity|ppl)(?:$|[_/.\- ])", re.IGNORECASE)


class Verdict(str, Enum):
    """What a metric of the rerun is beside that of the run."""

    SAME = "same"
    CLOSE = "close"
    DIFFERENT = "different"
    MISSING = "missing"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class MetricRow:
    """A metric of the run and of the rerun.

    Attributes:
        metric: Its name.
        then: Its last value in the run; ``None`` where it was not measured.
        now: Its last value in the rerun.
        verdict: How they compare.
    """

    metric: str
    then: float | None
    now: float | None
    verdict: Verdict

    @property
    def difference(self) -> float | None:
        """How much larger it is now; ``None`` where one of them is missing or not finite."""
        if self.then is None or self.now is None or not (math.isfinite(self.then) and math.isfinite(self.now)):
            return None
        return self.now - self.then

    @property
    def relative(self) -> float | None:
        """The difference beside the larger of the two, without its sign."""
        if self.difference is None or self.then is None or self.now is None:
            return None
        return abs(self.difference) / max(abs(self.then), abs(self.now)) if self.difference else 0.0

    def to_json(self) -> dict[str, Any]:
        """Strict JSON values."""
        return {
            "metric": self.metric,
            "then": strict(self.then),
            "now": strict(self.now),
            "difference": strict(self.difference),
            "verdict": self.verdict.value,
        }


@dataclass(frozen=True)
class Tolerance:
    """How far a metric of a rerun may be from the run's, where the environment is another one.

    Another processor, library or number of threads adds in another order, and so rounds otherwise; training carries that on. Measured on
    four small models (decoder, classifier, encoder and decoder, convolutions with BatchNorm), whose initial weights were changed by one
    unit in the last place, with two learning rates each: in the first 10 steps losses were off by at most 2e-5, after 50 and 200 steps by
    up to 4e-3, the convolutions being the worst and the others a hundred times better; up to 3 of 100 rows changed class, and gradient
    norms were off by up to 5e-2. With another seed the loss was off by 6e-4 at the least after 10 steps, and by 7e-3 after 200. So a rerun
    is close where its first values are within 1e-4, which tells the same start from any other, and the last one is within 5e-3, and within
    0.03 for shares of rows; the last norm of a gradient is no result, and is not judged.

    In bfloat16 losses that had become small were off by more, and 6 rows changed class. One rounding of the largest value covers the
    losses: each bound has ``epsilon`` of it on top.

    Attributes:
        epsilon: Half a unit in the last place, relative, of the dtype that was computed in.
        share: What a share of rows, such as an accuracy, may differ by.
    """

    epsilon: float = _EPSILON["32"]
    share: float = _SHARE["32"]

    @staticmethod
    def of(config: Mapping[str, Any]) -> Tolerance:
        """That of a training config."""
        precision = str(config.get("precision", "32")).partition("-")[0]
        if precision == "32" and config.get("use_amp"):
            precision = "bf16"
        return Tolerance(_EPSILON.get(precision, _EPSILON["32"]), _SHARE.get(precision, _SHARE["32"]))

    def holds(self, metric: str, then: float, now: float, peak: float) -> bool:
        """Whether a last value is close."""
        if not (math.isfinite(then) and math.isfinite(now)):
            return False
        if _EXPONENTIAL.search(metric) and min(then, now, peak) > 0:  # as near as the loss it is made from
            then, now, peak = math.log(then), math.log(now), math.log(peak)
        allowed = _RELATIVE * max(abs(then), abs(now)) + self.epsilon * peak
        return abs(now - then) <= max(allowed, self.share if _COUNTED.search(metric) else 0.0)

    def same_start(self, metric: str, then: Curve, now: Curve) -> bool:
        """Whether a metric's values in the first steps are close; those of a share say nothing."""
        pairs = [(a, b) for step, a, b in _shared(then, now) if step is not None and step <= _EARLY_STEPS]
        return bool(_COUNTED.search(metric)) or all(
            _same_bits(a, b) or abs(a - b) <= _EARLY * abs(a) + self.epsilon * then.peak for a, b in pairs
        )


@dataclass(frozen=True)
class FirstDifference:
    """Where the curves of run and rerun part.

    Attributes:
        metric: The metric that parts first.
        step: The step; ``None`` where none was logged.
        then: The value in the run.
        now: The value in the rerun.
    """

    metric: str
    step: int | None
    then: float
    now: float

    def to_json(self) -> dict[str, Any]:
        """Strict JSON values."""
        return {"metric": self.metric, "step": self.step, "then": strict(self.then), "now": strict(self.now)}

    def __str__(self) -> str:
        where = "" if self.step is None else f" at step {self.step}"
        return f"{self.metric}{where}: {self.then!r} then, {self.now!r} now"


def compare_metrics(then: MetricRecords, now: MetricRecords, tolerance: Tolerance | None) -> tuple[MetricRow, ...]:
    """Each metric of the run beside that of the rerun.

    Args:
        then: The run's.
        now: The rerun's.
        tolerance: What is close; ``None`` in the same environment, where only equal bits will do.
    """
    names = [*then.last, *(name for name in now.last if name not in then.last)]
    return tuple(
        MetricRow(name, then.last.get(name), now.last.get(name), _verdict(name, then, now, tolerance)) for name in sorted(names)
    )


def first_difference(then: MetricRecords, now: MetricRecords) -> FirstDifference | None:
    """Where the curves of both part; ``None`` where they are equal, or the rerun has none."""
    found = []
    for name in sorted(then.history.keys() & now.history.keys()):
        if is_timing(name):
            continue
        rows = _shared(then.history[name], now.history[name])
        parted = next((FirstDifference(name, step, a, b) for step, a, b in rows if not _same_bits(a, b)), None)
        found += [parted] if parted else []
    return min(found, key=lambda parted: (parted.step is None, parted.step or 0, parted.metric), default=None)


def is_timing(metric: str) -> bool:
    """Whether a metric measures the machine rather than the model."""
    return _TIMING.search(metric) is not None


def _verdict(name: str, then: MetricRecords, now: MetricRecords, tolerance: Tolerance | None) -> Verdict:
    a, b = then.last.get(name), now.last.get(name)
    if is_timing(name) or a is None:
        return Verdict.NOT_JUDGED
    if b is None:
        return Verdict.MISSING
    if _same_bits(a, b):
        return Verdict.SAME
    before, after = then.history.get(name, Curve()), now.history.get(name, Curve())
    if tolerance is None or not tolerance.same_start(name, before, after):
        return Verdict.DIFFERENT
    if _GRADIENT.search(name):
        return Verdict.NOT_JUDGED
    return Verdict.CLOSE if tolerance.holds(name, a, b, max(before.peak, abs(a))) else Verdict.DIFFERENT


def _shared(then: Curve, now: Curve) -> list[tuple[int | None, float, float]]:
    """The steps that both curves have, with both values: a run that was resumed begins later than its rerun."""
    if then.steps == now.steps:
        return list(zip(then.steps, then.values, now.values, strict=True))
    by_step = dict(zip(now.steps, now.values, strict=True))
    pairs = zip(then.steps, then.values, strict=True)
    return [(step, value, by_step[step]) for step, value in pairs if step is not None and step in by_step]


def _same_bits(a: float, b: float) -> bool:
    """Whether two values are equal, a NaN being equal to a NaN."""
    return a == b or (math.isnan(a) and math.isnan(b))
