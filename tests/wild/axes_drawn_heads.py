"""Reported bugs of masks and heads: the fifth draw."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, HEADS = 19, 12, 2
PADDED = {
    "inputs": {
        "words": {"axes": ["batch", "time"], "values": {"ids": WORDS, "pad": 0}},
        "mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    "outputs": {"scores": {"axes": ["batch", 3], "kind": "class_scores"}},
    "axes": {"time": {"min": 2, "max": 10, "padding": "right"}},
}
TEXT = task_of(**PADDED)
IDS = task_of(
    inputs={"words": PADDED["inputs"]["words"]},  # type: ignore[index]
    outputs=PADDED["outputs"],
    axes=PADDED["axes"],
)
MOVES = task_of(
    inputs={
        "seen": {"axes": ["batch", "time", 5]},
        "mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"moves": {"axes": ["batch", "time", 3], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 10, "padding": "right"}},
)
IMAGES = task_of(task_type="image_classification", image_size=[3, 16, 16], num_classes=4)


class Attention(nn.Module):
    """Attention of several heads to what a mask leaves; the bugs are of its softmax, of its mask and of its heads."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.leave = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.enter(x).chunk(3, -1))
        scores = query @ key.transpose(2, 3) / 6**0.5
        if real is not None:
            hidden = scores.masked_fill(~real[:, None, None, :], -1e4)
            scores = scores if self.wrong == "mask" else hidden
        weights = scores.softmax(2 if self.wrong == "softmax" else -1)
        heads = (weights @ value).transpose(1, 2)
        return self.leave(heads.view(*x.shape) if self.wrong == "view" else heads.flatten(2))


class Reader(nn.Module):
    """A text classifier; one bug takes each softmax along queries, one makes its own mask of ones."""

    def __init__(self, wrong: str | bool = "", own: bool = False) -> None:
        super().__init__()
        self.own, self.ones = own, wrong is True and own
        self.words, self.attention = nn.Embedding(WORDS, WIDTH), Attention("softmax" if wrong is True and not own else "")
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, words: Tensor, mask: Tensor | None = None) -> Tensor:
        real = words != 0 if self.own else mask.bool() if mask is not None else torch.ones_like(words, dtype=torch.bool)
        real = torch.ones_like(real) if self.ones else real
        x = self.words(words)
        x = (x + self.attention(x, real)).tanh() * real[..., None]
        return self.head(x.sum(1) / real.sum(1, keepdim=True).clamp(min=1))


@torch.no_grad()
def change_by_padding(model: nn.Module) -> float:
    """How much the scores of a text change with padding behind it."""
    words = torch.randint(1, WORDS, (2, 5))
    longer = torch.cat([words, torch.zeros(2, 3, dtype=torch.long)], 1)
    if model.own:
        return float((model(longer) - model(words)).abs().max())
    return float((model(longer, (longer != 0).long()) - model(words, torch.ones_like(words))).abs().max())


class Player(nn.Module):
    """Moves of a player that looks at what was seen; the bug fills the mask into a copy that nobody reads."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.attention, self.head = nn.Linear(5, WIDTH), Attention("mask" if wrong else ""), nn.Linear(WIDTH, 3)

    def forward(self, seen: Tensor, mask: Tensor) -> Tensor:
        x = self.enter(seen)
        return self.head((x + self.attention(x, mask.bool())).tanh())


@torch.no_grad()
def change_by_what_is_hidden(model: nn.Module) -> float:
    """How much moves change with what the mask hides."""
    seen, mask = torch.randn(2, 6, 5), torch.ones(2, 6, dtype=torch.long)
    mask[:, 4:] = 0
    other = seen.clone()
    other[:, 4:] += 3
    return float((model(seen, mask) - model(other, mask))[:, :4].abs().max())


class Pixtral(nn.Module):
    """Attention of patches; the bug views heads together that do not lie side by side in memory."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, WIDTH, 4, 4), Attention("view" if wrong else "")
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x)).mean(1))


def view_refused(model: nn.Module) -> float:
    """Whether an image is refused."""
    try:
        model(torch.randn(2, 3, 16, 16))
    except RuntimeError:
        return 1.0
    return 0.0


add = partial(pair_of_one_class, judge=Model, draw=5, long=True)
add(
    "mask_of_ones",
    "The mask is made of ones, so that padding is read",
    "yg211/bert_nli#3",
    "text",
    "padding_ignored",
    partial(Reader, own=True),
    change_by_padding,
    IDS,
    area="contents",
    line="torch.ones_like(real) if self.ones",
    first_run=FirstRun(
        "b9f3707", found=True, named=False, said="padding_ignored fails in attention, which is given the mask of ones"
    ),
    unnamed="names the attention that is given the mask",
)
add(
    "softmax_over_the_queries",
    "The softmax is along dim 2, which are the queries where heads have an axis",
    "FudanNLP/fastNLP#254",
    "text",
    "padding_ignored",
    Reader,
    change_by_padding,
    TEXT,
    area="axes",
    line="scores.softmax(2",
    first_run=FirstRun(
        "b9f3707", found=True, named=True, said="padding_ignored fails in attention, with the line of the softmax"
    ),
)
add(
    "heads_viewed_where_they_lie",
    "view after transpose, of what does not lie side by side in memory",
    "vllm-project/vllm#11978",
    "vision",
    "shape_contract",
    Pixtral,
    view_refused,
    IMAGES,
    area="axes",
    line="heads.view(*x.shape)",
    first_run=FirstRun("b9f3707", found=True, named=True, said="shape_contract fails in attention, with the line of the view"),
)
add(
    "mask_filled_into_a_copy",
    "masked_fill is called without taking what it returns, so that nothing is masked",
    "opendilab/DI-engine#333",
    "policies",
    "padding_ignored",
    Player,
    change_by_what_is_hidden,
    MOVES,
    area="axes",
    module="attention",
    first_run=FirstRun("b9f3707", found=True, named=True, said="padding_ignored fails in attention"),
)
