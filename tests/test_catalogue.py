"""What every entry of the catalogue must be: found by its path, searched by strategies that exist, and light to read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.catalogue import CATALOGUE, Property, register
from harness.catalogue.entry import Search, load
from pytest_modeltiers import strategies
from pytest_modeltiers.property_tests import make_test

ENTRIES = pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda entry: entry.name)


def searches(entry: Property) -> list[Search]:
    return [entry.search_of(case) for case in entry.cases or ("",)]


@ENTRIES
def test_every_function_is_where_its_entry_says(entry: Property) -> None:
    for case in entry.cases or ("",):
        assert callable(entry.load(case))
    for search in searches(entry):
        for path in filter(None, (*search.first, search.outputs and search.outputs.function)):
            assert callable(load(path))


@ENTRIES
def test_what_is_drawn_has_a_strategy(entry: Property) -> None:
    for search in searches(entry):
        for name in filter(None, (search.draws, search.corner)):
            assert callable(getattr(strategies, name))


@ENTRIES
def test_owners_are_entries_or_their_cases(entry: Property) -> None:
    for case in entry.cases or ("",):
        for owner in entry.owners(case):
            name, _, part = owner.rstrip("]").partition("[")
            assert name in CATALOGUE
            assert not part or part in CATALOGUE[name].cases


@ENTRIES
def test_the_docstring_of_a_test_is_the_statement(entry: Property) -> None:
    assert str(make_test(entry).__doc__).lower() == f"{entry.statement}.".lower()


def test_a_name_is_taken_once() -> None:
    register(CATALOGUE["causal"])  # as a second import of its file does
    with pytest.raises(ValueError, match=r"a property 'causal' already, in tier 1, judged by harness\.properties"):
        register(Property("causal", 2, "Something else", "elsewhere:causal"))


def test_the_catalogue_is_read_without_anything_heavy() -> None:
    code = "import sys, harness.catalogue; print(*{'torch', 'hypothesis', 'pytest', 'numpy', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
