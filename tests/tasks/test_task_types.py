"""The eight task types: the tests that each has, and that a config which declares what a task type stands for has them too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from planted_bugs.register import all_bugs
from planted_bugs.setups import Model
from planted_bugs.tasks import CAUSAL, IMAGES, MASKED, NUMBER, SEQ2SEQ, TABLE, TAGGING, TEXT

from harness.catalogue import CATALOGUE
from harness.cli import main
from harness.tasks import TaskSpec
from harness.tasks.declared import read_signature
from harness.tasks.keys import declared_keys

TASKS = {task.title: task for task in (CAUSAL, MASKED, TEXT, TAGGING, SEQ2SEQ, IMAGES, TABLE, NUMBER)}
STORED = Path(__file__).parent / "tests_of_task_types.txt"

PART_BY_PART = {f"input_dependence[{case}]" for case in ("tokens", "source", "channels", "regions", "features")}
"""What `input_dependence[inputs]` judges of a declared task, part by part of every input."""

DECLARED_TOO = {"declared_outputs", "input_dependence[inputs]", "optional_inputs[left_out]", "optional_inputs[full_mask]"}
"""What only a declaration promises: outputs by name and range, inputs part by part, and inputs that a call may lack."""

NO_HIDDEN_TOKENS = {"drift[scores]"}
"""A masked language model hides other tokens at each look, so that its scores differ; a declared task has the labels of its data."""


def named_tests(task: TaskSpec) -> set[str]:
    """The tests of all tiers that apply to a task, without those of export formats."""
    entries = [entry for entry in CATALOGUE.values() if entry.applies_to(task)]
    return {f"{entry.name}[{case}]" if case else entry.name for entry in entries for case in entry.cases_for(task) or ("",)}


def as_table() -> str:
    """Every test, with the task types that have it."""
    found = {name: named_tests(task) for name, task in TASKS.items()}
    every = sorted(set().union(*found.values()))
    rows = ((test, [name for name in found if test in found[name]]) for test in every)
    return "".join(f"{test}: {'all' if len(names) == len(found) else ' '.join(names)}\n" for test, names in rows)


def test_each_task_type_has_the_tests_that_are_stored() -> None:
    """A test that is added or renamed on purpose is written down: `STORED.write_text(as_table())`."""
    assert as_table() == STORED.read_text(encoding="utf-8")


def explained(file: Path, keys: dict[str, object], capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], set[str]]:
    """The signature that `modeltiers explain` shows, and the tests."""
    file.write_text(json.dumps({"model_file": "model.py", **keys}), encoding="utf-8")
    assert main(["explain", "--json", str(file)]) == 0
    told = json.loads(capsys.readouterr().out)
    tests = {f"{each['name']}[{case}]" if case else each["name"] for each in told["properties"] for case in each["cases"] or [""]}
    return told["signature"], tests


@pytest.mark.parametrize("name", TASKS)
def test_a_task_type_written_out_has_the_same_tests(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = TASKS[name]
    sizes = {key: getattr(task, key) for key in task.facts.requires}
    keys = {"task_type": name, "pad_token_id": task.pad_token_id, **sizes}
    signature, named = explained(
        tmp_path / "named.json", {key: value for key, value in keys.items() if value is not None}, capsys
    )
    _, declared = explained(tmp_path / "declared.json", signature, capsys)

    assert len(named) > 60
    assert named - declared <= PART_BY_PART
    assert declared - named <= DECLARED_TOO | (NO_HIDDEN_TOKENS if name == "masked_lm" else set())


OF_TEXTS = (
    "PositionTableOneShort",
    "EmbeddingOneRowShort",
    "CausalMaskLeftIn",
    "PositionsNeverAdded",
    "HeadForgottenWhenResized",
)


@pytest.mark.parametrize("name", OF_TEXTS)
def test_a_bug_of_a_text_is_found_in_a_declared_task_too(name: str, tmp_path: Path) -> None:
    bug = next(bug for bug in all_bugs(1) if bug.name == name)
    assert isinstance(bug.buggy, Model)
    signature = read_signature(declared_keys(bug.buggy.task.signature))
    found = replace(bug.buggy, task=TaskSpec.of_signature(signature)).judge((bug.property,), tmp_path)[bug.test]

    assert (found.status, found.code) == (bug.status, bug.code or found.code)
    assert bug.blames(found.module)
