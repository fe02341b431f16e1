"""A model that an ordinary mistake makes unfit for a format: the finding names the line of the mistake."""

from __future__ import annotations

import linecache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.evidence import Status
from harness.export import one_line
from harness.runtime import seeded
from tests.planted_bugs.tier4.exports import Exported, of
from tests.planted_bugs.tier4.models import AnyLength, Scores


class WordsOfANumber(Scores):
    def forward(self, features: Tensor) -> Tensor:
        hidden = self.hidden(features)
        words = f"{hidden.mean():.2f}"  # here
        if words.startswith("-"):
            hidden = -hidden
        return self.head(hidden)


class ThroughNumPy(Scores):
    def forward(self, features: Tensor) -> Tensor:
        hidden = self.hidden(features)
        gate = torch.from_numpy(np.exp(hidden.detach().numpy()))  # here
        hidden = hidden.tanh()
        return self.head(hidden * gate)


class LoopWhileLarge(Scores):
    def forward(self, features: Tensor) -> Tensor:
        hidden = self.hidden(features)
        while hidden.norm() > 2:  # here
            hidden = hidden / 2
        hidden = hidden + 1
        return self.head(hidden)


class OneStepAtATime(AnyLength):
    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids)
        state, states = torch.zeros_like(hidden[:, 0]), []
        for step in hidden.unbind(1):  # here
            state = state / 2 + step
            states.append(state)
        return self.head(torch.stack(states, 1))


class MaskOfNumPy(AnyLength):
    def forward(self, input_ids: Tensor) -> Tensor:
        hidden, length = self.embed(input_ids), input_ids.shape[1]
        mask = torch.from_numpy(np.tril(np.ones((length, length), dtype=np.float32)))  # here
        shares = mask / mask.sum(1, keepdim=True)
        return self.head(shares @ hidden)


class SizeDecidesEarly(Scores):
    def scaled(self, hidden: Tensor) -> Tensor:
        if hidden.shape[0] > 4:  # here
            return hidden * 2
        hidden = hidden.abs()
        return hidden * 3

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.scaled(self.hidden(features)))


class OperatorWithoutONNX(Scores):
    def forward(self, features: Tensor) -> Tensor:
        hidden = self.hidden(features)
        turned = torch.linalg.svd(hidden @ hidden.mT)[0]  # here
        hidden = hidden.tanh()
        return self.head(turned @ hidden)


CASES = (
    (WordsOfANumber, "torch_export", "exports"),
    (WordsOfANumber, "torchscript", "numerical_consistency"),
    (ThroughNumPy, "torch_export", "exports"),
    (ThroughNumPy, "torchscript", "dynamic_axes"),
    (LoopWhileLarge, "onnx", "numerical_consistency"),
    (OneStepAtATime, "torch_export", "dynamic_axes"),
    (OneStepAtATime, "torchscript", "dynamic_axes"),
    (MaskOfNumPy, "torch_export", "dynamic_axes"),
    (SizeDecidesEarly, "torch_export", "dynamic_axes"),
    (OperatorWithoutONNX, "onnx", "exports"),
)


@pytest.mark.parametrize(("model", "format", "check"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_the_line_of_the_mistake_is_named(model: type[nn.Module], format: str, check: str, tmp_path: Path) -> None:
    with seeded(0):
        found = Exported(of(model, format), format).judge((check,), tmp_path)[check]
    assert found.status is Status.FAIL, found.explain()
    file, _, line = found.place.rpartition(":")
    assert file.endswith("test_lines.py"), found.explain()
    assert linecache.getline(__file__, int(line)).endswith("# here\n"), found.explain()


class _Packs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.lstm(packed)[0][0]


@pytest.mark.filterwarnings("ignore")
def test_a_stack_in_a_message_is_no_reason(tmp_path: Path) -> None:
    def guarded() -> None:  # a name that reasons have in them too
        torch.onnx.export(_Packs().eval(), (torch.rand(2, 5, 4), torch.tensor([5, 3])), tmp_path / "m.onnx", dynamo=False)

    with pytest.raises(RuntimeError) as caught:
        guarded()
    assert one_line(caught.value).startswith("RuntimeError: ONNX export failed: Cannot export individual pack_padded_sequence")
    assert f"({Path(__file__).name}:" in one_line(caught.value)
