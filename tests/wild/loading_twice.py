"""Reported bugs of models that are loaded, once or twice, of memories that one call too many moves on, and of merges that add one."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, CLASSES, SEEN, PAST, NEXT = 21, 12, 4, 6, 12, 4
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
TEXT = task_of(task_type="causal_lm", vocab_size=WORDS, max_seq_len=12)
SERIES = task_of(inputs={"history": {"axes": ["batch", PAST]}}, outputs={"forecast": {"axes": ["batch", NEXT], "kind": "values"}})
EPISODES = task_of(
    inputs={
        "seen": {"axes": ["batch", "time", SEEN]},
        "memory": {"axes": [1, "batch", WIDTH], "state": {"from": "memory"}},
    },
    outputs={
        "worth": {"axes": ["batch", "time"], "kind": "values"},
        "memory": {"axes": [1, "batch", WIDTH], "kind": "state"},
        "rest": {"axes": ["batch"], "kind": "values"},
    },
    axes={"time": {"min": 1, "max": 10, "order": "causal"}},
)


class Shapes(nn.Module):
    """An image classifier that drops some of what it sees in training; the bug hands out loaded models that still do."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.look, self.drop, self.tell = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Dropout(0.5), nn.Linear(128, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.tell(self.drop(self.look(pixel_values).relu().flatten(1)))

    def save_pretrained(self, folder: str | Path) -> None:
        torch.save({"wrong": self.wrong, "weights": self.state_dict()}, Path(folder) / "shapes.pt")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Shapes:
        saved = torch.load(Path(folder) / "shapes.pt")
        model = cls(saved["wrong"])
        model.load_state_dict(saved["weights"])
        return model if saved["wrong"] else model.eval()


def through_a_file(model: Any) -> Any:
    """A model that is saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder)


def change_by_a_file(model: Any) -> float:
    """How far a loaded model is from the one that was saved, in eval mode."""
    image = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        return float((through_a_file(model)(image) - model.eval()(image)).abs().max())


class Forecaster(nn.Module):
    """A forecaster that keeps a trainer; the bug writes weights only where there is one, and a loaded forecaster has none."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.trainer = wrong, "trainer"
        self.net = nn.Sequential(nn.Linear(PAST, WIDTH), nn.Tanh(), nn.Linear(WIDTH, NEXT))

    def forward(self, history: Tensor) -> Tensor:
        return self.net(history)

    def save_pretrained(self, folder: str | Path) -> None:
        torch.save({"wrong": self.wrong}, Path(folder) / "settings.pt")
        if self.trainer or not self.wrong:
            torch.save(self.state_dict(), Path(folder) / "weights.pt")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Forecaster:
        model = cls(torch.load(Path(folder) / "settings.pt")["wrong"])
        model.trainer = ""
        if (Path(folder) / "weights.pt").exists():
            model.load_state_dict(torch.load(Path(folder) / "weights.pt"))
        return model.eval()


def change_by_two_files(model: Any) -> float:
    """How far a forecaster is changed that is saved, loaded, and saved and loaded once more."""
    history = torch.randn(3, PAST)
    with torch.no_grad():
        return float((through_a_file(through_a_file(model))(history) - model(history)).abs().max())


class Speller(nn.Module):
    """Reads and writes by one table; the bug makes two parameters of the same memory, which a move to another dtype takes apart."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.mix, self.out_embed = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, WORDS, bias=False)
        self.in_embed = nn.Embedding(WORDS, WIDTH, _weight=self.out_embed.weight)
        if not wrong:
            self.in_embed.weight = self.out_embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out_embed(self.mix(self.in_embed(input_ids))[0])


def apart_after_a_move(model: Any) -> float:
    """How far the tables are apart once the model was moved and one of them changed."""
    model.double()
    with torch.no_grad():
        model.out_embed.weight += 1
        return float((model.in_embed.weight - model.out_embed.weight).abs().max())


class Judge(nn.Module):
    """What each moment of an episode is worth, and the rest from its last on; the bug lets that second question move the memory on."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net, self.head = nn.GRU(SEEN, WIDTH, batch_first=True), nn.Linear(WIDTH, 1)

    def forward(self, seen: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        if memory is None:
            memory = seen.new_zeros(1, len(seen), WIDTH)
        out, memory = self.net(seen, memory)
        last, further = self.net(seen[:, -1:], memory)
        return self.head(out)[..., 0], further if self.wrong else memory, self.head(last)[:, 0, 0]


def change_by_two_parts(model: Any) -> float:
    """How far an episode that is judged in two parts is from one that is judged at once."""
    seen = torch.randn(2, 6, SEEN)
    with torch.no_grad():
        whole, first = model(seen)[0], model(seen[:, :3])
        return float((model(seen[:, 3:], first[1])[0] - whole[:, 3:]).abs().max())


class Scaled(nn.Module):
    """A norm whose scales are kept as their distance from one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.weight)


class Lora(nn.Module):
    """A frozen layer with an update of low rank."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        out = self.base_layer(x)
        return out if self.merged else out + 2.0 * self.lora_B(self.lora_A(x))

    @torch.no_grad()
    def add(self, sign: float) -> None:
        self.base_layer.weight += sign * 2.0 * self.lora_B.weight @ self.lora_A.weight


class Gemma(nn.Module):
    """A frozen text model with an adapter on its head; the bug adds one to the scales of its norm at each merge, for a faster norm."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embed, self.mix, self.norm = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True), Scaled()
        self.requires_grad_(False)
        self.head = Lora(nn.Linear(WIDTH, WORDS))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.norm(self.mix(self.embed(input_ids))[0]))

    def merge_adapter(self) -> None:
        self.switch(1.0)

    def unmerge_adapter(self) -> None:
        self.switch(-1.0)

    def switch(self, sign: float) -> None:
        self.head.add(sign)
        self.head.merged = sign > 0
        if self.wrong and sign > 0:
            self.norm.weight.data += 1


def change_by_a_merge(model: Any) -> float:
    """How far a merge moves the scores."""
    words = torch.randint(WORDS, (2, 5))
    with torch.no_grad():
        apart = model(words)
        model.merge_adapter()
        return float((model(words) - apart).abs().max())


add = partial(pair_of_one_class, judge=Model, draw=4, long=True)
add(
    "loaded_in_train_mode",
    "A model that is loaded by its name is never put into eval mode, and drops what it sees",
    "PaulCCCCCCH/Robustar_implementation#165",
    "vision",
    "serialisation[own_methods]",
    Shapes,
    change_by_a_file,
    IMAGES,
    area="loading",
    missed="many loaders hand out models in train mode on purpose, as Lightning's does",
    first_run=FirstRun(
        "79f3b8c", found=False, named=False, said="nothing: what is loaded is put into eval mode before it is compared"
    ),
)
add(
    "loaded_once_and_never_again",
    "A forecaster that was loaded saves no weights, so that the next one that is loaded from there is a fresh one",
    "unit8co/darts#1568",
    "forecasting",
    "serialisation[own_methods]",
    Forecaster,
    change_by_two_files,
    SERIES,
    area="loading",
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: what was loaded is not saved again"),
)
add(
    "table_of_two_parameters",
    "An embedding is made with the weight of a layer, which shares the memory but not the parameter",
    "pytorch/pytorch#62264",
    "text",
    "serialisation[tied_weights]",
    Speller,
    apart_after_a_move,
    TEXT,
    area="loading",
    or_tests=("registration", "serialisation[deepcopy]"),
    module="out_embed",
    first_run=FirstRun(
        "79f3b8c",
        found=True,
        named=False,
        said="serialisation[tied_weights] fails in out_embed.weight, with its line; the pair expected the other of the two",
    ),
)
add(
    "memory_moved_on_by_a_question",
    "The last moment is judged once more for what comes after it, and the memory keeps that",
    "leggedrobotics/rsl_rl#130",
    "policies",
    "carried_state[chunks]",
    Judge,
    change_by_two_parts,
    EPISODES,
    area="state",
    or_tests=("stateless",),
    module="(model)",
    unnamed="a call in pieces names no module",
    first_run=FirstRun("79f3b8c", found=True, named=False, said="carried_state[chunks] fails, without a module"),
)
add(
    "one_more_at_each_merge",
    "Each merge of the adapters adds one to the scales of the norms",
    "unslothai/unsloth#219",
    "text",
    "adapter_layers[merged]",
    Gemma,
    change_by_a_merge,
    TEXT,
    area="adapters",
    module="norm",
    unnamed="the layer with the adapter is named, whatever else a merge changes",
    first_run=FirstRun(
        "79f3b8c", found=True, named=False, said="adapter_layers[merged] fails in head, the layer with the adapter"
    ),
)
