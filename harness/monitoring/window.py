"""Rows of a dataset measured: their profile, what is right of them, how sure the model is of each, and how unlike the training data each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.data.dataset import Dataset
from harness.errors import ConfigError, DataError
from harness.monitoring.features.values import Block, Ids, Numbers, name_of_id
from harness.monitoring.profiles import BINS, profile_of_source
from harness.monitoring.profiles.profile import Profile, is_optional
from harness.monitoring.profiles.sources import Options, Reading, Source, source_of
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter


_ENTROPY, _CLASS, _CORRECT = "output.entropy", "output.class", "score.correct"


@dataclass(frozen=True)
class Window:
    """Rows of a dataset, measured.

    Attributes:
        profile: What is counted of them.
        confidence: How sure the model is of each, the entropy in nats times -1, float64 ``[N]``; ``None`` where there is no model, or a row
            has more than one answer.
        predicted: The class that it says, int64 ``[N]``; ``None`` as well.
        correct: Whether it is right, 0 or 1, float64 ``[N]``; ``None`` where there are no labels either.
    """

    profile: Profile
    confidence: NDArray[np.float64] | None
    predicted: NDArray[np.int64] | None
    correct: NDArray[np.float64] | None


def measure_window(
    data: Dataset,
    task: TaskSpec,
    *,
    reference: Profile | None = None,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    batch_size: int = 32,
) -> Window:
    """Measures a dataset in one pass; two where it is to be a reference.

    Args:
        data: The dataset.
        task: What its rows are for.
        reference: The profile on whose scales they are counted; ``None`` for a reference.
        model: Whose outputs are measured too.
        adapter: How it is called.
        batch_size: Rows at once.

    Raises:
        ProfileMismatchError: The rows are not of the reference's kind.
        DataError: A row cannot be read.
        ForwardError: The model raised.
    """
    source = source_of(data, Options(task, model, adapter, reading=Reading(batch_size=batch_size)))
    names = (_ENTROPY, _CLASS, _CORRECT) if model is not None and task.signature.has_one_answer else ()
    log = _RowLog(source, names)
    profile = profile_of_source(replace(source, blocks=log.blocks), reference, BINS)
    entropy, said = log.column(_ENTROPY), log.column(_CLASS)
    return Window(
        profile,
        None if entropy is None else -entropy,
        None if said is None else said.astype(np.int64),
        log.column(_CORRECT),
    )


def input_vectors(data: Dataset, task: TaskSpec, rows: int) -> Iterator[NDArray[np.float64]]:
    """The numbers of the inputs of rows, such as pixels and features, flattened, float64 ``[B, D]``; so many rows at a time.

    Args:
        data: The dataset.
        task: What its rows are for; its inputs of numbers have fixed sizes.
        rows: Rows at once.
    """
    left = iter(data)
    names = [each.name for each in task.signature.inputs if each.holds_numbers]
    while examples := list(islice(left, rows)):
        yield np.stack([_vector([example[name].numpy() for name in names if name in example]) for example in examples])


def _vector(numbers: list[NDArray[np.floating]]) -> NDArray[np.float64]:
    return np.concatenate([each.ravel().astype(np.float64) for each in numbers])


def input_columns(data: Dataset, task: TaskSpec, batch_size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """What is measured of the inputs and is one number or one level a row, by feature, ``[B]`` each; some rows at a time."""
    for block in source_of(data, Options(task, reading=Reading(batch_size=batch_size))).blocks(None):
        columns: dict[str, NDArray[Any]] = {}
        for name, values in block.values.items():
            if isinstance(values, Numbers):
                columns[name] = values.values
            elif isinstance(values, Ids) and values.rows is None and not is_optional(name):
                columns[name] = np.array(
                    [name_of_id(id, values.names) if id >= 0 else None for id in values.ids.tolist()], object
                )
        yield columns


class _RowLog:
    """Keeps some numbers of every row as the blocks go by."""

    def __init__(self, source: Source, names: tuple[str, ...]) -> None:
        self._source = source
        self._names = names
        self._kept: dict[str, list[NDArray[np.float64]]] = {}

    def blocks(self, kinds: Mapping[str, str] | None) -> Iterator[Block]:
        """The source's blocks; the numbers kept are those of the last time through."""
        self._kept = {name: [] for name in self._names}
        for block in self._source.blocks(kinds):
            for name, kept in self._kept.items():
                values = block.values.get(name)
                if isinstance(values, Numbers):
                    kept.append(values.values)
                elif isinstance(values, Ids):
                    kept.append(values.ids.astype(np.float64))
            yield block

    def column(self, name: str) -> NDArray[np.float64] | None:
        """The numbers of a name, ``[N]``; ``None`` where rows have none."""
        kept = self._kept.get(name)
        return np.concatenate(kept) if kept else None


MOST_ROWS = 1000
"""Training rows that are kept."""

_NEIGHBOURS = 3
_VARIANCE_KEPT = 0.9
_PIECE = 1024
_LEAST = 1e-9


@dataclass(frozen=True, eq=False)
class OodScore:
    """Measures rows against training rows, by what a trust score is made of (Jiang et al. 2018, "To trust or not to trust a classifier").

    Far from its training data a model is often sure and wrong, and a threshold on its confidence is fooled with it. A row is familiar where it
    lies near training rows of the class that the model says, and farther from those of any other class. On shifted digits this brings the
    mean error of the estimated accuracy from 7 to 9 points to below 3 (`benchmarks/drift_power.py`).

    It needs training rows at hand when the reference is made, and keeps their coordinates along a few axes with the run of the reference:
    ``db.log_profile(run, familiarity, "familiarity")``. Where rows must not be kept, there is the model's own confidence.

    Attributes:
        centre: Mean of the training vectors, ``[D]``.
        axes: Their first principal components, with 90% of the variance, ``[D, P]``; noise spreads over the others.
        known: Coordinates of the training rows, ``[K, P]``.
        labels: Their labels, ``[K]``.
        weights: Of the two measures, ``[2]``: what best tells right answers on the reference from wrong ones.
    """

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    known: NDArray[np.float64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]

    def scores(self, vectors: ArrayLike, predictions: ArrayLike) -> NDArray[np.float64]:
        """How familiar rows are, ``[M]``, for ``fit_threshold`` and ``estimate_accuracy``; NaN for a row that is not finite.

        Args:
            vectors: Inputs or embeddings, as those of the training rows, ``[M, D]``.
            predictions: The class that the model says, ``[M]``.

        Raises:
            DataError: The vectors are of another width, or there are not as many of the one as of the other.
        """
        rows, said = np.asarray(vectors, np.float64), np.asarray(predictions, np.int64)
        if rows.ndim != 2 or rows.shape[1] != len(self.centre) or said.shape != rows.shape[:1]:
            raise DataError(
                f"expected vectors of {len(self.centre)} numbers and a prediction for each, got shapes {list(rows.shape)} and {list(said.shape)}"
            )
        finite = np.isfinite(rows).all(axis=1)
        found = np.full(len(rows), np.nan)
        found[finite] = self._measures(rows[finite], said[finite]) @ self.weights
        return found

    def _measures(self, rows: NDArray[np.float64], said: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each row the logarithms of the other classes' distance over the predicted one's, and of that one's inverse, ``[M, 2]``."""
        coordinates = (rows - self.centre) @ self.axes
        pieces = range(0, max(len(rows), 1), _PIECE)
        return np.concatenate([self._of_piece(coordinates[at : at + _PIECE], said[at : at + _PIECE]) for at in pieces])

    def _of_piece(self, rows: NDArray[np.float64], said: NDArray[np.int64]) -> NDArray[np.float64]:
        squares = (rows**2).sum(axis=1)[:, None] + (self.known**2).sum(axis=1) - 2 * rows @ self.known.T
        distances = np.sqrt(np.maximum(squares, _LEAST**2))
        farthest = float(distances.max(initial=_LEAST))  # of a class that the training rows do not have
        own, other = np.full(len(rows), farthest), np.full(len(rows), farthest)
        for label in np.unique(self.labels):
            distance = np.sort(distances[:, self.labels == label], axis=1)[:, :_NEIGHBOURS].mean(axis=1)
            is_said = said == label
            own[is_said] = distance[is_said]
            other[~is_said] = np.minimum(other, distance)[~is_said]
        return np.stack([np.log(other / own), -np.log(own)], axis=1)

    def to_json(self) -> dict[str, Any]:
        """The rows and weights as JSON-ready values."""
        return {name: getattr(self, name).tolist() for name in ("centre", "axes", "known", "labels", "weights")}

    @classmethod
    def from_json(cls, data: Any) -> OodScore:
        """The inverse of ``to_json``.

        Raises:
            DataError: It is something else.
        """
        try:
            numbers = {name: np.asarray(data[name], np.float64) for name in ("centre", "axes", "known", "weights")}
            return cls(labels=np.asarray(data["labels"], np.int64), **numbers)
        except (KeyError, TypeError, ValueError):
            raise DataError(
                "expected a stored out-of-distribution score, got something else: fit it and store it again"
            ) from None


def fit_ood_score(
    training: ArrayLike, labels: ArrayLike, vectors: ArrayLike, predictions: ArrayLike, correct: ArrayLike
) -> OodScore:
    """How familiar rows are to a model.

    Args:
        training: Inputs or embeddings of rows that the model was trained on, ``[K, D]``; of at most 1,000 of them the coordinates are kept.
        labels: Their classes, ``[K]``.
        vectors: The same of a labelled reference that it was not trained on, ``[N, D]``.
        predictions: The classes that the model says of it, ``[N]``.
        correct: Whether it is right, 0 or 1, ``[N]``.

    Raises:
        DataError: There are too few rows, not as many of one as of another, or some are not finite.
    """
    known, truth = np.asarray(training, np.float64), np.asarray(labels, np.int64)
    rows, said = np.asarray(vectors, np.float64), np.asarray(predictions, np.int64)
    right = np.asarray(correct).astype(bool)
    if known.ndim != 2 or rows.ndim != 2 or known.shape[1] != rows.shape[1] or len(known) < 2 or not len(rows):
        raise DataError(f"expected two tables of the same width, got shapes {list(known.shape)} and {list(rows.shape)}")
    if len(truth) != len(known) or not len(said) == len(right) == len(rows):
        raise DataError(
            "expected a label for each training row, and a prediction and whether it is right for each row of the reference"
        )
    if not (np.isfinite(known).all() and np.isfinite(rows).all()):
        raise DataError("expected finite vectors")
    if len(known) > MOST_ROWS:
        kept = np.random.default_rng(0).choice(len(known), MOST_ROWS, replace=False)
        known, truth = known[kept], truth[kept]
    centre, axes = _principal_axes(known)
    unweighted = OodScore(centre, axes, (known - centre) @ axes, truth, np.ones(2))
    return replace(unweighted, weights=_weights(unweighted._measures(rows, said), right))


def _principal_axes(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centre = rows.mean(axis=0)
    _, values, axes = np.linalg.svd(rows - centre, full_matrices=False)
    shares = np.cumsum(values**2) / max(float((values**2).sum()), _LEAST)
    return centre, axes[: int(np.searchsorted(shares, _VARIANCE_KEPT)) + 1].T


def _weights(measures: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What best tells right answers from wrong ones: logistic regression with a ridge penalty of 1, in units of each measure's spread.

    Where all answers are right, or none is, both measures weigh the same.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    spread = measures.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    if right.all() or not right.any():
        return 1 / scale
    standard = (measures - measures.mean(axis=0)) / scale
    signs = np.where(right, 1.0, -1.0)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slopes, constant = weights[:-1], weights[-1]
        margins = signs * (standard @ slopes + constant)
        pull = signs * expit(-margins)
        value = np.logaddexp(0.0, -margins).sum() + slopes @ slopes / 2
        return float(value), np.append(slopes - standard.T @ pull, -pull.sum())

    found = minimize(loss, np.zeros(measures.shape[1] + 1), jac=True).x
    return np.asarray(found[:-1] / scale)


_ROWS = 1024
_MOST_ROWS = 5000
"""Rows of the reference by which the measures are weighed."""


def ood_score_of(task: TaskSpec, training: Dataset, data: Dataset, window: Window) -> OodScore:
    """How familiar rows are to a model, from rows that it was trained on and rows that it was not.

    Raises:
        ConfigError: The inputs are no numbers, or the reference has no model or no labels.
    """
    if not _has_vectors(task) or window.predicted is None or window.correct is None:
        raise ConfigError(
            "`--familiarity` needs images or a table with labels, and a classifier with weights; leave it out to use the model's confidence"
        )
    known = _first_vectors(training, task)
    key = task.signature.label_name(task.signature.main)
    labels = np.array([int(example[key]) for example in islice(iter(training), len(known))])
    rows = _first_vectors(data, task)
    usable = np.isfinite(window.correct[: len(rows)]) & np.isfinite(rows).all(axis=1)
    said, right = window.predicted[: len(rows)][usable], window.correct[: len(rows)][usable]
    return fit_ood_score(known, labels, rows[usable], said, right)


def confidence_of(data: Dataset, window: Window, ood_score: OodScore | None) -> NDArray[np.float64] | None:
    """How sure a model is of each row, float64 ``[N]``; ``None`` where there is no model, or a row has more than one answer.

    Args:
        data: The rows.
        window: What was measured of them.
        ood_score: Measures how far rows are from the training data; ``None`` to use the model's own confidence.
    """
    if ood_score is None or window.predicted is None:
        return window.confidence
    return _scores(ood_score, data, window.predicted)


def _has_vectors(task: TaskSpec) -> bool:
    """Whether the inputs are numbers of fixed sizes, and nothing else."""
    inputs = task.signature.inputs
    axes = {axis for each in inputs for axis in each.axes if isinstance(axis, str) and axis != BATCH}
    return all(each.holds_numbers for each in inputs) and all(len(task.signature.axes[axis].choices()) == 1 for axis in axes)


def _scores(ood_score: OodScore, data: Dataset, predicted: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    found: list[NDArray[np.float64]] = []
    start = 0
    for vectors in input_vectors(data, data.origin.task, _ROWS):
        found.append(ood_score.scores(vectors, predicted[start : start + len(vectors)]))
        start += len(vectors)
    return np.concatenate(found)


def _first_vectors(data: Dataset, task: TaskSpec) -> NDArray[np.float64]:
    """Of at most 5,000 rows."""
    return np.concatenate(list(islice(input_vectors(data, task, _ROWS), -(-_MOST_ROWS // _ROWS))))[:_MOST_ROWS]
