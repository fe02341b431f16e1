"""Parts of the data: how columns cut it, in which parts the model is less often right than a threshold, and in which it has become so."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.dependence import first_rows
from harness.monitoring.features.values import is_missing, level_name
from harness.monitoring.gate.pairs import FEWEST_IN_SLICE
from harness.statistics import holm
from harness.wording import counted, p_value

if TYPE_CHECKING:
    from harness.data.dataset import Dataset
    from harness.evaluation.evaluation import Evaluation
    from harness.tasks import TaskSpec

SLICES = "slices"
"""The name under which what is known of a reference's parts is stored beside its profile."""

ALL_COLUMNS = "*"
"""In the place of a column's name: every feature of the inputs, and the class."""

_EMPTY, _OTHERS = "(empty)", "(others)"
_MOST_LEVELS = 20
_QUARTERS = 4
_MOST_PAIRED = 64
"""Parts up to which pairs of them are looked at too: the values of about 16 columns."""


@dataclass(frozen=True)
class Cut:
    """How a column parts the rows: at numbers, or by its levels.

    Attributes:
        ends: The largest number of each part but the last, ascending; empty where there are levels.
        levels: Those that are a part each; any other one is among ``(others)``.
    """

    ends: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Sequence[object]) -> Cut:
        """Each of up to 20 different values is a part; of more numbers a quarter is, of more others the 19 most frequent and the rest."""
        counts = Counter(level_name(value) for value in values if not _is_empty(value))
        if len(counts) <= _MOST_LEVELS:
            return cls(levels=tuple(sorted(counts)))
        try:
            numbers = np.array([float(value) for value in values if not _is_empty(value)])  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return cls(levels=tuple(sorted(level for level, _ in counts.most_common(_MOST_LEVELS - 1))))
        quarters = np.quantile(numbers, np.arange(1, _QUARTERS) / _QUARTERS, method="higher")
        return cls(ends=tuple(float(end) for end in np.unique(quarters)))

    def labels(self, values: Sequence[object]) -> NDArray[np.str_]:
        """The part of each value: ``3``, ``up to 0.5``, ``0.5 to 2``, ``above 2``, ``(others)``, ``(empty)``; ``[N]``."""
        if not self.ends:
            known = set(self.levels)
            said = [_EMPTY if _is_empty(value) else level_name(value) for value in values]
            return np.array([one if one in known or one == _EMPTY else _OTHERS for one in said])
        shown = [f"{end:.4g}" for end in self.ends]
        names = [f"up to {shown[0]}", *[f"{a} to {b}" for a, b in pairwise(shown)], f"above {shown[-1]}"]
        numbers = np.array([_number(value) for value in values])
        places = np.searchsorted(self.ends, numbers)
        return np.where(np.isnan(numbers), _EMPTY, np.array(names)[np.minimum(places, len(names) - 1)])

    def to_json(self) -> dict[str, Any]:
        """The cut as JSON-ready values."""
        return {"ends": list(self.ends), "levels": list(self.levels)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cut:
        """The inverse of ``to_json``."""
        return cls(tuple(data["ends"]), tuple(data["levels"]))


def _is_empty(value: object) -> bool:
    return is_missing(value) or value == ""


def _number(value: object) -> float:
    try:
        return np.nan if _is_empty(value) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan


@dataclass(frozen=True)
class Parts:
    """The rows of a dataset, cut by some columns.

    Attributes:
        labels: The part that each row is in, by column, ``[N]`` each.
        cuts: How each column was cut, so that other rows can be cut alike.
    """

    labels: Mapping[str, NDArray[np.str_]]
    cuts: Mapping[str, Cut]

    @classmethod
    def of(
        cls, data: Dataset, task: TaskSpec, names: Sequence[str], cuts: Mapping[str, Cut] | None = None, batch_size: int = 32
    ) -> Parts:
        """The parts of a dataset.

        Args:
            data: The rows.
            task: What they are for.
            names: The columns, or ``"*"`` for every number and level of the inputs, and the class.
            cuts: How the reference was cut; a column that it has not is cut by its own values.
            batch_size: Rows at once.

        Raises:
            DataError: There is no such column.
        """
        from harness.monitoring.window import input_columns  # and with it torch, which tables without a model do not need

        values: dict[str, Sequence[object]] = {}
        if ALL_COLUMNS in names:
            values.update(_classes(data, task))
            columns = first_rows(input_columns(data, task, batch_size), most=sys.maxsize)
            values.update({name: column.tolist() for name, column in columns.items()})
        values.update({name: data.column(name) for name in names if name != ALL_COLUMNS})
        known = cuts or {}
        own = {name: known.get(name) or Cut.of(column) for name, column in values.items()}
        return cls({name: own[name].labels(column) for name, column in values.items()}, own)

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Which rows each part holds, by names such as ``country=fr``, bool ``[N]`` each; those of few rows left out."""
        found = {}
        for name, labels in self.labels.items():
            for value, count in zip(*np.unique(labels, return_counts=True), strict=True):
                if count >= FEWEST_IN_SLICE:
                    found[f"{name}={value}"] = labels == value
        return found


def _classes(data: Dataset, task: TaskSpec) -> dict[str, list[object]]:
    """The class of each row by name, under ``class``; none where a row has not one class, or no row has a label."""
    key = task.signature.label_name(task.signature.main)
    if not task.signature.has_one_answer:
        return {}
    ids = [int(example[key]) if key in example else -1 for example in iter(data)]
    names = data.origin.classes.names if data.origin.classes else ()
    said: list[object] = [None if id < 0 else _class_name(id, names) for id in ids]
    return {"class": said} if any(one is not None for one in said) else {}


def slices_of(data: Dataset, evaluation: Evaluation) -> dict[str, NDArray[np.str_]]:
    """The class of each sample of up to 20 classes, and which quarter of the lengths it is in, ``[N]`` each."""
    found: dict[str, NDArray[np.str_]] = {}
    label, length = (evaluation.facts.get(name) for name in ("label", "length"))
    if label is not None and 2 <= len(np.unique(label)) <= _MOST_LEVELS:
        names = data.origin.classes.names if data.origin.classes else ()
        found["class"] = np.array([_class_name(int(number), names) for number in label])
    if length is not None and len(np.unique(length)) > 1:
        found["length"] = Cut.of(length.tolist()).labels(length.tolist())
    return found


def _class_name(number: int, names: Sequence[str]) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


@dataclass(frozen=True)
class SliceAccuracy:
    """A part of the data.

    Attributes:
        name: Such as ``country=fr``.
        rows: Its independent rows with a label.
        accuracy: How often the model is right there.
        p_adjusted: How likely so few right answers are where the accuracy is the threshold, corrected for all parts (Holm).
    """

    name: str
    rows: int
    accuracy: float
    p_adjusted: float

    def to_json(self) -> dict[str, Any]:
        """The part as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class SliceVerdict:
    """The parts of the data against a threshold of the accuracy.

    Attributes:
        limit: The threshold.
        slices: Those with enough rows, the least accurate first.
        left_out: How many have too few.
        alpha: The probability that any is called below the threshold though none is, at most.
    """

    limit: float
    slices: tuple[SliceAccuracy, ...]
    left_out: int
    alpha: float = 0.05

    @classmethod
    def of(
        cls, correct: NDArray[Any], labels: Mapping[str, NDArray[Any]], limit: float, independent: NDArray[np.intp] | None = None
    ) -> SliceVerdict:
        """Judges parts by the exact binomial test (Clopper and Pearson, Biometrika 26, 1934), corrected for their number.

        Args:
            correct: Whether the model is right, 0 or 1, ``[N]``; NaN of a row without a label.
            labels: A label a row by name, ``[N]`` each.
            limit: The threshold of the accuracy.
            independent: The rows that are independent of each other; ``None`` where all are.
        """
        from scipy.special import bdtr

        kept = np.zeros(len(correct), bool)
        kept[slice(None) if independent is None else independent] = True
        kept &= np.isfinite(correct)
        found: list[tuple[str, int, int]] = []
        left_out = 0
        for name, column in labels.items():
            for value in np.unique(column[kept]):
                right = correct[kept & (column == value)]
                if len(right) < FEWEST_IN_SLICE:
                    left_out += 1
                else:
                    found.append((f"{name}={value}", len(right), int(right.sum())))
        adjusted = holm([float(bdtr(right, rows, limit)) for _, rows, right in found])
        slices = [SliceAccuracy(name, rows, right / rows, p) for (name, rows, right), p in zip(found, adjusted, strict=True)]
        return cls(limit, tuple(sorted(slices, key=lambda one: (one.accuracy, one.name))), left_out)

    @property
    def below(self) -> list[SliceAccuracy]:
        """The parts that are surely below the threshold, the surest first."""
        return sorted((one for one in self.slices if one.p_adjusted <= self.alpha), key=lambda one: one.p_adjusted)

    @property
    def message(self) -> str:
        """What is below the threshold, in one clause; empty where nothing is."""
        if not self.below:
            return ""
        first, *others = self.below
        more = f", and in {counted(len(others), 'other slice')}" if others else ""
        return (
            f"in {first.name} accuracy is {first.accuracy:.1%} on {counted(first.rows, 'row')}, surely below the threshold {self.limit:g} "
            f"({p_value(first.p_adjusted)} adjusted for {counted(len(self.slices), 'slice')}){more}"
        )


RightBySlice = dict[str, tuple[int, int]]
"""How many labelled rows a part has, and how many of them the model is right on, by its name."""


def right_by_slice(parts: Parts, correct: NDArray[Any]) -> RightBySlice:
    """How often the model is right in each part, and where parts are few in each two of them together.

    Args:
        parts: The parts.
        correct: Whether the model is right, 0 or 1, ``[N]``; NaN of a row without a label.
    """
    known = np.isfinite(correct)
    right = known & (correct > 0)
    masks = {name: mask & known for name, mask in parts.masks.items()}
    pairs = combinations(masks, 2) if len(masks) <= _MOST_PAIRED else ()
    masks |= {f"{a} and {b}": both for a, b in pairs if (both := masks[a] & masks[b]).sum() >= FEWEST_IN_SLICE}
    counts = {name: (int(mask.sum()), int((mask & right).sum())) for name, mask in masks.items()}
    return {name: (rows, ours) for name, (rows, ours) in counts.items() if rows >= FEWEST_IN_SLICE}


@dataclass(frozen=True)
class SliceLoss:
    """A part in which the model is less often right than it was there.

    Attributes:
        name: Such as ``country=fr and age=up to 30``.
        before: Rows of the reference in it, and how many of them were right.
        now: The same of the window.
        p_adjusted: How likely so large a fall is by chance, corrected for all parts and for the windows that share alpha.
        looked_at: How many parts were looked at.
    """

    name: str
    before: tuple[int, int]
    now: tuple[int, int]
    p_adjusted: float
    looked_at: int

    @property
    def loss(self) -> float:
        """By how much the accuracy fell, as a share."""
        (rows_before, right_before), (rows, right) = self.before, self.now
        return right_before / rows_before - right / rows

    @property
    def message(self) -> str:
        """``in country=fr accuracy has fallen from 92.0% to 61.0% …``."""
        (rows_before, right_before), (rows, right) = self.before, self.now
        return (
            f"in {self.name} accuracy has fallen from {right_before / rows_before:.1%} to {right / rows:.1%} ({counted(rows, 'row')} "
            f"against {rows_before:,}, {p_value(self.p_adjusted)} adjusted for {counted(self.looked_at, 'slice')})"
        )

    def to_json(self) -> dict[str, Any]:
        """The part as JSON values."""
        return {**asdict(self), "loss": self.loss, "message": self.message}


def slices_that_lost(
    reference: RightBySlice, window: RightBySlice, margin: float, alpha: float = 0.05, windows: int = 1
) -> list[SliceLoss]:
    """The parts in which the accuracy fell by more than the margin and surely, the surest first.

    Fisher's exact test of each part, one-sided, corrected for all parts that both have (Holm); of so many windows in a row any false loss is
    named with a probability of at most alpha. A part whose fall is within the margin counts as a test and is never named.

    Args:
        reference: What was right of the reference's parts.
        window: The same of the window's.
        margin: The loss that is allowed, as a share.
        alpha: The probability that any part is named though none lost.
        windows: How many windows share it.
    """
    from scipy.stats import hypergeom

    shared = [name for name in reference if name in window]
    found = [SliceLoss(name, reference[name], window[name], 1.0, len(shared)) for name in shared]
    p_values = [
        float(hypergeom.cdf(one.now[1], one.before[0] + one.now[0], one.before[1] + one.now[1], one.now[0]))
        if one.loss > margin
        else 1.0
        for one in found
    ]
    adjusted = [min(1.0, windows * p) for p in holm(p_values)]
    lost = [
        SliceLoss(one.name, one.before, one.now, p, len(shared)) for one, p in zip(found, adjusted, strict=True) if p <= alpha
    ]
    return sorted(lost, key=lambda one: (one.p_adjusted, -one.loss))
