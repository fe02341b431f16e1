"""Every check of tier 2 has a planted bug, a statement in its test class, and a place in the table."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest

from harness.analysis.table import CASES, CHECKS
from harness.catalogue import CATALOGUE
from pytest_modeltiers.tiers.analysis import AnalysisTier

from .pairs import FAMILIES, TESTS, Pair

PAIRS: list[Pair] = [
    pair for family in FAMILIES for pair in importlib.import_module(f".test_planted_{family}", __package__).PAIRS
]
ENTRIES = [entry for entry in CATALOGUE.values() if entry.tier == 2]


@pytest.mark.parametrize("test", sorted(TESTS))
def test_every_check_and_case_has_a_planted_bug(test: str) -> None:
    assert any(pair.test == test for pair in PAIRS)


def test_every_pair_expects_a_known_test() -> None:
    assert {pair.test for pair in PAIRS} <= TESTS


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(pair.name for pair in PAIRS).items() if count > 1] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_catalogue_table_and_class_agree(entry: object) -> None:
    name, cases = entry.name, tuple(entry.cases)  # type: ignore[attr-defined]
    assert (name in CHECKS) is not bool(cases)
    assert tuple(CASES.get(name, ())) == cases
    assert hasattr(AnalysisTier, f"test_{name}")
