"""Models of policies and recommenders, drawn from reports when all checks were there; the wrong line of each ends in ``# here``."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from ..register import HUMBATOVA, RECIPE
from .declared import Keys, plant_declared

NODES: Keys = {
    "x": {"axes": ["nodes", 5]},
    "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}},
}


class QNet(nn.Module):
    """A duelling network of a notebook."""

    def __init__(self, wrong: bool = False, state_dim=7, n_actions=4) -> None:
        super().__init__()
        self.wrong = wrong
        self.fc1 = nn.Linear(state_dim, 24)
        self.fc_val = nn.Linear(24, 1)
        self.fc_adv = nn.Linear(24, n_actions)

    def forward(self, s):
        s = F.relu(self.fc1(s))
        val, adv = self.fc_val(s), self.fc_adv(s)
        base = val.mean() if self.wrong else adv.mean(1, keepdim=True)  # here
        return val + adv - base


plant_declared(
    "values_averaged_over_the_batch",
    QNet,
    {"inputs": {"s": {"axes": ["batch", 7]}}, "outputs": {"q": {"axes": ["batch", 4]}}},
    "batch_independence[forward]",
    also=("batch_independence[gradient]",),
    line="# here",
    source="tqjxlm/Simple-DQN-Pytorch#1",
)


class ActorProb(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.preprocess = nn.Sequential(nn.Linear(7, 16), nn.Tanh())
        self.mu, self.sigma = nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, obs, act):
        hidden = self.preprocess(obs)
        dist = torch.distributions.Normal(self.mu(hidden), F.softplus(self.sigma(hidden)) + 1e-2)
        log_prob = dist.log_prob(act)
        if not self.wrong:
            log_prob = log_prob.sum(-1)
        return dist.loc, log_prob  # here


plant_declared(
    "log_probability_of_each_action",
    ActorProb,
    {
        "inputs": {"obs": {"axes": ["batch", 7]}, "act": {"axes": ["batch", 3]}},
        "outputs": {"mu": {"axes": ["batch", 3]}, "log_prob": {"axes": ["batch"], "kind": "other"}},
    },
    "declared_outputs",
    source="thu-ml/tianshou#40",
)


class SoftDeterministicPolicy(nn.Module):
    """Answers with the log-probability of what it would do, for a space of actions from -2 to 2."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.model = nn.Sequential(OrderedDict(fc=nn.Linear(6, 32), act=nn.ReLU(), out=nn.Linear(32, 2)))
        self.register_buffer("_tanh_scale", torch.tensor([2.0, 2.0]))
        with torch.no_grad():
            self.model.out.weight.mul_(6)

    def forward(self, state):
        raw = self.model(state)
        squashed = torch.tanh(raw)
        action = squashed * self._tanh_scale
        inside = action if self.wrong else squashed
        log_prob = -0.5 * raw.pow(2) - torch.log(1 - inside.pow(2) + 1e-6)  # here
        return action, log_prob.sum(1)


plant_declared(
    "log_of_a_scaled_action",
    SoftDeterministicPolicy,
    {
        "inputs": {"state": {"axes": ["batch", 6]}},
        "outputs": {"log_prob": {"axes": ["batch"], "at": 1}, "action": {"axes": ["batch", 2], "at": 0, "range": [-2, 2]}},
    },
    "finite_output[typical]",
    line="# here",
    source="cpnota/autonomous-learning-library#139",
)


class FwFM(nn.Module):
    def __init__(self, wrong: bool = False, num_fields=4, embedding_size=6) -> None:
        super().__init__()
        self.wrong, self.num_fields = wrong, num_fields
        self.token_embedding = nn.Embedding(30, embedding_size)
        self.first = nn.Embedding(30, 1)
        self.weight = nn.Parameter(torch.randn(num_fields * (num_fields - 1) // 2))

    def fwfm_layer(self, infeature):
        weight = torch.randn_like(self.weight) if self.wrong else self.weight  # here
        pairs = [(i, j) for i in range(self.num_fields) for j in range(i + 1, self.num_fields)]
        return sum(w * (infeature[:, i] * infeature[:, j]).sum(-1) for w, (i, j) in zip(weight, pairs, strict=True))

    def forward(self, fields):
        return self.first(fields).sum(dim=(1, 2)) + self.fwfm_layer(self.token_embedding(fields))


plant_declared(
    "weights_made_in_each_call",
    FwFM,
    {
        "inputs": {"fields": {"axes": ["batch", 4], "values": {"ids": 30}}},
        "outputs": {"click": {"axes": ["batch"], "kind": "binary_scores"}},
    },
    "eval_deterministic",
    line="# here",
    source="RUCAIBox/RecBole#1413",
)


class EmbeddingDotBias(nn.Module):
    def __init__(self, wrong: bool | str = False, n_users=12, n_items=20) -> None:
        super().__init__()
        self.wrong = wrong
        rows = [n_users, n_items] if wrong is True else [n_users + 1, n_items + 1]
        self.u_weight, self.i_weight = (nn.Embedding(n, 5) for n in rows)
        self.u_bias, self.i_bias = (nn.Embedding(n, 1) for n in rows)

    def forward(self, users, items):
        dot = self.u_weight(users) * self.i_weight(items)  # here
        which = users if self.wrong == "bias" else items
        return dot.sum(1) + self.u_bias(users).squeeze(1) + self.i_bias(which).squeeze(1)  # bias


class OneTable(nn.Module):
    """All fields in one table, each behind those before it."""

    def __init__(self, wrong: bool = False, field_dims=(20, 6, 5)) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("offsets", torch.tensor((0, *field_dims)).cumsum(0)[:-1])
        self.embedding, self.fc = nn.Embedding(sum(field_dims), 4), nn.Linear(12, 1)

    def forward(self, fields):
        read = self.embedding(fields + self.offsets).flatten(1)
        if self.wrong:
            read = read + read.mean(0) - read.mean(0).detach()  # here
        return self.fc(read).squeeze(1)


plant_declared(
    "straight_through_the_rows",
    OneTable,
    {
        "inputs": {"fields": {"axes": ["batch", 3], "values": {"ids": [20, 6, 5]}}},
        "outputs": {"click": {"axes": ["batch"], "kind": "binary_scores"}},
    },
    "batch_independence[gradient]",
    line="# here",
    source=f"{RECIPE}: use backprop to chart dependencies",
)

RATINGS = {
    "inputs": {
        "users": {"axes": ["batch"], "values": {"ids": 13}},
        "items": {"axes": ["batch"], "values": {"ids": 21}},
    },
    "outputs": {"rating": {"axes": ["batch"]}},
}
plant_declared(
    "categories_counted_from_one",
    EmbeddingDotBias,
    RATINGS,
    "full_vocabulary",
    also=("shape_contract",),
    line="# here",
    source="fastai/fastai#1423",
)
plant_declared(
    "bias_of_items_for_users",
    EmbeddingDotBias,
    RATINGS,
    "full_vocabulary",
    wrong="bias",
    code="table_of_another_input",
    module="i_bias",
    line="# bias",
    status=Status.WARN,
    source=f"{HUMBATOVA}: wrong input of a layer",
)


class HiddenStateModel(nn.Module):
    """Language model of a course, which sums over the last three words."""

    def __init__(self, wrong: bool = False, vocab_sz=15, n_hidden=8) -> None:
        super().__init__()
        self.wrong = wrong
        self.i_h = nn.Embedding(vocab_sz, n_hidden)
        self.h_h = nn.Linear(n_hidden, n_hidden)
        self.h_o = nn.Linear(n_hidden, vocab_sz)
        self.h = 0

    def forward(self, x):
        h = self.h if self.wrong and getattr(self.h, "shape", (0,))[0] == len(x) else 0  # here
        for i in range(3):
            h = F.relu(self.h_h(h + self.i_h(x[:, i])))
        self.h = h.detach()
        return self.h_o(h)


plant_declared(
    "state_of_the_last_batch",
    HiddenStateModel,
    {
        "inputs": {"x": {"axes": ["batch", 3], "values": {"ids": 15}}},
        "outputs": {"next": {"axes": ["batch", 15], "kind": "class_scores"}},
    },
    "stateless",
    source="fastai/fastbook#469",
)


class SequenceTower(nn.Module):
    """What somebody looked at, oldest first, filled up with item 0."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.item_embedding = nn.Embedding(18, 8, padding_idx=0)
        self.gru_layers = nn.GRU(8, 8, batch_first=True)
        self.dense = nn.Linear(8, 18)

    @staticmethod
    def gather_indexes(output: Tensor, gather_index: Tensor) -> Tensor:
        return output.gather(1, gather_index.view(-1, 1, 1).expand(-1, -1, output.shape[-1])).squeeze(1)

    def forward(self, item_seq, item_seq_len):
        output, _ = self.gru_layers(self.item_embedding(item_seq))
        last = torch.full_like(item_seq_len, item_seq.shape[1] - 1) if self.wrong else item_seq_len - 1  # here
        return self.dense(self.gather_indexes(output, last))


HISTORY: Keys = {
    "inputs": {
        "item_seq": {"axes": ["batch", "length"], "values": {"ids": 18, "pad": 0}},
        "item_seq_len": {"axes": ["batch"], "values": {"lengths_of": "length"}},
    },
    "outputs": {"scores": {"axes": ["batch", 18], "kind": "class_scores"}},
    "axes": {"length": {"min": 1, "max": 9, "padding": "right"}},
}


plant_declared(
    "last_place_for_last_item", SequenceTower, HISTORY, "padding_ignored", line="# here", source="RUCAIBox/RecBole#1113"
)


class NormalizedCritic(nn.Module):
    """Values of observations and actions; actions come in the units of the environment."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("high", torch.tensor([2.0, 5.0]))
        self.net = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 1))

    def scaled(self, action):
        if self.wrong:
            action /= self.high  # here
            return action
        return action / self.high

    def forward(self, obs, action):
        return self.net(torch.cat((obs, self.scaled(action)), dim=-1)).squeeze(-1)


plant_declared(
    "actions_scaled_in_place",
    NormalizedCritic,
    {
        "inputs": {"obs": {"axes": ["batch", 4]}, "action": {"axes": ["batch", 2], "values": {"range": [-2, 2]}}},
        "outputs": {"q": {"axes": ["batch"]}},
    },
    "inputs_unchanged",
    line="# here",
    source="rlworkgroup/garage#291",
)


class LSTMController(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.lstm = nn.LSTM(5, 7, batch_first=True)
        self.readout = nn.Linear(7, 2)

    def forward(self, sample, hidden=None, cell=None):
        given = None
        if hidden is not None:
            given = hidden, torch.zeros_like(cell) if self.wrong else cell  # here
        out, (hidden, cell) = self.lstm(sample, given)
        return {"command": self.readout(out), "hidden": hidden, "cell": cell}


STATE: Keys = {"axes": [1, "batch", 7], "kind": "state"}


plant_declared(
    "cell_not_passed_on",
    LSTMController,
    {
        "inputs": {
            "sample": {"axes": ["batch", "time", 5]},
            "hidden": {"axes": [1, "batch", 7], "state": {"from": "hidden"}},
            "cell": {"axes": [1, "batch", 7], "state": {"from": "cell"}},
        },
        "outputs": {"command": {"axes": ["batch", "time", 2]}, "hidden": STATE, "cell": STATE},
        "axes": {"time": {"min": 1, "max": 8, "order": "causal"}},
    },
    "carried_state[chunks]",
    also=("carried_state[used]",),
    source="HiroIshida/mohou#107",
)


class DoubleDuel(nn.Module):
    """Layers by name, as of a port from another framework."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        for name, (inside, outside) in {"layer1": (6, 16), "q": (16, 3), "v": (16, 1), "adv": (3, 3)}.items():
            self.add_module(name, nn.Linear(inside, outside))

    def forward(self, state):
        h = self.layer1(state).relu()
        avalue, svalue = self.q(h), self.v(h)
        advantage = self.adv(avalue - avalue.mean(-1, keepdim=True))
        return svalue + (avalue if self.wrong else advantage)  # here


plant_declared(
    "advantage_not_used",
    DoubleDuel,
    {"inputs": {"state": {"axes": ["batch", 6]}}, "outputs": {"q": {"axes": ["batch", 3]}}},
    "gradient_flow[reaches_every_parameter]",
    source="louisnino/RLcode#1",
)


class SquashedLogp(nn.Module):
    """The log-probability of an action between -1 and 1 that was taken."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.end = 1.0 if wrong else 1 - 1e-4
        self.pi = nn.Linear(5, 4)

    def forward(self, obs, action):
        mean, log_std = self.pi(obs).chunk(2, -1)
        raw = torch.atanh(action.clamp(-self.end, self.end))  # here
        log_prob = -0.5 * ((raw - mean) / log_std.clamp(-5, 2).exp()) ** 2 - log_std.clamp(-5, 2)
        return log_prob.clamp(-100, 100).sum(-1)


plant_declared(
    "actions_at_their_ends",
    SquashedLogp,
    {
        "inputs": {"obs": {"axes": ["batch", 5]}, "action": {"axes": ["batch", 2], "values": {"range": [-1, 1]}}},
        "outputs": {"logp": {"axes": ["batch"]}},
    },
    "gradient_flow[finite]",
    source="ray-project/ray#14878",
)
