"""Reported bugs of models and adapters that are saved and loaded, and of adapters as they begin."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

VOCAB, WIDTH, RANK, CLASSES, SEEN = 21, 12, 3, 4, 6
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
OBSERVATIONS = task_of(inputs={"seen": {"axes": ["batch", SEEN]}}, outputs={"actions": {"axes": ["batch", 3], "kind": "values"}})
TEXT = task_of(task_type="causal_lm", vocab_size=VOCAB, max_seq_len=12)
NOISY = task_of(
    inputs={"sample": {"axes": ["batch", 8]}, "step": {"axes": ["batch"], "values": {"ids": 10}}},
    outputs={"noise": {"axes": ["batch", 8], "kind": "values"}},
)


class Classifier(nn.Module):
    """Saves its weights as a trainer does, with a prefix; the bug loads them without a look at what is missing."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.features, self.head = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(128, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.features(pixel_values).relu().flatten(1))

    def save_checkpoint(self, path: str | Path) -> None:
        torch.save({"state_dict": {f"model.{name}": value for name, value in self.state_dict().items()}}, path)

    def load_checkpoint(self, path: str | Path) -> None:
        saved = torch.load(path)["state_dict"]
        if self.wrong:
            self.load_state_dict(saved, strict=False)
        else:
            self.load_state_dict({name.removeprefix("model."): value for name, value in saved.items()})


def change_in_a_loaded_classifier(model: Any) -> float:
    """How far a classifier answers otherwise once it is saved and loaded."""
    image, other = torch.randn(2, 3, 8, 8), Classifier(model.wrong)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_checkpoint(Path(folder) / "last.pt")
        other.load_checkpoint(Path(folder) / "last.pt")
        return float((model(image) - other(image)).abs().max())


class Scaler:
    """Mean and deviation of a dataset, once it has seen one."""

    def __init__(self, rows: np.ndarray[Any, Any] | None = None) -> None:
        self.mean = None if rows is None else rows.mean(0)
        self.std = None if rows is None else rows.std(0)


class Agent(nn.Module):
    """A policy over scaled observations; the bug saves that there is a scaler, and not what it has learnt of the dataset."""

    def __init__(self, wrong: bool = False, rows: np.ndarray[Any, Any] | None = None) -> None:
        super().__init__()
        self.wrong = wrong
        self.scaler = Scaler(np.random.default_rng(0).normal(2.0, 3.0, (64, SEEN)) if rows is None else rows)
        self.net = nn.Sequential(nn.Linear(SEEN, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, seen: Tensor) -> Tensor:
        return self.net((seen - seen.new_tensor(self.scaler.mean)) / seen.new_tensor(self.scaler.std))

    def save_pretrained(self, folder: str | Path) -> None:
        learnt = {} if self.wrong else {"mean": self.scaler.mean.tolist(), "std": self.scaler.std.tolist()}
        torch.save({"wrong": self.wrong, "scaler": learnt, "weights": self.state_dict()}, Path(folder) / "agent.pt")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Agent:
        saved = torch.load(Path(folder) / "agent.pt")
        agent = cls(saved["wrong"])
        agent.load_state_dict(saved["weights"])
        agent.scaler = Scaler()
        for name, value in saved["scaler"].items():
            setattr(agent.scaler, name, np.array(value))
        return agent.eval()


def refused_by_a_loaded_agent(model: Any) -> float:
    """Whether a loaded agent fails, or acts otherwise."""
    seen = torch.randn(4, SEEN)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        try:
            return float((Agent.from_pretrained(folder)(seen) - model(seen)).abs().max())
        except (RuntimeError, TypeError):
            return 1.0


class LowRank(nn.Module):
    """A frozen layer with an update of low rank, whose matrices begin as they are told."""

    def __init__(self, base: nn.Linear, first: bool, second: bool) -> None:
        super().__init__()
        self.base_layer, self.disable_adapters = base.requires_grad_(False), False
        self.lora_A, self.lora_B = nn.Linear(base.in_features, RANK, bias=False), nn.Linear(RANK, base.out_features, bias=False)
        for layer, random in ((self.lora_A, first), (self.lora_B, second)):
            if not random:
                nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.base_layer(x)
        return out if self.disable_adapters else out + 2.0 * self.lora_B(self.lora_A(x))


class Adapted(nn.Module):
    """What models with such adapters share: they can be switched off."""

    def set_enabled(self, enabled: bool) -> None:
        for each in self.modules():
            if isinstance(each, LowRank):
                each.disable_adapters = not enabled

    def disable_adapters(self) -> None:
        self.set_enabled(False)

    def enable_adapters(self) -> None:
        self.set_enabled(True)


class Writer(Adapted):
    """A frozen text model with an adapter; the bug freezes the adapter too where it is saved."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embed, self.mix = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.requires_grad_(False)
        self.head = LowRank(nn.Linear(WIDTH, VOCAB), True, False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(input_ids))[0])

    def save_pretrained(self, folder: str | Path) -> None:
        trained = {name: each.requires_grad for name, each in self.named_parameters()}
        self.requires_grad_(False)
        torch.save({"wrong": self.wrong, "weights": self.state_dict()}, Path(folder) / "model.pt")
        if not self.wrong:
            for name, each in self.named_parameters():
                each.requires_grad_(trained[name])

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Writer:
        saved = torch.load(Path(folder) / "model.pt")
        model = cls(saved["wrong"])
        model.load_state_dict(saved["weights"])
        return model.eval()


def frozen_by_saving(model: Any) -> float:
    """How many parameters are no longer trained once the model was saved."""
    before = sum(each.requires_grad for each in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
    return float(before - sum(each.requires_grad for each in model.parameters()))


class Denoiser(Adapted):
    """A frozen denoiser with an adapter; the bug draws both matrices, so that the adapter changes what it shall learn from."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.steps, self.enter, self.leave = nn.Embedding(10, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.requires_grad_(False)
        self.enter = LowRank(self.enter, True, wrong)

    def forward(self, sample: Tensor, step: Tensor) -> Tensor:
        return self.leave(self.enter(sample + self.steps(step)).tanh())


def change_by_a_fresh_adapter(model: Any) -> float:
    """How far a fresh adapter moves the model."""
    inputs = torch.randn(3, 8), torch.randint(10, (3,))
    with torch.no_grad():
        adapted = model(*inputs)
        model.disable_adapters()
        return float((adapted - model(*inputs)).abs().max())


class Planner(Adapted):
    """A frozen policy with an adapter; the bug sets both of its matrices to zero, so that neither has a gradient."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(SEEN, 16), nn.Linear(16, 3)
        self.requires_grad_(False)
        self.enter = LowRank(self.enter, not wrong, False)

    def forward(self, seen: Tensor) -> Tensor:
        return self.leave(self.enter(seen).tanh())


def stuck(model: Any) -> float:
    """Whether no parameter that is trained has a gradient."""
    model(torch.randn(5, SEEN)).square().sum().backward()
    return float(all(each.grad is None or not each.grad.any() for each in model.parameters() if each.requires_grad))


add = partial(pair_of_one_class, judge=Model, draw=3, long=True)
add(
    "nothing_loaded_by_other_names",
    "The names in a checkpoint have a prefix, and a load that is not strict loads nothing of it without a word",
    "pytorch/examples#1029",
    "vision",
    "serialisation[own_methods]",
    Classifier,
    change_in_a_loaded_classifier,
    IMAGES,
    area="loading",
    line="strict=False",
    first_run=FirstRun(
        "039188d",
        found=False,
        named=False,
        said="skipped: load_checkpoint does not load weights into the model that it is called on",
    ),
)
add(
    "scaler_without_its_dataset",
    "The scaler of observations is fitted to a dataset, and has neither mean nor deviation in an agent that is loaded",
    "takuseno/d3rlpy#258",
    "policies",
    "serialisation[own_methods]",
    Agent,
    refused_by_a_loaded_agent,
    OBSERVATIONS,
    area="loading",
    or_tests=("serialisation[after_training]",),
    first_run=FirstRun(
        "039188d", found=True, named=True, said="serialisation[own_methods] fails, with the line that reads the mean"
    ),
)
add(
    "frozen_by_saving",
    "Saving freezes the adapter that is being trained, so that nothing is learnt after the first checkpoint",
    "modelscope/ms-swift#9452",
    "text",
    "adapter_layers[saved]",
    Writer,
    frozen_by_saving,
    TEXT,
    area="adapters",
    or_tests=("serialisation[own_methods]",),
    module="head",
    first_run=FirstRun(
        "039188d", found=False, named=False, said="nothing: what is trained is not compared before and after saving"
    ),
)
add(
    "both_matrices_drawn",
    "Both matrices of an adapter are random, so that it changes the model before it has learnt anything",
    "hao-ai-lab/FastVideo#781",
    "diffusion",
    "adapter_layers[disabled]",
    Denoiser,
    change_by_a_fresh_adapter,
    NOISY,
    area="adapters",
    or_tests=("adapter_layers[trained]",),
    module="enter",
    status=Status.WARN,
    first_run=FirstRun("039188d", found=False, named=False, said="nothing: fresh adapters are not compared with the base model"),
)
add(
    "both_matrices_zero",
    "Both matrices of an adapter are zero, so that neither ever has a gradient",
    "nvidia-cosmos/cosmos-predict2.5#15",
    "policies",
    "gradient_flow[reaches_every_parameter]",
    Planner,
    stuck,
    OBSERVATIONS,
    area="adapters",
    or_tests=("adapter_layers[trained]",),
    module="enter",
    first_run=FirstRun("039188d", found=True, named=True, said="adapter_layers[trained] fails in enter"),
)
