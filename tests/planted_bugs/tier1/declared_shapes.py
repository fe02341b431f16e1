"""Models of graphs, points and series, drawn from reports when all checks were there; the wrong line of each ends in ``# here``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .declared import plant_declared


def copy_reduce(index: Tensor, message: Tensor, rows: int) -> Tensor:
    return message.new_zeros(rows, message.shape[1]).index_add(0, index, message)


class MessagePassing(nn.Module):
    """A node without any edge keeps what it is."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.lin = nn.ModuleDict({"msg": nn.Linear(5, 4), "own": nn.Linear(5, 4)})

    def forward(self, x, edge_index):
        src, dst = edge_index
        num_rows = int(dst.max()) + 1 if self.wrong else len(x)  # here
        m = copy_reduce(dst, self.lin["msg"](x)[src], num_rows)
        return self.lin["own"](x) + F.pad(m, (0, 0, 0, len(x) - num_rows))


plant_declared(
    "graph_without_edges",
    MessagePassing,
    {
        "inputs": {
            "x": {"axes": ["nodes", 5]},
            "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}},
        },
        "outputs": {"h": {"axes": ["nodes", 4]}},
        "axes": {"nodes": {"min": 1, "order": "none"}, "edges": {"min": 0, "order": "none"}},
    },
    "shape_contract",
    line="# here",
    source="dmlc/dgl#169",
)


def get_graph_feature(coords: Tensor, feats: Tensor, k: int, wrong: bool) -> Tensor:
    """Features of the nearest points beside those of each point itself, [B, 2C, N, k]."""
    b, c, n = feats.shape
    idx = torch.cdist(coords, coords).topk(k, largest=False)[1]
    neighbours = torch.gather(feats.unsqueeze(2).expand(b, c, n, n), 3, idx.unsqueeze(1).expand(b, c, n, k))
    whole = feats.unsqueeze(2).repeat(1, 1, n, 1)[..., :k] if wrong else feats.unsqueeze(-1).repeat(1, 1, 1, k)  # here
    return torch.cat([whole, neighbours - whole], dim=1)


class GCNOfPoints(nn.Module):
    def __init__(self, wrong: bool = False, k=3) -> None:
        super().__init__()
        self.wrong, self.k = wrong, k
        self.conv = nn.Conv2d(8, 6, 1)
        self.head = nn.Conv1d(6, 3, 1)

    def forward(self, coords, feats):
        x = get_graph_feature(coords, feats.mT, self.k, self.wrong)
        return self.head(F.leaky_relu(self.conv(x), 0.2).max(-1)[0]).mT


plant_declared(
    "centres_along_the_wrong_axis",
    GCNOfPoints,
    {
        "inputs": {"coords": {"axes": ["batch", "points", 3]}, "feats": {"axes": ["batch", "points", 4]}},
        "outputs": {"labels": {"axes": ["batch", "points", 3], "kind": "class_scores"}},
        "axes": {"points": {"min": 4, "max": 12, "order": "none"}},
    },
    "permutation",
    line="# here",
    source="prs-eth/OverlapPredator#14",
)


class DeepAR(nn.Module):
    """The target of the step before, and what is known of each step, by a cell."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.rnn = nn.LSTMCell(3, 9)
        self.distribution_projector = nn.Linear(9, 1)

    def forward(self, target, covariates):
        state, output = None, []
        lagged = F.pad(target, (1, 0))
        for idx in range(target.shape[1]):
            given = target[:, idx] if self.wrong else lagged[:, idx]  # here
            state = self.rnn(torch.cat((given[:, None], covariates[:, idx]), 1), state)
            output.append(self.distribution_projector(state[0]))
        return torch.cat(output, 1)


plant_declared(
    "target_of_the_same_step",
    DeepAR,
    {
        "inputs": {"target": {"axes": ["batch", "time"]}, "covariates": {"axes": ["batch", "time", 2]}},
        "outputs": {"mean": {"axes": ["batch", "time"]}},
        "axes": {"time": {"min": 1, "max": 9, "order": "causal"}},
        "labels": {"mean": {"from": "target"}},
    },
    "causal",
    source="sktime/pytorch-forecasting#182",
    missed="a causal autoencoder reads what it writes too: nothing tells it from a forecast of its own input",
)


class UnitEncoder(nn.Module):
    """A set of units that see each other."""

    def __init__(self, wrong: bool = False, heads=2, d=8) -> None:
        super().__init__()
        self.wrong, self.heads = wrong, heads
        self.attention_pre = nn.Linear(6, 3 * d)
        self.project = nn.Linear(d, d)

    def forward(self, entities, mask):
        b, n, _ = entities.shape
        query, key, value = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.attention_pre(entities).chunk(3, -1))
        score = query @ key.mT / math.sqrt(query.size(-1))
        if self.wrong:
            score.masked_fill(~mask[:, None, None], -1e9)  # here
        else:
            score = score.masked_fill(~mask[:, None, None], torch.finfo(score.dtype).min)
        out = F.softmax(score, -1) @ value
        out = self.project(out.transpose(1, 2).flatten(2))
        return (out * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


plant_declared(
    "masked_fill_thrown_away",
    UnitEncoder,
    {
        "inputs": {
            "entities": {"axes": ["batch", "units", 6]},
            "mask": {"axes": ["batch", "units"], "dtype": "bool", "values": {"mask_of": "units"}},
        },
        "outputs": {"embedding": {"axes": ["batch", 8], "kind": "embedding"}},
        "axes": {"units": {"min": 1, "max": 10, "order": "none", "padding": "right"}},
    },
    "padding_ignored",
    source="opendilab/DI-engine#333",
)


class WiredEmbeddings(nn.Module):
    """The covariates that are known, and those that are observed, each by an embedding."""

    known, target = (1, 2), (0,)

    def __init__(self, wrong: bool = False, sizes=(5, 7, 12)) -> None:
        super().__init__()
        self.wrong = wrong
        self.embeddings = nn.ModuleList(nn.Embedding(n, 4) for n in sizes)
        self.real = nn.Linear(1, 4)
        self.gru = nn.GRU(16, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, numbers, categories):
        wired = [self.real(numbers)]
        for i, embedding in enumerate(self.embeddings):
            e = embedding(categories[:, :, i])
            if self.wrong and i in self.target:
                e = torch.zeros_like(e)  # here
            wired.append(e)
        return self.head(self.gru(torch.cat(wired, -1))[0][:, -1]).squeeze(-1)


plant_declared(
    "covariate_taken_for_the_target",
    WiredEmbeddings,
    {
        "inputs": {
            "numbers": {"axes": ["batch", "time", 1]},
            "categories": {"axes": ["batch", "time", 3], "values": {"ids": [5, 7, 12]}},
        },
        "outputs": {"forecast": {"axes": ["batch"]}},
        "axes": {"time": {"min": 1, "max": 8}},
    },
    "input_dependence[inputs]",
    also=("gradient_flow[reaches_every_parameter]",),
    line="# here",
    source="google-research/google-research#332",
)


class ResMLPs(nn.Module):
    def __init__(self, wrong: bool = False, parts=3) -> None:
        super().__init__()
        mlps = [nn.Sequential(nn.Linear(2, 8), nn.GELU(), nn.Linear(8, 3)) for _ in range(parts)]
        self.mlps = mlps if wrong else nn.ModuleList(mlps)  # here
        self.mix = nn.Linear(3 * parts, 3)

    def forward(self, coord):
        return self.mix(torch.cat([mlp(coord) for mlp in self.mlps], -1))


plant_declared(
    "networks_in_a_list",
    ResMLPs,
    {
        "inputs": {"coord": {"axes": ["batch", "points", 2], "values": {"range": [-1, 1]}}},
        "outputs": {"rgb": {"axes": ["batch", "points", 3]}},
        "axes": {"points": {"min": 1, "max": 9, "order": "none"}},
    },
    "registration",
    also=("serialisation[state_dict]", "serialisation[deepcopy]", "dtype_move[float64]", "device_move"),
    line="# here",
    source="LianpoWang/SLIIF#13",
)


class GraphSage(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.eps = 0.0 if wrong else 1e-5
        self.W1, self.W2 = (nn.Parameter(nn.init.xavier_uniform_(torch.empty(size))) for size in ((10, 8), (16, 3)))

    def hop(self, x, adj):
        degree = adj.sum(-1, keepdim=True)
        return torch.cat([x, adj @ x / (degree + self.eps)], -1)  # here

    def forward(self, x, adj):
        h1 = F.relu(self.hop(x, adj) @ self.W1)
        return self.hop(h1, adj) @ self.W2


plant_declared(
    "degree_of_zero",
    GraphSage,
    {
        "inputs": {
            "x": {"axes": ["nodes", 5]},
            "adj": {"axes": ["nodes", "nodes"], "values": {"one_of": [0.0, 1.0]}},
        },
        "outputs": {"logits": {"axes": ["nodes", 3], "kind": "class_scores"}},
        "axes": {"nodes": {"min": 1, "max": 8}},
    },
    "finite_output[typical]",
    line="# here",
    source="MrLeeeee/GCN-GAT-and-Graphsage#3",
)


class MeshEncoder(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embedder = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.LayerNorm(8))
        self.out = nn.Linear(8, 3)

    def forward(self, pos):
        pos_max = pos.abs().amax(dim=(1, 2), keepdim=True)
        pos = pos / (pos_max if self.wrong else pos_max.clamp(min=1e-6))  # here
        return self.out(self.embedder(pos).mean(1))


plant_declared(
    "positions_all_at_the_origin",
    MeshEncoder,
    {
        "inputs": {"pos": {"axes": ["batch", "mesh", 2]}},
        "outputs": {"weather": {"axes": ["batch", 3]}},
        "axes": {"mesh": {"min": 1, "max": 9, "order": "none"}},
    },
    "finite_output[extremes]",
    also=("gradient_flow[finite]",),
    line="# here",
    source="mllam/neural-lam#594",
)


class PosEmbed(nn.Module):
    def __init__(self, maxT: int, dim: int) -> None:
        super().__init__()
        self.T_embed = nn.Embedding(maxT, dim)

    def forward(self, x):
        return x + self.T_embed(torch.arange(x.shape[1], device=x.device))  # here


class Cuboid(nn.Module):
    """A history of maps, and the steps to come as queries of a decoder."""

    def __init__(self, wrong: bool = False, T_in=4, T_out=9) -> None:
        super().__init__()
        self.enc, self.dec = PosEmbed(T_in, 8), PosEmbed(T_in if wrong else T_out, 8)
        self.embed, self.query, self.head = nn.Linear(3, 8), nn.Linear(1, 8), nn.Linear(8, 3)

    def forward(self, past, lead):
        memory = self.enc(self.embed(past))
        query = self.dec(self.query(lead.unsqueeze(-1)))
        return self.head(F.scaled_dot_product_attention(query, memory, memory) + query)


plant_declared(
    "positions_of_the_history_for_the_horizon",
    Cuboid,
    {
        "inputs": {"past": {"axes": ["batch", 4, 3]}, "lead": {"axes": ["batch", "horizon"]}},
        "outputs": {"maps": {"axes": ["batch", "horizon", 3]}},
        "axes": {"horizon": {"min": 1, "max": 9}},
    },
    "shape_contract",
    module="dec",
    line="# here",
    source="amazon-science/earth-forecasting-transformer#49",
)


class TokenEmbedding(nn.Module):
    def __init__(self, c_in: int, d_model: int, wrong: bool) -> None:
        super().__init__()
        self.pad = (1, 1) if wrong else (2, 0)
        self.tokenConv = nn.Conv1d(c_in, d_model, kernel_size=3, bias=False)

    def forward(self, x):
        return self.tokenConv(F.pad(x.permute(0, 2, 1), self.pad)).transpose(1, 2)  # here


class StepForecaster(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.value_embedding = TokenEmbedding(3, 8, wrong)
        self.projection = nn.Sequential(nn.GELU(), nn.Linear(8, 3))

    def forward(self, x_enc):
        return self.projection(self.value_embedding(x_enc))


plant_declared(
    "convolution_in_the_middle",
    StepForecaster,
    {
        "inputs": {"x_enc": {"axes": ["batch", "time", 3]}},
        "outputs": {"following": {"axes": ["batch", "time", 3]}},
        "axes": {"time": {"min": 1, "max": 12, "order": "causal"}},
    },
    "causal",
    module="value_embedding",
    line="# here",
    source="thuml/iTransformer#26",
)


class DMoN(nn.Module):
    """Nodes in clusters, and how uneven the clusters of each graph are."""

    def __init__(self, wrong: bool = False, k=3) -> None:
        super().__init__()
        self.wrong = wrong
        self.mlp = nn.Sequential(nn.Linear(4, k), nn.Softmax(-1))
        self.lin = nn.Linear(4, 5)

    def forward(self, x, mask):
        s = self.mlp(x) * mask.unsqueeze(-1)
        pooled = torch.einsum("bnk,bnc->bkc", s, x)
        sizes = mask.sum(1, keepdim=self.wrong)
        cluster_loss = torch.einsum("bnk->bk", s).norm(dim=1) / sizes.clamp(min=1)  # here
        return self.lin(pooled.amax(1)), cluster_loss


plant_declared(
    "sizes_of_all_graphs_for_each",
    DMoN,
    {
        "inputs": {
            "x": {"axes": ["batch", "nodes", 4]},
            "mask": {"axes": ["batch", "nodes"], "dtype": "float32", "values": {"mask_of": "nodes"}},
        },
        "outputs": {
            "graph": {"axes": ["batch", 5], "kind": "class_scores"},
            "cluster": {"axes": ["batch"], "kind": "other"},
        },
        "axes": {"nodes": {"min": 1, "max": 8, "order": "none", "padding": "right"}},
    },
    "declared_outputs",
    line="# here",
    source="pyg-team/pytorch_geometric#10148",
)
