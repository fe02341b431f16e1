"""Reported bugs of decoders with a source, and of states that are passed on or kept."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, WINDOW, ITEMS, SEEN = 23, 12, 4, 17, 6
TRANSLATION = task_of(task_type="seq2seq_lm", vocab_size=WORDS, max_seq_len=12)
SESSIONS = task_of(
    inputs={
        "items": {"axes": ["batch", "time"], "values": {"ids": ITEMS}},
        "hidden": {"axes": [1, "batch", WIDTH], "state": {"from": "hidden"}},
    },
    outputs={
        "scores": {"axes": ["batch", "time", ITEMS], "kind": "class_scores"},
        "hidden": {"axes": [1, "batch", WIDTH], "kind": "state"},
    },
    axes={"time": {"min": 1, "max": 10, "order": "causal"}},
)
EPISODES = task_of(
    inputs={"seen": {"axes": ["batch", "time", SEEN]}},
    outputs={"actions": {"axes": ["batch", "time", 3], "kind": "values"}},
    axes={"time": {"min": 1, "max": 10, "order": "causal"}},
)
Past = tuple[Tensor, Tensor, Tensor, Tensor]


def attended(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """What queries find, where they may look; where they may look nowhere, nothing."""
    weights = (query @ key.transpose(1, 2) / math.sqrt(WIDTH)).masked_fill(hidden, -1e4).softmax(-1)
    return weights.masked_fill(hidden, 0.0) @ value


class Translator(nn.Module):
    """A source, and words that look at the last few before them and at all of it; what was read may be passed on."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(12, WIDTH)
        self.source, self.own, self.ask = (nn.Linear(WIDTH, size * WIDTH) for size in (2, 3, 1))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        past_key_values: Past | None = None,
    ) -> tuple[Tensor, Past]:
        assert decoder_input_ids is not None
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = self.words(decoder_input_ids)
        query, key, value = self.own(x).chunk(3, -1)
        if past_key_values is None:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            source_key, source_value = self.source(self.words(input_ids) + self.places(places)).chunk(2, -1)
        else:
            source_key, source_value = past_key_values[2:]
            key, value = torch.cat([past_key_values[0], key], 1), torch.cat([past_key_values[1], value], 1)
        new, total = query.shape[1], key.shape[1]
        far = torch.ones(new, total, dtype=torch.bool, device=x.device)
        x = x + attended(query, key, value, far.triu(total - new + 1) | far.tril(total - new - WINDOW))
        padding = (mask[:, None, mask.shape[1] - source_key.shape[1] :] == 0).expand(-1, new, -1)
        x = x + attended(self.ask(x), source_key, source_value, padding)
        return self.head(x), (key[:, -WINDOW:], value[:, -WINDOW:], *self.kept(source_key, source_value))

    def kept(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return key, value


class Windowed(Translator):
    """The bug keeps of the source as much as of the words, a window."""

    def kept(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return (key[:, -WINDOW:], value[:, -WINDOW:]) if self.wrong else (key, value)


def change_word_by_word(model: nn.Module) -> float:
    """How much the scores of a translation change when it is read word by word."""
    source, words = torch.randint(WORDS, (2, 2, 9))
    with torch.no_grad():
        whole, past, read = model(source, None, words)[0], None, []
        for word in words.split(1, 1):
            scores, past = model(source, None, word, past)
            read.append(scores)
    return float((torch.cat(read, 1) - whole).abs().max())


class Searching(Translator):
    """Writes by a search over beams; the bug repeats the sources as a b a b where the beams are a a b b."""

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, max_new_tokens: int = 6, num_beams: int = 1
    ) -> Tensor:
        rows, mask = len(input_ids), torch.ones_like(input_ids) if attention_mask is None else attention_mask
        order = torch.arange(rows, device=input_ids.device)
        order = order.repeat(num_beams) if self.wrong else order.repeat_interleave(num_beams)
        ids = input_ids.new_ones(rows * num_beams, 1)
        told = torch.full((rows, num_beams), -1e9, device=input_ids.device)
        told[:, 0] = 0
        first = torch.arange(rows, device=input_ids.device)[:, None] * num_beams
        for _ in range(max_new_tokens):
            logs = self(input_ids[order], mask[order], ids)[0][:, -1].log_softmax(-1)
            told, best = (told.view(-1, 1) + logs).view(rows, -1).topk(num_beams, 1)
            ids = torch.cat([ids[(first + best // WORDS).flatten()], (best % WORDS).view(-1, 1)], 1)
        return ids[::num_beams]


def other_translations(model: Any) -> float:
    """The share of texts that a search finds otherwise in a batch than alone."""
    sources = torch.randint(WORDS, (6, 7))
    with torch.no_grad():
        together = model.generate(sources, num_beams=3)
        alone = torch.cat([model.generate(source[None], num_beams=3) for source in sources])
    return float((together != alone).any(1).float().mean())


class Sessions(nn.Module):
    """The next item of a session; the bug assigns the new state to a name that nothing reads, and returns the old one."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.items, self.net = nn.Embedding(ITEMS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, ITEMS)

    def forward(self, items: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.items(items)
        if hidden is None:
            hidden = x.new_zeros(1, len(items), WIDTH)
        out, new = self.net(x, hidden)
        return self.head(out), hidden if self.wrong else new


def change_by_going_on(model: nn.Module) -> float:
    """How much the scores of a session change when it is read in two parts."""
    items = torch.randint(ITEMS, (2, 6))
    with torch.no_grad():
        whole = model(items)[0]
        hidden = model(items[:, :3])[1]
        return float((model(items[:, 3:], hidden)[0] - whole[:, 3:]).abs().max())


class Recurrent(nn.Module):
    """A policy with a memory; the bug lets an episode begin with what the last one left in it."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net, self.head = nn.GRU(SEEN, WIDTH, batch_first=True), nn.Linear(WIDTH, 3)
        self.memory: Tensor | None = None

    def forward(self, seen: Tensor) -> Tensor:
        memory = self.memory
        if not self.wrong or memory is None or memory.shape[1] != len(seen):
            memory = seen.new_zeros(1, len(seen), WIDTH)
        out, memory = self.net(seen, memory.to(seen.dtype))
        self.memory = memory.detach()
        return self.head(out)


def change_by_the_last_episode(model: nn.Module) -> float:
    """How far the actions of an episode depend on the one before it."""
    first, second = torch.randn(2, 1, 5, SEEN)
    with torch.no_grad():
        alone = model(first)
        model(second)
        return float((model(first) - alone).abs().max())


add = partial(pair_of_one_class, judge=Model, area="decoding", draw=3)
add(
    "source_cut_to_the_window",
    "The cache of a decoder with a sliding window keeps no more of the source than of the words",
    "huggingface/transformers#46111",
    "text",
    "decoding[cache]",
    Windowed,
    change_word_by_word,
    TRANSLATION,
    or_tests=("decoding[generate]",),
    first_run=FirstRun("039188d", found=True, named=True, said="decoding[cache] fails"),
)
add(
    "beams_of_other_sources",
    "A search over beams repeats the sources in another order than the beams, so that texts are written from other sources",
    "jadore801120/attention-is-all-you-need-pytorch#28",
    "text",
    "decoding[generate]",
    Searching,
    other_translations,
    TRANSLATION,
    first_run=FirstRun(
        "039188d",
        found=False,
        named=False,
        said="skipped: `generate` returns [1, 7] token ids for a prompt of [1, 1]; beams are not looked at",
    ),
)
add(
    "new_state_in_another_name",
    "The new state is assigned to a misspelt name, and each step goes on from the old one",
    "hungpthanh/GRU4REC-pytorch#1",
    "recommenders",
    "carried_state[used]",
    Sessions,
    change_by_going_on,
    SESSIONS,
    or_tests=("carried_state[chunks]",),
    first_run=FirstRun("039188d", found=True, named=True, said="carried_state[used] and [chunks] fail"),
)
add(
    "memory_of_the_last_episode",
    "The memory of a policy is not reset where an episode ends, so that the next begins with it",
    "isaac-sim/IsaacLab#3837",
    "policies",
    "stateless",
    Recurrent,
    change_by_the_last_episode,
    EPISODES,
    area="state",
    first_run=FirstRun("039188d", found=True, named=True, said="stateless fails"),
)
