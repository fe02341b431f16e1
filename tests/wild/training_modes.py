"""Reported bugs of models that train another function than they evaluate, and of padding in training."""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import task_of, wild

VOCAB, WIDTH, PHONES = 23, 16, 6
TEXT = task_of(
    inputs={"input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB}}},
    outputs={"logits": {"axes": ["batch", "time", VOCAB], "kind": "token_scores"}},
    axes={"time": {"min": 2, "max": 12, "order": "causal"}},
)
FRAMES = task_of(
    inputs={"audio": {"axes": ["batch", "time", 5]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}}},
    outputs={"phones": {"axes": ["batch", "time", PHONES], "kind": "class_scores"}},
    axes={"time": {"min": 3, "max": 24, "padding": "right"}},
)
PADDED_TEXT = task_of(
    inputs={
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB, "pad": 0}},
        "attention_mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"tags": {"axes": ["batch", "time", PHONES], "kind": "class_scores"}, "loss": {"axes": [], "kind": "loss"}},
    axes={"time": {"min": 3, "max": 16, "padding": "right"}},
    loss="model",
)


class CoreAttention(nn.Module):
    """Causal attention with dropout of its weights; the bug sets the rate to zero when it is evaluated, and never back."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.dropout_p = wrong, 0.3

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if self.wrong:
            self.dropout_p = self.dropout_p if self.training else 0.0
        rate = self.dropout_p if self.training else 0.0
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=rate, is_causal=True)


class Decoder(nn.Module):
    """A decoder of one layer."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.words, self.three = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.core, self.head = CoreAttention(wrong), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.words(input_ids)
        return self.head(hidden + self.core(*self.three(hidden).chunk(3, -1)))


def change_by_evaluation(model: nn.Module) -> float:
    """How much an eval pass changes what the model gives in train mode under one seed."""
    ids, found = torch.randint(VOCAB, (2, 9)), []
    for _ in range(2):
        model.train()
        torch.manual_seed(1)
        found.append(model(ids))
        model.eval()
        model(ids)
    return float((found[0] - found[1]).abs().max())


wild(
    "dropout_off_for_good",
    title="Once attention was evaluated, its dropout stays at zero in training too",
    report="NVIDIA/Megatron-LM#411",
    area="train_mode",
    field="text",
    test="train_mode[after_eval]",
    setup=partial(Model, TEXT),
    buggy=partial(Decoder, True),
    sound=Decoder,
    wrong=change_by_evaluation,
    module="core",
)


class FramesNorm(nn.BatchNorm1d):
    """A batch norm over the real frames; the bug counts the padded ones."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__(width)
        self.wrong = wrong

    def forward(self, frames: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]
        if self.wrong:
            return super().forward(frames.transpose(1, 2)).transpose(1, 2)
        out = torch.zeros_like(frames)
        out[real] = super().forward(frames[real])
        return out


class Convolutions(nn.Module):
    """The convolutions of a conformer, with a norm between them."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.along = nn.Linear(5, WIDTH), nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm, self.head = FramesNorm(WIDTH, wrong), nn.Linear(WIDTH, PHONES)

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        hidden = self.enter(audio) * real[..., None]
        hidden = self.along(hidden.transpose(1, 2)).transpose(1, 2)
        return self.head(F.silu(self.norm(hidden, real)))


def change_by_padded_frames(model: nn.Module) -> float:
    """How much eight padded frames change a recording's scores in train mode."""
    audio = torch.randn(2, 9, 5)
    padded = torch.cat([audio, torch.zeros(2, 8, 5)], 1)
    lengths = torch.tensor([9, 9])
    first, second = copy.deepcopy(model).train()(audio, lengths), copy.deepcopy(model).train()(padded, lengths)
    return float((first - second[:, :9]).abs().max())


wild(
    "norm_counts_padded_frames",
    title="The statistics of the norm in a conformer's convolutions include padded frames",
    report="pytorch/audio#4205",
    area="train_mode",
    field="speech",
    test="train_mode[padding]",
    setup=partial(Model, FRAMES),
    buggy=partial(Convolutions, True),
    sound=Convolutions,
    wrong=change_by_padded_frames,
    module="norm",
)


class Experts(nn.Module):
    """A tagger with two experts, whose loss asks for an even load; the bug counts padding as load."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.gate = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, PHONES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.words(input_ids)
        shares = self.gate(hidden).softmax(-1)
        mixed = sum(shares[..., place, None] * expert(hidden).tanh() for place, expert in enumerate(self.experts))
        tags = self.head(mixed)
        counted = torch.ones_like(attention_mask) if self.wrong else attention_mask
        load = (shares * counted[..., None]).sum((0, 1)) / counted.sum()
        loss = 2 * load.square().sum()
        if labels is not None:
            loss = loss + F.cross_entropy(tags.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return {"tags": tags, "loss": loss}


def change_of_the_loss(model: nn.Module) -> float:
    """How much twenty padded tokens change the loss."""
    ids, zeros = torch.randint(1, VOCAB, (2, 7)), torch.zeros(2, 20, dtype=torch.long)
    ones = torch.ones_like(ids)
    padded = model(torch.cat([ids, zeros], 1), torch.cat([ones, zeros], 1))["loss"]
    return float((padded - model(ids, ones)["loss"]).abs())


wild(
    "balance_counts_padding",
    title="The loss that balances the load of experts counts padded tokens",
    report="huggingface/transformers#28505",
    area="train_mode",
    field="text",
    test="train_mode[padding]",
    setup=partial(Model, PADDED_TEXT),
    buggy=partial(Experts, True),
    sound=Experts,
    wrong=change_of_the_loss,
)


class FoldedLinear(nn.Linear):
    """A layer with a correction of low rank for two thirds of its outputs, folded into its weight when it is evaluated.

    The bug spreads the correction over the wrong axis as it folds it.
    """

    def __init__(self, wrong: bool) -> None:
        super().__init__(WIDTH, WIDTH)
        self.wrong, self.folded = wrong, False
        self.down, self.up = nn.Parameter(0.3 * torch.randn(4, WIDTH)), nn.Parameter(0.3 * torch.randn(WIDTH, 4))

    def correction(self) -> Tensor:
        return (self.up @ self.down).T if self.wrong else self.up @ self.down

    @torch.no_grad()
    def train(self, mode: bool = True) -> FoldedLinear:
        if mode == self.folded:
            self.weight += -self.correction() if mode else self.correction()
            self.folded = not mode
        super().train(mode)
        return self

    def forward(self, hidden: Tensor) -> Tensor:
        out = super().forward(hidden)
        return out if self.folded else out + hidden @ self.down.T @ self.up.T


class Folded(nn.Module):
    """A decoder whose layer is folded when it is evaluated."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(VOCAB, WIDTH), FoldedLinear(wrong), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.words(input_ids)
        return self.head(hidden + self.layer(hidden.cumsum(1)).tanh())


def change_by_mode(model: nn.Module) -> float:
    """How far train and eval mode are apart in a model without dropout and norms."""
    ids = torch.randint(VOCAB, (2, 9))
    return float((model.train()(ids) - model.eval()(ids)).abs().max())


wild(
    "folded_without_transpose",
    title="In eval mode the low-rank weights are folded in without the transpose that they need",
    report="Lightning-AI/lit-llama#185",
    area="train_mode",
    field="text",
    test="adapter_layers[merged]",
    setup=partial(Model, TEXT),
    buggy=partial(Folded, True),
    sound=Folded,
    wrong=change_by_mode,
    module="layer",
)
