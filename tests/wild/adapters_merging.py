"""Reported bugs of adapters that are merged, switched off and saved."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import task_of, wild

FEATURES, WIDTH, CLASSES = 10, 16, 4
ROWS = task_of(task_type="tabular_classification", num_features=FEATURES, num_classes=CLASSES)
IMAGES = task_of(task_type="image_classification", image_size=[4, 8, 8], num_classes=CLASSES)
FRAMES = task_of(
    inputs={"audio": {"axes": ["batch", "time", FEATURES]}},
    outputs={"phones": {"axes": ["batch", "time", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 3, "max": 20}},
)


def inputs_of(model: nn.Module) -> Tensor:
    """Inputs of one of the models here."""
    return torch.randn(3, 4, 8, 8) if isinstance(model, Convolved) else torch.randn(3, 7, FEATURES)


@torch.no_grad()
def with_adapters_that_act(model: nn.Module) -> nn.Module:
    """The model in eval mode, with trained weights that are not zero."""
    for parameter in model.train().parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


@torch.no_grad()
def change_by_merging(model: nn.Module) -> float:
    """How much merging changes the answers; infinite where it raises."""
    inputs = inputs_of(with_adapters_that_act(model))
    before = model(inputs)
    try:
        model.layer.merge()
    except RuntimeError:
        return float("inf")
    return float((model(inputs) - before).abs().max())


@torch.no_grad()
def change_by_merging_and_unmerging(model: nn.Module) -> float:
    """How much of a merge an unmerge leaves."""
    inputs = inputs_of(with_adapters_that_act(model))
    before = model(inputs)
    model.layer.merge()
    model.layer.unmerge()
    return float((model(inputs) - before).abs().max())


class Adapter(nn.Module):
    """A frozen layer and a product of two small matrices beside it."""

    def __init__(self, base: nn.Module, size_in: int, size_out: int, bias: bool = False) -> None:
        super().__init__()
        self.base, self.scale, self.merged, self.enabled = base.requires_grad_(False), 2.0, False, True
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(3, size_in) / size_in), nn.Parameter(torch.zeros(size_out, 3))
        self.lora_bias = nn.Parameter(torch.zeros(size_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        found = self.base(x)
        if self.merged or not self.enabled:
            return found
        change = x @ self.lora_A.T @ self.lora_B.T
        return found + self.scale * (change if self.lora_bias is None else change + self.lora_bias)

    def merge(self) -> None:
        self.base.weight.data += self.scale * (self.lora_B @ self.lora_A).data
        self.merged = True

    def unmerge(self) -> None:
        self.base.weight.data -= self.scale * (self.lora_B @ self.lora_A).data
        self.merged = False


class BiasedAdapter(Adapter):
    """An adapter with a bias; the bug merges it without its scale."""

    def __init__(self, wrong: bool) -> None:
        super().__init__(nn.Linear(FEATURES, WIDTH), FEATURES, WIDTH, bias=True)
        self.wrong = wrong

    def merge(self) -> None:
        super().merge()
        self.base.bias.data += (1.0 if self.wrong else self.scale) * self.lora_bias.data

    def unmerge(self) -> None:
        super().unmerge()
        self.base.bias.data -= (1.0 if self.wrong else self.scale) * self.lora_bias.data


class Adapted(nn.Module):
    """A classifier of rows, or of frames, with an adapter on its first layer."""

    def __init__(self, layer: Callable[[bool], nn.Module], wrong: bool = False) -> None:
        super().__init__()
        self.layer, self.head = layer(wrong), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).tanh())


class DoubleRoot(Adapter):
    """Weights of a direction and a length (DoRA); the bug divides along another axis when they are taken apart."""

    def __init__(self, wrong: bool) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH), WIDTH, WIDTH)
        self.wrong = wrong
        self.magnitude = nn.Parameter(self.base.weight.norm(dim=1).detach())

    def factor(self, weight: Tensor) -> Tensor:
        return self.magnitude / (weight + self.scale * self.lora_B @ self.lora_A).norm(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.base(x)
        weight = self.base.weight
        return F.linear(x, (weight + self.scale * self.lora_B @ self.lora_A) * self.factor(weight)[:, None], self.base.bias)

    def merge(self) -> None:
        self.kept = self.factor(self.base.weight).detach()
        self.base.weight.data = ((self.base.weight + self.scale * self.lora_B @ self.lora_A) * self.kept[:, None]).data
        self.merged = True

    def unmerge(self) -> None:
        kept = self.kept if self.wrong else self.kept[:, None]
        self.base.weight.data = (self.base.weight / kept - self.scale * self.lora_B @ self.lora_A).data
        self.merged = False


class Stemmed(Adapted):
    """The same behind a layer that is frozen."""

    def __init__(self, layer: Callable[[bool], nn.Module], wrong: bool = False) -> None:
        super().__init__(layer, wrong)
        self.stem = nn.Linear(FEATURES, WIDTH).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.stem(x).tanh())


class GroupedAdapter(nn.Module):
    """An adapter on a convolution in two groups; the bug merges one product for all groups."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.merged = wrong, False
        self.base = nn.Conv2d(4, 8, 3, padding=1, groups=2).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False), nn.Conv2d(4, 8, 1, groups=2, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) if self.merged else self.base(x) + self.lora_B(self.lora_A(x))

    def change(self) -> Tensor:
        down, up = self.lora_A.weight.data, self.lora_B.weight.data[:, :, 0, 0]
        if self.wrong:
            return torch.einsum("or,rikl->oikl", torch.cat([up, up], 1) / 2, down)
        return torch.cat([torch.einsum("or,rikl->oikl", a, b) for a, b in zip(up.chunk(2), down.chunk(2), strict=True)])

    def merge(self) -> None:
        self.base.weight.data += self.change()
        self.merged = True

    def unmerge(self) -> None:
        self.base.weight.data -= self.change()
        self.merged = False


class Convolved(nn.Module):
    """A classifier of images with an adapter on a grouped convolution."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.layer, self.head = GroupedAdapter(wrong), nn.Linear(8, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.layer(pixel_values).tanh().mean((2, 3)))


class TrainedHead(nn.Module):
    """A frozen body with an adapter, and a head of which a copy is trained; the bug uses the copy although adapters are off."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.layer = Adapter(nn.Linear(FEATURES, WIDTH), FEATURES, WIDTH)
        self.head = nn.ModuleDict({"original": nn.Linear(WIDTH, CLASSES), "modules_to_save": nn.Linear(WIDTH, CLASSES)})
        self.head["original"].requires_grad_(False)
        self.head["modules_to_save"].load_state_dict(self.head["original"].state_dict())

    def forward(self, features: Tensor) -> Tensor:
        trained = self.layer.enabled or self.wrong
        return self.head["modules_to_save" if trained else "original"](self.layer(features).tanh())

    def disable_adapters(self) -> None:
        self.layer.enabled = False

    def enable_adapters(self) -> None:
        self.layer.enabled = True


@torch.no_grad()
def distance_from_the_base(model: nn.Module) -> float:
    """How far a model whose adapters are off is from what it was before they were trained."""
    inputs = torch.randn(3, FEATURES)
    model.disable_adapters()  # type: ignore[operator]
    before = model(inputs)
    with_adapters_that_act(model)
    return float((model(inputs) - before).abs().max())


class TrainedBias(nn.Module):
    """An adapter whose layer's bias is trained too; the bug looks for it under a name that it has no longer."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.layer, self.head = Adapter(nn.Linear(FEATURES, WIDTH), FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.head.requires_grad_(False)
        self.layer.base.bias.requires_grad_(True)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.layer(features).tanh())

    def adapter_state_dict(self) -> dict[str, Tensor]:
        biases = ["layer.bias" if self.wrong else "layer.base.bias"]
        return {name: value for name, value in self.state_dict().items() if "lora_" in name or name in biases}


def answer_after_saving(build: Any) -> Callable[[nn.Module], float]:
    """How far a model and the same base with the saved adapter are apart."""

    def wrong(model: nn.Module) -> float:
        torch.manual_seed(7)
        model, inputs = build(model.wrong), torch.randn(3, FEATURES)
        torch.manual_seed(7)
        other = build(model.wrong)
        other.load_state_dict(with_adapters_that_act(model).adapter_state_dict(), strict=False)
        with torch.no_grad():
            return float((model(inputs) - other.eval()(inputs)).abs().max())

    return wrong


class Folding(nn.Linear):
    """eval() folds the adapter into the weight; the bug does not save that it did, so that it is folded once more after loading."""

    def __init__(self, wrong: bool) -> None:
        super().__init__(FEATURES, WIDTH)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(3, FEATURES) / 4), nn.Parameter(torch.randn(WIDTH, 3) / 8)
        self.requires_grad_(False)
        self.lora_A.requires_grad_(True)
        self.lora_B.requires_grad_(True)
        self.register_buffer("folded", torch.tensor(False), persistent=not wrong)

    def train(self, mode: bool = True) -> Any:
        if mode == bool(self.folded):
            self.weight.data += (-1 if mode else 1) * (self.lora_B @ self.lora_A).data
            self.folded.fill_(not mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.folded else super().forward(x) + x @ self.lora_A.T @ self.lora_B.T


@torch.no_grad()
def answer_after_saving_in_eval_mode(model: nn.Module) -> float:
    """How far a model in eval mode and one that was loaded with its weights before it was evaluated are apart."""
    inputs, other = inputs_of(model), Adapted(Folding, not model.layer.state_dict().keys() >= {"folded"})
    other.load_state_dict(with_adapters_that_act(model).state_dict())
    return float((model(inputs) - other.eval()(inputs)).abs().max())


def pair(name: str, build: Callable[..., nn.Module], task: Any, **facts: Any) -> None:
    """A model class whose argument ``wrong`` plants the bug."""
    wild(name, area="adapters", setup=partial(Model, task), buggy=partial(build, wrong=True), sound=build, **facts)


pair(
    "bias_merged_without_scale",
    partial(Adapted, BiasedAdapter),
    ROWS,
    title="The bias of an adapter is merged without the scale that forward applies",
    report="huggingface/peft#2489",
    field="tables",
    test="adapter_layers[merged]",
    wrong=change_by_merging,
    module="layer",
)
pair(
    "length_divided_along_the_wrong_axis",
    partial(Stemmed, DoubleRoot),
    FRAMES,
    title="Unmerging divides the weight by its lengths along another axis than merging multiplied it",
    report="huggingface/peft#3531",
    field="speech",
    test="adapter_layers[merged]",
    wrong=change_by_merging_and_unmerging,
    module="layer",
)
pair(
    "groups_of_a_convolution_merged_as_one",
    Convolved,
    IMAGES,
    title="The product of an adapter's matrices is merged into a grouped convolution as if it had one group",
    report="Tencent/YOLO-Master#228",
    field="vision",
    test="adapter_layers[merged]",
    wrong=change_by_merging,
    module="layer",
)
pair(
    "trained_head_without_adapters",
    TrainedHead,
    ROWS,
    title="With adapters switched off the trained copy of the head is used, and not the original one",
    report="huggingface/peft#736",
    field="text",
    test="adapter_layers[disabled]",
    wrong=distance_from_the_base,
)
pair(
    "trained_bias_not_saved",
    TrainedBias,
    ROWS,
    title="A bias that is trained with the adapter is looked for under its old name, and not saved",
    report="huggingface/peft#3307",
    field="text",
    test="adapter_layers[saved]",
    wrong=answer_after_saving(TrainedBias),
    module="layer.base.bias",
)
pair(
    "folded_twice_after_loading",
    partial(Adapted, Folding),
    FRAMES,
    title="Weights that are saved in eval mode hold the adapter, which the next eval() adds once more",
    report="espnet/espnet#5722",
    field="speech",
    test="adapter_layers[saved]",
    status=Status.WARN,
    wrong=answer_after_saving_in_eval_mode,
    module="layer",
)
