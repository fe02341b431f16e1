"""Rows that depend on each other: their groups, one row of each, and what the order of the rows says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.config import EvalConfig
from harness.data.dataset import Stream
from harness.data.opening import open_dataset
from harness.errors import DataError
from harness.monitoring.dependence import Groups, order_dependence
from harness.tasks import TaskSpec, TaskType

TABLE = TaskSpec(TaskType("tabular_classification"), "table", "tabular", num_features=1, num_classes=2)


def write(path: Path, rows: int) -> Path:
    lines = [f"{place},{place % 2},s{place // 3}" for place in range(rows)]
    path.write_text("\n".join(["age,label,session", *lines]) + "\n", encoding="utf-8")
    return path


def test_one_row_of_each_group_is_taken_and_the_same_in_every_run() -> None:
    groups = Groups.of(["a", "a", "b", None, "b", "", "a", float("nan")], "user")
    assert (groups.count, groups.empty, groups.has_several) == (5, 3, True)
    chosen = groups.one_of_each
    assert len({int(groups.codes[place]) for place in chosen}) == len(chosen) == 5
    assert list(chosen) == sorted(chosen) == list(groups.one_of_each)
    assert {3, 5, 7} <= {*chosen}, "rows without a value are groups by themselves"


@pytest.mark.parametrize("memory_limit", [1 << 20, 0])
def test_a_column_beside_the_features_says_which_rows_belong_together(tmp_path: Path, memory_limit: int) -> None:
    write(tmp_path / "rows.csv", 30)
    config = EvalConfig(path="rows.csv", group="session", max_eval_examples=12)
    data = open_dataset(config, TABLE, tmp_path, memory_limit=memory_limit)
    assert isinstance(data, Stream) is not memory_limit
    sessions = data.column("session")
    assert sessions == [f"s{int(example['features'][0]) // 3}" for example in data]
    groups = Groups.of_data(data, "session")
    assert groups is not None
    one_each = data.chosen(groups.one_of_each.tolist())
    assert len(one_each) == groups.count == len(set(sessions))
    assert one_each.column("session") == [f"s{int(example['features'][0]) // 3}" for example in one_each]
    with pytest.raises(DataError, match=r"rows.csv: no column 'sessions'\. Did you mean 'session'\?"):
        data.column("sessions")


def test_pieces_of_a_text_are_of_its_row(tmp_path: Path) -> None:
    task = TaskSpec(TaskType("causal_lm"), "lm", "text", vocab_size=16, max_seq_len=4)
    rows = [{"input_ids": list(range(1, 1 + length)), "user": user} for length, user in ((10, "a"), (3, "b"))]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = open_dataset(EvalConfig(path="texts.jsonl"), task, tmp_path)
    assert data.column("user") == ["a", "a", "a", "b"]


def test_neighbours_that_resemble_each_other_are_found_and_rows_in_no_order_are_not() -> None:
    found = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        session = np.repeat(random.standard_normal(40), 5)
        columns = {"noise": random.standard_normal(200), "age": session + random.standard_normal(200)}
        order = order_dependence(columns)
        assert order is not None
        assert order.column == "age"
        shuffled = {name: random.permutation(column) for name, column in columns.items()}
        found += order_dependence(shuffled) is not None
    assert found <= 2, "the 99% bound of 20 repeats at 0.01"


def test_levels_of_neighbours_are_compared_too_and_sorted_rows_say_nothing() -> None:
    random = np.random.default_rng(0)
    country = np.repeat(random.choice(["de", "fr", "it"], 40), 5)
    order = order_dependence({"country": country})
    assert order is not None
    assert order.message.startswith("neighbouring rows resemble each other in `country` (correlation 0.8")
    assert order_dependence({"country": np.sort(country)}) is None
    nearly = np.arange(200.0) + random.normal(0, 15, 200)
    assert order_dependence({"planned": nearly, "age": np.repeat(random.standard_normal(40), 5)}) is None
    assert order_dependence({"day": np.arange(200.0), "age": np.repeat(random.standard_normal(40), 5)}) is None
    assert order_dependence({"few": np.repeat([1.0, 2.0], 5), "alike": np.ones(10)}) is None
    assert order_dependence({}) is None
