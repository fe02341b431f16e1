"""Accuracy estimated without labels, held against the true one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import norm

from harness.errors import DataError
from harness.monitoring.accuracy_estimate import estimate_accuracy, fit_threshold, negative_entropy
from harness.monitoring.verdict import PerformanceImpact
from harness.monitoring.window import OodScore, fit_ood_score

Array = NDArray[Any]
ROUNDS = 400
WELL_WITHIN = 0.05
"""How often a 95% interval may miss on either side: 0.025, and three standard errors of it in so many rounds."""


def drawn(generator: np.random.Generator, n: int, mean: float, slope: float) -> tuple[Array, Array]:
    """Scores, and whether the model is right, which is likelier the higher they are."""
    scores = generator.normal(mean, 1, n)
    return scores, generator.random(n) < 1 / (1 + np.exp(-slope * scores))


def in_the_limit(mean: float, slope: float, shift: float) -> tuple[float, float]:
    """Accuracy on the reference, and what a threshold estimates of the window, with any number of rows of either."""
    grid = norm.ppf((np.arange(20_000) + 0.5) / 20_000) + mean
    accuracy = float((1 / (1 + np.exp(-slope * grid))).mean())
    return accuracy, float(norm.sf(norm.isf(accuracy) - shift))


@pytest.mark.parametrize(
    ("m", "n", "mean", "slope", "shift"),
    [
        (400, 1000, 2.5, 1, 0.0),
        (400, 1000, 2.5, 1, -1.5),
        (400, 20, 0.0, 4, -0.5),
        (50, 50, 0.0, 1, -1.5),
        (50, 50, 2.5, 4, -1.5),
        (50, 1, 1.0, 1, 0.0),
        (10, 10, 1.0, 4, 0.0),
        (10, 200, 2.5, 4, -0.5),
    ],
)
def test_the_intervals_hold_what_they_estimate_for_few_rows_and_for_many(
    m: int, n: int, mean: float, slope: float, shift: float
) -> None:
    generator = np.random.default_rng(7)
    before, now = in_the_limit(mean, slope, shift)
    misses = np.zeros(4)
    for _ in range(ROUNDS):
        threshold = fit_threshold(*drawn(generator, m, mean, slope))
        estimate = estimate_accuracy(threshold, drawn(generator, n, mean + shift, slope)[0])
        pairs = ((now, estimate.interval), (before - now, estimate.loss_interval))
        misses += [beyond for truth, (low, high) in pairs for beyond in (truth < low - 1e-9, truth > high + 1e-9)]
    assert (misses / ROUNDS).max() <= WELL_WITHIN


@pytest.mark.parametrize(("m", "n"), [(5, 1), (10, 3), (20, 500), (400, 1), (400, 30)])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 1.0])
def test_without_drift_harm_is_not_alleged_however_few_the_rows(m: int, n: int, accuracy: float) -> None:
    generator = np.random.default_rng(11)
    alleged = 0
    for _ in range(ROUNDS):
        threshold = fit_threshold(generator.normal(size=m), generator.random(m) < accuracy)
        alleged += PerformanceImpact(estimate_accuracy(threshold, generator.normal(size=n)), 0.05).status == "fail"
    assert alleged / ROUNDS <= WELL_WITHIN


def test_more_rows_make_the_interval_narrower() -> None:
    generator = np.random.default_rng(5)
    threshold = fit_threshold(*drawn(generator, 2000, 1, 2))
    widths = [np.diff(estimate_accuracy(threshold, drawn(generator, n, 1, 2)[0]).interval)[0] for n in (10, 100, 1000)]
    assert widths == sorted(widths, reverse=True)


def test_an_empty_window_says_nothing() -> None:
    estimate = estimate_accuracy(fit_threshold([1.0, 2.0], [0, 1]), [])
    assert (estimate.n, estimate.interval, estimate.loss, estimate.loss_interval) == (0, (0.0, 1.0), 0.0, (-0.5, 0.5))
    assert json.loads(json.dumps(estimate.to_json()))["interval"] == [0.0, 1.0]


def test_a_window_of_another_shape_is_refused() -> None:
    with pytest.raises(DataError, match="one score a row"):
        estimate_accuracy(fit_threshold([1.0, 2.0], [0, 1]), [[1.0], [2.0]])


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    """A softmax regression on small images of digits; a labelled reference and windows that it was not trained on."""
    datasets, models = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.linear_model")
    images, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    training, reference, window = (images[part] / 16 for part in np.split(order, [400, 800]))
    of_training, of_reference, of_window = np.split(labels[order], [400, 800])
    model = models.LogisticRegression(max_iter=300).fit(training, of_training)
    return {
        "predict": model.predict_proba,
        "training": (training, of_training),
        "reference": (reference, of_reference),
        "window": (window, of_window),
    }


def shifted(images: Array, move: float, share: float) -> Array:
    """Some of the images, moved as far to the side and somewhat turned."""
    generator = np.random.default_rng(1)
    changed = images.copy()
    for place in np.flatnonzero(generator.random(len(images)) < share):
        image = ndimage.rotate(images[place].reshape(8, 8), 40 * move * generator.uniform(-1, 1), reshape=False, order=1)
        changed[place] = ndimage.shift(image, generator.uniform(-move, move, 2), order=1, mode="nearest").clip(0, 1).ravel()
    return changed


def windows(digits: dict[str, Any]) -> Iterator[tuple[Array, Array]]:
    images, labels = digits["window"]
    yield images, labels
    yield images[labels != 0], labels[labels != 0]
    for move in (0.5, 1.5, 3.0):
        for share in (0.1, 0.5, 1.0):
            yield shifted(images, move, share), labels


def errors(digits: dict[str, Any], fit: Callable[[Array, Array, Array], Any], score: Callable[[Array, Array], Array]) -> Array:
    images, labels = digits["reference"]
    probabilities = digits["predict"](images)
    said = probabilities.argmax(axis=1)
    fit(images, said, said == labels)
    threshold = fit_threshold(score(images, probabilities), said == labels)
    found = []
    for window, truth in windows(digits):
        probabilities = digits["predict"](window)
        estimate = estimate_accuracy(threshold, score(window, probabilities))
        found.append(estimate.accuracy - (probabilities.argmax(axis=1) == truth).mean())
    return np.array(found)


def test_familiarity_halves_the_error_of_confidence_on_shifted_images(
    digits: dict[str, Any],
) -> None:
    by_confidence = errors(digits, lambda *_: None, lambda _images, probabilities: negative_entropy(probabilities))
    fitted: list[OodScore] = []

    def fit(images: Array, said: Array, correct: Array) -> None:
        training, labels = digits["training"]
        stored = fit_ood_score(training, labels, images, said, correct).to_json()
        fitted.append(OodScore.from_json(json.loads(json.dumps(stored))))

    familiar = errors(digits, fit, lambda images, probabilities: fitted[0].scores(images, probabilities.argmax(axis=1)))
    assert np.abs(familiar).mean() < np.abs(by_confidence).mean() / 2
    assert np.abs(by_confidence[:2]).max() <= 0.03  # where the images are as they were, confidence is enough


def test_rows_that_are_not_finite_are_familiar_to_no_one() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    labels = (rows[:, 0] > 0).astype(int)
    familiarity = fit_ood_score(rows, labels, rows, labels, np.ones(40))
    scores = familiarity.scores([[np.nan, 0, 0], [1.0, 0, 0]], [1, 1])
    assert np.isnan(scores[0])
    assert np.isfinite(scores[1])
    assert familiarity.scores(np.zeros((0, 3)), []).shape == (0,)


def test_a_class_that_was_never_trained_on_is_not_familiar() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    labels = (rows[:, 0] > 0).astype(int)
    familiarity = fit_ood_score(rows, labels, rows, labels, np.ones(40))
    assert familiarity.scores(rows[:5], [2] * 5).max() < familiarity.scores(rows[:5], labels[:5]).min()


@pytest.mark.parametrize(
    ("training", "labels", "vectors", "said", "complaint"),
    [
        (np.ones((4, 2)), [0, 1, 0, 1], np.ones((3, 3)), [0] * 3, "same width"),
        (np.ones((4, 2)), [0, 1], np.ones((3, 2)), [0] * 3, "a label for each"),
        (np.ones((4, 2)), [0, 1, 0, 1], np.full((3, 2), np.nan), [0] * 3, "finite"),
        (np.ones((1, 2)), [0], np.ones((3, 2)), [0] * 3, "same width"),
        (np.ones(4), [0] * 4, np.ones((3, 2)), [0] * 3, "same width"),
    ],
)
def test_bad_rows_are_refused(training: Any, labels: Any, vectors: Any, said: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        fit_ood_score(training, labels, vectors, said, [1, 1, 0])


def test_vectors_of_another_width_and_broken_files_are_refused() -> None:
    familiarity = fit_ood_score(np.eye(4), [0, 1, 0, 1], np.eye(4), [0, 1, 0, 1], [1, 1, 0, 1])
    with pytest.raises(DataError, match="vectors of 4 numbers"):
        familiarity.scores(np.ones((2, 3)), [0, 1])
    with pytest.raises(DataError, match="stored out-of-distribution score"):
        OodScore.from_json({"centre": [0.0]})
