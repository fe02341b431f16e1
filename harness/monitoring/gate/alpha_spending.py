"""How much of alpha each comparison with a baseline may spend, and which comparison this one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.monitoring.errors import ComparisonError


@dataclass(frozen=True)
class AlphaSpending:
    """How often a baseline was compared with before.

    Every comparison spends a share of alpha, and the shares of infinitely many comparisons add up to 1, so that all comparisons with a
    baseline together fail a candidate that is not worse with a probability of at most alpha (alpha spending: Lan and DeMets, Biometrika 70,
    1983; for a stream of tests, Foster and Stine, JRSS B 70, 2008). The bound is a sum of probabilities and so holds although all comparisons
    use the same samples and the same baseline. E-values multiplied over comparisons would not do: a second comparison on the same samples is
    no new evidence, and the product would count it as such.

    Attributes:
        made: Comparisons before this one.
        expected: About how many there will be. The first spends ``1 / (expected + 1)`` of alpha, later ones less and less; expecting more
            keeps more for later.
    """

    made: int = 0
    expected: int = 1

    def __post_init__(self) -> None:
        if self.made < 0 or self.expected < 1:
            raise ComparisonError(f"`made` is at least 0 and `expected` at least 1, got {self.made} and {self.expected}")

    @classmethod
    def of_stored(cls, marks: Sequence[Mapping[str, Any]], scores: str, expected: int) -> AlphaSpending:
        """The next comparison with a baseline; scores that were compared before keep their number.

        Args:
            marks: What ``mark`` gave of the earlier comparisons with the baseline, oldest first.
            scores: A hash of the candidate's scores.
            expected: About how many comparisons there will be, if this is the first.
        """
        if not marks:
            return cls(0, expected)
        same = [mark["look"] for mark in marks if mark["scores"] == scores]
        return cls(same[0] - 1 if same else max(mark["look"] for mark in marks), marks[0]["expected"])

    def mark(self, scores: str) -> dict[str, Any]:
        """What is stored with a comparison, so that later ones can be counted.

        Args:
            scores: A hash of the candidate's scores.
        """
        return {"look": self.number, "expected": self.expected, "scores": scores}

    @property
    def number(self) -> int:
        """The number of this comparison, from 1."""
        return self.made + 1

    @property
    def share(self) -> float:
        """The share of alpha that this comparison may spend."""
        return self.expected / ((self.made + self.expected) * (self.number + self.expected))
