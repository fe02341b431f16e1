"""Models and model files of a few lines, sound and not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

GOOD = """\
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, vocab_size=32, width=16):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        return self.head(x + self.before(x))

    def before(self, x):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]

def build_model(**kwargs):
    return Model(**kwargs)
"""
"""A causal model."""

LEAKY = GOOD.replace("return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]", "return x.mean(1, keepdim=True)")
"""Every position sees the whole sequence."""

HIDING = GOOD.replace("self.embed =", "self.spare = [nn.Linear(2, 2)]\n        self.embed =")
"""A layer that nothing uses is not registered: a warning."""


class Leaking(nn.Module):
    """Writes tokens, and reads one that is still to come."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.say = nn.Embedding(50, 8), nn.Linear(8, 50)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        read = self.read(tokens)
        return self.say(read + read.roll(-1, 1))

    def generate(self) -> None: ...


def output(result: pytest.RunResult) -> str:
    """All a run printed."""
    return "\n".join([*result.outlines, *result.errlines])


def running_text(result: pytest.RunResult) -> str:
    """All a run printed, with every break of a line as a space."""
    return " ".join(output(result).split())
