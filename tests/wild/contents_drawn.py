"""Reported bugs of contents that are rare: real elements with the id of padding, nothing at all, no example of a class."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model
from tests.planted_bugs.tier3.training import Training

from .register import FirstRun, pair_of_one_class, task_of

ITEMS, LENGTH, WIDTH, HORIZON, ANCHORS, CLASSES = 23, 10, 16, 3, 7, 4
BASKETS = task_of(
    inputs={
        "items": {"axes": ["batch", "time"], "values": {"ids": ITEMS, "pad": 0}},
        "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    outputs={"next": {"axes": ["batch", ITEMS], "kind": "class_scores"}},
    axes={"time": {"max": LENGTH, "padding": "right"}},
)
SERIES = task_of(
    inputs={"series": {"axes": ["batch", "time"]}, "known": {"axes": ["batch", "time"], "values": {"mask_of": "time"}}},
    outputs={"forecast": {"axes": ["batch", HORIZON]}},
    axes={"time": {"max": LENGTH, "padding": "left", "empty": True}},
)
MESH = task_of(
    inputs={
        "nodes": {"axes": ["nodes", 4]},
        "edges": {"axes": [2, "links"], "values": {"index_of": "nodes"}},
    },
    outputs={"scores": {"axes": ["nodes", CLASSES], "kind": "class_scores"}},
    axes={"nodes": {"min": 2, "max": 9, "order": "none"}, "links": {"min": 1, "max": 12, "order": "none"}},
)
TEXT = task_of(task_type="causal_lm", vocab_size=ITEMS, max_seq_len=LENGTH, pad_token_id=0)
BOXES = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"boxes": {"axes": ["batch", ANCHORS, CLASSES], "kind": "class_scores"}},
)


class Basket(nn.Module):
    """Reads a history of items; the bug takes item 0, which is a real one, for the filling of short histories."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.items, self.head = nn.Embedding(ITEMS, WIDTH), nn.Linear(WIDTH, ITEMS)
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        x = self.items(items)
        real = items != 0 if self.wrong else torch.arange(items.shape[1], device=items.device) < lengths[:, None]
        weight = self.score(x)[..., 0].exp() * real
        return self.head((x * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-6))


def change_by_real_zero(model: Any) -> float:
    """Whether a history that begins with item 0 is read as the same history without it."""
    items, lengths = torch.randint(1, ITEMS, (1, 6)), torch.tensor([6])
    with torch.no_grad():
        without = model(items[:, 1:], lengths - 1)
        items[0, 0] = 0
        return float((model(items, lengths) - without).abs().max() < 1e-5)


class MedianScaled(nn.Module):
    """Scales a window by its median; the bug has none for a window without a known value."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.GRU(1, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, HORIZON)

    def forward(self, series: Tensor, known: Tensor) -> Tensor:
        centre = series.masked_fill(known == 0, float("nan")).nanmedian(1, keepdim=True).values
        if not self.wrong:
            centre = centre.nan_to_num(0.0)
        scaled = torch.where(known == 0, torch.zeros_like(series), series - centre)
        state = series.new_zeros(len(series), WIDTH)
        cell = self.net
        for step in range(series.shape[1]):
            moved = cell(scaled[:, step, None, None], state[None].contiguous())[1][0]
            state = torch.where(known[:, step, None] == 0, state, moved)
        return self.head(state) + centre


def undefined_without_values(model: nn.Module) -> float:
    """Whether the forecast of a series without any known value is undefined."""
    known = torch.ones(2, 6, dtype=torch.long)
    known[1] = 0
    return float(not torch.isfinite(model(torch.randn(2, 6), known)).all())


class EdgeLayer(nn.Module):
    """The largest message of a node's neighbours; the bug leaves a node without neighbours at the start of the search."""

    def __init__(self, wrong: bool, into: int, out: int) -> None:
        super().__init__()
        self.wrong, self.message = wrong, nn.Sequential(nn.Linear(2 * into, out), nn.ReLU(), nn.Linear(out, out))

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        sent = self.message(torch.cat([nodes[target], nodes[source] - nodes[target]], 1))
        largest = sent.new_full((len(nodes), sent.shape[1]), torch.finfo(sent.dtype).min)
        largest = largest.scatter_reduce(0, target[:, None].expand_as(sent), sent, "amax")
        if not self.wrong:
            reached = torch.zeros(len(nodes), dtype=torch.bool, device=nodes.device).index_fill(0, target, True)
            largest = largest * reached[:, None]
        return largest


class Mesh(nn.Module):
    """Two such layers."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.first, self.second = EdgeLayer(wrong, 4, 8), EdgeLayer(wrong, 8, 8)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        x = self.first(nodes, edges)
        return self.head(torch.cat([nodes, self.second(x, edges)], 1))


def size_without_neighbours(model: nn.Module) -> float:
    """How far the scores of a node that no edge reaches are above usual scores, undefined ones included."""
    with torch.no_grad():
        scores = model(torch.randn(3, 4), torch.tensor([[0, 1], [1, 0]]))[2]
    return max(0.0, float(scores.nan_to_num(nan=1e9).abs().max()) - 100)


class Writer(lightning.LightningModule):
    """A causal language model; the bug takes every token with the id of padding out of the loss, the real end of a text too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.eos_token_id = wrong, 0
        self.tokens, self.net, self.head = (
            nn.Embedding(ITEMS, WIDTH),
            nn.GRU(WIDTH, WIDTH, batch_first=True),
            nn.Linear(WIDTH, ITEMS),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.net(self.tokens(input_ids))[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        labels = ids.masked_fill(ids == 0 if self.wrong else mask == 0, -100)
        scores = self(ids, mask)[:, :-1]
        return F.cross_entropy(scores.flatten(0, 1), labels[:, 1:].flatten())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def untaught_ends(model: Any) -> float:
    """How far the gradient of the score of the end of a text is from what it is when all tokens are taught."""
    ids = torch.randint(1, ITEMS, (2, 8))
    ids[:, -1] = 0
    model.training_step({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 0).backward()
    with torch.no_grad():
        share = model(ids)[:, :-1].softmax(-1)[..., 0]
    return float((model.head.bias.grad[0] - (share.sum() - 2) / 14).abs())


class Detector(lightning.LightningModule):
    """Scores of boxes, of which class 0 is background; the bug divides by the number of boxes that are not."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, ANCHORS * CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image).view(len(image), ANCHORS, CLASSES)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        labels = batch["labels"]
        loss = F.cross_entropy(self(batch["image"]).flatten(0, 1), labels.flatten(), reduction="sum")
        positive = (labels > 0).sum()
        return loss / (positive if self.wrong else positive.clamp(min=1))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def undefined_without_boxes(model: Any) -> float:
    """Whether the loss of images without a box is undefined."""
    batch = {"image": torch.randn(2, 3, 8, 8), "labels": torch.zeros(2, ANCHORS, dtype=torch.long)}
    return float(not torch.isfinite(model.training_step(batch, 0)))


add = partial(pair_of_one_class, area="contents", judge=Training, draw=2)
add(
    "item_zero_taken_for_filling",
    "Short histories are filled with 0, which is also the id of a film, so that the film is never read",
    "rdevooght/sequence-based-recommendations#18",
    "recommenders",
    "rare_contents[padding_id]",
    Basket,
    change_by_real_zero,
    BASKETS,
    judge=Model,
    status=Status.WARN,
    first_run=FirstRun(
        "d13d60a", False, False, "not asked beside lengths; `padding_ignored` fails, as the filling is not masked by them"
    ),
)
add(
    "median_of_no_values",
    "A window without any known value has no median, and its forecast is undefined",
    "Nixtla/neuralforecast#425",
    "forecasting",
    "finite_output[fully_padded_row]",
    MedianScaled,
    undefined_without_values,
    SERIES,
    judge=Model,
    or_tests=("finite_output[typical]", "finite_output[extremes]"),
    module="(model)",
    first_run=FirstRun("d13d60a", True, True, "the forward of the model itself"),
)
add(
    "maximum_over_no_neighbours",
    "A node without neighbours keeps the value at which the search for the largest message begins",
    "pyg-team/pytorch_geometric#1129",
    "graphs",
    "finite_output[typical]",
    Mesh,
    size_without_neighbours,
    MESH,
    judge=Model,
    or_tests=("finite_output[extremes]",),
    module="first",
    unnamed="the first to be infinite is named, not the one whose largest finite number makes it so",
    first_run=FirstRun("d13d60a", True, False, "`head`, the first to be infinite; `first` gives the largest finite number"),
)
add(
    "end_of_text_left_out_as_padding",
    "The end of a text has the id of padding and is left out of the loss, so that a model never learns to stop",
    "ibm-granite/granite-3.1-language-models#2",
    "text",
    "training_loss[targets]",
    Writer,
    untaught_ends,
    TEXT,
    or_tests=("training_loss[ignored_labels]", "training_loss[end_of_text]"),
    line="return F.cross_entropy(",
    first_run=FirstRun("d13d60a", False, False, "no batch has a real token with the id of padding"),
)
add(
    "divided_by_boxes_that_are_not_there",
    "The loss of a detector is divided by the number of matched boxes, of which an image may have none",
    "kuangliu/torchcv#35",
    "vision",
    "training_loss[one_class]",
    Detector,
    undefined_without_boxes,
    BOXES,
    line="return loss /",
    first_run=FirstRun("d13d60a", True, False, "`Detector.training_step`, without a line", ("accumulation",)),
)
