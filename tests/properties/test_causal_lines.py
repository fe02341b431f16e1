"""What looks ahead is told with the line that moves the positions, also where an axis is as short as another one."""

from __future__ import annotations

import linecache
from pathlib import Path

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

HEADS, WIDTH, WORDS, LENGTH = 2, 16, 23, 12
TEXT = TaskSpec(TaskType.CAUSAL_LM, vocab_size=WORDS, max_seq_len=LENGTH, pad_token_id=0)


class Attention(nn.Module):
    """Sound."""

    is_causal = True

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def heads_of(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = map(self.heads_of, self.read(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
        return self.write(mixed.transpose(1, 2).flatten(2))


class SplitsInPlace(Attention):
    """The heads take the place of the positions: with two tokens both axes are as long."""

    def heads_of(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), HEADS, x.shape[1], -1)


class SeesAll(Attention):
    is_causal = False


class Decoder(nn.Module):
    def __init__(self, attention: type[Attention]) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.attention, self.head = attention(), nn.Linear(WIDTH, WORDS)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places.weight[: input_ids.shape[1]]
        return self.head(x + self.attention(x))


@pytest.mark.parametrize(
    ("attention", "line"),
    [(SplitsInPlace, "x.reshape(len(x), HEADS"), (SeesAll, "scaled_dot_product_attention("), (Attention, "")],
)
def test_the_line_at_which_a_position_reads_a_later_one(attention: type[Attention], line: str) -> None:
    found = judge_model(lambda: Decoder(attention), TEXT, only=("causal",), fix_seconds=0)["causal"]
    file, _, number = found.place.rpartition(":")
    assert bool(file) == bool(line)
    if line:
        assert found.module == "attention"
        assert Path(file).name == Path(__file__).name
        assert line in linecache.getline(__file__, int(number))
