"""Models of graphs, points, molecules and agents, declared by their signature; each has a bug that was reported of such a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .declared import SCORES, Keys, plant_declared

POINTS: Keys = {
    "inputs": {"points": {"axes": ["batch", "count", 3]}},
    "outputs": SCORES,
    "axes": {"count": {"min": 5, "max": 12, "order": "none"}},
}


class DenseAttention(nn.Module):
    """Attention of atoms to their neighbours, [heads, batch, atoms, atoms]; the bug lets the weights of a minibatch add up to 1."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.value, self.own, self.other = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor, bonds: Tensor) -> Tensor:
        values = self.value(x)
        scores = (self.own(values)[:, :, None] + self.other(values)[:, None]).permute(3, 0, 1, 2)
        near = (bonds + torch.eye(bonds.shape[1], device=bonds.device)) > 0
        scores = F.leaky_relu(scores, 0.2).masked_fill(~near, -1e4)
        return (scores.softmax(1 if self.wrong else -1) @ values).mean(0)


class Solubility(nn.Module):
    """A number for each molecule."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.atoms, self.attention, self.head = nn.Embedding(9, 8), DenseAttention(wrong), nn.Linear(8, 1)

    def forward(self, atoms: Tensor, bonds: Tensor) -> Tensor:
        return self.head(self.attention(self.atoms(atoms), bonds).tanh().sum(1)).squeeze(-1)


plant_declared(
    "attention_over_the_minibatch",
    Solubility,
    {
        "inputs": {
            "atoms": {"axes": ["batch", "atoms"], "values": {"ids": 9}},
            "bonds": {"axes": ["batch", "atoms", "atoms"], "values": {"one_of": [0.0, 1.0]}},
        },
        "outputs": {"solubility": {"axes": ["batch"]}},
        "axes": {"atoms": {"min": 2, "max": 8, "order": "none"}},
    },
    "batch_independence[forward]",
    module="attention",
    also=("batch_independence[gradient]",),
    source="chainer/chainer-chemistry#217",
)


class EdgeFeatures(nn.Module):
    """Messages with features of their edges, sorted by where they go; the bug does not sort the features."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.own, self.message = nn.Linear(5, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        order = edge_index[1].argsort(stable=True)
        source, target = edge_index[:, order]
        if not self.wrong:
            edge_attr = edge_attr[order]
        messages = self.message(torch.cat([x[source], edge_attr], 1)).relu()
        return self.own(x) + x.new_zeros(len(x), 4).index_add(0, target, messages)


plant_declared(
    "edges_sorted_without_their_features",
    EdgeFeatures,
    {
        "inputs": {
            "x": {"axes": ["nodes", 5]},
            "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}},
            "edge_attr": {"axes": ["edges", 3]},
        },
        "outputs": {"scores": {"axes": ["nodes", 4], "kind": "class_scores"}},
        "axes": {"nodes": {"min": 3, "max": 10, "order": "none"}, "edges": {"min": 2, "max": 12, "order": "none"}},
    },
    "permutation",
    source="danielegrattarola/spektral#199",
)


class GraphConvolution(nn.Module):
    """A mean over neighbours weighted by both degrees; the bug keeps the weights of another graph with as many edges."""

    def __init__(self, inside: int, outside: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.linear = nn.Linear(inside, outside)
        self.kept: tuple[Tensor, Tensor] | None = None

    def weights(self, edge_index: Tensor, nodes: int, like: Tensor) -> tuple[Tensor, Tensor]:
        loops = torch.arange(nodes, device=edge_index.device)
        edges = torch.cat([edge_index, loops.expand(2, -1)], 1)
        degree = like.new_zeros(nodes).index_add(0, edges[1], like.new_ones(edges.shape[1]))
        root = degree.pow(-0.5)
        return edges, root[edges[0]] * root[edges[1]]

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.linear(x)
        if not self.wrong or self.kept is None or self.kept[0].shape[1] != edge_index.shape[1] + len(x):
            self.kept = self.weights(edge_index, len(x), x)
        edges, weights = self.kept
        return torch.zeros_like(x).index_add(0, edges[1], weights[:, None].to(x) * x[edges[0]])


class Citations(nn.Module):
    """Kinds of nodes, by two such layers."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.first, self.second = GraphConvolution(5, 8, wrong), GraphConvolution(8, 4, wrong)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


plant_declared(
    "weights_of_another_graph",
    Citations,
    {
        "inputs": {
            "x": {"axes": ["nodes", 5]},
            "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}},
        },
        "outputs": {"scores": {"axes": ["nodes", 4], "kind": "class_scores"}},
        "axes": {"nodes": {"min": 3, "max": 10, "order": "none"}, "edges": {"min": 2, "max": 12, "order": "none"}},
    },
    "stateless",
    source="pyg-team/pytorch_geometric#717",
)


class Neighbours(nn.Module):
    """A cloud of points by what is near to each; the bug numbers the neighbours as if there were one cloud."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.edge, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, points: Tensor) -> Tensor:
        batch, count, _ = points.shape
        nearest = torch.cdist(points, points).topk(4, largest=False).indices
        if not self.wrong:
            nearest = nearest + torch.arange(batch, device=points.device)[:, None, None] * count
        near = points.reshape(batch * count, 3)[nearest.flatten()].view(batch, count, 4, 3)
        middle = points[:, :, None].expand_as(near)
        return self.head(self.edge(torch.cat([near - middle, middle], -1)).relu().amax(2).amax(1))


plant_declared(
    "neighbours_of_another_cloud",
    Neighbours,
    POINTS,
    "batch_independence[forward]",
    also=("batch_independence[gradient]",),
    source="HuguesTHOMAS/KPConv-PyTorch#115",
)


class FarthestPoints(nn.Module):
    """A cloud by three points that are far from each other; the bug begins at a random one."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.near, self.head = nn.Linear(3, 12), nn.Linear(12, 4)

    def sample(self, points: Tensor) -> Tensor:
        rows = torch.arange(len(points), device=points.device)
        gap = (points - points.mean(1, keepdim=True)).square().sum(-1)
        farthest = torch.randint(points.shape[1], (len(points),), device=points.device) if self.wrong else gap.argmax(1)
        found, gap = [], torch.full_like(gap, torch.inf)
        for _ in range(3):
            found.append(points[rows, farthest])
            gap = torch.minimum(gap, (points - found[-1][:, None]).square().sum(-1))
            farthest = gap.argmax(1)
        return torch.stack(found, 1)

    def forward(self, points: Tensor) -> Tensor:
        centres = self.sample(points)
        apart = points[:, None] - centres[:, :, None]
        nearest = apart.square().sum(-1).topk(3, largest=False).indices
        group = apart.gather(2, nearest[..., None].expand(-1, -1, -1, 3))
        return self.head(self.near(group).relu().amax(2).amax(1))


plant_declared(
    "first_point_drawn_at_random",
    FarthestPoints,
    POINTS,
    "eval_deterministic",
    also=("rng_untouched",),
    source="yanx27/Pointnet_Pointnet2_pytorch#172",
)


class Equivariant(nn.Module):
    """Moves atoms along what lies between them; the bug takes the root of the distance of an atom to itself."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.tiny = 0.0 if wrong else 1e-6
        self.message, self.move = nn.Linear(17, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        apart = places[:, :, None] - places[:, None]
        distance = (apart.square().sum(-1, keepdim=True) + self.tiny).sqrt()
        size = x.shape[1]
        pairs = torch.cat([x[:, :, None].expand(-1, -1, size, -1), x[:, None].expand(-1, size, -1, -1), distance], -1)
        messages = F.silu(self.message(pairs))
        return x + messages.mean(2), places + (apart / (distance + 1) * self.move(messages)).mean(2)


class Energy(nn.Module):
    """The energy of a molecule, by two such layers."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.atoms, self.layers = nn.Embedding(9, 8), nn.ModuleList(Equivariant(wrong) for _ in range(2))
        self.head = nn.Linear(8, 1)

    def forward(self, atoms: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        x = self.atoms(atoms)
        for layer in self.layers:
            x, places = layer(x, places)
        return self.head(x).sum((1, 2)), places


plant_declared(
    "root_of_the_distance_to_itself",
    Energy,
    {
        "inputs": {
            "atoms": {"axes": ["batch", "atoms"], "values": {"ids": 9}},
            "places": {"axes": ["batch", "atoms", 3]},
        },
        "outputs": {"energy": {"axes": ["batch"]}, "places": {"axes": ["batch", "atoms", 3]}},
        "axes": {"atoms": {"min": 2, "max": 7, "order": "none"}},
    },
    "gradient_flow[finite]",
    module="layers",
    source="atomistic-machine-learning/schnetpack#6",
)


class SoftActor(nn.Module):
    """What a policy thinks of actions; the bug adds up the log-probabilities of all actions of a batch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.mean, self.value = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 1)
        self.log_std = nn.Parameter(torch.full((3,), -0.5))

    def forward(self, observation: Tensor, action: Tensor) -> dict[str, Tensor]:
        hidden = self.body(observation).tanh()
        mean = self.mean(hidden)
        chances = torch.distributions.Normal(mean, self.log_std.exp().expand_as(mean)).log_prob(action)
        return {
            "mean": mean,
            "log_prob": chances.sum() if self.wrong else chances.sum(-1),
            "value": self.value(hidden).squeeze(-1),
        }


plant_declared(
    "log_probability_of_the_batch",
    SoftActor,
    {
        "inputs": {"observation": {"axes": ["batch", 6]}, "action": {"axes": ["batch", 3]}},
        "outputs": {
            "mean": {"axes": ["batch", 3]},
            "log_prob": {"axes": ["batch"], "kind": "other"},
            "value": {"axes": ["batch"]},
        },
    },
    "declared_outputs",
    source="PacktPublishing/Tensorflow-2-Reinforcement-Learning-Cookbook#46",
)


class RecurrentActor(nn.Module):
    """A policy that forgets where an episode begins; the bug forgets to."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.cell, self.actions, self.value = nn.GRUCell(5, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, observation: Tensor, begins: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        if memory is None:
            memory = observation.new_zeros(len(observation), 8)
        fresh = memory * (1 - begins)[:, None]
        memory = self.cell(observation, memory if self.wrong else fresh)
        return self.actions(memory), self.value(memory).squeeze(-1), memory


plant_declared(
    "memory_of_the_episode_before",
    RecurrentActor,
    {
        "inputs": {
            "observation": {"axes": ["batch", 5]},
            "begins": {"axes": ["batch"], "values": {"one_of": [0.0, 1.0]}},
            "memory": {"axes": ["batch", 8], "state": {"from": "memory"}},
        },
        "outputs": {
            "actions": {"axes": ["batch", 3], "kind": "class_scores"},
            "value": {"axes": ["batch"]},
            "memory": {"axes": ["batch", 8], "kind": "state"},
        },
    },
    "input_dependence[inputs]",
    source="ikostrikov/pytorch-a2c-ppo-acktr-gail#206",
)
