"""Reported bugs of models that are saved, and loaded as something else."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Factory, Model

from .register import task_of, wild

VOCAB, WIDTH, LENGTH, FEATURES = 29, 16, 12, 6
TEXT = task_of(task_type="causal_lm", vocab_size=VOCAB, max_seq_len=LENGTH)
NUMBERS = task_of(task_type="tabular_regression", num_features=FEATURES)
STATES = task_of(
    inputs={"state": {"axes": ["batch", FEATURES], "values": {"range": [-20, 60]}}},
    outputs={"actions": {"axes": ["batch", 3], "kind": "values"}},
)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=5)


def example(task: str) -> Tensor:
    """Inputs of a model."""
    if task == "text":
        return torch.randint(0, VOCAB, (3, 7))
    return torch.randn(4, 3, 8, 8) if task == "image" else 5 * torch.randn(8, FEATURES)


def moved(model: nn.Module) -> nn.Module:
    """The model in eval mode with other weights, as after training."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def apart(one: nn.Module, other: nn.Module, inputs: Tensor) -> float:
    """How far the answers of two models are apart."""
    with torch.no_grad():
        return float((one(inputs) - other(inputs)).abs().max())


class ActNorm(nn.Module):
    """Shift and scale that the first batch of training sets; the bug keeps the flag in a plain attribute."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(FEATURES)), nn.Parameter(torch.zeros(FEATURES))
        if wrong:
            self.initialised: Any = False
        else:
            self.register_buffer("initialised", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.initialised:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.log_scale.copy_(-(x.std(0) + 1e-3).log())
            self.initialised = True if isinstance(self.initialised, bool) else torch.ones_like(self.initialised)
        return (x + self.shift) * self.log_scale.exp()


class Flow(nn.Module):
    """The log-density of rows under one step of a flow."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.norm, self.mix = ActNorm(wrong), nn.Linear(FEATURES, FEATURES)

    def forward(self, features: Tensor) -> Tensor:
        z = self.mix(self.norm(features).tanh())
        return self.norm.log_scale.sum() - 0.5 * z.pow(2).sum(-1)


def scale_after_resuming(build: Factory) -> Callable[[nn.Module], float]:
    """How much one more batch of training changes a norm that was trained, saved and loaded."""

    def wrong(model: nn.Module) -> float:
        model.train()(example("numbers"))
        with torch.no_grad():
            model.norm.log_scale.add_(0.3)
        other = build()
        other.load_state_dict(model.state_dict())
        other.train()(example("numbers"))
        return float((other.norm.log_scale - model.norm.log_scale).detach().abs().max())

    return wrong


class Scaler:
    """Running statistics of what a policy saw, outside of the module."""

    def __init__(self) -> None:
        self.mean, self.scale = torch.zeros(FEATURES), torch.ones(FEATURES)


class Policy(nn.Module):
    """A policy that normalises states; the bug keeps the statistics in an object beside its buffers."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.scaler = wrong, Scaler()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.net = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))

    def forward(self, state: Tensor) -> Tensor:
        kept: Any = self.scaler if self.wrong else self
        if self.training:
            kept.mean = 0.5 * kept.mean.to(state) + 0.5 * state.detach().mean(0)
            kept.scale = 0.5 * kept.scale.to(state) + 0.5 * state.detach().std(0)
        return self.net((state - kept.mean.to(state)) / (kept.scale.to(state) + 1e-3))


def answer_after_loading(build: Factory) -> Callable[[nn.Module], float]:
    """How far a trained policy and one with its state dict are apart."""

    def wrong(model: nn.Module) -> float:
        model.train()(20 + example("numbers"))
        other = build()
        other.load_state_dict(model.state_dict())
        return apart(model.eval(), other.eval(), 20 + example("numbers"))

    return wrong


class Words(nn.Module):
    """A causal model of words: the mean of those before, and a table that is read at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(VOCAB, WIDTH), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        x = x + x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.head(self.norm(x))


class SharedMemory(Words):
    """Both tables share their memory, and the state dict holds one of them; the bug leaves them apart where it is assigned."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        nn.init.normal_(self.embed.weight, std=0.05)
        self.head.weight = self.embed.weight
        if wrong:
            self.head.weight = nn.Parameter(self.embed.weight.data)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name != "head.weight"}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        if not self.wrong:
            self.head.weight = self.embed.weight
        return found


def answer_after_assignment(build: Factory) -> Callable[[nn.Module], float]:
    """How far a model and one whose weights were assigned are apart."""

    def wrong(model: nn.Module) -> float:
        other = build()
        other.load_state_dict({name: value.clone() for name, value in moved(model).state_dict().items()}, assign=True)
        return apart(model, other.eval(), example("text"))

    return wrong


# --- what a model's own methods save and load


class Pretrained(nn.Module):
    """Saves and loads itself with its settings."""

    settings: dict[str, Any]

    def save_pretrained(self, folder: str) -> None:
        torch.save(self.state_dict(), Path(folder, "model.pt"))
        Path(folder, "config.json").write_text(json.dumps(self.settings), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str) -> Any:
        model = cls(**json.loads(Path(folder, "config.json").read_text(encoding="utf-8")))
        model.load_state_dict(torch.load(Path(folder, "model.pt"), weights_only=True))
        return model.finished()

    def finished(self) -> Any:
        """What loading does last."""
        return self


def answer_after_from_pretrained(task: str) -> Callable[[nn.Module], float]:
    """How far a model and the one that its methods saved and loaded are apart."""

    def wrong(model: nn.Module) -> float:
        with tempfile.TemporaryDirectory() as folder:
            moved(model).save_pretrained(folder)
            other = type(model).from_pretrained(folder)
        return apart(model, other.eval(), example(task))

    return wrong


class Decays(Pretrained):
    """A model of words with one trained rate of decay; the bug draws it once more after loading."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.settings = {"wrong": wrong}
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.rate = nn.Parameter(torch.linspace(-1, 1, WIDTH))

    def forward(self, input_ids: Tensor) -> Tensor:
        x, keep = self.embed(input_ids), self.rate.sigmoid()
        state, found = torch.zeros_like(x[:, 0]), []
        for step in x.unbind(1):
            state = keep * state + step
            found.append(state)
        return self.head(torch.stack(found, 1))

    def finished(self) -> Any:
        if self.settings["wrong"]:
            nn.init.uniform_(self.rate)
        return self


class Rotations(Pretrained):
    """A model of words with angles that no file holds, built without data; the bug leaves them empty."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.settings = {"wrong": wrong}
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.register_buffer("angles", torch.arange(LENGTH)[:, None] / 10.0 ** torch.linspace(0, 2, WIDTH), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids) * self.angles[: input_ids.shape[1]].cos()
        return self.head(x.cumsum(1))

    @classmethod
    def from_pretrained(cls, folder: str) -> Any:
        settings = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            model = cls(**settings)
        model.to_empty(device="cpu")
        model.angles.fill_(float("inf"))  # so that it does not depend on what lay in memory before
        model.load_state_dict(torch.load(Path(folder, "model.pt"), weights_only=True))
        if not settings["wrong"]:
            model.angles.copy_(cls().angles)
        return model


class Patches(Pretrained):
    """Attention over patches whose heads have a size of their own; the bug does not save it, and derives another one."""

    def __init__(self, heads: int = 2, head_dim: int | None = 4, wrong: bool = False) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim or 8
        self.settings = {"heads": heads, "wrong": wrong} | ({"head_dim": head_dim} if not wrong else {"head_dim": None})
        self.patches, self.three, self.head = nn.Conv2d(3, WIDTH, 4, 4), nn.Linear(WIDTH, 48), nn.Linear(WIDTH, 5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        size = 16 // self.head_dim
        q, k, v = (part.unflatten(-1, (size, self.head_dim)).transpose(1, 2) for part in self.three(x).chunk(3, -1))
        mixed = (q @ k.transpose(-1, -2) / self.head_dim**0.5).softmax(-1) @ v
        return self.head((x + mixed.transpose(1, 2).flatten(2)).mean(1))


# --- a vocabulary that grows


class Biased(nn.Module):
    """A model of words with a bias for each word; the bug resizes everything but the bias."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embed = nn.Embedding.from_pretrained(0.05 * torch.randn(VOCAB, WIDTH), freeze=False)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.bias = nn.Parameter(torch.zeros(VOCAB))
        self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.head(x + x.cumsum(1)) + self.bias

    def resize_token_embeddings(self, size: int) -> None:
        rows, known = nn.Embedding(size, WIDTH), self.embed.num_embeddings
        rows.weight.data[:known] = self.embed.weight.data
        self.embed, self.head = rows, nn.Linear(WIDTH, size, bias=False)
        self.head.weight = self.embed.weight
        if not self.wrong:
            self.bias = nn.Parameter(torch.cat([self.bias.data, torch.zeros(size - known)]))


def error_after_resizing(model: nn.Module) -> float:
    """Whether a model refuses its inputs after its vocabulary has grown."""
    model.resize_token_embeddings(VOCAB + 4)  # type: ignore[operator]
    try:
        model.eval()(example("text"))
    except RuntimeError:
        return 1.0
    return 0.0


def pair(name: str, build: Callable[..., nn.Module], task: Any, **facts: Any) -> None:
    """A model class whose argument ``wrong`` plants the bug."""
    wild(name, area="loading", setup=partial(Model, task), buggy=partial(build, wrong=True), sound=build, **facts)


pair(
    "actnorm_starts_over",
    Flow,
    NUMBERS,
    title="The flag of an initialised norm is not saved, so that the first batch after loading overwrites what was learnt",
    report="bayesiains/nflows#4",
    field="tables",
    test="serialisation[after_training]",
    wrong=lambda model: scale_after_resuming(partial(Flow, wrong=isinstance(model.norm.initialised, bool)))(model),
    module="norm",
)
pair(
    "policy_without_its_normaliser",
    Policy,
    STATES,
    title="The statistics by which a policy normalises states are not saved with it",
    report="hill-a/stable-baselines#228",
    field="policies",
    test="serialisation[after_training]",
    wrong=lambda model: answer_after_loading(partial(Policy, wrong=model.wrong))(model),
)
pair(
    "tied_table_assigned_once",
    SharedMemory,
    TEXT,
    title="Of two tables that share their memory one is loaded by assignment, and the other keeps what it held",
    report="TransformerLensOrg/TransformerLens#1725",
    field="text",
    test="serialisation[tied_weights]",
    wrong=lambda model: answer_after_assignment(partial(SharedMemory, wrong=model.wrong))(model),
)
pair(
    "rate_drawn_after_loading",
    Decays,
    TEXT,
    title="Weights are initialised once more after they were loaded",
    report="huggingface/transformers#45591",
    field="text",
    test="serialisation[own_methods]",
    wrong=answer_after_from_pretrained("text"),
    module="rate",
)
pair(
    "angles_left_empty",
    Rotations,
    TEXT,
    title="Built on meta, a model keeps rotary tables that nothing fills",
    report="macwiatrak/Bacformer#36",
    field="text",
    test="serialisation[own_methods]",
    wrong=answer_after_from_pretrained("text"),
    module="angles",
)
pair(
    "size_of_heads_not_saved",
    Patches,
    IMAGES,
    title="The size of attention heads is left out of the saved settings, and derived otherwise when they are loaded",
    report="huggingface/transformers#36048",
    field="vision",
    test="serialisation[own_methods]",
    wrong=answer_after_from_pretrained("image"),
)
pair(
    "bias_not_resized",
    Biased,
    TEXT,
    title="A larger vocabulary resizes the table and leaves the bias of the head as it was",
    report="huggingface/transformers#2521",
    field="text",
    test="serialisation[resized]",
    wrong=error_after_resizing,
)
