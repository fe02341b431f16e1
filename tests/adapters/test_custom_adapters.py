"""An adapter of the user's own, as ``file.py:Class``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import CausalLMAdapter, make_adapter
from harness.errors import ConfigError
from harness.tasks import TaskSpec, TaskType

LM = TaskSpec(TaskType.CAUSAL_LM, vocab_size=11, max_seq_len=8)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=3, num_classes=2)
DOUBLING = """\
from harness.adapters import Adapter

class Doubling(Adapter):
    def logits(self, model, batch):
        return 2 * model(batch["features"])

def a_function(task):
    return None

class Unrelated:
    pass
"""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features)


@pytest.fixture
def refusal(tmp_path: Path) -> Any:
    def refused(name: str, text: str = DOUBLING) -> str:
        (tmp_path / "own.py").write_text(text)
        with pytest.raises(ConfigError) as caught:
            make_adapter(TABLE, name, tmp_path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("`adapter`: ")
        return str(caught.value)

    return refused


def test_without_a_name_the_tasks_own_adapter_is_used() -> None:
    assert type(make_adapter(LM)) is CausalLMAdapter


def test_a_built_in_adapter_is_used_by_name() -> None:
    assert type(make_adapter(TABLE, "causal_lm")) is CausalLMAdapter


def test_a_class_of_a_file_beside_the_config_is_used(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(DOUBLING)
    adapter = make_adapter(TABLE, "own.py:Doubling", tmp_path)
    model, features = Layer(), torch.ones(4, 3)

    assert adapter.task is TABLE
    assert torch.equal(adapter.logits(model, {"features": features}), 2 * model(features))


def test_an_adapter_of_ones_own_inherits_the_loss(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(DOUBLING)
    adapter = make_adapter(TABLE, "own.py:Doubling", tmp_path)
    logits, labels = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)

    assert adapter.loss(logits, {"labels": labels}).item() == pytest.approx(0.6931472)


def test_an_adapter_imports_its_siblings(tmp_path: Path) -> None:
    (tmp_path / "adapter_parts.py").write_text("FACTOR = 3\n")
    (tmp_path / "own.py").write_text(DOUBLING.replace("2 *", "FACTOR *") + "\nfrom adapter_parts import FACTOR\n")
    adapter = make_adapter(TABLE, "own.py:Doubling", tmp_path)
    model, features = Layer(), torch.ones(4, 3)

    assert torch.equal(adapter.logits(model, {"features": features}), 3 * model(features))


def test_an_unknown_name_is_answered_by_the_nearest(refusal: Any) -> None:
    message = refusal("causal-lm")

    assert "no adapter 'causal-lm'" in message
    assert "Did you mean 'causal_lm'?" in message
    assert "file.py:Class" in message


def test_a_missing_file_is_named(refusal: Any, tmp_path: Path) -> None:
    assert f"no such file {tmp_path / 'nowhere.py'}" in refusal("nowhere.py:Doubling")


@pytest.mark.parametrize("name", ["Doublin", "a_function", "Unrelated"])
def test_what_is_no_adapter_class_is_refused(refusal: Any, name: str) -> None:
    message = refusal(f"own.py:{name}")

    assert f"no class {name!r} with `logits` and `loss`" in message
    assert "harness.adapters.Adapter" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0\n", ["ZeroDivisionError", "own.py, line 1"]),
        ("def f(:\n", ["SyntaxError", "own.py, line 1"]),
        ("x = 1\nimport sys\nsys.exit(1)\n", ["SystemExit", "own.py, line 3"]),
    ],
    ids=["raises", "syntax", "exits"],
)
def test_a_file_that_does_not_import_is_answered_by_error_and_line(refusal: Any, text: str, said: list[str]) -> None:
    message = refusal("own.py:Doubling", text)

    for part in said:
        assert part in message


def test_an_adapter_whose_constructor_raises_is_refused(refusal: Any) -> None:
    text = DOUBLING + "\nclass Broken(Adapter):\n    def __init__(self, task):\n        raise ValueError('no such task')\n"

    assert "ValueError: no such task" in refusal("own.py:Broken", text)
