"""Rows that do not fit their signature are refused in one line, from Python and from files of every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from declared_tasks import CLICK, GRAPH, POLICY, SEGMENTATION, SPEECH, Keys, opened, task_of, written

from harness.config import EvalConfig
from harness.data.loader import make_loader
from harness.data.opening import open_dataset
from harness.errors import DataError, UserError

WRONG: list[tuple[Keys, str, str]] = [
    (POLICY, '[{"labels": 1, "labels.value": 1.0}]', "row 1: no input `observation`. It has `labels`, `labels.value`"),
    (POLICY, '[{"observations": torch.zeros(5)}]', "Did you mean 'observations'?"),
    (POLICY, '[{"observation": torch.zeros(5), "labels": 1}]', "no labels, which may be called `labels.value` or `value`"),
    (POLICY, "[(torch.zeros(5), 3, 0.0)]", "row 1: `labels` has 3: the number of classes allows 0 to 2"),
    (POLICY, "[(torch.zeros(5), -1, 0.0)]", "`labels` has -1: the number of classes allows 0 to 2"),
    (POLICY, "[(torch.zeros(4), 1, 0.0)]", "`observation` has shape [4], declared [5] for a row"),
    (POLICY, "[(torch.zeros(5).double() / 0, 1, 0.0)]", "`observation` holds NaN or infinity"),
    (POLICY, "[(torch.zeros(5).long(), 1, 0.0)]", "`observation` is int64, declared float32: convert it in the data"),
    (POLICY, "[(torch.zeros(5), torch.tensor(1.0), 0.0)]", "`labels` is float32, declared int64"),
    (POLICY, '[(torch.zeros(5), "up", 0.0)]', "`labels` must be numbers, got str 'up'"),
    (
        POLICY,
        "[(torch.zeros(5),) * 5]",
        "row 1: a tuple of 5, expected a dict with the declared names, or a tuple (observation, labels",
    ),
    (POLICY, "[object()]", "a object, expected a dict with the declared names"),
    (POLICY, "[]", "no rows"),
    (POLICY, "3", "gave a int, expected a dataset, a DataLoader, or an iterable of batches or rows"),
    (POLICY, "1 / 0", "data.py:rows raised ZeroDivisionError: division by zero (data.py, line 2)"),
    (POLICY, "(1 / 0 for _ in [1])", "data.py:rows raised ZeroDivisionError: division by zero (data.py, line 2)"),
    (SEGMENTATION, "[(torch.zeros(3, 8, 12), torch.zeros(8, 12).long())]", "`axes.width` allows multiples of 8, 8 to 32"),
    (SEGMENTATION, "[(torch.zeros(3, 8, 40), torch.zeros(8, 40).long())]", "`image` has 40 along 'width'"),
    (
        SEGMENTATION,
        "[(torch.zeros(3, 8, 8), torch.zeros(8, 16).long())]",
        "`labels` has 16 along 'width', the other fields say 8",
    ),
    (
        SEGMENTATION,
        "[(torch.zeros(2, 3, 8, 8), torch.zeros(1, 8, 8).long())]",
        "the fields of a batch have different numbers of rows",
    ),
    (CLICK, '[{"item": {"ids": [19, 6], "price": 1.0}, "labels": 1}]', "`item.ids` has 6 at [1]: `ids` allows 0 to 5"),
    (
        GRAPH,
        "[(torch.zeros(4, 5), torch.tensor([[0], [4]]).repeat(1, 2), torch.zeros(4).long())]",
        "`index_of` 'nodes' allows 0 to 3",
    ),
    (SPEECH, "[(torch.zeros(9, 6), 10, [1])]", "`lengths` has 10: `lengths_of` 'time' allows 0 to 9"),
    (SPEECH, "[(torch.zeros(41, 6), 10, [1])]", "`axes.time` allows 7 to 40"),
]


@pytest.mark.parametrize(("keys", "rows", "message"), WRONG)
def test_what_does_not_fit_is_said_in_one_line(keys: Keys, rows: str, message: str, tmp_path: Path) -> None:
    folder, task = written(tmp_path, f"def rows(): return {rows}"), task_of(keys)
    with pytest.raises(UserError) as caught:
        list(make_loader(opened(folder, task), task, 1))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "data.py:rows" in str(caught.value)


def test_a_name_that_is_not_there_is_said_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`dataset`: data.py has no 'row'. Did you mean 'rows'\?"):
        opened(written(tmp_path, "def rows(): return []"), task_of(POLICY), "row")
    with pytest.raises(UserError, match=r"`dataset`: no such file .*dat\.py\. Did you mean 'data\.py'\?"):
        open_dataset(EvalConfig(dataset="dat.py:rows"), task_of(POLICY), tmp_path)


def test_production_rows_need_no_labels(tmp_path: Path) -> None:
    folder = written(tmp_path, "def rows(): return [{'observation': torch.full((5,), float('nan'))}]")
    assert list(opened(folder, task_of(POLICY), lenient=True)[0]) == ["observation"]


def test_production_rows_whose_labels_come_later_are_ignored(tmp_path: Path) -> None:
    code = """
        def rows():
            return [{"observation": torch.ones(5), "labels": 2, "value": 0.5}, {"observation": torch.ones(5), "value": 1.0},
                    {"observation": torch.ones(5), "labels": None, "value": float("nan")}]
    """
    task = task_of(POLICY)
    batch = next(iter(make_loader(opened(written(tmp_path, code), task, lenient=True), task, 3)))
    assert batch["labels"].tolist() == [2, -100, -100]
    assert batch["labels.value"].tolist() == [0.5, 1.0, -100.0]


def test_labels_that_follow_from_inputs_need_not_be_given(tmp_path: Path) -> None:
    ids = {"axes": ["batch", "time"], "values": {"ids": 9}}
    keys = {
        "inputs": {"tokens": ids},
        "outputs": {"logits": {"axes": ["batch", "time", 9], "kind": "token_scores"}},
        "axes": {"time": {"max": 8, "order": "causal"}},
    }
    (tmp_path / "again").mkdir()
    folder = written(tmp_path, "def rows(): return [[torch.arange(length)] for length in (3, 5)]")
    batch = next(iter(make_loader(opened(folder, task_of(keys)), task_of(keys), 2)))
    assert batch["tokens"].tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4]]
    assert batch["labels"].tolist() == [[0, 1, 2, -100, -100], [0, 1, 2, 3, 4]]

    again = {
        "inputs": {"image": {"axes": ["batch", 4]}},
        "outputs": {"image": {"axes": ["batch", 4]}},
        "labels": {"image_again": {"from": "image"}},
        "loss": "data.py:loss",
    }
    folder = written(tmp_path / "again", "def rows(): return torch.eye(4)")
    batch = next(iter(make_loader(opened(folder, task_of(again)), task_of(again), 2)))
    assert torch.equal(batch["image_again"], batch["image"])


def _policy(count: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "observation": rng.normal(size=(count, 5)),
        "labels": rng.integers(0, 3, count),
        "value": rng.normal(size=count),
    }


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    rows = [{name: array[number].tolist() for name, array in arrays.items()} for number in range(len(arrays["labels"]))]
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    elif path.suffix == ".pt":
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".jsonl", ".csv"])
def test_files_of_every_format_give_the_same_rows(suffix: str, tmp_path: Path) -> None:
    arrays, task = _policy(), task_of(POLICY)
    _write(tmp_path / f"rows{suffix}", arrays)
    dataset = open_dataset(EvalConfig(path=f"rows{suffix}"), task, tmp_path)
    batch = next(iter(make_loader(dataset, task, 4)))
    assert np.allclose(batch["observation"].numpy(), arrays["observation"])
    assert batch["labels"].tolist() == arrays["labels"].tolist()
    assert np.allclose(batch["labels.value"].numpy(), arrays["value"])


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".jsonl", ".csv"])
def test_a_wrong_row_of_a_file_is_named(suffix: str, tmp_path: Path) -> None:
    arrays, task = _policy(), task_of(POLICY)
    arrays["labels"][2] = 3
    _write(tmp_path / f"rows{suffix}", arrays)
    with pytest.raises(DataError) as caught:
        list(make_loader(open_dataset(EvalConfig(path=f"rows{suffix}"), task, tmp_path), task, 4))
    assert "`labels` has 3: the number of classes allows 0 to 2" in str(caught.value)
    assert str(caught.value).startswith(f"rows{suffix}")


def test_a_graph_in_a_file_is_one_example(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"x": np.zeros((4, 5)), "edges": np.array([[0, 1, 2], [1, 2, 3]]), "labels": np.array([0, 1, 2, 3])}
    np.savez(tmp_path / "graph.npz", **arrays)
    task = task_of(GRAPH)
    assert [
        tuple(batch["x"].shape) for batch in make_loader(open_dataset(EvalConfig(path="graph.npz"), task, tmp_path), task, 8)
    ] == [(4, 5)]


def test_a_pt_file_that_would_run_code_or_holds_no_dict_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "model.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in (("model.pt", "cannot be read as a dict of tensors"), ("list.pt", "holds a list, expected a dict")):
        with pytest.raises(DataError, match=message):
            open_dataset(EvalConfig(path=name), task_of(POLICY), tmp_path)
