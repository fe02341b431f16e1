"""How near rows are to the rows that a model was trained on, and to those of the predicted class."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.data import Example
from harness.data.dataset import Dataset, Rows
from harness.errors import DataError
from harness.monitoring.accuracy_estimate import RowMeasures, beyond_chance
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH

MOST_ROWS = 1000
"""Training rows that are kept."""

WIDEST = 1024
"""Numbers of a row up to which training rows are kept where nobody asks for it."""

_NEIGHBOURS = 3
_IMAGE_VARIANCE = 0.9  # of images; noise spreads over the other axes
_PIECE = 1024
_LEAST = 1e-9
_FARTHEST = 3e4  # deviations; what float16 holds
_ROUNDED = 0.01  # of the logarithm of a distance, by float16
_FEWEST = 20  # rows that say where a window lies as a whole
_FEW = 0.01  # of the rows of any window lie beyond those of the reference
_COMMONEST = 0.2  # share of a value below which a column cannot lack all others by chance
_MOST_READ = 100_000


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Measures rows against training rows, by what a trust score is made of (Jiang et al. 2018, "To trust or not to trust a classifier").

    Far from its training data a model is often sure and wrong, and its confidence says nothing. A row is familiar where it lies near training
    rows of the class that the model says, and farther from those of any other class.

    It keeps the coordinates of at most 1,000 training rows with the run of the reference. Where rows must not be kept, there is the model's own
    confidence.

    Attributes:
        centre: Mean of the training vectors, ``[D]``.
        scale: The unit of each number, ``[D]``: a deviation of its column, or of all pixels of an image.
        axes: The axes along which rows are compared, ``[D, P]``: of images the first principal components, of columns the columns.
        known: Coordinates of the training rows, ``[K, P]``.
        labels: Their labels, ``[K]``.
        is_spread: Which numbers have so many values that those of a window are never all the same, ``[D]``.
        usual: How far rows of the reference are from the training rows, logarithms in order, ``[R]``; empty until that is known.
        shares: How frequent each class is in the reference, ``[C]``; empty as well.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    axes: NDArray[np.float64] | None
    known: NDArray[np.float64]
    labels: NDArray[np.int64]
    is_spread: NDArray[np.bool_]
    usual: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    shares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def beside(self, reference: RowMeasures, labels: NDArray[np.int64]) -> Familiarity:
        """The same, which knows how far rows of the reference are.

        Args:
            reference: Of the rows of the reference, by ``of_window``.
            labels: The classes of those that have one.
        """
        near = _nearest(reference.values)
        near = np.sort(near[np.isfinite(near)])
        kept = near[np.unique(np.linspace(0, len(near) - 1, MOST_ROWS).round().astype(int))] if len(near) else near
        counts = np.bincount(labels[labels >= 0])
        return replace(self, usual=kept, shares=counts / max(counts.sum(), 1))

    def of_window(self, parts: Iterable[tuple[ArrayLike, ArrayLike]], sample: ArrayLike) -> RowMeasures:
        """What is known of the rows of a window, ``[N, 6]``.

        Rows that were moved all together, as by a sensor that is off, are far from training rows of any class, and the nearest of these say
        little. So each row is measured once more with the window centred and scaled as the training rows are. That counts by how many rows
        lie beyond all of the reference: rows that are only other ones among its kind need no such correction. The last measure is how much
        farther the rows are than those of the reference.

        Args:
            parts: Vectors and predictions, as ``measures`` takes, some rows at a time.
            sample: Vectors of some rows of the whole window.
        """
        rows, frame = np.asarray(sample, np.float64), self._frame(sample)
        plain, moved, said = [], [], [np.zeros(0, np.int64)]
        for vectors, predictions in parts:
            plain.append(self.measures(vectors, predictions))
            moved.append(self._measured(vectors, predictions, frame)[:, :2])
            said.append(np.asarray(predictions, np.int64))
        if not plain:
            return RowMeasures(np.zeros((0, 6)))
        found, centred = np.concatenate(plain), np.concatenate(moved)
        near = _nearest(found)
        is_beyond = near > self.usual[-1] + _ROUNDED if len(self.usual) else np.zeros(len(near), np.bool_)
        share = float(is_beyond.mean()) ** 0.5 if is_beyond.mean() > _FEW else 0.0
        farther = beyond_chance(self.usual, near) if len(self.usual) else 0.0
        blended = share * centred + (1 - share) * found[:, :2]
        values = np.column_stack([found, blended, np.full(len(found), -farther)])
        return RowMeasures(values, self._most(np.concatenate(said)) if self._is_stuck(rows) else 1.0)

    def _frame(self, sample: ArrayLike) -> _Frame | None:
        """By what coordinates are multiplied, and what is added, so that a window lies as the training rows do; ``None`` of a few rows."""
        rows = _coordinates(np.asarray(sample, np.float64), self.centre, self.scale, self.axes, missing=np.nan)
        if len(rows) < _FEWEST:
            return None
        count = np.maximum((~np.isnan(rows)).sum(axis=0), 1)
        centre = np.nansum(rows, axis=0) / count
        spread = np.sqrt(np.nansum((rows - centre) ** 2, axis=0) / count)
        stretch = np.where(spread > _LEAST, self.known.std(axis=0) / np.maximum(spread, _LEAST), 0.0)
        return stretch, self.known.mean(axis=0) - stretch * centre

    def _is_stuck(self, rows: NDArray[np.float64]) -> bool:
        """Whether some numbers have the same value in every row, though they never have, and it is not that a few rows are repeated."""
        if len(rows) < _FEWEST or not ((rows == rows[:1]).all(axis=0) & self.is_spread).any():
            return False
        return len(np.unique(rows, axis=0)) >= _FEWEST

    def _most(self, said: NDArray[np.int64]) -> float:
        """How many answers can be right at most, where each class is as frequent as in the reference."""
        count = max(len(self.shares), int(said.max(initial=-1)) + 1)
        if not len(self.shares) or not len(said):
            return 1.0
        now = np.bincount(said[said >= 0], minlength=count) / len(said)
        return float(np.minimum(now, np.pad(self.shares, (0, count - len(self.shares)))).sum())

    def measures(self, vectors: ArrayLike, predictions: ArrayLike) -> NDArray[np.float64]:
        """Of each row the logarithms of the other classes' distance over the predicted one's, and of that one's inverse, ``[M, 3]``.

        A missing number counts as the mean of its column; the last measure is the share of numbers that are there.

        Args:
            vectors: Inputs, as those of the training rows, ``[M, D]``.
            predictions: The class that the model says, ``[M]``.

        Raises:
            DataError: The vectors are of another width, or there are not as many of the one as of the other.
        """
        rows, said = np.asarray(vectors, np.float64), np.asarray(predictions, np.int64)
        if rows.ndim != 2 or rows.shape[1] != len(self.centre) or said.shape != rows.shape[:1]:
            raise DataError(
                f"expected vectors of {len(self.centre)} numbers and a prediction for each, got shapes {list(rows.shape)} and {list(said.shape)}"
            )
        return self._measured(rows, said, None)

    def _measured(self, vectors: ArrayLike, predictions: ArrayLike, frame: _Frame | None) -> NDArray[np.float64]:
        rows, said = np.asarray(vectors, np.float64), np.asarray(predictions, np.int64)
        pieces = range(0, max(len(rows), 1), _PIECE)
        return np.concatenate([self._of_piece(rows[at : at + _PIECE], said[at : at + _PIECE], frame) for at in pieces])

    def _of_piece(self, vectors: NDArray[np.float64], said: NDArray[np.int64], frame: _Frame | None) -> NDArray[np.float64]:
        rows = _coordinates(vectors, self.centre, self.scale, self.axes, missing=0.0 if frame is None else np.nan)
        if frame is not None:
            rows = np.nan_to_num(frame[0] * rows + frame[1])
        squares = (rows**2).sum(axis=1)[:, None] + (self.known**2).sum(axis=1) - 2 * rows @ self.known.T
        distances = np.sqrt(np.maximum(squares, _LEAST**2))
        farthest = float(distances.max(initial=_LEAST))  # of a class that the training rows do not have
        own, other = np.full(len(rows), farthest), np.full(len(rows), farthest)
        for label in np.unique(self.labels):
            distance = np.sort(distances[:, self.labels == label], axis=1)[:, :_NEIGHBOURS].mean(axis=1)
            is_said = said == label
            own[is_said] = distance[is_said]
            other[~is_said] = np.minimum(other, distance)[~is_said]
        return np.stack([np.log(other / own), -np.log(own), 1 - np.isnan(vectors).mean(axis=1)], axis=1)

    def to_json(self) -> dict[str, Any]:
        """The rows as JSON-ready values, half a megabyte at most for 256 columns."""
        plain = {name: getattr(self, name).tolist() for name in ("centre", "scale", "labels", "is_spread", "shares")}
        axes = None if self.axes is None else _packed(self.axes)
        return {**plain, "known": _packed(self.known), "axes": axes, "usual": _packed(self.usual)}

    @classmethod
    def from_json(cls, data: Any) -> Familiarity:
        """The inverse of ``to_json``.

        Raises:
            DataError: It is something else, or an older version stored it.
        """
        try:
            centre, scale = (np.asarray(data[name], np.float64) for name in ("centre", "scale"))
            axes = None if data["axes"] is None else _unpacked(data["axes"])
            labels, is_spread = np.asarray(data["labels"], np.int64), np.asarray(data["is_spread"], np.bool_)
            usual, shares = _unpacked(data["usual"]), np.asarray(data["shares"], np.float64)
            return cls(centre, scale, axes, _unpacked(data["known"]), labels, is_spread, usual, shares)
        except (KeyError, TypeError, ValueError):
            raise DataError(
                "what is stored of the training rows is not readable by this version: store the reference again with `modeltiers profile`"
            ) from None


_Frame = tuple[NDArray[np.float64], NDArray[np.float64]]


def _nearest(measures: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the nearest class of training rows is, a logarithm, ``[N]``."""
    return np.minimum(0.0, measures[:, 0]) - measures[:, 1]


def _packed(values: NDArray[np.float64]) -> dict[str, Any]:
    return {"shape": list(values.shape), "float16": base64.b64encode(values.astype("<f2").tobytes()).decode()}


def _unpacked(data: Any) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(data["float16"]), "<f2").reshape(data["shape"]).astype(np.float64)


def _coordinates(
    vectors: NDArray[np.float64],
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
    axes: NDArray[np.float64] | None,
    missing: float = 0.0,
) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore"):
        standard = (vectors - centre) / scale
    missing = 0.0 if axes is not None else missing
    rows = np.nan_to_num(standard, nan=missing, posinf=_FARTHEST, neginf=-_FARTHEST).clip(-_FARTHEST, _FARTHEST)
    return rows if axes is None else rows @ axes


def fit_familiarity(training: ArrayLike, labels: ArrayLike, *, is_image: bool = False) -> Familiarity:
    """How familiar rows are to a model.

    Args:
        training: Inputs of rows that the model was trained on, ``[K, D]``; of at most 1,000 of them the coordinates are kept.
        labels: Their classes, ``[K]``.
        is_image: Whether the numbers are of one unit and neighbours, as pixels are, rather than columns of different ones.

    Raises:
        DataError: There are too few rows, or not as many of the one as of the other.
    """
    rows, truth = np.asarray(training, np.float64), np.asarray(labels, np.int64)
    if rows.ndim != 2 or len(rows) < 2 or len(truth) != len(rows):
        raise DataError(
            f"expected a table of training rows and a label for each, got shapes {list(rows.shape)} and {list(truth.shape)}"
        )
    if len(rows) > MOST_ROWS:
        kept = np.random.default_rng(0).choice(len(rows), MOST_ROWS, replace=False)
        rows, truth = rows[kept], truth[kept]
    finite = np.where(np.isfinite(rows), rows, np.nan)
    empty = np.isnan(finite).all(axis=0)
    finite = np.where(empty, 0.0, finite)
    centre, spread = np.nanmean(finite, axis=0), np.nanstd(finite, axis=0)
    if is_image:
        spread = np.full_like(spread, np.sqrt((spread**2).mean()))
    scale = np.where(spread > 0, spread, 1.0)
    axes = _principal_axes(_coordinates(rows, centre, scale, None)) if is_image else None
    commonest = [np.unique(column, return_counts=True)[1].max() / len(rows) for column in rows.T]
    is_spread = np.array(commonest) < _COMMONEST
    return Familiarity(centre, scale, axes, _coordinates(rows, centre, scale, axes), truth, is_spread)


def _principal_axes(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    shares = np.cumsum(values**2) / max(float((values**2).sum()), _LEAST)
    return np.asarray(axes[: int(np.searchsorted(shares, _IMAGE_VARIANCE)) + 1].T)


def has_vectors(task: TaskSpec) -> bool:
    """Whether the inputs are numbers of fixed sizes, and nothing else."""
    inputs = task.signature.inputs
    axes = {axis for each in inputs for axis in each.axes if isinstance(axis, str) and axis != BATCH}
    return all(each.holds_numbers for each in inputs) and all(len(task.signature.axes[axis].choices()) == 1 for axis in axes)


def is_image(task: TaskSpec) -> bool:
    """Whether a row of an input has more than one axis."""
    return any(len(each.axes) > 2 for each in task.signature.inputs)


def vectors_of(examples: Sequence[Example], task: TaskSpec) -> NDArray[np.float64]:
    """The numbers of the inputs of rows, such as pixels and columns, flattened, float64 ``[B, D]``."""
    names = [each.name for each in task.signature.inputs if each.holds_numbers]
    return np.stack([_vector([row[name].numpy() for name in names if name in row]) for row in examples])


def _vector(numbers: list[NDArray[np.floating]]) -> NDArray[np.float64]:
    return np.concatenate([each.ravel().astype(np.float64) for each in numbers])


def sampled(data: Dataset, most: int, seed: int = 0) -> list[Example]:
    """At most so many rows at random, of a stream of its first 100,000."""
    rng = np.random.default_rng(seed)
    if isinstance(data, Rows):
        places = np.sort(rng.choice(len(data), min(len(data), most), replace=False))
        return [data[int(place)] for place in places]
    kept: list[Example] = []
    for place, example in enumerate(islice(iter(data), _MOST_READ)):
        if place < most:
            kept.append(example)
        elif (chosen := int(rng.integers(place + 1))) < most:
            kept[chosen] = example
    return kept


def familiarity_of(task: TaskSpec, training: Dataset) -> Familiarity:
    """How familiar rows are to a model, from rows that it was trained on.

    Raises:
        DataError: There are too few of them.
    """
    examples = sampled(training, MOST_ROWS)
    key = task.signature.label_name(task.signature.main)
    labels = [int(example[key]) for example in examples]
    return fit_familiarity(vectors_of(examples, task), labels, is_image=is_image(task))


def in_batches(data: Dataset, rows: int) -> Iterator[list[Example]]:
    """The rows of a dataset, so many at a time."""
    left = iter(data)
    while examples := list(islice(left, rows)):
        yield examples
