"""Measures how often the gate fails candidates that are equal to their baseline, and how often it catches one that is a point worse.

    python benchmarks/gate.py [--repeats 1000] [--only equal worse looks family groups]

Beside it stands the rule that fails whatever looks more than a point (of other scores: one percent) worse. Exit status 1 where equal models
fail more often than alpha allows (99% binomial bound; of right-or-wrong scores the rate is computed exactly as well), or a true loss of one
point on 5,000 samples is caught less often than nine times in ten.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from harness.evidence import Status
from harness.experiments import Scores
from harness.monitoring import COMPARISONS
from harness.monitoring.dependence import Groups
from harness.monitoring.gate import AlphaSpending, compare_all_scores
from harness.monitoring.gate.comparison import Comparison
from harness.monitoring.gate.pairs import SHARE_MARGIN

ALPHA = 0.05
SIZES = (50, 200, 1_000, 5_000, 20_000, 100_000)
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
Draw = Callable[[np.random.Generator, int], Pair]


def changed(worse: float, better: float) -> Draw:
    """Right-or-wrong scores of which a share gets worse and a share better."""

    def draw(random: np.random.Generator, n: int) -> Pair:
        place = random.random(n)
        baseline = (place >= better).astype(np.float64)
        return baseline, (place < 1 - worse).astype(np.float64)

    return draw


def heavy_losses(random: np.random.Generator, n: int) -> Pair:
    """Losses of two equal models on samples whose difficulty has infinite variance."""
    difficulty = random.pareto(1.5, n) + 1
    return difficulty * random.exponential(size=n), difficulty * random.exponential(size=n)


def skewed_losses(random: np.random.Generator, n: int) -> Pair:
    """Losses of equal mean: the candidate is a little worse on most samples and much better on a few."""
    return 1 + random.exponential(size=n), np.full(n, 2.0)


EQUAL = {
    "2% / 2% change": ("correct", changed(0.02, 0.02), 0.04),
    "10% / 10% change": ("correct", changed(0.1, 0.1), 0.2),
    "losses, infinite variance": ("loss", heavy_losses, None),
    "losses, skewed": ("loss", skewed_losses, None),
}
"""The score, how it is drawn, and the share of right-or-wrong answers that change."""
WORSE = {
    "2.5% worse, 1.5% better": changed(0.025, 0.015),
    "3% worse, 2% better": changed(0.03, 0.02),
}


def compared(metric: str, pair: Pair, spending: AlphaSpending | None = None, groups: Groups | None = None) -> Comparison:
    baseline, candidate = ({metric: Scores(metric, values, "benchmark")} for values in pair)
    return compare_all_scores(baseline, candidate, alpha=ALPHA, spending=spending, groups=groups)[metric]


def fixed_rule_fails(found: Comparison) -> bool:
    return found.worsening > (0.01 if found.is_share else 0.01 * found.baseline)


def judged(metric: str, draw: Draw, n: int, repeats: int) -> Iterator[Comparison]:
    for seed in range(repeats):
        yield compared(metric, draw(np.random.default_rng([n, seed]), n))


def row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def head(title: str, *columns: str) -> None:
    print(f"\n**{title}**\n")
    row(*columns)
    row("---", *["--:"] * (len(columns) - 1))


def percent(count: int, repeats: int) -> str:
    return f"{100 * count / repeats:.1f}%"


def rates(metric: str, draw: Draw, n: int, repeats: int) -> tuple[int, int, int]:
    """How often the gate fails, how often it warns, and how often the fixed rule fails."""
    fails = warns = fixed = 0
    for found in judged(metric, draw, n, repeats):
        fails += found.status is Status.FAIL
        warns += found.status is Status.WARN
        fixed += fixed_rule_fails(found)
    return fails, warns, fixed


def exact_rate(changing: float, n: int) -> float:
    """The probability that the gate fails equal models by right-or-wrong scores, summed over how many samples change."""
    total = 0.0
    fewest, most = (int(count) for count in binom.ppf([1e-9, 1 - 1e-9], n, changing))
    for changes in range(fewest, most + 1):
        significant = binom.isf(ALPHA, changes, 0.5) + 1
        beyond = np.floor((changes + SHARE_MARGIN * n) / 2) + 1
        total += binom.pmf(changes, n, changing) * binom.sf(max(significant, beyond) - 1, changes, 0.5)
    return float(total)


def equal(repeats: int) -> bool:
    most = binom.ppf(0.99, repeats, ALPHA)
    head("Equal models", "scores", "n", "gate fails", "exactly", "gate warns", "fixed rule fails")
    good = True
    for name, (metric, draw, changing) in EQUAL.items():
        for n in SIZES:
            fails, warns, fixed = rates(metric, draw, n, repeats)
            exact = exact_rate(changing, n) if changing else 0.0
            # No test of means holds its level for skewed scores of few samples: those rows are for information.
            good &= (fails <= most and exact <= ALPHA) or draw is skewed_losses
            exactly = f"{100 * exact:.1f}%" if changing else ""
            row(name, f"{n:,}", percent(fails, repeats), exactly, percent(warns, repeats), percent(fixed, repeats))
    return good


def worse(repeats: int) -> bool:
    head("One point worse", "scores", "n", "gate fails", "gate warns", "fixed rule fails")
    good = True
    for name, draw in WORSE.items():
        for n in SIZES:
            fails, warns, fixed = rates("correct", draw, n, repeats)
            good &= n != 5_000 or fails >= 0.9 * repeats
            row(name, f"{n:,}", *(percent(count, repeats) for count in (fails, warns, fixed)))
    return good


def repeated_looks(repeats: int) -> bool:
    """Equal candidates, one after the other, against one baseline on the same samples."""
    total, n, uncertain = 200, 1_000, 0.2
    rules = (1, COMPARISONS, 200)
    failed, by_stretch, stretches = Counter[int](), Counter[int](), Counter[int]()
    for seed in range(repeats):
        random = np.random.default_rng(seed)
        sure = random.random(n) >= uncertain
        baseline = sure | (random.random(n) < 0.5)
        pairs = [(baseline.astype(float), (sure | (random.random(n) < 0.5)).astype(float)) for _ in range(total)]
        for expected in rules:
            fails = [compared("correct", pair, AlphaSpending(0, expected)).status is Status.FAIL for pair in pairs]
            failed[expected] += any(fails)
            parts = [any(fails[start : start + expected]) for start in range(0, total, expected)]
            by_stretch[expected] += sum(parts)
            stretches[expected] += len(parts)
    head(
        f"{total} equal candidates against one baseline, n = {n:,}",
        "`expected_comparisons`",
        "any of so many in a row failed",
        "any of 200",
    )
    for expected in rules:
        row(expected, percent(by_stretch[expected], stretches[expected]), percent(failed[expected], repeats))
    # Stretches of one baseline depend on each other: of each rule the mean over baselines is held to alpha, with room for 200 of one.
    return all(by_stretch[expected] <= 1.1 * ALPHA * stretches[expected] or expected == total for expected in rules) and bool(
        failed[total] <= binom.ppf(0.99, repeats, ALPHA)
    )


FIVE_POINTS = {
    f"{worse:.1%} worse, {worse - 0.05:.1%} better": changed(worse, worse - 0.05) for worse in (0.075, 0.1, 0.125, 0.15)
}


def falling(made: int) -> float:
    """The share of alpha that a rule for all looks together leaves one: ``1 / (k (k + 1))``."""
    return 1 / ((made + 1) * (made + 2))


def worse_at_a_look(repeats: int) -> bool:
    head(
        "Five points worse on 1,000 samples: caught",
        "answers",
        "the only look",
        f"one of {COMPARISONS} in a row, at any look",
        "of 20",
        "of 200",
        f"share of the only look's power ({COMPARISONS}, 20, 200)",
        "look 1, 10, 200 of a rule for all looks",
    )
    good = True
    for name, draw in FIVE_POINTS.items():
        founds = [compared("correct", draw(np.random.default_rng(seed), 1_000)) for seed in range(repeats)]

        def caught(share: float, founds: list[Comparison] = founds) -> int:
            return sum(found.p <= ALPHA * share and found.is_beyond_margin for found in founds)

        single, *kept = (caught(1 / expected) for expected in (1, COMPARISONS, 20, 200))
        good &= kept[0] >= 0.8 * single
        shares = ", ".join(percent(each, single) for each in kept)
        by_look = ", ".join(percent(caught(falling(made)), repeats) for made in (0, 9, 199))
        row(name, percent(single, repeats), *(percent(each, repeats) for each in kept), shares, by_look)
    return good


def looks(repeats: int) -> bool:
    held = repeated_looks(min(repeats, 100))
    return worse_at_a_look(10 * repeats) and held


def family(repeats: int) -> bool:
    """Two scores and ten classes, judged together."""
    fails = lone = 0
    n = 2_000
    for seed in range(repeats):
        random = np.random.default_rng(seed)
        before, after = heavy_losses(random, n)
        scores = [{"loss": values, "correct": (values < 10).astype(float)} for values in (before, after)]
        both = [{name: Scores(name, values, "benchmark") for name, values in one.items()} for one in scores]
        directions = {"loss": False, "correct": True}
        found = compare_all_scores(*both, higher_is_better=directions, slices={"class": random.integers(0, 10, n)})
        fails += found.status is Status.FAIL
        tests = [part for whole in found.metrics for part in (whole, *whole.slices)]
        lone += any(test.p <= ALPHA and test.is_beyond_margin for test in tests)
    head(f"Equal models by two scores and ten classes, n = {n:,}", "rule", "failed")
    row("corrected together", percent(fails, repeats))
    row("each at alpha", percent(lone, repeats))
    return bool(fails <= binom.ppf(0.99, repeats, ALPHA))


QUESTIONS = 10
MOVING = 0.1


def passages(random: np.random.Generator, count: int, worse: float, better: float, together: float = 1.0) -> Pair:
    """Questions on passages, ten on each: of a passage that changes, so large a share of the questions changes with it."""
    place = np.repeat(random.random(count), QUESTIONS)
    place = np.where(random.random(len(place)) < together, place, random.random(len(place)))
    return (place >= better).astype(float), (place < 1 - worse).astype(float)


def grouped(repeats: int) -> bool:
    """Passages that move together: false fails of equal models with and without the group, and power beside one question a passage."""
    most = binom.ppf(0.99, repeats, ALPHA)
    head(
        f"{QUESTIONS} questions a passage",
        "questions that move together",
        "passages",
        "equal, group named",
        "equal, without",
        "of those without, warned that rows depend",
        "10 points worse, group named",
        "10 points worse, one question a passage",
    )
    good = True
    for together in (1.0, 0.5):
        for count in (20, 50, 100, 200):
            groups = Groups.of(np.repeat(np.arange(count), QUESTIONS).tolist(), "passage")
            fails = Counter[str]()
            for seed in range(repeats):
                pair = passages(np.random.default_rng([count, seed]), count, MOVING, MOVING, together)
                fails["named"] += compared("correct", pair, groups=groups).status is Status.FAIL
                alone = compared("correct", pair)
                fails["unnamed"] += alone.status is Status.FAIL
                fails["warned"] += alone.neighbours is not None
                pair = passages(np.random.default_rng([count, seed]), count, MOVING + 0.1, MOVING, together)
                fails["caught"] += compared("correct", pair, groups=groups).status is Status.FAIL
                one = tuple(scores[::QUESTIONS] for scores in pair)
                fails["independent"] += compared("correct", (one[0], one[1])).status is Status.FAIL
            good &= fails["named"] <= most and fails["caught"] >= fails["independent"] - 0.1 * repeats
            names = ("named", "unnamed", "warned", "caught", "independent")
            row(f"{together:.0%}", count, *(percent(fails[name], repeats) for name in names))
    return good


PARTS = {"equal": equal, "worse": worse, "looks": looks, "family": family, "groups": grouped}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    held = [PARTS[name](options.repeats) for name in options.only]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
