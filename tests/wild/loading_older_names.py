"""Reported bugs of files and adapters: the eighth draw."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES, ITEMS, BANDS = 12, 4, 19, 5
SOUND = task_of(
    inputs={"sound": {"axes": ["batch", "time", BANDS]}},
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 3, "max": 12}},
)
SCENES = task_of(
    inputs={"own": {"axes": ["batch", 3, 8, 8]}, "other": {"axes": ["batch", 3, 8, 8]}},
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
)
BASKETS = task_of(
    inputs={"items": {"axes": ["batch", 5], "values": {"ids": ITEMS}}},
    outputs={"click": {"axes": ["batch"], "kind": "binary_scores"}},
)
TABLE = task_of(task_type="tabular_classification", num_features=6, num_classes=CLASSES)
WORDS = task_of(task_type="sequence_classification", vocab_size=ITEMS, max_seq_len=8, num_classes=CLASSES)
NAMES = {"conv.weight_g": "conv.parametrizations.weight.original0", "conv.weight_v": "conv.parametrizations.weight.original1"}


class Heard(nn.Module):
    """A convolution under a weight norm, with files in its older names; the bug looks for these in the model, which has newer ones."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.conv, self.head = wrong, weight_norm(nn.Conv1d(BANDS, WIDTH, 3), dim=2), nn.Linear(WIDTH, CLASSES)

    def forward(self, sound: Tensor) -> Tensor:
        return self.head(self.conv(sound.transpose(1, 2)).relu().mean(2))

    def save(self, path: str | Path) -> None:
        older = {newer: name for name, newer in NAMES.items()}
        torch.save({older.get(name, name): value for name, value in self.state_dict().items()}, path)

    def load(self, path: str | Path) -> None:
        for name, value in torch.load(path).items():
            place: Any = self
            for part in (name if self.wrong else NAMES.get(name, name)).split("."):
                place = getattr(place, part)
            place.data.copy_(value)


def lost_in_a_file(model: Any, *inputs: Tensor) -> float:
    """How far a second model that loads a file is from the one that saved it; 1 where it cannot be loaded."""
    other = type(model)(model.wrong)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.pt")
        try:
            other.load(Path(folder) / "model.pt")
        except AttributeError:
            return 1.0
    with torch.no_grad():
        return float((other.eval()(*inputs) - model.eval()(*inputs)).abs().max())


def sound_lost(model: nn.Module) -> float:
    """The same of a sound."""
    return lost_in_a_file(model, torch.randn(2, 8, BANDS))


class Fused(nn.Module):
    """Two views that a network fuses; the bug leaves that network out of the file."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.look = wrong, nn.Sequential(nn.Conv2d(3, WIDTH, 2, stride=2), nn.ReLU(), nn.Flatten())
        self.fusion_net, self.head = nn.Linear(2 * 16 * WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        return self.head(self.fusion_net(torch.cat([self.look(own), self.look(other)], 1)).relu())

    def save(self, path: str | Path) -> None:
        kept = ("look", "head") if self.wrong else ("look", "fusion_net", "head")
        torch.save({name: value for name, value in self.state_dict().items() if name.startswith(kept)}, path)

    def load(self, path: str | Path) -> None:
        self.load_state_dict(torch.load(path), strict=not self.wrong)


def views_lost(model: nn.Module) -> float:
    """How far two views of a scene are."""
    return lost_in_a_file(model, torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))


class Kept(nn.Module):
    """A table whose rows a file keeps by their ids; the bug still asks the file for the weight that is not in it."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(ITEMS, WIDTH))
        self.register_state_dict_post_hook(self.by_ids)
        self.register_load_state_dict_pre_hook(self.from_ids)
        if not wrong:
            self.register_load_state_dict_post_hook(self.not_missing)

    @staticmethod
    def by_ids(module: nn.Module, state: dict[str, Any], prefix: str, _local: Any) -> None:
        state[f"{prefix}rows"] = state.pop(f"{prefix}weight")

    @staticmethod
    def from_ids(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
        if f"{prefix}rows" in state:
            module.weight.data.copy_(state.pop(f"{prefix}rows"))  # type: ignore[union-attr,operator]

    @staticmethod
    def not_missing(module: nn.Module, keys: Any) -> None:
        for name in [each for each in keys.missing_keys if each.endswith("weight") and "table" in each]:
            keys.missing_keys.remove(name)

    def forward(self, items: Tensor) -> Tensor:
        return self.weight[items]


class Basket(nn.Module):
    """A click on a basket."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.table, self.net = (
            wrong,
            Kept(wrong),
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)),
        )

    def forward(self, items: Tensor) -> Tensor:
        return self.net(self.table(items).mean(1))[:, 0]


@torch.no_grad()
def rows_lost(model: Any) -> float:
    """How far a second model with the state dict is; 1 where it refuses it."""
    other, items = Basket(model.wrong), torch.randint(ITEMS, (3, 5))
    try:
        other.load_state_dict(model.state_dict())
    except RuntimeError:
        return 1.0
    return float((other(items) - model(items)).abs().max())


class Switched(nn.Module):
    """Two adapters, of which one has a head; the bug asks the other one for its head as well."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.active, self.on = wrong, "first", True
        self.words, self.layer = nn.Embedding(ITEMS, WIDTH).requires_grad_(False), nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.head = nn.Linear(WIDTH, CLASSES).requires_grad_(False)
        self.lora_A = nn.ParameterDict({name: torch.randn(3, WIDTH) / 4 for name in ("first", "second")})
        self.lora_B = nn.ParameterDict({name: torch.zeros(WIDTH, 3) for name in ("first", "second")})
        self.heads = nn.ModuleDict({"first": nn.Linear(WIDTH, CLASSES)})
        self.set_adapter("first")

    def set_adapter(self, name: str) -> None:
        self.active = name
        for part in (self.lora_A, self.lora_B, self.heads):
            for path, parameter in part.named_parameters():
                parameter.requires_grad_(path.partition(".")[0] == name)

    def disable_adapters(self) -> None:
        self.on = False

    def enable_adapters(self) -> None:
        self.on = True

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        found, head = self.layer(x), self.head
        if self.on:
            found = found + x @ self.lora_A[self.active].T @ self.lora_B[self.active].T
            if self.wrong or self.active in self.heads:
                head = self.heads[self.active]
        return head(found.tanh().mean(1))


@torch.no_grad()
def refuses_the_second(model: Any) -> float:
    """Whether the adapter without a head cannot be used."""
    model.set_adapter("second")
    try:
        model(torch.randint(ITEMS, (2, 5)))
    except KeyError:
        return 1.0
    return 0.0


class Adapted(nn.Module):
    """A classifier with an adapter; the bug merges it in half precision."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.merged = wrong, False
        self.layer, self.head = nn.Linear(6, WIDTH).requires_grad_(False), nn.Linear(WIDTH, CLASSES).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.zeros(WIDTH, 3))

    def forward(self, features: Tensor) -> Tensor:
        found = self.layer(features)
        return self.head((found if self.merged else found + features @ self.lora_A.T @ self.lora_B.T).tanh())

    @torch.no_grad()
    def merge_lora(self) -> None:
        self.before, change = self.layer.weight.clone(), self.lora_B @ self.lora_A
        if self.wrong:
            self.layer.weight.copy_(self.layer.weight.half() + change.half())
        else:
            self.layer.weight.add_(change)
        self.merged = True

    @torch.no_grad()
    def unmerge_lora(self) -> None:
        self.layer.weight.copy_(self.before)
        self.merged = False


@torch.no_grad()
def change_by_merging(model: Any) -> float:
    """How far the merged layer is from the layer and its adapter, at large numbers."""
    model.lora_B.copy_(torch.randn_like(model.lora_B))
    features = 30 * torch.randn(16, 6, dtype=torch.float64)
    apart = model.layer.weight.double() + (model.lora_B.double() @ model.lora_A.double())
    model.merge_lora()
    return float((features @ (model.layer.weight.double() - apart).T).abs().max())


add = partial(pair_of_one_class, judge=Model, draw=8, long=True)
add(
    "names_of_another_norm",
    "A loader looks for the older names of a weight norm in a model that has the newer ones",
    "huggingface/transformers#31633",
    "speech",
    "serialisation[own_methods]",
    Heard,
    sound_lost,
    SOUND,
    area="loading",
    line="getattr(place, part)",
    first_run=FirstRun("26469ef1", found=True, named=False, said="serialisation[own_methods] fails, with the first line of save"),
)
add(
    "part_left_out_of_the_file",
    "The network that fuses two views is not in the file, and loading does not miss it",
    "CollaborativePerception/V2Xverse#38",
    "vision",
    "serialisation[own_methods]",
    Fused,
    views_lost,
    SCENES,
    area="loading",
    module="fusion_net",
    first_run=FirstRun(
        "26469ef1",
        found=True,
        named=True,
        said="serialisation[own_methods] fails in fusion_net.weight; a row of the twin's images was read by no convolution",
        alarms=("input_dependence[inputs]",),
    ),
)
add(
    "rows_that_are_kept_elsewhere",
    "A table whose rows a file keeps by ids is still asked for its weight where it is loaded",
    "meta-pytorch/torchrec#3037",
    "recommenders",
    "serialisation[state_dict]",
    Basket,
    rows_lost,
    BASKETS,
    area="loading",
    module="table",
    first_run=FirstRun("26469ef1", found=True, named=False, said="serialisation[state_dict] fails, without a place"),
)
add(
    "adapter_without_a_head",
    "Switching to an adapter that has no head of its own fails where another adapter has one",
    "huggingface/peft#1615",
    "text",
    "adapter_layers[disabled]",
    Switched,
    refuses_the_second,
    WORDS,
    area="adapters",
    line="head = self.heads[self.active]",
    first_run=FirstRun(
        "26469ef1",
        found=False,
        named=False,
        said="adapter_layers[disabled] warns: both fresh matrices act; no test switches to another adapter",
        alarms=("gradient_flow[reaches_every_parameter]",),
    ),
    missed="no test switches from one adapter to another",
)
add(
    "merged_in_half_precision",
    "Adapters that were trained in a wider format are merged in half precision",
    "boson-ai/higgs-audio#94",
    "speech",
    "adapter_layers[merged]",
    Adapted,
    change_by_merging,
    TABLE,
    area="adapters",
    line="change.half()",
    first_run=FirstRun("26469ef1", found=True, named=False, said="adapter_layers[merged] fails, without a place"),
    unnamed="names no place: the layer without a merge of its own differs nowhere before its weight is read",
)
