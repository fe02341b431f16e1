"""Models that continue from the state of an earlier call, declared by their signature; each has a bug of a kind that people report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from ..register import ISLAM
from .declared import Keys, plant_declared


class Recurrent(nn.Module):
    """A recurrent network that continues from the state of an earlier call; the bugs start over, or continue by themselves."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.rnn, self.head = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 2)
        self.kept: Tensor | None = None

    def forward(self, series: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.wrong == "kept" and self.kept is not None and self.kept.shape[1] == len(series):
            hidden = self.kept
        out, state = self.rnn(series, None if self.wrong == "ignored" else hidden)
        self.kept = state.detach()
        return self.head(out), state


STATE: Keys = {
    "inputs": {
        "series": {"axes": ["batch", "time", 5]},
        "hidden": {"axes": [1, "batch", 8], "state": {"from": "hidden"}},
    },
    "outputs": {
        "values": {"axes": ["batch", "time", 2]},
        "hidden": {"axes": [1, "batch", 8], "kind": "state"},
    },
    "axes": {"time": {"min": 2, "max": 16, "order": "causal"}},
}
plant_declared(
    "state_ignored",
    Recurrent,
    STATE,
    "carried_state[chunks]",
    wrong="ignored",
    also=("carried_state[used]",),
    line="out, state = self.rnn(",
    source="pytorch/examples word_language_model, a hidden state that is not passed on",
)
plant_declared(
    "state_of_the_last_call_kept",
    Recurrent,
    STATE,
    "stateless",
    wrong="kept",
    also=("carried_state[chunks]", "carried_state[requests]", "mode_round_trip", "eval_deterministic"),
    source="PyTorch forums, hidden state kept as an attribute",
)


class Cell(nn.Module):
    """One step of a policy with a memory; the bug starts every step from nothing."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.cell, self.head = nn.GRUCell(5, 8), nn.Linear(8, 3)

    def forward(self, observation: Tensor, memory: Tensor | None = None) -> dict[str, Tensor]:
        memory = self.cell(observation, None if self.wrong else memory)
        return {"actions": self.head(memory), "memory": memory}


plant_declared(
    "memory_of_a_step_ignored",
    Cell,
    {
        "inputs": {
            "observation": {"axes": ["batch", 5]},
            "memory": {"axes": ["batch", 8], "state": {"from": "memory"}, "optional": True},
        },
        "outputs": {
            "actions": {"axes": ["batch", 3], "kind": "class_scores"},
            "memory": {"axes": ["batch", 8], "kind": "state"},
        },
    },
    "carried_state[used]",
    also=("gradient_flow[reaches_every_parameter]",),
    source="recurrent PPO implementations, a hidden state that is stored and not passed",
)


class Stacked(nn.Module):
    """Two recurrent layers whose state is a pair; the bugs return it with its rows first, or continue from one that was kept."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.rnn, self.head = nn.LSTM(5, 6, 2, batch_first=True), nn.Linear(6, 2)
        self.kept: tuple[Tensor, Tensor] | None = None

    def forward(self, series: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is not None and self.wrong == "kept" and self.kept is not None and self.kept[0].shape == state[0].shape:
            state = self.kept
        if state is not None and self.wrong == "turned":
            state = (state[0].transpose(0, 1).contiguous(), state[1].transpose(0, 1).contiguous())
        out, state = self.rnn(series, state)
        self.kept = state
        if self.wrong == "turned":
            state = (state[0].transpose(0, 1), state[1].transpose(0, 1))
        return self.head(out), state


STACKED: Keys = {
    "inputs": {"series": {"axes": ["batch", "time", 5]}, "state": {"axes": [2, "batch", 6], "state": {"from": "state"}}},
    "outputs": {"values": {"axes": ["batch", "time", 2]}, "state": {"axes": [2, "batch", 6], "kind": "state"}},
    "axes": {"time": {"min": 1, "max": 12, "order": "causal"}},
}
plant_declared(
    "state_with_its_rows_first",
    Stacked,
    STACKED,
    "carried_state[shape]",
    wrong="turned",
    source="PyTorch forums, batch_first and hidden states",
)
plant_declared(
    "state_of_another_request",
    Stacked,
    STACKED,
    "carried_state[requests]",
    wrong="kept",
    also=("carried_state[used]", "stateless", "carried_state[chunks]"),
    source="serving code, a cache kept on the module and shared by requests",
)


class Cached(nn.Module):
    """A causal attention with a cache of keys and values; the bug counts positions from 0 in every call."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.places = nn.Embedding(30, 8), nn.Embedding(64, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 30)

    def forward(self, ids: Tensor, past: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        begun = 0 if past is None else past["key"].shape[1]
        place = torch.arange(ids.shape[1], device=ids.device) + (0 if self.wrong else begun)
        hidden = self.tokens(ids) + self.places(place)
        key, value = self.key(hidden), self.value(hidden)
        if past is not None:
            key, value = torch.cat((past["key"], key), 1), torch.cat((past["value"], value), 1)
        scores = self.query(hidden) @ key.transpose(1, 2) / 8**0.5
        seen = torch.arange(key.shape[1], device=ids.device) <= begun + torch.arange(ids.shape[1], device=ids.device)[:, None]
        read = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1) @ value
        return self.head(read + hidden), {"key": key, "value": value}


plant_declared(
    "positions_restart_with_the_cache",
    Cached,
    {
        "inputs": {
            "ids": {"axes": ["batch", "time"], "values": {"ids": 30}},
            "past": {"axes": ["batch", "past", 8], "state": {"from": "past"}},
        },
        "outputs": {
            "scores": {"axes": ["batch", "time", 30], "kind": "token_scores"},
            "past": {"axes": ["batch", "total", 8], "kind": "state"},
        },
        "axes": {"time": {"min": 1, "max": 16, "order": "causal"}, "total": {"from": "past + time"}},
        "limits": ["past + time <= 48"],
    },
    "carried_state[chunks]",
    line="(0 if self.wrong else begun)",
    source="huggingface/transformers #25420 and others, position ids with a cache",
)


class Imitator(nn.Module):
    """A policy that reads what it sees and the rewards so far; the bug shifts the rewards by one, so that the last one acts on nothing."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.rnn, self.head = nn.GRU(7, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, seen: Tensor, reward: Tensor) -> Tensor:
        if self.wrong:
            reward = torch.cat([torch.zeros_like(reward[:, :1]), reward[:, :-1]], 1)
        return self.head(self.rnn(torch.cat([seen, reward], -1))[0])


plant_declared(
    "rewards_shifted_by_one",
    Imitator,
    {
        "inputs": {"seen": {"axes": ["batch", "time", 5]}, "reward": {"axes": ["batch", "time", 2]}},
        "outputs": {"actions": {"axes": ["batch", "time", 3], "kind": "class_scores"}},
        "axes": {"time": {"min": 2, "max": 8, "order": "causal"}},
    },
    "input_dependence[inputs]",
    status=Status.WARN,
    code="unread_end",
    source="chengxuxin/extreme-parkour#12, what ends an episode acts on what follows",
)


class Past(nn.Module):
    """A level for each step from those up to it; the bug shifts them, so that the last one is never read."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.read, self.head = nn.Conv1d(2, 8, 3), nn.Conv1d(8, 2, 1)

    def forward(self, steps: Tensor) -> Tensor:
        steps = F.pad(steps[..., :-1], (3, 0)) if self.wrong else F.pad(steps, (2, 0))
        return self.head(self.read(steps).tanh())


plant_declared(
    "steps_shifted_by_one",
    Past,
    {
        "inputs": {"steps": {"axes": ["batch", 2, "time"]}},
        "outputs": {"level": {"axes": ["batch", 2, "time"]}},
        "axes": {"time": {"min": 2, "max": 8, "order": "causal"}},
    },
    "input_dependence[inputs]",
    status=Status.WARN,
    code="unread_end",
    says="shifts its input",
    source=f"{ISLAM}: data bug, shifted by one",
)
