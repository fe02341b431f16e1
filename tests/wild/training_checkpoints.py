"""Reported bugs of blocks that are computed again in the backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.planted_bugs.setups import Model

from .register import task_of, wild

NOISY = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", 3, 8, 8]}},
)
CLASSES, VOCAB, WIDTH = 5, 23, 16
PATCHES = task_of(
    inputs={
        "image": {"axes": ["batch", 3, 8, 8]},
        "hidden": {"axes": ["batch", 4], "values": {"one_of": [0, 1]}},
    },
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
)
TAGS = task_of(
    inputs={"input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB}}},
    outputs={"tags": {"axes": ["batch", "time", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 12}},
)


def gradients(model: nn.Module, batch: tuple[Tensor, ...], checkpointed: bool) -> dict[str, Tensor]:
    """The gradients of one step in train mode; a parameter without one has zeros."""
    model.train().zero_grad()
    for module in model.modules():
        if hasattr(module, "use_checkpoint"):
            module.use_checkpoint = checkpointed
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(*batch).square().mean().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def change_by_checkpointing(draw: Callable[[], tuple[Tensor, ...]], model: nn.Module) -> float:
    """How much checkpointing changes a gradient, relative to the largest."""
    batch = draw()
    plain, checked = (gradients(model, batch, each) for each in (False, True))
    largest = max(float(value.abs().max()) for value in plain.values())
    return max(float((plain[name] - checked[name]).abs().max()) for name in plain) / largest


class Recomputed(torch.autograd.Function):
    """Runs a block without a graph, and once more with one when its gradient is asked for; in the state of the generator then or now."""

    @staticmethod
    def forward(ctx: Any, block: nn.Module, keeps: bool, hidden: Tensor, *parameters: Tensor) -> Tensor:
        ctx.block, ctx.state = block, torch.get_rng_state() if keeps else None
        ctx.save_for_backward(hidden)
        with torch.no_grad():
            return block(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        hidden = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            if ctx.state is not None:
                torch.set_rng_state(ctx.state)
            again = ctx.block(hidden)
        found = torch.autograd.grad(again, [hidden, *ctx.block.parameters()], grads[0])
        return None, None, *found


class DenoisingBlock(nn.Module):
    """A residual convolution with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.drop = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.3)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.drop(F.silu(self.mix(hidden)))


class Denoiser(nn.Module):
    """Predicts noise; the bug draws other masks of dropout when its blocks are computed again."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.use_checkpoint = wrong, False
        self.steps, self.enter, self.leave = nn.Embedding(20, 8), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.blocks = nn.ModuleList(DenoisingBlock() for _ in range(2))

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        hidden = self.enter(image) + self.steps(step)[:, :, None, None]
        for block in self.blocks:
            kept = not self.wrong
            hidden = Recomputed.apply(block, kept, hidden, *block.parameters()) if self.use_checkpoint else block(hidden)
        return self.leave(hidden)


wild(
    "checkpoint_draws_other_masks",
    title="A checkpoint of its own computes a block again without putting the random state back, so that gradients belong to other masks",
    report="openai/guided-diffusion#167",
    area="train_mode",
    field="diffusion",
    test="train_mode[checkpointing]",
    setup=partial(Model, NOISY),
    buggy=partial(Denoiser, True),
    sound=Denoiser,
    wrong=partial(change_by_checkpointing, lambda: (torch.randn(3, 3, 8, 8), torch.randint(20, (3,)))),
    module="blocks",
)


class PatchBlock(nn.Module):
    """Attention between patches, of which some are hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, patches: Tensor, hidden: Tensor | None = None) -> Tensor:
        return patches + self.attention(patches, patches, patches, key_padding_mask=hidden, need_weights=False)[0]


class MaskedPatches(nn.Module):
    """A transformer over four patches and a class token; the bug leaves the mask out where blocks are checkpointed."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.grad_checkpointing = wrong, False
        self.cut, self.token = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(0.1 * torch.randn(1, 5, WIDTH))
        self.blocks, self.head = nn.ModuleList(PatchBlock() for _ in range(2)), nn.Linear(WIDTH, CLASSES)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        patches = self.cut(image).flatten(2).transpose(1, 2)
        patches = torch.cat([self.token.expand(len(image), -1, -1), patches], 1) + self.places
        mask = F.pad(hidden.bool(), (1, 0))
        for block in self.blocks:
            if not self.grad_checkpointing:
                patches = block(patches, mask)
            elif self.wrong:
                patches = checkpoint(block, patches, use_reentrant=False)
            else:
                patches = checkpoint(block, patches, mask, use_reentrant=False)
        return self.head(patches[:, 0])


def change_of_masked_scores(model: nn.Module) -> float:
    """How much checkpointing changes the scores of an image whose second half is hidden."""
    batch = torch.randn(2, 3, 8, 8), torch.tensor([[0, 0, 1, 1]] * 2)
    plain = model(*batch)
    model.set_grad_checkpointing()
    return float((model(*batch) - plain).detach().abs().max())


wild(
    "checkpoint_without_the_mask",
    title="A vision transformer leaves its attention mask out where its blocks are checkpointed",
    report="lightly-ai/lightly#2049",
    area="train_mode",
    field="vision",
    test="train_mode[checkpointing]",
    setup=partial(Model, PATCHES),
    buggy=partial(MaskedPatches, True),
    sound=MaskedPatches,
    wrong=change_of_masked_scores,
)


class FrozenBeginning(nn.Module):
    """A tagger whose embeddings are frozen; the bug checkpoints in a way that needs an input with a gradient."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.use_checkpoint = wrong, False
        self.words = nn.Embedding(VOCAB, WIDTH).requires_grad_(False)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.words(input_ids)
        for layer in self.layers:
            hidden = checkpoint(layer, hidden, use_reentrant=self.wrong) if self.use_checkpoint else layer(hidden)
        return self.head(hidden)


wild(
    "checkpoint_behind_frozen_embeddings",
    title="With frozen embeddings checkpointed layers receive no gradient",
    report="huggingface/transformers#21381",
    area="train_mode",
    field="text",
    test="train_mode[checkpointing]",
    setup=partial(Model, TAGS),
    buggy=partial(FrozenBeginning, True),
    sound=FrozenBeginning,
    wrong=partial(change_by_checkpointing, lambda: (torch.randint(VOCAB, (3, 7)),)),
    module="layers",
)
