"""Reported bugs of modes, of frozen and shared parts and of the backward pass: the fifth draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model
from tests.planted_bugs.tier3.training import Training

from .decoding_drawn_pieces import change_by_repeating
from .register import FirstRun, pair_of_one_class, task_of
from .state_drawn import moved_statistics

FEATURES, WORDS, WIDTH = 5, 23, 12
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=4)
REPLIES = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=10, num_classes=3)
TABLE = task_of(task_type="tabular_classification", num_features=FEATURES, num_classes=3)
FLOW = task_of(inputs={"x": {"axes": ["batch", 8]}}, outputs={"z": {"axes": ["batch", 8], "kind": "values"}})
DRAFTS = task_of(
    inputs={"words": {"axes": ["batch", "time"], "values": {"ids": WORDS}}},
    outputs={"scores": {"axes": ["batch", "time", 3, WORDS], "kind": "class_scores"}},
    axes={"time": {"min": 1, "max": 10}},
)


class Probe(nn.Module):
    """A linear layer on a frozen network; the bug leaves its norms in train mode."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.visual = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).requires_grad_(False)
        self.fc = nn.Linear(8, 4)

    def train(self, mode: bool = True) -> Probe:
        super().train(mode)
        if not self.wrong:
            self.visual.eval()
        return self

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.fc(self.visual(pixel_values).mean((2, 3)))


class Metas(nn.Module):
    """A sentence by several embeddings at once; the bug drops parts of them in eval mode too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.left, self.right, self.head = nn.Embedding(WORDS, WIDTH), nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.left(input_ids) + self.right(input_ids)
        x = F.dropout(x, p=0.2) if self.wrong else F.dropout(x, p=0.2, training=self.training)
        return self.head(x.tanh().mean(1))


class Committee(nn.Module):
    """The mean of several networks; the bug sets the mode of the whole and not that of its members."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)) for _ in range(3)
        )

    def train(self, mode: bool = True) -> Committee:
        if not self.wrong:
            return super().train(mode)
        self.training = mode
        return self

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([member(features) for member in self.members]).mean(0)


@torch.no_grad()
def change_of_rows(model: nn.Module) -> float:
    """How far two calls in eval mode are apart."""
    rows = torch.randn(4, FEATURES)
    model.train().eval()
    return float((model(rows) - model(rows)).abs().max())


class Coupling(nn.Module):
    """One half of a row scales and shifts the other; the bug writes into the scale that the backward pass needs."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = x.chunk(2, 1)
        scale, shift = self.net(kept).chunk(2, 1)
        scale = scale.exp()
        moved = moved * scale
        if self.wrong:
            scale += 1e-6
        return torch.cat([kept, moved + shift], 1)


def backward_refused(model: nn.Module) -> float:
    """Whether the backward pass raises."""
    try:
        model(torch.randn(3, 8)).sum().backward()
    except RuntimeError:
        return 1.0
    return 0.0


class Block(nn.Module):
    """A layer beside what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.linear(x))


class Medusa(nn.Module):
    """Three heads that guess the next tokens, one each; the bug puts the same block in front of all."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.mix = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        blocks = [Block()] * 3 if wrong else [Block() for _ in range(3)]
        self.heads = nn.ModuleList(nn.Sequential(block, nn.Linear(WIDTH, WORDS)) for block in blocks)

    def forward(self, words: Tensor) -> Tensor:
        x = self.mix(self.words(words))[0]
        return torch.stack([head(x) for head in self.heads], 2)


def shared_weights(model: Any) -> float:
    """How many blocks are missing."""
    return float(3 - len({id(head[0]) for head in model.heads}))


add = partial(pair_of_one_class, judge=Model, draw=5, long=True)
add(
    "norms_of_a_linear_probe",
    "The norms of a frozen network run in train mode while a linear layer on it is trained",
    "kdexd/virtex#16",
    "vision",
    "step_updates",
    Probe,
    partial(moved_statistics, (8, 3, 8, 8)),
    IMAGES,
    judge=partial(Training),
    area="state",
    module="visual.1",
    status=Status.WARN,
    first_run=FirstRun("b9f3707", found=True, named=True, said="step_updates warns of visual.1"),
)
add(
    "embeddings_dropped_in_eval_mode",
    "Dropout of embeddings is applied without asking for the mode",
    "facebookresearch/DME#3",
    "text",
    "eval_deterministic",
    Metas,
    change_by_repeating,
    REPLIES,
    area="train_mode",
    line="F.dropout(x, p=0.2) if",
    first_run=FirstRun("b9f3707", found=True, named=True, said="eval_deterministic fails, with the line of the dropout"),
)
add(
    "mode_of_members_unset",
    "train() and eval() of an ensemble do not reach its members",
    "raharth/PyMatch#17",
    "tables",
    "mode_round_trip",
    Committee,
    change_of_rows,
    TABLE,
    or_tests=("eval_deterministic",),
    area="train_mode",
    first_run=FirstRun("b9f3707", found=True, named=True, said="mode_round_trip fails in members, with the line of train"),
)
add(
    "scale_written_into",
    "An operation in place changes what the backward pass needs",
    "vislearn/FrEIA#171",
    "vision",
    "gradient_flow[reaches_every_parameter]",
    Coupling,
    backward_refused,
    FLOW,
    area="state",
    line="scale += 1e-6",
    first_run=FirstRun(
        "b9f3707",
        found=True,
        named=False,
        said="gradient_flow fails, with the line whose result is written into",
    ),
    unnamed="names the line whose result is written into, as PyTorch does",
)
add(
    "one_block_for_all_heads",
    "A list of blocks is made by multiplication, so that all heads have the same block",
    "linkedin/Liger-Kernel#269",
    "text",
    "initialisation[symmetry]",
    Medusa,
    shared_weights,
    DRAFTS,
    area="start",
    first_run=FirstRun("b9f3707", found=False, named=False, said="nothing: weights may be shared on purpose"),
    status=Status.WARN,
    line="[Block()] * 3",
)
