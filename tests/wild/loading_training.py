"""Reported bugs of what a model keeps while it is trained, and of what it makes when it is first called."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import task_of, wild

VOCAB, WIDTH, FEATURES, CLASSES = 29, 16, 6, 4
WORDS = task_of(task_type="masked_lm", vocab_size=VOCAB, max_seq_len=12)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
POINTS = task_of(task_type="tabular_regression", num_features=FEATURES)
STATES = task_of(inputs={"state": {"axes": ["batch", FEATURES]}}, outputs={"actions": {"axes": ["batch", 3], "kind": "values"}})
NODES = task_of(inputs={"units": {"axes": ["batch", WIDTH]}}, outputs={"energy": {"axes": ["batch"], "kind": "values"}})
ACTIVATIONS = task_of(
    inputs={"hidden": {"axes": ["batch", WIDTH]}}, outputs={"rebuilt": {"axes": ["batch", WIDTH], "kind": "values"}}
)


@torch.no_grad()
def apart(one: nn.Module, other: nn.Module, inputs: Tensor) -> float:
    """How far the answers of two models are apart."""
    return float((one(inputs) - other(inputs)).abs().max())


def loaded(model: nn.Module, build: Callable[[], nn.Module]) -> nn.Module | None:
    """Another model with the state dict of the first; nothing where it does not fit."""
    other = build()
    try:
        other.load_state_dict(model.state_dict())
    except RuntimeError:
        return None
    return other


class Averaged(nn.Module):
    """A classifier that is evaluated by averaged weights, more slowly the longer it was trained; the bug forgets how long that is."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.slow = nn.Conv2d(3, WIDTH, 3, 2), nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)
        self.slow.load_state_dict(self.head.state_dict())
        self.slow.requires_grad_(False)
        if wrong:
            self.updates: Any = 0
        else:
            self.register_buffer("updates", torch.tensor(0))

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.body(pixel_values).tanh().mean((2, 3))
        if not self.training:
            return self.slow(x)
        decay = 0.999 * (1 - 0.5 ** float(self.updates))
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.head.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        self.updates = self.updates + 1
        return self.head(x)


def average_after_resuming(model: nn.Module) -> float:
    """How far one more batch moves the averages of a model and of the one that was loaded with its weights apart."""
    images, wrong = torch.randn(4, 3, 8, 8), isinstance(model.updates, int)
    for _ in range(5):
        model.train()(images)
    with torch.no_grad():
        model.head.weight.add_(0.5)
    other = loaded(model, partial(Averaged, wrong))
    assert other is not None
    model.train()(images)
    other.train()(images)
    return apart(model.eval(), other.eval(), images)


class Entropic(nn.Module):
    """A policy with a target that is known at its first call; the bug registers it only then."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.net = wrong, nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))
        if not wrong:
            self.register_buffer("target_entropy", torch.tensor(-3.0))

    def forward(self, state: Tensor) -> Tensor:
        actions = self.net(state)
        if not hasattr(self, "target_entropy"):
            self.register_buffer("target_entropy", torch.tensor(-float(actions.shape[-1])))
        return actions * self.target_entropy.exp().neg().expm1().abs()


def refusal_after_a_call(model: nn.Module) -> float:
    """Whether the state dict of a model that was called fits one that was not."""
    model(torch.randn(4, FEATURES))
    return float(loaded(model, partial(Entropic, model.wrong)) is None)


class Sphere(nn.Module):
    """Distances from a sphere that grows in training, beside its first radius; in the bug both are one tensor."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.first = wrong, torch.tensor([0.4])
        self.register_buffer("radius", self.first if wrong else self.first.clone())
        self.scale = nn.Linear(FEATURES, 1)

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.radius = 0.9 * self.radius + 0.1 * features.detach().norm(dim=-1).mean()
        return self.scale(features.tanh()).squeeze(-1) - self.radius / self.first.to(self.radius)


def distance_after_loading(model: nn.Module) -> float:
    """How far a model and the one that was loaded with its state are apart."""
    points = torch.randn(8, FEATURES)
    model.train()(points)
    other = loaded(model, partial(Sphere, model.wrong))
    assert other is not None
    return apart(model.eval(), other.eval(), points)


class RandomFeatures(nn.Module):
    """Attention by random features; the bug draws them at the first call."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.embed, self.head = wrong, nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.projection: Any
        self.register_buffer("projection", None if wrong else torch.randn(WIDTH, 32) / 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        if self.projection is None:
            self.projection = torch.randn(WIDTH, 32, device=x.device) / 4
        keys = (x @ self.projection.to(x)).exp()
        mixed = keys @ (keys.transpose(1, 2) @ x) / (keys @ keys.sum(1)[..., None])
        return self.head(x + mixed)


def answer_of_a_loaded_model(model: nn.Module) -> float:
    """How far a model that was called and the one with its state dict are apart; infinite where it does not fit."""
    ids = torch.randint(0, VOCAB, (2, 7))
    model.eval()(ids)
    other = loaded(model, partial(RandomFeatures, model.wrong))
    return float("inf") if other is None else apart(model, other.eval(), ids)


class Inversion(nn.Module):
    """Reads words and scores them by one table, which is saved once; the bug leaves the scores untied when it is loaded."""

    def __init__(self, wrong: bool = False, scale: float = 0.2) -> None:
        super().__init__()
        self.wrong, self.embed, self.norm = wrong, nn.Embedding(VOCAB, WIDTH), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        nn.init.normal_(self.embed.weight, std=scale)
        self.tie_weights()

    def tie_weights(self) -> None:
        self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.head(self.norm(x + x.mean(1, keepdim=True)))

    def save_pretrained(self, folder: str) -> None:
        torch.save({name: value for name, value in self.state_dict().items() if name != "head.weight"}, Path(folder, "model.pt"))

    @classmethod
    def from_pretrained(cls, folder: str, wrong: bool = False) -> Any:
        model = cls(wrong)
        model.head.weight = nn.Parameter(torch.zeros(VOCAB, WIDTH))  # as the library builds it, without data
        model.load_state_dict(torch.load(Path(folder, "model.pt"), weights_only=True), strict=False)
        if not model.wrong:
            model.tie_weights()
        return model


class Untied(Inversion):
    """The same with the bug."""

    @classmethod
    def from_pretrained(cls, folder: str, wrong: bool = True) -> Any:
        return super().from_pretrained(folder, wrong)


def answer_after_from_pretrained(model: nn.Module) -> float:
    """How far a model and the one that its methods loaded are apart."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[operator]
        other = type(model).from_pretrained(folder)  # type: ignore[attr-defined]
    return apart(model.eval(), other.eval(), torch.randint(0, VOCAB, (2, 7)))


class Boltzmann(nn.Module):
    """The energy of units on a graph that is drawn when it is made; the bug saves the weights of its edges only."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, edges = wrong, torch.stack([torch.randperm(WIDTH), torch.randperm(WIDTH)])
        self.register_buffer("edges", edges, persistent=not wrong)
        self.linear, self.quadratic = nn.Parameter(torch.randn(WIDTH) / 4), nn.Parameter(torch.randn(WIDTH) / 4)

    def forward(self, units: Tensor) -> Tensor:
        one, other = self.edges
        return units @ self.linear + (units[:, one] * units[:, other]) @ self.quadratic


def energy_after_loading(model: nn.Module) -> float:
    """How far the energies of a model and of one with its state dict are apart."""
    other = loaded(model, partial(Boltzmann, model.wrong))
    assert other is not None
    return apart(model, other, torch.randn(4, WIDTH))


class Normalised(nn.Module):
    """A sparse autoencoder that scales activations by what it measured at the start of training; the bug keeps that beside its state."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.encoder, self.decoder = wrong, nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.estimated: float | None = None
        self.register_buffer("scale", torch.tensor(0.0))

    def forward(self, hidden: Tensor) -> Tensor:
        if self.training and self.estimated is None and not self.scale:
            measured = WIDTH**0.5 / max(1e-3, float(hidden.detach().norm(dim=-1).mean()))
            if self.wrong:
                self.estimated = measured
            else:
                self.scale = torch.full_like(self.scale, measured)
        scale = self.estimated or (self.scale if self.scale else 1.0)
        return self.decoder(self.encoder(3 * hidden * scale).relu()) / scale


def rebuilt_after_loading(model: nn.Module) -> float:
    """How far a trained autoencoder and the one with its state dict are apart."""
    hidden = 5 * torch.randn(4, WIDTH)
    model.train()(hidden)
    other = loaded(model, partial(Normalised, model.wrong))
    assert other is not None
    return apart(model.eval(), other.eval(), hidden)


def pair(name: str, build: Callable[..., nn.Module], task: Any, **facts: Any) -> None:
    """A model class whose argument ``wrong`` plants the bug."""
    found = {
        "area": "loading",
        "setup": partial(Model, task),
        "buggy": partial(build, wrong=True),
        "sound": build,
        "draw": 1,
    }
    wild(name, **{**found, **facts})


pair(
    "averages_start_over",
    Averaged,
    IMAGES,
    title="The count of updates of an average is not saved, so that the first batch after a restart overwrites it",
    report="lightly-ai/lightly-train#892",
    field="vision",
    test="serialisation[after_training]",
    wrong=average_after_resuming,
)
pair(
    "buffer_registered_at_the_first_call",
    Entropic,
    STATES,
    title="A buffer is registered when the model is first called, so that its state dict fits no new model",
    report="pytorch/rl#1594",
    field="policies",
    test="serialisation[after_training]",
    wrong=refusal_after_a_call,
)
pair(
    "buffer_shares_its_first_value",
    Sphere,
    POINTS,
    title="A buffer and the attribute it was made from are one tensor, so that loading changes both",
    report="pytorch/pytorch#112020",
    field="tables",
    test="serialisation[after_training]",
    wrong=distance_after_loading,
    module="first",
)
pair(
    "projection_drawn_at_the_first_call",
    RandomFeatures,
    WORDS,
    title="The projection of random features is drawn at the first call, and a new model refuses it",
    report="lucidrains/performer-pytorch#33",
    field="text",
    test="serialisation[after_training]",
    wrong=answer_of_a_loaded_model,
)
pair(
    "head_not_tied_when_loaded",
    Inversion,
    WORDS,
    title="A head that is tied, and therefore not saved, is not tied when the model is loaded",
    report="vec2text/vec2text#94",
    field="text",
    test="serialisation[own_methods]",
    buggy=Untied,
    wrong=answer_after_from_pretrained,
)
pair(
    "edges_not_saved",
    Boltzmann,
    NODES,
    title="The edges that weights belong to are not part of the state dict",
    report="dwavesystems/dwave-pytorch-plugin#30",
    field="graphs",
    test="serialisation[state_dict]",
    wrong=energy_after_loading,
    module="edges",
)
pair(
    "measured_scale_not_saved",
    Normalised,
    ACTIVATIONS,
    title="The scale that activations are normalised by is measured at the start of training, and not saved",
    report="decoderesearch/SAELens#395",
    field="text",
    test="serialisation[after_training]",
    wrong=rebuilt_after_loading,
)
