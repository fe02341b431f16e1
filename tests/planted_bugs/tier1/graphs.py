"""Models of graphs and sets, declared by their signature; each has a bug of a kind that people report."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .declared import SCORES, Keys, plant_declared


class MeanNeighbours(nn.Module):
    """Each node with the mean of its neighbours; the bug divides by the degree of nodes that have none."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.own, self.heard = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        total = torch.zeros_like(x).index_add_(0, target, x[source])
        degree = torch.zeros(len(x), dtype=x.dtype, device=x.device).index_add_(0, target, torch.ones_like(target, dtype=x.dtype))
        return self.own(x) + self.heard(total / (degree if self.wrong else degree.clamp(min=1))[:, None])


GRAPH: Keys = {
    "inputs": {"x": {"axes": ["nodes", 5]}, "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
    "outputs": {"scores": {"axes": ["nodes", 4], "kind": "class_scores"}},
    "axes": {"nodes": {"min": 3, "max": 10, "order": "none"}, "edges": {"min": 2, "max": 12, "order": "none"}},
}
plant_declared(
    "isolated_nodes_divided_by_zero",
    MeanNeighbours,
    GRAPH,
    "finite_output[typical]",
    also=("finite_output[extremes]", "gradient_flow[finite]"),
    source="pyg-team/pytorch_geometric, degree of isolated nodes",
)


class Pooled(nn.Module):
    """Rows of different numbers of elements, pooled where they are real; the bugs read the mask the other way round, or not."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.each, self.head = nn.Linear(3, 12), nn.Linear(12, 4)

    def forward(self, elements: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = self.each(elements).tanh()
        if mask is None:
            return self.head(hidden.sum(1) if self.wrong == "other" else hidden.mean(1))
        real = (mask == 0 if self.wrong != "inverted" else mask == 1)[..., None]
        return self.head((hidden * real).sum(1) / real.sum(1).clamp(min=1))


SET: Keys = {
    "inputs": {
        "elements": {"axes": ["batch", "count", 3]},
        "mask": {"axes": ["batch", "count"], "values": {"mask_of": "count", "inverted": True}, "dtype": "bool", "optional": True},
    },
    "outputs": SCORES,
    "axes": {"count": {"min": 1, "max": 12, "order": "none", "padding": "anywhere", "empty": True}},
}
plant_declared(
    "mask_inverted",
    Pooled,
    SET,
    "padding_ignored",
    wrong="inverted",
    also=("optional_inputs[full_mask]", "initialisation[scale]"),
    source="PyTorch documentation, key_padding_mask is true at padding",
)
plant_declared(
    "without_a_mask_summed",
    Pooled,
    SET,
    "optional_inputs[full_mask]",
    wrong="other",
    source="models whose path without a mask is never tested",
)


class MaxPooled(nn.Module):
    """A set of which only the largest features count; the bugs take their sum, leave the last element out, or read the mask too early."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.each, self.head = nn.Linear(3, 24), nn.Linear(24, 4)

    def forward(self, elements: Tensor, weights: Tensor | None = None) -> Tensor:
        hidden = self.each(elements).tanh()
        if self.wrong == "early":
            weights = weights.sigmoid()  # type: ignore[union-attr]
        elif weights is not None:
            weights = weights.sigmoid()
        if weights is not None:
            hidden = hidden * weights[:, None]
        if self.wrong == "last":
            hidden = hidden[:, :-1]
        return self.head(hidden.mean(1) if self.wrong == "sum" else hidden.amax(1))


MAXIMUM: Keys = {
    "inputs": {"elements": {"axes": ["batch", "count", 3]}, "weights": {"axes": ["batch", 24], "optional": True}},
    "outputs": SCORES,
    "axes": {"count": {"min": 2, "max": 12, "order": "none", "duplicates": True}},
}
plant_declared(
    "mean_where_repeats_are_nothing",
    MaxPooled,
    MAXIMUM,
    "duplicates",
    wrong="sum",
    source="PointNet implementations, average pooling",
)
plant_declared(
    "last_element_left_out",
    MaxPooled,
    MAXIMUM,
    "input_dependence[inputs]",
    wrong="last",
    also=("permutation", "duplicates"),
    source="off by one in slices of variable sets",
)
plant_declared(
    "optional_input_read_before_it_is_asked_for",
    MaxPooled,
    MAXIMUM,
    "optional_inputs[left_out]",
    wrong="early",
    source="AttributeError: 'NoneType' object in optional arguments of forward",
)


class Averaged(nn.Module):
    """The mean of the real elements of a row, which may have none; the bug divides by zero there."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.each, self.head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, elements: Tensor, lengths: Tensor) -> Tensor:
        real = (torch.arange(elements.shape[1], device=elements.device) < lengths[:, None])[..., None]
        count = lengths[:, None] if self.wrong else lengths[:, None].clamp(min=1)
        return self.head((self.each(elements).tanh() * real).sum(1) / count)


plant_declared(
    "empty_row_divided_by_zero",
    Averaged,
    {
        "inputs": {
            "elements": {"axes": ["batch", "count", 3]},
            "lengths": {"axes": ["batch"], "values": {"lengths_of": "count"}},
        },
        "outputs": SCORES,
        "axes": {"count": {"min": 1, "max": 12, "padding": "right", "empty": True}},
    },
    "finite_output[fully_padded_row]",
    source="recommenders, the mean of an empty history",
)


class Aggregated(nn.Module):
    """Each node with what comes along its edges; the bug lets later edges overwrite earlier ones."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.own, self.heard = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        messages = self.heard(x)[source]
        if self.wrong:
            weights = torch.linspace(1, 2, len(source), dtype=x.dtype, device=x.device)
            messages = messages * weights[:, None]
        return self.own(x) + torch.zeros(len(x), 4, dtype=x.dtype, device=x.device).index_add_(0, target, messages)


plant_declared(
    "edges_weighted_by_their_place",
    Aggregated,
    GRAPH,
    "permutation",
    line="messages = messages * weights[:, None]",
    source="aggregators that depend on the order of edges",
)


class Molecules(nn.Module):
    """A number for each graph of a batch, from the mean of its nodes; the bugs take the mean of all nodes away, or its gradient alone."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.each, self.head = nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor, edge_index: Tensor, graph: Tensor) -> Tensor:
        graphs = int(graph.max()) + 1
        x = x.index_add(0, edge_index[1], x[edge_index[0]])
        hidden = self.each(x).tanh()
        if self.wrong == "mean":
            hidden = hidden - 0.5 * hidden.mean(0)
        if self.wrong == "gradient":
            hidden = hidden + hidden.mean(0) - hidden.mean(0).detach()
        pooled = torch.zeros(graphs, 8, dtype=x.dtype, device=x.device).index_add_(0, graph, hidden)
        count = torch.zeros(graphs, dtype=x.dtype, device=x.device).index_add_(0, graph, torch.ones_like(graph, dtype=x.dtype))
        return self.head(pooled / count.clamp(min=1)[:, None]).squeeze(-1)


GRAPHS: Keys = {
    "inputs": {
        "x": {"axes": ["nodes", 5]},
        "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}},
        "graph": {"axes": ["nodes"], "values": {"index_of": "batch"}},
    },
    "outputs": {"energy": {"axes": ["batch"]}},
    "axes": {"nodes": {"min": 6, "max": 14, "order": "none"}, "edges": {"min": 2, "max": 16, "order": "none"}},
}

plant_declared(
    "centred_over_all_graphs",
    Molecules,
    GRAPHS,
    "batch_independence[forward]",
    wrong="mean",
    also=("batch_independence[gradient]",),
    source="pyg-team/pytorch_geometric, a norm of nodes without the index of graphs",
)

plant_declared(
    "gradient_over_all_graphs",
    Molecules,
    GRAPHS,
    "batch_independence[gradient]",
    wrong="gradient",
    source="a mean of all nodes that is taken away again, but for its gradient",
)


class Conditioned(nn.Module):
    """A number for each graph from its nodes and its own conditions, some graphs without nodes; the bug reads the conditions of all."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.each, self.head = nn.Linear(5, 8), nn.Linear(10, 1)

    def forward(self, x: Tensor, graph: Tensor, conditions: Tensor) -> Tensor:
        pooled = x.new_zeros(len(conditions), 8).index_add(0, graph, self.each(x).tanh())
        if self.wrong:
            conditions = conditions - conditions.mean(0)
        return self.head(torch.cat([pooled, conditions], 1)).squeeze(-1)


plant_declared(
    "conditions_of_all_graphs",
    Conditioned,
    {
        "inputs": {
            "x": {"axes": ["nodes", 5]},
            "graph": {"axes": ["nodes"], "values": {"index_of": "batch"}},
            "conditions": {"axes": ["batch", 2]},
        },
        "outputs": {"energy": {"axes": ["batch"]}},
        "axes": {"nodes": {"min": 1, "max": 9, "order": "none"}},
    },
    "batch_independence[forward]",
    source="graphs with numbers for each of them, as pyg-team/pytorch_geometric#2895",
)
