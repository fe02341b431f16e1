"""Properties follow from facts of the signature: each says why it applies, and none asks for a task type."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from planted_bugs.tier1.declared import Keys, task_of

from harness.catalogue import CATALOGUE
from harness.cli import main

ROOT = Path(__file__).parents[2]

STREAM: Keys = {
    "inputs": {
        "series": {"axes": ["batch", "time", 5]},
        "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}, "optional": True},
        "points": {"axes": ["batch", "count", 3]},
        "picture": {"axes": ["batch", 1, "side", "side"], "values": {"range": [0, 1]}},
        "hidden": {"axes": [1, "batch", 8], "state": {"from": "hidden"}},
    },
    "outputs": {
        "values": {"axes": ["batch", "time", 2]},
        "kind": {"axes": ["batch", 4], "kind": "class_scores"},
        "hidden": {"axes": [1, "batch", 8], "kind": "state"},
    },
    "axes": {
        "time": {"min": 2, "max": 16, "order": "causal", "padding": "right", "empty": True},
        "count": {"min": 1, "max": 9, "order": "none", "duplicates": True},
        "side": {"min": 4, "max": 12, "multiple_of": 4},
    },
}
"""Every fact once: five inputs, three outputs, four axes."""

REASONS = {
    "batch_independence": "axis `batch` holds independent rows",
    "carried_state": "input `hidden` is a carried state",
    "carried_state[chunks]": "input `hidden` is a carried state and axis `time` is causal",
    "causal": "axis `time` is causal",
    "declared_outputs": "outputs `values`, `kind`, `hidden` are declared",
    "duplicates": "repeats change nothing along `count`",
    "finite_output[fully_padded_row]": "a row may be empty along `time`",
    "logit_range": "output `kind` is scores",
    "optional_inputs[full_mask]": "input `lengths` is optional and input `lengths` says which elements are real",
    "padding_ignored": "rows may be shorter along `time` (padding: right)",
    "permutation": "axis `count` is a set",
    "shape_contract": "it holds of every model",
}


@pytest.mark.parametrize(("test", "reason"), REASONS.items())
def test_a_property_says_why_it_applies(test: str, reason: str) -> None:
    name, _, case = test.rstrip("]").partition("[")
    task = task_of(STREAM)
    assert CATALOGUE[name].applies_to(task)
    assert CATALOGUE[name].why(task, case) == reason


def test_without_a_fact_its_properties_are_not_there() -> None:
    task = task_of({"inputs": {"x": {"axes": ["batch", 5]}}, "outputs": {"y": {"axes": ["batch"]}}})
    applied = {name for name, entry in CATALOGUE.items() if entry.tier == 1 and entry.applies_to(task)}
    assert applied.isdisjoint({"carried_state", "causal", "duplicates", "logit_range", "optional_inputs", "padding_ignored"})


def test_every_property_of_tier_1_has_a_reason_where_it_applies() -> None:
    task = task_of(STREAM)
    entries = [entry for entry in CATALOGUE.values() if entry.tier == 1 and entry.applies_to(task)]
    assert [entry.name for entry in entries if not all(entry.why(task, case) for case in entry.cases_for(task) or ("",))] == []


def test_explain_prints_the_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stream.json"
    file.write_text(json.dumps({"model_file": "stream.py", **STREAM}), encoding="utf-8")

    assert main(["explain", str(file)]) == 0
    told = capsys.readouterr().out
    assert "  causal: A position's logits never depend on later tokens\n    because axis `time` is causal\n" in told
    assert "    chunks: because input `hidden` is a carried state and axis `time` is causal\n" in told

    assert main(["explain", "--json", str(file)]) == 0
    why = {each["name"]: each["why"] for each in json.loads(capsys.readouterr().out)["properties"]}
    assert why["causal"] == {"causal": "axis `time` is causal"}


@pytest.mark.parametrize("room", ["harness/properties", "harness/catalogue"])
def test_a_room_names_no_task_type(room: str) -> None:
    named = re.compile(r"\bTaskType\b|\btask_type\b|_lm\b|_classification\b|tabular_regression")
    files = {file.name for file in (ROOT / room).glob("*.py") if named.search(file.read_text(encoding="utf-8"))}
    assert files == set()
