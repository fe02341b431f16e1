"""Labelled rows, shifted on purpose: where it is known what a shift does to a model, it can be learnt how to tell without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.data import Example
from harness.data.dataset import Dataset
from harness.errors import UserError
from harness.monitoring.accuracy_estimate import AccuracyEstimator, AnsweredRows, confidence_measures, fit_estimator
from harness.monitoring.familiarity import Familiarity, sampled, vectors_of
from harness.monitoring.features.values import CORRECT, Numbers
from harness.monitoring.features.values import Ids as IdValues
from harness.monitoring.profiles.outputs import OutputMeter
from harness.monitoring.window import without_answer
from harness.tasks import TaskSpec
from harness.tasks.values import Ids

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter

Array = NDArray[Any]

SHIFTED_ROWS = 300
"""Rows of a simulated window."""

_POOL = 1000


@dataclass(frozen=True)
class _Columns:
    """The numbers of an input of some rows, and what those of other rows are like.

    Attributes:
        values: Of the rows, ``[N, D]``.
        others: Of as many other rows, ``[N, D]``.
        spread: The deviation of each number, ``[D]``.
        shape: Of a single row.
        rng: What is drawn from.
    """

    values: Array
    others: Array
    spread: Array
    shape: tuple[int, ...]
    rng: np.random.Generator

    def some(self, share: float) -> Array:
        """Some of the columns, at least one."""
        width = self.values.shape[1]
        return self.rng.choice(width, max(1, round(share * width)), replace=False)


def _noise(of: _Columns, size: float) -> Array:
    return of.values + size * of.spread * of.rng.normal(size=of.values.shape)


def _outliers(of: _Columns, share: float) -> Array:
    values, columns = of.values.copy(), of.some(share)
    values[:, columns] += 3 * of.spread[columns] * of.rng.normal(size=(len(values), len(columns)))
    return values


def _shuffled(of: _Columns, share: float) -> Array:
    values = of.values.copy()
    for column in of.some(share):
        values[:, column] = of.rng.permutation(values[:, column])
    return values


def _missing(of: _Columns, share: float) -> Array:
    return np.where(of.rng.random(of.values.shape) < share, np.nan, of.values)


def _blended(of: _Columns, share: float) -> Array:
    return (1 - share) * of.values + share * of.others


def _moved(of: _Columns, share: float) -> Array:
    values, columns = of.values.copy(), of.some(share)
    values[:, columns] += of.rng.uniform(0.5, 2.5) * of.spread[columns] * of.rng.choice([-1, 1], len(columns))
    return values


def _constant(of: _Columns, share: float) -> Array:
    values, columns = of.values.copy(), of.some(share)
    values[:, columns] = of.others[0, columns]
    return values


def _extreme(of: _Columns, share: float) -> Array:
    """Some columns of some rows ten times as large, and far off: as of another unit."""
    values, columns = of.values.copy(), of.some(share)
    rows = of.rng.random(len(values)) < of.rng.uniform(0.2, 1)
    far = 10 * of.spread[columns] * of.rng.normal(size=len(columns))
    values[np.ix_(rows, columns)] = values[np.ix_(rows, columns)] * 10 + far
    return values


def _rolled(of: _Columns, share: float) -> Array:
    """Some images moved by up to a quarter of their size along their last two axes."""
    images = of.values.reshape(-1, *of.shape).copy()
    reach = [max(1, size // 4) for size in of.shape[-2:]]
    for place in np.flatnonzero(of.rng.random(len(images)) < share):
        steps = [int(of.rng.integers(-most, most + 1)) for most in reach]
        images[place] = np.roll(images[place], steps, axis=(-2, -1))
    return images.reshape(of.values.shape)


def _turned(of: _Columns, share: float) -> Array:
    """Some images upside down or mirrored."""
    images = of.values.reshape(-1, *of.shape).copy()
    for place in np.flatnonzero(of.rng.random(len(images)) < share):
        axes = ((-2,), (-1,), (-2, -1))[int(of.rng.integers(3))]
        images[place] = np.flip(images[place], axes)
    return images.reshape(of.values.shape)


Shift = Callable[[_Columns, float], Array]
_OF_NUMBERS: dict[str, tuple[Shift, tuple[float, ...]]] = {
    "noise": (_noise, (0.25, 0.5, 1.0, 2.0)),
    "outliers": (_outliers, (0.2, 0.5)),
    "shuffled columns": (_shuffled, (0.15, 0.3, 0.5, 0.8)),
    "rows blended": (_blended, (0.2, 0.35, 0.5)),
    "moved columns": (_moved, (0.2, 0.5, 1.0)),
    "constant columns": (_constant, (0.2, 0.5)),
    "another unit": (_extreme, (0.05, 0.2)),
}
_OF_COLUMNS: dict[str, tuple[Shift, tuple[float, ...]]] = {"missing values": (_missing, (0.1, 0.3, 0.6))}
_OF_IMAGES: dict[str, tuple[Shift, tuple[float, ...]]] = {
    "moved images": (_rolled, (0.25, 0.5, 1.0)),
    "turned images": (_turned, (0.25, 0.5, 1.0)),
}
_OF_IDS: dict[str, tuple[float, ...]] = {"other ids": (0.1, 0.3, 0.6), "another order": (0.3, 0.8)}


class ShiftSimulation:
    """Rows of a reference, and copies of them that are shifted in several ways, each in several strengths.

    Numbers get noise and outliers, are moved, lost, made constant, given in another unit, or taken from other rows. Ids are replaced by those
    of other rows, or change places. Masks, lengths and indices stay as they are.

    Args:
        examples: The rows.
        task: What they are for.
    """

    def __init__(self, examples: Sequence[Example], task: TaskSpec) -> None:
        self._examples = examples
        self._rng = np.random.default_rng(0)
        shared = [each for each in task.signature.inputs if all(each.name in row for row in examples)]
        self._numbers = {
            each.name: self._stacked(each.name) for each in shared if each.holds_numbers and self._is_even(each.name)
        }
        self._ids = [each.name for each in shared if isinstance(each.values, Ids)]

    def _is_even(self, name: str) -> bool:
        return len({row[name].shape for row in self._examples}) == 1

    def _stacked(self, name: str) -> Array:
        return np.stack([row[name].numpy().astype(np.float64).ravel() for row in self._examples])

    def windows(self) -> Iterator[tuple[str, list[Example]]]:
        """Each kind of shift by name, with its rows."""
        if not self._examples:
            return
        if self._numbers:
            shapes = [tuple(self._examples[0][name].shape) for name in self._numbers]
            are_images = any(len(shape) > 1 for shape in shapes)
            for kind, (shift, strengths) in {**_OF_NUMBERS, **(_OF_IMAGES if are_images else _OF_COLUMNS)}.items():
                for strength in strengths:
                    yield kind, self._with_numbers(shift, strength)
        if self._ids:
            for kind, shares in _OF_IDS.items():
                for share in shares:
                    yield kind, self._with_ids(kind, share)

    def _drawn(self) -> Array:
        return self._rng.choice(len(self._examples), min(SHIFTED_ROWS, len(self._examples)), replace=False)

    def _with_numbers(self, shift: Shift, strength: float) -> list[Example]:
        rows, others = self._drawn(), self._drawn()
        changed: dict[str, Array] = {}
        for name, values in self._numbers.items():
            shape = tuple(self._examples[0][name].shape)
            filled = np.where(np.isfinite(values), values, np.nan)
            spread = np.nan_to_num(np.nanstd(np.where(np.isnan(filled).all(axis=0), 0.0, filled), axis=0))
            spread = np.full_like(spread, np.sqrt((spread**2).mean())) if len(shape) > 1 else spread
            if shift in (_rolled, _turned) and len(shape) < 2:
                changed[name] = values[rows]
            else:
                changed[name] = shift(_Columns(values[rows], values[others], spread, shape, self._rng), strength)
        return [
            self._replaced(self._examples[row], {n: each[place] for n, each in changed.items()}) for place, row in enumerate(rows)
        ]

    @staticmethod
    def _replaced(example: Example, changed: dict[str, Array]) -> Example:
        found = dict(example)
        for name, values in changed.items():
            before = example[name]
            numbers = values if before.is_floating_point() else np.rint(np.nan_to_num(values))
            found[name] = torch.from_numpy(np.ascontiguousarray(numbers)).to(before.dtype).reshape(before.shape)
        return found

    def _with_ids(self, kind: str, share: float) -> list[Example]:
        found: list[Example] = []
        pools = {name: np.concatenate([row[name].numpy().ravel() for row in self._examples]) for name in self._ids}
        for row in self._drawn():
            example = dict(self._examples[row])
            for name in self._ids:
                ids = example[name].numpy().ravel().copy()
                changed = np.flatnonzero(self._rng.random(len(ids)) < share)
                other = (
                    self._rng.permutation(ids[changed])
                    if kind == "another order"
                    else self._rng.choice(pools[name], len(changed))
                )
                ids[changed] = other
                example[name] = torch.from_numpy(ids).to(example[name].dtype).reshape(example[name].shape)
            found.append(example)
        return found


def estimator_of(
    data: Dataset,
    task: TaskSpec,
    reference: AnsweredRows,
    model: nn.Module,
    adapter: Adapter | None = None,
    familiarity: Familiarity | None = None,
    batch_size: int = 32,
) -> AccuracyEstimator:
    """What estimates the accuracy of a model without labels.

    Args:
        data: The rows of the reference; up to 1,000 of them at random are shifted.
        task: What they are for.
        reference: What is known of them, and whether the model is right.
        model: The model.
        adapter: How it is called.
        familiarity: How near rows are to training rows; ``None`` to go by the model's confidence.
        batch_size: Rows at once.

    Raises:
        DataError: No row has a label.
    """
    meter = OutputMeter(model, task, adapter, data.origin.classes)
    key = task.signature.label_name(task.signature.main)
    examples = [row for row in sampled(data, _POOL) if key in row and float(row[key]) >= 0]
    windows: list[AnsweredRows] = []
    for kind, rows in ShiftSimulation(examples, task).windows():
        with suppress(UserError):  # a model that refuses such rows tells nothing about them
            windows.append(_answered(kind, rows, task, meter, familiarity, batch_size))
    return fit_estimator(reference, windows)


def _answered(
    kind: str, rows: Sequence[Example], task: TaskSpec, meter: OutputMeter, familiarity: Familiarity | None, batch_size: int
) -> AnsweredRows:
    measured: dict[str, list[Array]] = {"entropy": [], "said": [], "right": []}
    for start in range(0, len(rows), batch_size):
        said = meter(rows[start : start + batch_size])
        entropy, classes, right = said["output.entropy"], said["output.class"], said[CORRECT]
        assert isinstance(entropy, Numbers)
        assert isinstance(classes, IdValues)
        assert isinstance(right, Numbers)
        for values, kept in zip((entropy.values, classes.ids, right.values), measured.values(), strict=True):
            kept.append(values)
    uncertainty, answers, correct = (np.concatenate(each) for each in measured.values())
    if familiarity is None:
        return AnsweredRows(confidence_measures(uncertainty), correct, kind)
    vectors = vectors_of(rows, task)
    found = without_answer(familiarity.of_window([(vectors, answers)], vectors), uncertainty)
    return AnsweredRows(found.values, correct, kind, found.at_most)
