"""A classifier that tries to tell rows of one sample from rows of the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
_Z = 1.959964
_SHARED = 1 + FOLDS / (FOLDS - 1)
"""By how much the variance of a mean over folds exceeds that of as many independent tests: their training rows overlap."""


@dataclass(frozen=True)
class ClassifierTest:
    """How well two samples can be told apart.

    Attributes:
        auc: Probability that of a row of either sample, the classifier finds the window's the more like the window; 0.5 is chance.
        low: Lower end of its 95% interval.
        high: Upper end.
        scores: How unlike the reference each row of the window is, to a classifier that did not see the row, float64 ``[M]``.
    """

    auc: float
    low: float
    high: float
    scores: NDArray[np.float64]


def classifier_test(kernel: NDArray[np.float64], n: int) -> ClassifierTest:
    """The test by a classifier (Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests"), with its AUC instead of its accuracy.

    The classifier is ridge regression on the kernel, whose penalty equals the kernel's own scale. Each fifth of the rows is scored by one
    that was fitted to the other four, and the AUC is that within the fifths, so that no row is compared by different classifiers. Its
    interval is DeLong's (1988), widened for the training rows that the fifths share (Nadeau and Bengio 2003, "Inference for the generalization
    error").

    Args:
        kernel: Of both samples, the window's rows last, ``[N, N]``.
        n: Rows of the window; five at least of either sample.
    """
    labels = np.zeros(len(kernel), bool)
    labels[-n:] = True
    folds = _folds(labels)
    scores = np.zeros(len(kernel))
    found = []
    for fold in range(FOLDS):
        held = folds == fold
        scores[held] = _fitted(kernel, labels, ~held)[held]
        found.append(_auc(scores[held & ~labels], scores[held & labels]))
    aucs, variances = np.array(found).T
    auc, margin = float(aucs.mean()), _Z * math.sqrt(_SHARED * float(variances.sum())) / FOLDS
    return ClassifierTest(auc, max(0.0, auc - margin), min(1.0, auc + margin), scores[labels])


def _folds(labels: NDArray[np.bool_]) -> NDArray[np.intp]:
    """A fold for each row, each with its share of both samples; the same in every run."""
    generator = np.random.default_rng(0)
    folds = np.zeros(len(labels), np.intp)
    for side in (labels, ~labels):
        folds[side] = generator.permutation(np.arange(side.sum()) % FOLDS)
    return folds


def _fitted(kernel: NDArray[np.float64], labels: NDArray[np.bool_], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scores of all rows by ridge regression on the rows seen, in which both samples weigh the same."""
    weights = np.where(labels, 1 / labels[seen].sum(), 1 / (~labels[seen]).sum()) * seen.sum() / 2
    targets = np.where(labels, 1.0, -1.0)
    inside = kernel[np.ix_(seen, seen)]
    solved = np.linalg.solve(inside + np.diag(1 / weights[seen]), targets[seen])
    return kernel[:, seen] @ solved


def _auc(reference: NDArray[np.float64], current: NDArray[np.float64]) -> tuple[float, float]:
    """The share of pairs in which the window's row scores higher, and its variance."""
    wins = (current[:, None] > reference) + 0.5 * (current[:, None] == reference)
    variance = sum(
        float(np.var(wins.mean(axis=axis), ddof=1)) / wins.shape[1 - axis] if wins.shape[1 - axis] > 1 else 0.25
        for axis in (0, 1)
    )
    return float(wins.mean()), variance
