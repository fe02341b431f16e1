"""A property is one file, and one line that registers it: everything else follows from its entry."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from projects import Project
from small_models import LEAKY, output

from harness.catalogue import CATALOGUE

DOCS = Path(__file__).parents[2] / "docs"

TOY = """\
from harness.catalogue import Case, Property, Search
from harness.evidence import Evidence, Status

def mean_is_small(subject, sizes, seed=0):
    mean = float(subject.logits(subject.batch(sizes, seed)).mean().abs())
    bound = subject.task.tolerances.get("toy", 10.0)
    status = Status.OK if mean <= bound else Status.FAIL
    return Evidence("toy", status, "the mean is too large", mean, bound, counterexample=f"batch={sizes.batch}, seq={sizes.seq}")

def has_parameters(subject):
    return Evidence("toy", Status.OK if list(subject.model.parameters()) else Status.FAIL, "parameters")

TOY = Property(
    "toy",
    tier=1,
    statement="A toy holds",
    tolerance="absolute mean of the logits",
    needs=lambda task: task.is_text,
    cases={
        "mean": Case("The mean is small", "toy:mean_is_small", search=Search("batches", examples=3)),
        "parameters": Case("There are parameters", "toy:has_parameters"),
    },
    owned_by=("causal",),
)
"""
REGISTRATION = "import toy\nfrom harness.catalogue import register\n\nregister(toy.TOY)\n"
TESTS = ["cfg.json::TestTier1::test_toy[mean]", "cfg.json::TestTier1::test_toy[parameters]"]


@pytest.fixture
def toy(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with the toy in it."""
    monkeypatch.syspath_prepend(project.path)
    project.write("toy.py", TOY)
    project.write("conftest.py", REGISTRATION)
    return project


def test_each_case_is_a_test_that_can_be_chosen(toy: Project) -> None:
    toy.config(only=("causal", "toy"))
    assert toy.ids("--model-config", "cfg.json") == ["cfg.json::TestTier1::test_causal", *TESTS]
    assert toy.ids("--model-config", "cfg.json", "-k", "toy and mean") == TESTS[:1]
    assert toy.ids("--model-config", "cfg.json", TESTS[1]) == TESTS[1:]


def test_it_is_left_out_where_it_makes_no_sense(toy: Project) -> None:
    toy.config(model=None, only=("toy", "shape_contract"), task_name="vision_tiny", vocab_size=None, max_seq_len=None)
    assert toy.ids("--model-config", "cfg.json") == ["cfg.json::TestTier1::test_shape_contract"]


def test_its_name_is_a_key_of_properties_and_tolerances(toy: Project) -> None:
    toy.config(only=("causal",), properties={**{name: False for name in CATALOGUE if name != "causal"}, "toy": False})
    assert toy.ids("--model-config", "cfg.json") == ["cfg.json::TestTier1::test_causal"]
    toy.config(only=("toy",), tolerances={"toy": 0.0})
    toy.run("--model-config", "cfg.json").assert_outcomes(passed=1, failed=1)


def test_reports_have_its_statement_and_what_it_measured(toy: Project) -> None:
    toy.config(only=("toy",), tolerances={"toy": 5})
    toy.run("--model-config", "cfg.json", "--model-report", "out", "--junitxml", "junit.xml").assert_outcomes(passed=2)
    checks = {check["check_name"]: check for check in toy.json("out/health_report.json")["checks"]}
    assert list(checks) == ["tier1::toy[mean]", "tier1::toy[parameters]"]
    assert "The mean is small" in str(checks["tier1::toy[mean]"])
    properties = properties_of(toy.tree("junit.xml"), "test_toy[mean]")
    assert properties["modeltiers_property"] == "toy"
    assert float(properties["modeltiers_bound"]) == 5


def test_one_bug_is_one_card(toy: Project) -> None:
    toy.config(only=("causal", "toy"), model=LEAKY, tolerances={"toy": 0})
    result = toy.run("--model-config", "cfg.json", "--model-report", "out")
    result.assert_outcomes(passed=1, failed=2)
    failed = [check for check in toy.json("out/health_report.json")["checks"] if check["status"] == "failed"]
    (shown,) = [check["details"]["also_shows_as"] for check in failed if "also_shows_as" in check["details"]]
    assert shown == ["tier1::toy[mean]"]
    assert "toy[mean]" in output(result)


def test_the_documentation_has_its_row(toy: Project) -> None:
    toy.config(only=("toy",))
    toy.ids("--model-config", "cfg.json")
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert "| [`toy`](#toy) | 1 | A toy holds |" in reference.properties()


def properties_of(tree: ElementTree.ElementTree, name: str) -> dict[str, str]:
    (test,) = [case for case in tree.iter("testcase") if case.get("name") == name]
    return {str(each.get("name")): str(each.get("value")) for each in test.iter("property")}
