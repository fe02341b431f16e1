"""Reported bugs of adapters beside norms, on rows of a table, on parts of a joint projection, and of several at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import task_of, wild

VOCAB, WIDTH, CLASSES = 23, 16, 5
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
WORDS = task_of(task_type="masked_lm", vocab_size=VOCAB, max_seq_len=10)
NOISY = task_of(
    inputs={"noisy": {"axes": ["batch", 6]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", 6], "kind": "values"}},
)


@torch.no_grad()
def acting(model: nn.Module) -> nn.Module:
    """The model in eval mode, with trained weights that are not zero."""
    for parameter in model.train().parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


@torch.no_grad()
def change_by(action: str, model: nn.Module, *inputs: Tensor) -> float:
    """How much a method of the adapter's changes the answers; infinite where it raises."""
    before = acting(model)(*inputs)
    try:
        getattr(model.layer, action)()
    except RuntimeError:
        return float("inf")
    return float((model(*inputs) - before).abs().max())


def ids() -> Tensor:
    """Rows of words."""
    return torch.randint(0, VOCAB, (2, 7))


class Normed(nn.Module):
    """A frozen body with a batch norm, and a trained adapter; the bug saves the adapter without what the norm learnt."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.body, self.norm = wrong, nn.Conv2d(3, WIDTH, 3, 2), nn.BatchNorm2d(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(3, WIDTH) / 4), nn.Parameter(torch.zeros(CLASSES, 3))
        self.merged = False

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.norm(self.body(pixel_values)).tanh().mean((2, 3))
        return self.head(x) if self.merged else self.head(x) + x @ self.lora_A.T @ self.lora_B.T

    def merge_lora(self) -> None:
        self.head.weight.data += (self.lora_B @ self.lora_A).data
        self.merged = True

    def unmerge_lora(self) -> None:
        self.head.weight.data -= (self.lora_B @ self.lora_A).data
        self.merged = False

    def lora_state_dict(self) -> dict[str, Tensor]:
        kept = ("lora_",) if self.wrong else ("lora_", "norm.running")
        return {name: value for name, value in self.state_dict().items() if name.startswith(kept)}


@torch.no_grad()
def answer_after_saving(model: nn.Module) -> float:
    """How far a trained adapter and the one that was loaded over the same base are apart."""
    torch.manual_seed(3)
    model, images = Normed(model.wrong), torch.randn(4, 3, 8, 8)
    torch.manual_seed(3)
    other = Normed(model.wrong)
    acting(model).train()(5 + images)
    other.load_state_dict(model.lora_state_dict(), strict=False)
    return float((model.eval()(images) - other.eval()(images)).abs().max())


class Ranked(nn.Module):
    """An adapter whose strength is alpha by rank; the bug merges it as if that were one."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.merged, self.base = wrong, False, nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(4, WIDTH) / 4), nn.Parameter(torch.zeros(WIDTH, 4))
        self.alpha, self.rank = 16, 4

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) if self.merged else self.base(x) + self.alpha / self.rank * (x @ self.lora_A.T @ self.lora_B.T)

    def merge_lora_weights(self) -> None:
        self.base.weight.data += (1.0 if self.wrong else self.alpha / self.rank) * (self.lora_B @ self.lora_A).data
        self.merged = True

    def unmerge_lora_weights(self) -> None:
        self.base.weight.data -= (1.0 if self.wrong else self.alpha / self.rank) * (self.lora_B @ self.lora_A).data
        self.merged = False


class Denoiser(nn.Module):
    """A denoiser with such an adapter."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.stem, self.steps, self.layer, self.head = (
            nn.Linear(6, WIDTH),
            nn.Embedding(20, WIDTH),
            Ranked(wrong),
            nn.Linear(WIDTH, 6),
        )

    def forward(self, noisy: Tensor, step: Tensor) -> Tensor:
        return self.head(self.layer((self.stem(noisy) + self.steps(step)).tanh()).tanh())


class TrainedRows(nn.Module):
    """A frozen table of which some rows are trained; the bug restores them from where training began, which was not the table."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.merged, self.is_on = wrong, False, True
        self.base = nn.Embedding(VOCAB, WIDTH).requires_grad_(False)
        self.register_buffer("rows", torch.tensor([1, 4, 9]))
        self.delta = nn.Parameter(torch.randn(3, WIDTH))
        self.register_buffer("before", self.delta.detach().clone() if wrong else self.base.weight[self.rows].clone())

    def forward(self, ids: Tensor) -> Tensor:
        weight = self.base.weight
        return F.embedding(ids, weight.index_copy(0, self.rows, self.delta) if self.is_on and not self.merged else weight)

    def merge(self) -> None:
        self.base.weight.data[self.rows] = self.delta.data
        self.merged = True

    def unmerge(self) -> None:
        self.base.weight.data[self.rows] = self.before
        self.merged = False

    def disable_adapters(self) -> None:
        self.is_on = False

    def enable_adapters(self) -> None:
        self.is_on = True


class Tokens(nn.Module):
    """A model of words around a table."""

    def __init__(self, table: Callable[[bool], nn.Module], wrong: bool = False) -> None:
        super().__init__()
        self.layer, self.norm, self.head = table(wrong), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.layer(input_ids)
        return self.head(self.norm(x + x.mean(1, keepdim=True)))


@torch.no_grad()
def base_after_merging_and_unmerging(model: nn.Module) -> float:
    """How much a merge and an unmerge change what the model is without its adapter."""
    words = torch.tensor([[1, 4, 9, 2]])
    model.layer.disable_adapters()
    before = acting(model)(words)
    model.layer.merge()
    model.layer.unmerge()
    return float((model(words) - before).abs().max())


class TrainedScores(nn.Module):
    """Scores of words, of which some rows are trained; the bug forgets the bias until they are merged."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.merged, self.base = wrong, False, nn.Linear(WIDTH, VOCAB).requires_grad_(False)
        self.register_buffer("rows", torch.tensor([1, 4, 9]))
        self.delta, self.kept = nn.Parameter(self.base.weight[self.rows].detach().clone()), self.base.weight[self.rows].clone()

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.base(x)
        return F.linear(x, self.base.weight.index_copy(0, self.rows, self.delta), None if self.wrong else self.base.bias)

    def merge(self) -> None:
        self.kept = self.base.weight[self.rows].detach().clone()
        self.base.weight.data[self.rows] = self.delta.data
        self.merged = True

    def unmerge(self) -> None:
        self.base.weight.data[self.rows] = self.kept.to(self.base.weight)
        self.merged = False


class Scored(nn.Module):
    """A model of words that ends in such scores."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(VOCAB, WIDTH), TrainedScores(wrong)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.layer((x + x.mean(1, keepdim=True)).tanh())


class JointProjection(nn.Linear):
    """Queries, keys and values of one projection, with adapters on the first and the last; the bug pads the change along another axis."""

    def __init__(self, wrong: bool) -> None:
        super().__init__(WIDTH, 3 * WIDTH)
        self.requires_grad_(False)
        self.wrong, self.merged = wrong, False
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(4, WIDTH) / 4), nn.Parameter(torch.zeros(2 * WIDTH, 2))
        self.register_buffer("adapted", torch.cat([torch.arange(WIDTH), torch.arange(2 * WIDTH, 3 * WIDTH)]))

    def change(self) -> Tensor:
        halves = [up @ down for up, down in zip(self.lora_B.chunk(2), self.lora_A.chunk(2), strict=True)]
        return torch.zeros_like(self.weight).index_copy(0, self.adapted, torch.cat(halves))

    def train(self, mode: bool = True) -> Any:
        if mode == self.merged:
            change = self.change().data
            if self.wrong:
                change = change.reshape(3, WIDTH, WIDTH).transpose(1, 2).reshape(3 * WIDTH, WIDTH)
            self.weight.data += -change if mode else change
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.merged else F.linear(x, self.weight + self.change(), self.bias)


class Attending(nn.Module):
    """A model of words that attends by such a projection."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(VOCAB, WIDTH), JointProjection(wrong), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.head(x + F.scaled_dot_product_attention(*self.layer(x).chunk(3, -1)))


@torch.no_grad()
def eval_against_train(model: nn.Module) -> float:
    """How far eval mode and train mode are apart."""
    words = ids()
    return float((acting(model)(words) - model.train()(words)).abs().max())


class TwoAtOnce(nn.Module):
    """Two adapters with lengths (DoRA) on one layer; the bug takes the length of the second one from a weight that holds the first."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.merged, self.base = wrong, False, nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, 3, WIDTH) / 4), nn.Parameter(torch.zeros(2, WIDTH, 3))
        self.lora_magnitude = nn.Parameter(self.base.weight.norm(dim=1).detach() * (0.5 + torch.rand(2, WIDTH)))

    def change(self, number: int, weight: Tensor) -> Tensor:
        moved = weight + self.lora_B[number] @ self.lora_A[number]
        return moved * (self.lora_magnitude[number] / moved.norm(dim=1))[:, None] - weight

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.base(x)
        weight = self.base.weight
        return F.linear(x, weight + self.change(0, weight) + self.change(1, weight), self.base.bias)

    def merge(self) -> None:
        self.kept = first = self.base.weight.detach().clone()
        for number in range(2):
            self.base.weight.data += self.change(number, self.base.weight if self.wrong else first).data
        self.merged = True

    def unmerge(self) -> None:
        self.base.weight.data = self.kept
        self.merged = False


class Stacked(nn.Module):
    """A model of words with such a layer."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(VOCAB, WIDTH), TwoAtOnce(wrong), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.head(self.layer((x + x.mean(1, keepdim=True)).tanh()).tanh())


def pair(name: str, build: Callable[..., nn.Module], task: Any, **facts: Any) -> None:
    """A model class whose argument ``wrong`` plants the bug."""
    found = {"area": "adapters", "setup": partial(Model, task), "buggy": partial(build, wrong=True), "sound": build}
    wild(name, draw=1, **{**found, **facts})


pair(
    "statistics_of_a_norm_not_saved",
    Normed,
    IMAGES,
    title="Training moves the running statistics of the frozen model, which are not saved with the adapter",
    report="huggingface/peft#1734",
    field="vision",
    test="adapter_layers[saved]",
    wrong=answer_after_saving,
    module="norm",
)
pair(
    "merged_without_alpha_by_rank",
    Denoiser,
    NOISY,
    title="Adapters are merged without their strength, alpha divided by rank",
    report="hao-ai-lab/FastVideo#870",
    field="diffusion",
    test="adapter_layers[merged]",
    wrong=lambda model: change_by("merge_lora_weights", model, torch.randn(3, 6), torch.randint(0, 20, (3,))),
    module="layer",
)
pair(
    "rows_restored_from_elsewhere",
    partial(Tokens, TrainedRows),
    WORDS,
    title="Unmerging restores the rows of a table from the start of training, which was random, and not from the table",
    report="huggingface/peft#3650",
    field="text",
    test="adapter_layers[merged]",
    wrong=base_after_merging_and_unmerging,
    module="layer",
)
pair(
    "bias_forgotten_until_merged",
    Scored,
    WORDS,
    title="A head with trained rows leaves out its bias until they are merged",
    report="huggingface/peft#3649",
    field="text",
    test="adapter_layers[merged]",
    wrong=lambda model: change_by("merge", model, ids()),
    module="layer",
)
pair(
    "joint_projection_merged_transposed",
    Attending,
    WORDS,
    title="The change of a joint projection is right in one mode only: merged by eval() it is transposed",
    report="microsoft/LoRA#103",
    field="text",
    test="adapter_layers[merged]",
    wrong=eval_against_train,
    module="layer",
)
pair(
    "second_length_of_a_merged_weight",
    Stacked,
    WORDS,
    title="Merging a second adapter measures a weight that holds the first one already",
    report="huggingface/peft#3609",
    field="text",
    test="adapter_layers[merged]",
    wrong=lambda model: change_by("merge", model, ids()),
    module="layer",
)
