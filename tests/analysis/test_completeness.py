"""Every check of tier 2 has a planted bug."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest

from .pairs import FAMILIES, TESTS, Pair

PAIRS: list[Pair] = [
    pair for family in FAMILIES for pair in importlib.import_module(f".test_planted_{family}", __package__).PAIRS
]


@pytest.mark.parametrize("test", sorted(TESTS))
def test_every_check_and_case_has_a_planted_bug(test: str) -> None:
    assert any(pair.test == test for pair in PAIRS)


def test_every_pair_expects_a_known_test() -> None:
    assert {pair.test for pair in PAIRS} <= TESTS


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(pair.name for pair in PAIRS).items() if count > 1] == []
