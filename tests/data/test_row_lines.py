"""A row that does not fit is told with the line of the user's code that made the value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from declared_tasks import opened, task_of, written

from harness.errors import DataError

TASK = task_of({"inputs": {"x": {"axes": ["batch", 4]}}, "outputs": {"scores": {"axes": ["batch", 3], "kind": "class_scores"}}})

HEAD = """
    from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
"""
MISTAKES = {
    "label_out_of_range": """
        class Rows(Dataset):
            def __len__(self): return 9
            def __getitem__(self, index):
                x = torch.zeros(4)
                label = index % 4  # here
                x[0] = index
                return x, label
        rows = Rows
    """,
    "label_from_one": """
        class Rows(Dataset):
            def __len__(self): return 9
            def __getitem__(self, index):
                return {
                    "x": torch.zeros(4),
                    "labels": index % 3 + 1,  # here
                }
        rows = Rows
    """,
    "input_left_out": """
        class Rows(Dataset):
            def __len__(self): return 9
            def __getitem__(self, index):
                row = {"labels": index % 3}
                if index != 5:
                    row["x"] = torch.zeros(4)
                return row  # here
        rows = Rows
    """,
    "another_shape": """
        class Rows(Dataset):
            def __len__(self): return 9
            def __getitem__(self, index):
                x = torch.zeros(4 if index < 7 else 5)  # here
                return x, index % 3
        rows = Rows
    """,
    "of_a_subset": """
        class Rows(Dataset):
            def __len__(self): return 9
            def __getitem__(self, index):
                return torch.zeros(4), index % 4  # here
        def rows(): return Subset(Rows(), range(2, 9))
    """,
    "of_a_loader": """
        class Rows(Dataset):
            def __len__(self): return 9
            def __getitem__(self, index):
                return torch.zeros(4), index % 4  # here
        def rows(): return DataLoader(Rows(), batch_size=3)
    """,
    "of_a_generator": """
        def rows():
            for index in range(9):
                x = torch.zeros(4)
                x[index % 4] = float("nan") if index == 6 else 1.0  # here
                yield {"x": x, "labels": index % 3}
    """,
    "of_a_stream": """
        class Rows(IterableDataset):
            def __iter__(self):
                for index in range(9):
                    yield torch.zeros(4), index - 1  # here
        rows = Rows
    """,
    "of_a_transform": """
        def crop(x):
            return x[:3]
        class Rows(Dataset):
            def __len__(self): return 9
            def __getitem__(self, index):
                x = torch.zeros(4)
                if index == 3:
                    x = crop(x)  # here
                return x, index % 3
        rows = Rows
    """,
    "of_a_parent": """
        class Base(Dataset):
            def __len__(self): return 9
            def __getitem__(self, index):
                return torch.zeros(4), index % 3
        class Rows(Base):
            def __getitem__(self, index):
                x, label = super().__getitem__(index)
                return x.double().long(), label  # here
        rows = Rows
    """,
    "raised": """
        class Rows(Dataset):
            def __len__(self): return 9
            def __getitem__(self, index):
                return torch.zeros(4), [0, 1, 2][index]  # here
        rows = Rows
    """,
    "of_a_collate_function": """
        def collate(items):
            xs, labels = zip(*items)
            return torch.stack(xs)[:, :3], torch.tensor(labels)  # here
        def rows(): return DataLoader([(torch.zeros(4), 1)] * 6, batch_size=3, collate_fn=collate)
    """,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_line_that_made_the_value_is_named(mistake: str, tmp_path: Path) -> None:
    folder = written(tmp_path, HEAD, MISTAKES[mistake])
    lines = [number for number, line in enumerate((folder / "data.py").read_text().splitlines(), 1) if line.endswith("# here")]
    with pytest.raises(DataError) as caught:
        list(opened(folder, TASK))
    named = re.search(r"\(data\.py, line (\d+)\)$", str(caught.value))
    assert named is not None, caught.value
    assert int(named[1]) in lines, caught.value


def test_rows_that_no_code_makes_have_no_line(tmp_path: Path) -> None:
    folder = written(tmp_path, "def rows(): return [(torch.zeros(4), index) for index in range(9)]")
    with pytest.raises(DataError, match=r"allows 0 to 2$"):
        list(opened(folder, TASK))
