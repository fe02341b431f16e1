"""Reported bugs of rows, nodes and columns that are mixed: the eighth draw."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES, NODES, COLUMNS, PAST, NEXT = 16, 4, 6, 6, 12, 3
POINTS = task_of(
    inputs={"points": {"axes": ["batch", NODES, 3]}}, outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}}
)
MARKED = task_of(
    inputs={
        "numbers": {"axes": ["batch", "columns"]},
        "known": {"axes": ["batch", "columns"], "values": {"mask_of": "columns"}},
    },
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"columns": {"min": COLUMNS, "max": COLUMNS, "padding": "anywhere"}},
)
HISTORIES = task_of(
    inputs={
        "history": {"axes": ["batch", "time"]},
        "known": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"next": {"axes": ["batch", NEXT], "kind": "values"}},
    axes={"time": {"min": 3, "max": PAST, "padding": "left"}},
)


class GraphNorm(nn.Module):
    """Each feature of a graph is normalised over its nodes; the bug does so over the nodes of all graphs."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.axes = (0, 1) if wrong else (1,)

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(self.axes, keepdim=True)) / (x.var(self.axes, keepdim=True, unbiased=False) + 1e-5).sqrt()


class Embedded(nn.Module):
    """An embedding of a graph."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.norm, self.head = nn.Linear(3, WIDTH), GraphNorm(wrong), nn.Linear(WIDTH, CLASSES)

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.norm(self.enter(points)).relu().mean(1))


class Pooled(nn.Module):
    """A graph is read out by weights of its nodes; the bug takes their softmax over the nodes of all graphs."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.enter, self.weight = wrong, nn.Linear(3, WIDTH), nn.Linear(WIDTH, 1)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, points: Tensor) -> Tensor:
        x = self.enter(points).relu()
        scores = self.weight(x)[..., 0]
        shares = scores.flatten().softmax(0).view_as(scores) if self.wrong else scores.softmax(1)
        return self.head((shares[..., None] * x).sum(1))


@torch.no_grad()
def other_beside_others(model: nn.Module) -> float:
    """How far the answer to a graph is from that beside others."""
    points = torch.randn(4, NODES, 3)
    return float((model.eval()(points)[:1] - model(points[:1])).abs().max())


class Columns(nn.Module):
    """Puts columns in another order; the bug leaves the marks of what is known in the old one."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.order = wrong, [3, 4, 5, 0, 1, 2]
        self.enter, self.head = nn.Linear(2 * COLUMNS, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, numbers: Tensor, known: Tensor) -> Tensor:
        numbers, marks = numbers[:, self.order], known.to(numbers)
        if not self.wrong:
            marks = marks[:, self.order]
        return self.head(self.enter(torch.cat([numbers * marks, marks], 1)).relu())


@torch.no_grad()
def reads_what_is_missing(model: nn.Module) -> float:
    """How far the answer moves with a number that is marked as missing."""
    numbers, known = torch.randn(4, COLUMNS), torch.ones(4, COLUMNS, dtype=torch.long)
    known[:, 1] = 0
    changed = numbers.clone()
    changed[:, 1] += 5
    return float((model(numbers, known) - model(changed, known)).abs().max())


class Ranged(nn.Module):
    """Forecasts a series that is scaled to its range; the bug hides what is missing by infinity before it scales."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.net, self.head = wrong, nn.Linear(1, WIDTH), nn.Linear(WIDTH, NEXT)

    def forward(self, history: Tensor, known: Tensor) -> Tensor:
        real = known.bool()
        least = history.masked_fill(~real, torch.inf)
        low, high = least.amin(1, keepdim=True), history.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
        width = torch.where(high > low, high - low, torch.ones_like(low))
        scaled = ((least if self.wrong else history) - low) / width
        read = self.net(scaled[..., None]).relu() * real[..., None]
        return self.head(read.sum(1) / real.sum(1, keepdim=True).clamp(min=1)) * width + low


@torch.no_grad()
def undefined_with_gaps(model: nn.Module) -> float:
    """The share of forecasts that are no numbers where something is missing."""
    known = torch.ones(2, 8, dtype=torch.long)
    known[:, :2] = 0
    return float(model(torch.randn(2, 8), known).isnan().float().mean())


add = partial(pair_of_one_class, judge=Model, draw=8, long=True)
add(
    "norm_over_all_graphs",
    "A norm over the nodes of a graph is taken over the nodes of all graphs of the batch",
    "pyg-team/pytorch_geometric#9647",
    "graphs",
    "batch_independence[forward]",
    Embedded,
    other_beside_others,
    POINTS,
    area="state",
    module="norm",
    first_run=FirstRun("26469ef1", found=True, named=True, said="batch_independence[forward] fails in norm"),
)
add(
    "softmax_over_all_graphs",
    "The weights by which a graph is read out are a softmax over the nodes of all graphs",
    "danielegrattarola/spektral#302",
    "graphs",
    "batch_independence[forward]",
    Pooled,
    other_beside_others,
    POINTS,
    area="contents",
    line="scores.flatten().softmax(0)",
    first_run=FirstRun("26469ef1", found=True, named=True, said="batch_independence[forward] fails, with the line"),
)
add(
    "marks_of_other_columns",
    "Columns are put in another order, and the marks of missing numbers are not",
    "PriorLabs/TabPFN#530",
    "tables",
    "padding_ignored",
    Columns,
    reads_what_is_missing,
    MARKED,
    area="axes",
    line="torch.cat([numbers * marks, marks], 1)",
    first_run=FirstRun(
        "26469ef1", found=True, named=False, said="padding_ignored fails, with the line that puts the numbers in another order"
    ),
    unnamed="names the line that puts the columns in another order and leaves the marks",
)
add(
    "least_of_hidden_values",
    "A series is scaled to its range with infinity where something is missing, which makes NaN of it",
    "Nixtla/neuralforecast#672",
    "forecasting",
    "padding_ignored",
    Ranged,
    undefined_with_gaps,
    HISTORIES,
    or_tests=("finite_output[typical]", "finite_output[extremes]"),
    area="contents",
    line="(least if self.wrong else history)",
    first_run=FirstRun(
        "26469ef1",
        found=True,
        named=False,
        said="padding_ignored fails in net, in the twin too, which read missing values as zeros",
        alarms=("padding_ignored",),
    ),
    unnamed="names the line of the mean, where infinity becomes NaN",
)
