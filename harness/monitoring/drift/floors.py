"""How much drift matters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Floors:
    """The least effects that matter, whatever the number of rows: the second key of the gate.

    Attributes:
        ks: Kolmogorov and Smirnov's distance D of numbers: the most by which the share of values below some point differs.
        cramers_v: Bias-corrected Cramér's V of categories, for samples of one size: 0.15 is two equally frequent categories at 58% and 42%.
        auc: How well a classifier tells rows of the one sample from rows of the other; 0.5 is chance. Only
            ``compare_embeddings`` has rows to ask that of; a config compares profiles, and has no such key.
    """

    ks: float = 0.1
    cramers_v: float = 0.15
    auc: float = 0.55

    def __post_init__(self) -> None:
        if not (0 <= self.ks <= 1 and 0 <= self.cramers_v <= 1):
            raise ValueError(f"a floor must be 0 to 1, got ks={self.ks} and cramers_v={self.cramers_v}")
        if not 0.5 <= self.auc <= 1:
            raise ValueError(f"the floor of an AUC must be 0.5 to 1, got {self.auc}")


DEFAULT_FLOORS = Floors()
