"""What the drift gate sees, and how well accuracy is estimated without labels: the shifts of "Failing Loudly" on scikit-learn's digits.

python benchmarks/drift_power.py [--quick] [--runs 100] [--parts numbers,softmax,accuracy,network]

Rabanser, Günnemann and Lipton (2019), "Failing Loudly: an empirical study of methods for detecting dataset shift". Digits has 1,797 images, of
which each run takes 400 to train a softmax regression, 397 as the reference and 1,000 for the windows: seven of the eight sizes of the
paper, 10 to 1,000; its 10,000 would need more images than there are.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pool
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from harness.evidence import Status
from harness.monitoring import DriftOptions
from harness.monitoring.accuracy_estimate import AccuracyEstimator, AnsweredRows, confidence_measures, fit_estimator
from harness.monitoring.drift import compare_profiles
from harness.monitoring.familiarity import Familiarity, fit_familiarity, vectors_of
from harness.monitoring.features.edges import choose_edges
from harness.monitoring.features.numeric import count_numbers
from harness.monitoring.profiles import profile_columns
from harness.monitoring.simulated_shifts import ShiftSimulation
from harness.monitoring.statistics import ks_p_value
from harness.monitoring.verdict import PerformanceImpact
from harness.tasks import TaskSpec, TaskType

ALPHA = 0.05
SIZES = (10, 20, 50, 100, 200, 500, 1000)
TRAINING, REFERENCE = 400, 397
SHARES = (0.1, 0.5, 1.0)
MARGIN = 0.05
MOST_ERROR = 0.05
MOST_LOST = 0.10
PARTS = ("numbers", "softmax", "accuracy", "network")

Images = NDArray[np.float64]
Labels = NDArray[np.int64]
Change = Callable[["World", np.random.Generator, Images, Labels], Images]


@dataclass
class World:
    """One split of the digits, and a classifier for it."""

    model: Any
    training: tuple[Images, Labels]
    reference: tuple[Images, Labels]
    windows: tuple[Images, Labels]

    @classmethod
    def drawn(cls, seed: int, model: Any) -> World:
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(images))
        parts = np.split(order, [TRAINING, TRAINING + REFERENCE])
        training, reference, windows = ((images[part] / 16, labels[part]) for part in parts)
        return cls(model.fit(*training), training, reference, windows)

    def probabilities(self, images: Images) -> NDArray[np.float64]:
        return np.asarray(self.model.predict_proba(images))


def gaussian_noise(sigma: float) -> Change:
    return lambda _world, generator, images, _labels: np.clip(images + generator.normal(0, sigma, images.shape), 0, 1)


def image_shift(degrees: float, move: float, shear: float, zoom: float) -> Change:
    def change(_world: World, generator: np.random.Generator, images: Images, _labels: Labels) -> Images:
        centre = np.array([3.5, 3.5])
        changed = np.empty_like(images)
        for place, image in enumerate(images.reshape(-1, 8, 8)):
            angle = np.deg2rad(generator.uniform(-degrees, degrees))
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            matrix = turn @ np.array([[1, generator.uniform(-shear, shear)], [0, 1]]) / (1 + generator.uniform(-zoom, zoom))
            offset = centre - matrix @ (centre + 8 * generator.uniform(-move, move, 2))
            changed[place] = ndimage.affine_transform(image, matrix, offset=offset, order=1, mode="nearest").ravel()
        return np.clip(changed, 0, 1)

    return change


def adversarial(size: float) -> Change:
    """The fast gradient sign method, against a linear classifier."""

    def change(world: World, _generator: np.random.Generator, images: Images, labels: Labels) -> Images:
        wrong = world.probabilities(images) - np.eye(10)[labels]
        return np.clip(images + size * np.sign(wrong @ world.model.coef_), 0, 1)

    return change


SMALL, MEDIUM, LARGE = image_shift(10, 0.05, 0.1, 0.1), image_shift(40, 0.2, 0.2, 0.2), image_shift(90, 0.4, 0.3, 0.4)
CHANGES: dict[str, Change] = {
    "small noise (1/255)": gaussian_noise(1 / 255),
    "medium noise (10/255)": gaussian_noise(10 / 255),
    "large noise (100/255)": gaussian_noise(100 / 255),
    "small image shift": SMALL,
    "medium image shift": MEDIUM,
    "large image shift": LARGE,
    "adversarial (0.1)": adversarial(0.1),
}


def shifts(world: World, generator: np.random.Generator) -> Iterator[tuple[str, Images, Labels]]:
    """Windows of 1,000 images, or fewer where classes are knocked out, by the name of the shift."""
    images, labels = world.windows
    yield "no shift", images, labels
    for name, change in CHANGES.items():
        if name.startswith("adversarial") and not hasattr(world.model, "coef_"):
            continue
        whole = change(world, generator, images, labels)
        for share in SHARES:
            changed = generator.random(len(images)) < share
            yield f"{name}, {share:.0%}", np.where(changed[:, None], whole, images), labels
    for share in SHARES:
        kept = (labels != 0) | (generator.random(len(labels)) >= share)
        yield f"knock-out of 0, {share:.0%}", images[kept], labels[kept]
    kept = labels != 0
    whole = MEDIUM(world, generator, images, labels)
    for share in SHARES:
        changed = generator.random(len(images)) < share
        yield f"medium image shift and knock-out, {share:.0%}", np.where(changed[:, None], whole, images)[kept], labels[kept]
    yield "medium image shift, only 0", whole[~kept], labels[~kept]


def outputs(probabilities: NDArray[np.float64]) -> dict[str, NDArray[np.generic]]:
    numbers = {f"probability {number}": column for number, column in enumerate(probabilities.T)}
    return {**numbers, "class": probabilities.argmax(axis=1).astype(str)}


def detected(run: int) -> list[tuple[str, int, NDArray[np.int64]]]:
    """Whether each shift is seen in windows of each size, in one run: by the corrected tests, by the gate, by exact tests."""
    world = World.drawn(run, LogisticRegression(max_iter=1000))
    known = world.probabilities(world.reference[0])
    profile = profile_columns(outputs(known), categorical=["class"])
    found = []
    for name, images, _labels in shifts(world, np.random.default_rng([run, 1])):
        said = world.probabilities(images)
        for place, size in enumerate(SIZES):
            if size <= len(said):
                report = compare_profiles(profile, profile_columns(outputs(said[:size]), profile), DriftOptions(alpha=ALPHA))
                seen = any(verdict.is_significant for one in report.features for verdict in one.verdicts)
                least = min(stats.ks_2samp(known[:, number], said[:size, number]).pvalue for number in range(known.shape[1]))
                exact = least * known.shape[1] <= ALPHA
                found.append((name, place, np.array([seen, report.status is Status.FAIL, exact], np.int64)))
    return found


def detection(runs: int, processes: int) -> bool:
    """Prints how often each shift is seen; whether the gate sees no less than exact tests on average, less ten points."""
    seen: dict[str, dict[str, NDArray[np.float64]]] = {}
    counted: dict[str, NDArray[np.int64]] = {}
    with Pool(processes) as pool:
        for found in pool.imap_unordered(detected, range(runs)):
            for name, place, outcome in found:
                tallies = seen.setdefault(name, {key: np.zeros(len(SIZES)) for key in ("seen", "fail", "exact")})
                counted.setdefault(name, np.zeros(len(SIZES), np.int64))[place] += 1
                for key, value in zip(tallies, outcome, strict=True):
                    tallies[key][place] += value
    print(f"## Shifts of the softmax outputs seen, in % of {runs} runs\n")
    print(
        "Seen by the gate's corrected tests on profiles / of these failed, as the effect is above its floor too / seen by exact KS"
    )
    print("tests of the ten probabilities with Bonferroni's correction, as in the paper. The reference has 397 rows.\n")
    print("| shift | " + " | ".join(f"n = {size}" for size in SIZES) + " |")
    print("|---|" + "--:|" * len(SIZES))
    for name, tallies in seen.items():
        cells = []
        for place, times in enumerate(counted[name]):
            rates = [100 * tallies[key][place] / times for key in ("seen", "fail", "exact")] if times else []
            cells.append(" / ".join(f"{rate:.0f}" for rate in rates) or "–")
        print(f"| {name} | {' | '.join(cells)} |")
    shifted = [name for name in seen if name != "no shift"]
    means = {key: np.mean([sum(seen[name][key]) / sum(counted[name]) for name in shifted]) for key in ("seen", "fail", "exact")}
    print(
        f"\nMean over all shifts and sizes: gate {means['seen']:.3f}, failed {means['fail']:.3f}, exact KS {means['exact']:.3f}.\n"
    )
    return bool(means["seen"] >= means["exact"] - MOST_LOST)


def numeric_power(repeats: int) -> bool:
    """Prints the power on numbers beside that of SciPy's exact test; whether none is ten points below."""
    generator = np.random.default_rng(0)
    print(f"## Power on a normal feature, {repeats} repeats\n")
    print(
        "100 bins on the reference's quantiles, tested as the gate does / the same counts read with tables for all points / exact KS.\n"
    )
    print("| reference | n | shift | alpha 0.05 | alpha 0.05 / 20 |")
    print("|--:|--:|---|--:|--:|")
    worst = 0.0
    cases = (
        (200, 200, 0.3),
        (1000, 200, 0.2),
        (1000, 1000, 0.1),
        (1000, 1000, 0.15),
        (10_000, 1000, 0.1),
        (10_000, 10_000, 0.05),
    )
    for m, n, shift in cases:
        found = np.array([ks_p_values(generator.normal(size=m), generator.normal(shift, 1, n)) for _ in range(repeats)])
        rates = [[float((column <= level).mean()) for column in found.T] for level in (ALPHA, ALPHA / 20)]
        worst = max(worst, *(exact - binned for binned, _, exact in rates))
        print(f"| {m:,} | {n:,} | {shift}σ | " + " | ".join(" / ".join(f"{rate:.2f}" for rate in row) for row in rates) + " |")
    print(f"\nAt most {100 * worst:.1f} points below exact KS.\n")
    return worst <= MOST_LOST


def ks_p_values(reference: NDArray[np.float64], current: NDArray[np.float64]) -> tuple[float, float, float]:
    edges = choose_edges(*np.unique(reference, return_counts=True), 100)
    before, now = count_numbers(edges, reference).counts, count_numbers(edges, current).counts
    m, n = len(reference), len(current)
    distance = np.abs(np.cumsum(before) / m - np.cumsum(now) / n).max()
    table = float(stats.kstwobign.sf(distance * np.sqrt(m * n / (m + n))))
    return ks_p_value(before, now), table, float(stats.ks_2samp(reference, current).pvalue)


IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, num_classes=10, image_size=(1, 8, 8))


def answered(world: World, images: Images, truth: Labels, near: Familiarity | None, kind: str = "") -> AnsweredRows:
    """What is known of images, and whether the model is right."""
    probabilities = world.probabilities(np.nan_to_num(images))
    said = probabilities.argmax(axis=1)
    entropy = stats.entropy(probabilities, axis=1)
    measures = confidence_measures(entropy) if near is None else near.measures(images, said)
    return AnsweredRows(measures, (said == truth).astype(np.float64), kind)


def fitted(world: World, near: Familiarity | None) -> AccuracyEstimator:
    """As ``modeltiers profile`` does."""
    images, labels = world.reference
    shaped = torch.from_numpy(images).reshape(-1, 1, 8, 8).float()
    examples = [
        {"pixel_values": image, "labels": torch.tensor(label)} for image, label in zip(shaped, labels.tolist(), strict=True)
    ]
    windows = [
        answered(world, vectors_of(rows, IMAGES), np.array([int(row["labels"]) for row in rows]), near, kind)
        for kind, rows in ShiftSimulation(examples, IMAGES).windows()
    ]
    return fit_estimator(answered(world, images, labels, near), windows)


def accuracy(runs: int, title: str, model: Callable[[], Any]) -> float:
    """Prints estimated beside true accuracy; the mean absolute error with familiarity."""
    errors: dict[str, dict[str, list[float]]] = {}
    verdicts: list[tuple[float, Status]] = []
    for run in range(runs):
        world = World.drawn(run, model())
        near = fit_familiarity(*world.training, is_image=True)
        by_entropy, by_familiarity = fitted(world, None), fitted(world, near)
        for name, shifted, truth in shifts(world, np.random.default_rng([run, 1])):
            true = float((world.probabilities(shifted).argmax(axis=1) == truth).mean())
            plain = by_entropy.estimate(answered(world, shifted, truth, None).measures)
            familiar = by_familiarity.estimate(answered(world, shifted, truth, near).measures)
            tally = errors.setdefault(name, {"true": [], "entropy": [], "familiarity": []})
            tally["true"].append(true)
            tally["entropy"].append(plain.accuracy - true)
            tally["familiarity"].append(familiar.accuracy - true)
            verdicts.append((by_entropy.accuracy - true, PerformanceImpact(familiar, MARGIN).status))
    print(f"## Accuracy of {title} without labels, {runs} runs\n")
    print("Error of the estimate in points, mean (mean absolute), by confidence alone and by familiarity with training rows.\n")
    print("| shift | true accuracy | confidence | familiarity |")
    print("|---|--:|--:|--:|")
    for name, tally in errors.items():
        told = [
            f"{100 * np.mean(tally[key]):+.1f} ({100 * np.mean(np.abs(tally[key])):.1f})" for key in ("entropy", "familiarity")
        ]
        print(f"| {name} | {100 * np.mean(tally['true']):.1f}% | {' | '.join(told)} |")
    means = {
        key: float(np.mean([np.mean(np.abs(tally[key])) for tally in errors.values()])) for key in ("entropy", "familiarity")
    }
    print(f"\nMean absolute error over all shifts: {100 * means['entropy']:.2f} and {100 * means['familiarity']:.2f} points.")
    losses, failed = np.array([loss for loss, _ in verdicts]), np.array([status is Status.FAIL for _, status in verdicts])
    hurt, fine = losses > 2 * MARGIN, losses < MARGIN / 2
    print(f"Failed as harm beyond 5 points: {100 * failed[hurt].mean():.1f}% of windows that lost more than 10 points,")
    print(f"{100 * failed[fine].mean():.1f}% of those that lost less than 2.5.\n")
    return means["familiarity"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="5 runs")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    runs = options.runs or (5 if options.quick else 100)
    few = max(2, runs // 5)
    warnings.filterwarnings("ignore")
    started = time.perf_counter()
    parts: dict[str, Callable[[], bool]] = {
        "numbers": lambda: numeric_power(10 * runs),
        "softmax": lambda: detection(runs, options.processes),
        "accuracy": lambda: accuracy(runs, "a softmax regression", lambda: LogisticRegression(max_iter=1000)) <= MOST_ERROR,
        "network": lambda: (
            accuracy(few, "a network", lambda: MLPClassifier((64,), alpha=0.01, max_iter=300, random_state=0)) <= MOST_ERROR
        ),
    }
    held = {}
    for name in options.parts.split(","):
        held[name] = parts[name]()
        sys.stdout.flush()
    print(f"{time.perf_counter() - started:.0f} s; held: {held}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
