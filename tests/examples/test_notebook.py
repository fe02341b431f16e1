"""The notebook runs from its first cell to its last, in a real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent.parent / "examples" / "training.ipynb"


@pytest.mark.long
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
    assert len(pictures) == 2


MODEL = """\
import torch
from torch import nn

class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x - x.mean(0))
"""
JUDGED = """
from pytest_modeltiers import judge
result = judge(Centred(), torch.randn(3, 4), only=["batch_independence"], progress=False)
print(result)
"""


@pytest.mark.long
def test_a_line_in_a_cell_is_named_by_the_number_of_its_cell() -> None:
    v4 = pytest.importorskip("nbformat").v4
    notebook = v4.new_notebook(cells=[v4.new_code_cell(MODEL), v4.new_code_cell(JUDGED)])
    pytest.importorskip("nbclient").NotebookClient(notebook, timeout=120).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
    assert "In[1]:10" in printed, printed
