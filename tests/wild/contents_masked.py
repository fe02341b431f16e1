"""Reported bugs of masks and of rare contents: nothing to attend to, an action that is not allowed, half precision, columns in another order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, ACTIONS = 23, 12, 4
PROMPTS = task_of(
    inputs={
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": WORDS, "pad": 0}},
        "attention_mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"logits": {"axes": ["batch", "time", WORDS], "kind": "token_scores"}},
    axes={"time": {"max": 10, "order": "causal", "padding": "left"}},
)
SCENES = task_of(
    inputs={
        "tokens": {"axes": ["batch", "time", 6]},
        "mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"action": {"axes": ["batch", 3], "kind": "values"}},
    axes={"time": {"min": 1, "max": 8, "padding": "right"}},
)
CHOICES = task_of(
    inputs={"seen": {"axes": ["batch", 6]}, "allowed": {"axes": ["batch", ACTIONS - 1], "values": {"one_of": [0, 1]}}},
    outputs={
        "actions": {"axes": ["batch", ACTIONS], "kind": "other"},
        "entropy": {"axes": ["batch"], "kind": "values"},
    },
)
GAPS = task_of(
    inputs={
        "series": {"axes": ["batch", "time"]},
        "known": {"axes": ["batch", "time"], "values": {"mask_of": "time"}, "optional": True},
    },
    outputs={"forecast": {"axes": ["batch", 3], "kind": "values"}},
    axes={"time": {"min": 2, "max": 12, "padding": "right"}},
)
COLUMNS = task_of(
    inputs={"rows": {"axes": ["batch", 3], "values": {"ids": [40, 12, 7]}}},
    outputs={"scores": {"axes": ["batch", 3], "kind": "class_scores"}},
)


class Looking(nn.Module):
    """Causal attention; in the bug a query that may look at nothing has weights of NaN."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.read, self.write = wrong, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.read(x).chunk(3, -1)
        time = x.shape[1]
        seen = torch.ones(time, time, dtype=torch.bool, device=x.device).tril() & (mask[:, None] != 0)
        if not self.wrong:
            seen = seen | torch.eye(time, dtype=torch.bool, device=x.device)
        scores = (query @ key.transpose(1, 2) / math.sqrt(WIDTH)).masked_fill(~seen, -torch.inf)
        return self.write(scores.softmax(-1) @ value)


class Reader(nn.Module):
    """A language model whose prompts are padded on the left."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.words, self.look, self.head = nn.Embedding(WORDS, WIDTH), Looking(wrong), nn.Linear(WIDTH, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        return self.head(x + self.look(x, attention_mask))


def undefined_gradients(model: nn.Module) -> float:
    """How many gradients are undefined where a prompt is padded and only its real places count."""
    ids, mask = torch.randint(1, WORDS, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    mask[1, :2] = 0
    model(ids, mask)[mask == 1].square().sum().backward()
    return float(sum(not torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None))


class Eager(nn.Module):
    """Attention over the tokens of a scene; the bug hides padding by a number that half precision does not have."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.query, self.read = wrong, nn.Parameter(torch.randn(WIDTH)), nn.Linear(6, 2 * WIDTH)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        key, value = self.read(tokens).chunk(2, -1)
        lowest = -2.3819763e38 if self.wrong else torch.finfo(key.dtype).min
        weights = (key @ self.query / math.sqrt(WIDTH)).masked_fill(mask == 0, lowest).softmax(-1)
        return (weights[..., None] * value).sum(1)


class Robot(nn.Module):
    """A policy that looks at a scene."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.eager, self.head = Eager(wrong), nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.eager(tokens, mask))


def refused_in_half(model: nn.Module) -> float:
    """Whether the model fails in half precision."""
    try:
        model.half()(torch.randn(2, 4, 6).half(), torch.ones(2, 4, dtype=torch.long))
    except RuntimeError:
        return 1.0
    return 0.0


class Chooser(nn.Module):
    """Probabilities of the actions that are allowed, and their entropy; the bug multiplies 0 by the logarithm of 0."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, ACTIONS))

    def forward(self, seen: Tensor, allowed: Tensor) -> dict[str, Tensor]:
        hidden = torch.cat([torch.zeros_like(allowed[:, :1]), 1 - allowed], 1) == 1
        logs = self.net(seen).masked_fill(hidden, -torch.inf).log_softmax(-1)
        chances = logs.exp()
        told = logs if self.wrong else logs.masked_fill(hidden, 0.0)
        return {"actions": chances, "entropy": -(chances * told).sum(-1)}


def undefined_entropies(model: nn.Module) -> float:
    """Whether the entropy is undefined where an action is not allowed."""
    with torch.no_grad():
        return float(not torch.isfinite(model(torch.randn(1, 6), torch.tensor([[1, 0, 1]]))["entropy"]).all())


class Reversible(nn.Module):
    """A forecast of a series less its mean over its deviation, brought back at the end; the bug divides by it only without a mask."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.each, self.head = nn.Sequential(nn.Linear(1, WIDTH), nn.Tanh()), nn.Linear(WIDTH, 3)

    def forward(self, series: Tensor, known: Tensor | None = None) -> Tensor:
        real = torch.ones_like(series) if known is None else known.to(series.dtype)
        count = real.sum(1, keepdim=True)
        mean = (series * real).sum(1, keepdim=True) / count
        apart = (series - mean) * real
        deviation = (apart.square().sum(1, keepdim=True) / count + 1e-5).sqrt()
        scaled = apart if self.wrong and known is not None else apart / deviation
        pooled = (self.each(scaled[..., None]) * real[..., None]).sum(1) / count
        return self.head(pooled) * deviation + mean


def change_by_a_full_mask(model: nn.Module) -> float:
    """How much a mask that hides nothing changes a forecast."""
    series = 4 * torch.randn(2, 8)
    with torch.no_grad():
        return float((model(series) - model(series, torch.ones(2, 8))).abs().max())


class Embedded(nn.Module):
    """A table of categories; the bug keeps the embeddings in the order in which the columns are named, and reads them in that of the table."""

    def __init__(self, wrong: bool = False, columns: Sequence[int] = (2, 0, 1), sizes: Sequence[int] = (7, 40, 12)) -> None:
        super().__init__()
        named = list(zip(columns, sizes, strict=True))
        self.embeddings = nn.ModuleList(nn.Embedding(size, 5) for _, size in (named if wrong else sorted(named)))
        self.head = nn.Sequential(nn.Linear(15, 12), nn.Tanh(), nn.Linear(12, 3))

    def forward(self, rows: Tensor) -> Tensor:
        found = [self.embeddings[column](rows[:, column]) for column in range(rows.shape[1])]
        return self.head(torch.cat(found, 1))


def refused_rows(model: nn.Module) -> float:
    """Whether a row with the highest category of each column is refused."""
    try:
        model(torch.tensor([[39, 11, 6]]))
    except IndexError:
        return 1.0
    return 0.0


add = partial(pair_of_one_class, area="contents", judge=Model, draw=3)
add(
    "nothing_to_look_at",
    "A query that neither a causal mask nor the padding lets look at anything is NaN, and so are the gradients of the whole batch",
    "pytorch/pytorch#41508",
    "text",
    "gradient_flow[finite]",
    Reader,
    undefined_gradients,
    PROMPTS,
    or_tests=("finite_output[typical]", "finite_output[extremes]"),
    module="look",
    first_run=FirstRun("039188d", found=False, named=False, said="nothing: no step is taken on rows that are padded on the left"),
)
add(
    "hidden_below_half_precision",
    "Padding is hidden by a number that half precision does not have",
    "huggingface/lerobot#710",
    "policies",
    "dtype_move[float16]",
    Robot,
    refused_in_half,
    SCENES,
    module="eager",
    first_run=FirstRun("039188d", found=True, named=True, said="dtype_move[float16] fails in eager, with its line"),
)
add(
    "entropy_of_no_chance",
    "The entropy of a policy multiplies a probability of 0 by its logarithm where an action is not allowed",
    "huggingface/trl#7221",
    "policies",
    "finite_output[typical]",
    Chooser,
    undefined_entropies,
    CHOICES,
    or_tests=("finite_output[extremes]", "declared_outputs"),
    module="(model)",
    first_run=FirstRun(
        "039188d",
        found=True,
        named=True,
        said="finite_output[typical] fails of `entropy`, with its line; the pair declared each action as a possible label",
        alarms=("initialisation[loss]",),
    ),
)
add(
    "not_scaled_beside_a_mask",
    "Where a mask is given a series is not divided by its deviation, by which the forecast is multiplied all the same",
    "WenjieDu/PyPOTS#453",
    "forecasting",
    "optional_inputs[full_mask]",
    Reversible,
    change_by_a_full_mask,
    GAPS,
    module="(model)",
    first_run=FirstRun("039188d", found=True, named=False, said="optional_inputs[full_mask] fails, without a module"),
)
add(
    "columns_in_another_order",
    "Embeddings stand in the order in which columns are named, and are read in that of the table",
    "dreamquark-ai/tabnet#119",
    "tables",
    "shape_contract",
    Embedded,
    refused_rows,
    COLUMNS,
    or_tests=("finite_output[typical]", "finite_output[extremes]"),
    module="embeddings",
    first_run=FirstRun("039188d", found=True, named=True, said="shape_contract fails in embeddings.0, with the line"),
)
