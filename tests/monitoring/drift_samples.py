"""Samples with and without drift, a kind of data each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.features.categorical import CategoricalSurvey
from harness.monitoring.features.counts import CategoricalCounts
from harness.monitoring.features.kinds import kind_of
from harness.monitoring.features.values import Ids
from harness.monitoring.profiles import Profile, profile_columns

Sample = Callable[[np.random.Generator, int, float], NDArray[Any]]
"""So many values that have drifted so far, from 0, not at all, to 1."""

VOCABULARY = 200
TOPICS = np.random.default_rng(0).dirichlet(2 / np.arange(1, VOCABULARY + 1), size=6)


def normal(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return rng.normal(drift, 1.0, n)


def skewed(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return rng.lognormal(drift, 2.0, n)


def wider(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return rng.normal(0.0, 1 + 2 * drift, n)


def tied(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return rng.poisson(3.0 + 3 * drift, n).astype(np.float64)


def zeros(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return np.where(rng.random(n) < 0.6 - 0.5 * drift, 0.0, rng.lognormal(0.0, 1.0, n))


def constant(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return np.where(rng.random(n) < drift, 2.0, 1.0)


def gaps(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return np.where(rng.random(n) < 0.02 + 0.5 * drift, np.nan, rng.normal(size=n))


def infinities(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return np.where(rng.random(n) < 0.5 * drift, np.inf, rng.normal(size=n))


def pair(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return np.where(rng.random(n) < 0.5 + 0.5 * drift, "yes", "no")


def zipf(levels: int) -> Sample:
    def sample(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
        shares = 1 / np.arange(1.0, levels + 1)
        shares = (1 - drift) * shares / shares.sum() + drift * np.roll(shares, levels // 2) / shares.sum()
        return rng.choice(levels, n, p=shares).astype(str)

    return sample


def new_levels(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return np.where(
        rng.random(n) < drift, np.array([f"new{k}" for k in rng.integers(0, 50, n)]), rng.integers(0, 5, n).astype(str)
    )


def vectors(rng: np.random.Generator, n: int, drift: float) -> NDArray[Any]:
    return rng.normal(size=(n, 16)) + drift


KINDS: dict[str, Sample] = {
    "normal": normal,
    "skewed": skewed,
    "wider": wider,
    "tied": tied,
    "zeros": zeros,
    "constant": constant,
    "gaps": gaps,
    "infinities": infinities,
    "pair": pair,
    "levels20": zipf(20),
    "levels1000": zipf(1000),
    "new_levels": new_levels,
    "vectors": vectors,
}

WORDS = ("pair", "levels20", "levels1000", "new_levels")
"""Kinds that are levels."""


def columns(rng: np.random.Generator, n: int, **drift: float) -> dict[str, NDArray[Any]]:
    """A table with a column of each kind, of which those that are named drift so far."""
    return {name: sample(rng, n, drift.get(name, 0.0)) for name, sample in KINDS.items()}


def reference_profile(n: int = 5_000, seed: int = 0) -> Profile:
    """The profile of a table without drift."""
    return profile_columns(columns(np.random.default_rng(seed), n), categorical=WORDS)


def window_profile(reference: Profile, n: int, seed: int, **drift: float) -> Profile:
    """The profile of a window whose named columns drift so far."""
    return profile_columns(columns(np.random.default_rng([seed, n]), n, **drift), reference)


def texts(rng: np.random.Generator, rows: int, drift: float) -> Ids:
    """Texts of 20 to 60 tokens on one of six topics each; with drift, more on the last."""
    lengths = rng.integers(20, 61, rows)
    popularity = np.full(len(TOPICS), (1 - drift) / len(TOPICS))
    popularity[-1] += drift
    topics = rng.choice(len(TOPICS), rows, p=popularity)
    ids = [rng.choice(VOCABULARY, length, p=TOPICS[topic]) for length, topic in zip(lengths, topics, strict=True)]
    return Ids(np.concatenate(ids), VOCABULARY, np.repeat(np.arange(rows), lengths))


def text_profile(values: Ids, reference: Profile | None = None) -> Profile:
    """The profile of the tokens of texts."""
    if reference is None:
        survey = CategoricalSurvey()
        survey.add(values)
        scale = survey.scale(100)
    else:
        found = reference.features["tokens"]
        assert isinstance(found, CategoricalCounts)
        scale = found
    counter = kind_of(scale).counter(scale)
    counter.add(values)
    assert values.rows is not None
    return Profile.of(int(values.rows[-1]) + 1, {"tokens": counter.result()}, {"modality": "text"})
