"""Rows as people write them: nested dicts, dataclasses and named tuples, singly and in batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from declared_tasks import SEGMENTATION, task_of, written

from harness.config import EvalConfig
from harness.data.data_reference import open_datasets
from harness.errors import DataError

FORMS = {
    "dataclass": """
from dataclasses import dataclass
@dataclass
class Row:
    image: torch.Tensor
    mask: torch.Tensor
def rows(): return [Row(torch.rand(3,8,16), torch.zeros(8,16).long()) for _ in range(10)]
""",
    "dataclass_loader": """
from dataclasses import dataclass
from torch.utils.data import DataLoader
@dataclass
class Batch:
    image: torch.Tensor
    mask: torch.Tensor
def rows():
    data = [(torch.rand(3,8,16), torch.zeros(8,16).long()) for _ in range(10)]
    return DataLoader(data, batch_size=2, collate_fn=lambda rs: Batch(torch.stack([r[0] for r in rs]), torch.stack([r[1] for r in rs])))
""",
    "namedtuple_loader": """
from typing import NamedTuple
from torch.utils.data import DataLoader
class Batch(NamedTuple):
    mask: torch.Tensor
    image: torch.Tensor
def rows():
    return DataLoader([Batch(torch.zeros(8,16).long(), torch.rand(3,8,16)) for _ in range(10)], batch_size=2)
""",
    "nested": """
from torch.utils.data import DataLoader
def rows():
    row = lambda: {"inputs": {"image": torch.rand(3,8,16)}, "targets": {"mask": torch.zeros(8,16).long()}}
    return DataLoader([row() for _ in range(10)], batch_size=2)
""",
    "nested_dataclass": """
from dataclasses import dataclass
@dataclass
class In:
    image: torch.Tensor
@dataclass
class Row:
    inputs: In
    mask: torch.Tensor
def rows(): return [Row(In(torch.rand(3,8,16)), torch.zeros(8,16).long()) for _ in range(10)]
""",
    "tuple_of_dict": """
def rows(): return [({"image": torch.rand(3,8,16)}, {"mask": torch.zeros(8,16).long()}) for _ in range(10)]
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_row_may_be_nested_or_an_object(form: str, tmp_path: Path) -> None:
    task = task_of(SEGMENTATION)
    found = open_datasets(task, EvalConfig(dataset="data.py:rows"), None, written(tmp_path, FORMS[form]))
    assert (len(found.train), len(found.held_out)) == (9, 1)
    example = found.train[0]  # type: ignore[index]
    assert tuple(example["image"].shape) == (3, 8, 16)
    assert example["labels"].dtype == torch.int64


def test_two_groups_with_a_field_of_one_name_are_not_guessed_at(tmp_path: Path) -> None:
    code = """
        def rows(): return [{"left": {"image": torch.rand(3, 8, 16)}, "right": {"image": torch.rand(3, 8, 16)}} for _ in range(10)]
    """
    with pytest.raises(DataError, match=r"no input `image`\. Did you mean .* It has `left\.image`, `right\.image`"):
        open_datasets(task_of(SEGMENTATION), EvalConfig(dataset="data.py:rows"), None, written(tmp_path, code))
