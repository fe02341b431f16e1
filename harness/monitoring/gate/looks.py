"""Many candidates, one baseline: how much of alpha each comparison may spend."""

from __future__ import annotations

from dataclasses import dataclass

from harness.monitoring.gate.errors import ComparisonError


@dataclass(frozen=True)
class Looks:
    """How often a baseline has been compared with before.

    Every look spends a share of alpha, and the shares of infinitely many looks add up to 1, so that all looks at a baseline together fail a
    candidate that is not worse with a probability of at most alpha (alpha spending: Lan and DeMets, Biometrika 70, 1983; for a stream of
    tests, Foster and Stine, JRSS B 70, 2008). The bound is a sum of probabilities and so holds although all looks read the same samples and
    the same baseline. E-values multiplied over looks would not do: a second look at the same samples is no new evidence, and the product
    would count it as such.

    Attributes:
        made: Looks before this one.
        expected: About how many there will be. The first look spends ``1 / (expected + 1)`` of alpha, later ones less and less; expecting
            more keeps more for later.
    """

    made: int = 0
    expected: int = 1

    def __post_init__(self) -> None:
        if self.made < 0 or self.expected < 1:
            raise ComparisonError(f"`made` is at least 0 and `expected` at least 1, got {self.made} and {self.expected}")

    @property
    def number(self) -> int:
        """The number of this look, from 1."""
        return self.made + 1

    @property
    def share(self) -> float:
        """The share of alpha that this look may spend."""
        return self.expected / ((self.made + self.expected) * (self.number + self.expected))
