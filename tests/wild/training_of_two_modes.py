"""Reported bugs of modes, memories and starts: the eighth draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES, NODES, SEEN, ACTIONS, WORDS, COLUMNS = 16, 4, 6, 5, 3, 23, 6
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
POINTS = task_of(
    inputs={"points": {"axes": ["batch", NODES, 3]}}, outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}}
)
TABLE = task_of(task_type="tabular_classification", num_features=COLUMNS, num_classes=CLASSES)
TEXT = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=8, num_classes=CLASSES)
EPISODES = task_of(
    inputs={
        "seen": {"axes": ["batch", SEEN]},
        "memory": {"axes": ["batch", WIDTH], "state": {"from": "memory", "initial": "zeros"}},
    },
    outputs={
        "policy": {"axes": ["batch", ACTIONS], "kind": "class_scores"},
        "memory": {"axes": ["batch", WIDTH], "kind": "state"},
    },
)
STATES = task_of(
    inputs={"seen": {"axes": ["batch", SEEN]}}, outputs={"policy": {"axes": ["batch", ACTIONS], "kind": "class_scores"}}
)


def path_dropped(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Drops a residual path of some rows."""
    if not training or rate == 0:
        return x
    kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * kept / (1 - rate)


class Shifted(nn.Module):
    """Residual blocks whose paths are dropped by a function; the bug does not tell it the mode."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.stem, self.head = wrong, nn.Conv2d(3, WIDTH, 2, stride=2), nn.Linear(WIDTH, CLASSES)
        self.blocks = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3))

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.stem(pixel_values)
        for block in self.blocks:
            path = block(x.relu())
            x = x + (path_dropped(path, 0.2) if self.wrong else path_dropped(path, 0.2, self.training))
        return self.head(x.mean((2, 3)))


@torch.no_grad()
def other_at_the_second_call(model: nn.Module) -> float:
    """How far two answers to the same images are apart in eval mode."""
    images = torch.randn(8, 3, 8, 8)
    return float((model.eval()(images) - model(images)).abs().max())


class Clouds(nn.Module):
    """Classes of points; the bug answers in the mode that training left."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.enter, self.norm = wrong, nn.Linear(3, WIDTH), nn.BatchNorm1d(WIDTH)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(WIDTH, CLASSES)

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.enter(points).amax(1)).relu()))

    @torch.no_grad()
    def predict(self, points: Tensor) -> Tensor:
        was = self.training
        if not self.wrong:
            self.eval()
        found = self(points).softmax(-1)
        self.train(was)
        return found


def other_among_others(model: Any) -> float:
    """How far the answer to some points is from that among others, straight after training."""
    points = torch.randn(6, NODES, 3)
    return float((model.train().predict(points)[:3] - model.predict(points[:3])).abs().max())


class Answering(nn.Module):
    """Classes of rows of a table; the bug leaves the model in eval mode once it has answered."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.net, self.drop = wrong, nn.Linear(COLUMNS, WIDTH), nn.Dropout(0.3)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.drop(self.net(features).relu()))

    @torch.no_grad()
    def predict(self, features: Tensor) -> Tensor:
        was = self.training
        self.eval()
        found = self(features).softmax(-1)
        if not self.wrong:
            self.train(was)
        return found


def mode_changed_by_an_answer(model: Any) -> float:
    """Whether a model that was in train mode is not any more."""
    model.train().predict(torch.randn(3, COLUMNS))
    return float(not model.training)


class Recurrent(nn.Module):
    """A policy with a memory; the bug drops every axis of length 1 of that memory."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.cell, self.head = wrong, nn.LSTM(SEEN, WIDTH), nn.Linear(WIDTH, ACTIONS)

    def forward(self, seen: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        begun = memory[None]
        out, (last, _) = self.cell(seen[None], (begun, torch.zeros_like(begun)))
        return self.head(out[0]), last.squeeze() if self.wrong else last[0]


@torch.no_grad()
def axes_lost(model: Any) -> float:
    """How many axes the memory of one environment alone has lost."""
    return 2.0 - model(torch.randn(1, SEEN), torch.zeros(1, WIDTH))[1].ndim


class Policy(nn.Module):
    """A policy with tanh whose layers begin orthogonal; the bug takes the gain of ReLU for them."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.mix, self.head = nn.Linear(SEEN, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, ACTIONS)
        for layer in (self.enter, self.mix):
            nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu" if wrong else "tanh"))
            nn.init.zeros_(layer.bias)
        nn.init.orthogonal_(self.head.weight, 0.01)

    def forward(self, seen: Tensor) -> Tensor:
        return self.head(self.mix(self.enter(seen).tanh()).tanh())


@torch.no_grad()
def gain_apart(model: Any) -> float:
    """How far the gain of a layer is from that of tanh."""
    return abs(float(torch.linalg.matrix_norm(model.mix.weight, 2)) - 5 / 3)


class Projected(nn.Module):
    """A text that is projected; the bug makes room for the projection and initialises other layers only."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.words, self.head = wrong, nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.text_projection = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.2)
        elif isinstance(module, Projected) and not self.wrong:
            nn.init.normal_(module.text_projection, std=0.2)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head((self.words(input_ids).mean(1) @ self.text_projection).tanh())


def never_written(model: Any) -> float:
    """The share of the projection that no initialisation writes."""
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        return float(Projected(model.wrong).text_projection.isnan().float().mean())
    finally:
        torch.use_deterministic_algorithms(False)


add = partial(pair_of_one_class, judge=Model, draw=8, long=True)
add(
    "paths_dropped_in_eval_mode",
    "Residual paths are dropped by a function that is not told the mode, so that answers are random",
    "WangFeng18/Swin-Transformer#7",
    "vision",
    "eval_deterministic",
    Shifted,
    other_at_the_second_call,
    IMAGES,
    area="train_mode",
    line="path_dropped(path, 0.2) if self.wrong",
    first_run=FirstRun("26469ef1", found=True, named=False, said="eval_deterministic fails, with the line that draws"),
    unnamed="names the line that draws, and not the call that leaves out the mode",
)
add(
    "answers_in_train_mode",
    "Answers are given in the mode that training left, with dropout and with statistics of the batch",
    "yanx27/GACNet#8",
    "graphs",
    "train_mode[own_answers]",
    Clouds,
    other_among_others,
    POINTS,
    area="train_mode",
    line="def predict",
    status=Status.WARN,
    first_run=FirstRun("26469ef1", found=False, named=False, said="nothing: predict is called by no test"),
)
add(
    "eval_mode_after_an_answer",
    "A model that has given an answer stays in eval mode, and trains on in it",
    "Lightning-AI/pytorch-lightning#21410",
    "tables",
    "train_mode[own_answers]",
    Answering,
    mode_changed_by_an_answer,
    TABLE,
    area="state",
    line="def predict",
    status=Status.WARN,
    first_run=FirstRun("26469ef1", found=False, named=False, said="nothing: predict is called by no test"),
)
add(
    "one_environment_alone",
    "The memory of a policy loses the axis of the batch where there is one environment only",
    "Stable-Baselines-Team/stable-baselines3-contrib#305",
    "policies",
    "carried_state[shape]",
    Recurrent,
    axes_lost,
    EPISODES,
    or_tests=("shape_contract", "carried_state[chunks]"),
    area="axes",
    line="last.squeeze()",
    first_run=FirstRun("26469ef1", found=True, named=False, said="carried_state[shape] fails in cell, with its line"),
    unnamed="names the cell that makes the memory, and not what is done with it",
)
add(
    "gain_of_another_activation",
    "Layers before a tanh begin with the gain of ReLU",
    "DLR-RM/stable-baselines3#1559",
    "policies",
    "initialisation[depth]",
    Policy,
    gain_apart,
    STATES,
    or_tests=("initialisation[scale]",),
    area="start",
    first_run=FirstRun(
        "26469ef1", found=False, named=False, said="nothing: initialisation[depth] asks for four blocks, and there are two layers"
    ),
    missed="a gain of 1.41 in place of 1.67 keeps signals in range",
)
add(
    "projection_never_initialised",
    "A projection is memory that no initialisation writes",
    "huggingface/transformers#38987",
    "text",
    "initialisation[applied]",
    Projected,
    never_written,
    TEXT,
    or_tests=("initialisation[scale]",),
    area="start",
    module="text_projection",
    first_run=FirstRun(
        "26469ef1",
        found=False,
        named=False,
        said="nothing: what was in that memory happened to be numbers; in another run initialisation[scale] failed",
    ),
)
