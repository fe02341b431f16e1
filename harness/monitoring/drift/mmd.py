"""The maximum mean discrepancy of two samples, and the kernel that says how alike two rows are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.drift.permutations import permutation_p_value


def gaussian_kernel(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """``exp(-d^2 / (2 median(d)^2))`` of the distances between all rows: the median heuristic (Gretton et al. 2012).

    Args:
        rows: ``[N, D]`` with two distinct rows at least.

    Returns:
        float64 ``[N, N]``.
    """
    squares = (rows**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0.0)
    apart = distances[np.triu_indices(len(rows), 1)]
    median = float(np.median(apart)) or float(apart.mean()) or 1.0
    return np.exp(-distances / (2 * median))


def mmd(kernel: NDArray[np.float64], current: NDArray[np.float64]) -> NDArray[np.float64]:
    """The unbiased estimate of MMD squared (Gretton et al. 2012, "A kernel two-sample test", lemma 6).

    Args:
        kernel: Of both samples, ``[N, N]``.
        current: 1 where a row counts as the window's, else 0, ``[R, N]``; in each line as many ones, two at least.

    Returns:
        An estimate a line, ``[R]``.
    """
    n = float(current[0].sum())
    m = len(kernel) - n
    own = np.trace(kernel)
    itself = current @ np.diag(kernel)
    towards = current @ kernel.sum(axis=0)
    within = np.einsum("rn,rn->r", current @ kernel, current)
    others = kernel.sum() - 2 * towards + within
    return (within - itself) / (n * (n - 1)) + (others - (own - itself)) / (m * (m - 1)) - 2 * (towards - within) / (n * m)


def mmd_p_value(kernel: NDArray[np.float64], n: int, draws: int) -> float:
    """Probability of an MMD as large where both samples are of one distribution, by permutations of the rows, the same in every run.

    Args:
        kernel: Of both samples, the window's rows last, ``[N, N]``.
        n: Rows of the window.
        draws: Most permutations.
    """
    generator = np.random.default_rng(0)
    labels = np.zeros(len(kernel))
    labels[-n:] = 1.0

    def draw(lines: int) -> NDArray[np.float64]:
        return mmd(kernel, generator.permuted(np.tile(labels, (lines, 1)), axis=1))

    return permutation_p_value(float(mmd(kernel, labels[None])[0]), draw, draws)
