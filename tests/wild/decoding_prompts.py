"""Reported bugs of masks, prompts in batches and forecasts step by step; all but that of padded positions drawn after the checks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, task_of, wild

VOCAB, WIDTH, LENGTH, HISTORY, HORIZON = 29, 16, 16, 12, 4
SCORES = {"logits": {"axes": ["batch", "time", VOCAB], "kind": "token_scores"}}
TEXT = task_of(
    inputs={"tokens": {"axes": ["batch", "time"], "values": {"ids": VOCAB}}},
    outputs=SCORES,
    axes={"time": {"max": LENGTH, "order": "causal"}},
)
PROMPTS = task_of(
    inputs={
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB, "pad": 0}},
        "attention_mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs=SCORES,
    axes={"time": {"max": LENGTH, "order": "causal", "padding": "left"}},
)
SERIES = task_of(
    inputs={"history": {"axes": ["batch", HISTORY]}}, outputs={"forecast": {"axes": ["batch", HORIZON], "kind": "values"}}
)


class Attention(nn.Module):
    """Two heads that see what a mask lets them see, with keys and values of earlier calls where they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kept: tuple[Tensor, Tensor] | None = None

    def forward(
        self, x: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        query, key, value = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in self.mixed(x).chunk(3, 2))
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2)), (key, value)


class PreparedDecoder(nn.Module):
    """A decoder with caches that are set up before generation; the bug makes the causal mask there, so that no other call has one."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.attention, self.head = Attention(), nn.Linear(WIDTH, VOCAB)
        self.prepared = False

    def setup_caches(self, batch_size: int, dtype: torch.dtype = torch.float32) -> None:
        self.prepared, self.attention.kept = True, None

    def reset_caches(self) -> None:
        self.attention.kept = None

    def forward(self, tokens: Tensor, input_pos: Tensor | None = None) -> Tensor:
        time = tokens.shape[1]
        places = torch.arange(time, device=tokens.device) if input_pos is None else input_pos
        mask = None
        if self.prepared or not self.wrong:
            seen = torch.arange(int(places[-1]) + 1 if self.prepared else time, device=tokens.device)
            mask = seen <= places[:, None]
        x = self.tokens(tokens) + self.places(places)
        mixed, kept = self.attention(x, mask, self.attention.kept if self.prepared else None)
        if self.prepared:
            self.attention.kept = kept
        return self.head(x + mixed)


class Cache:
    """Keys and values of one layer, and the mask that follows from them."""

    def __init__(self, kept: tuple[Tensor, Tensor] | None = None) -> None:
        self.kept = kept

    @property
    def length(self) -> int:
        return 0 if self.kept is None else self.kept[0].shape[2]

    def make_mask(self, causal: Tensor, real: Tensor) -> Tensor:
        own = torch.eye(causal.shape[0], causal.shape[1], dtype=torch.bool, device=causal.device).roll(self.length, 1)
        return (causal & real.bool()[:, None, :]).logical_or(own)[:, None]


def mask_for(caches: Cache | list[Cache], length: int, time: int, real: Tensor) -> Tensor:
    """The mask of a call: a cache knows of padding, without one there is only the causal mask."""
    seen = torch.arange(length + time, device=real.device)
    causal = seen <= seen[length:, None]
    return caches.make_mask(causal, real) if isinstance(caches, Cache) else causal


class LayeredDecoder(nn.Module):
    """A decoder with a cache for each layer; the bug asks the list of caches for a mask, which then knows of no padding."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers, self.head = nn.ModuleList([Attention(), Attention()]), nn.Linear(WIDTH, VOCAB)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, past_key_values: list[Cache] | None = None
    ) -> dict[str, object]:
        time = input_ids.shape[1]
        caches = past_key_values or [Cache() for _ in self.layers]
        length = caches[0].length
        real = input_ids.new_ones(len(input_ids), length + time) if attention_mask is None else attention_mask
        mask = mask_for(caches if self.wrong else caches[0], length, time, real)
        places = (real.long().cumsum(1) - 1).clamp(min=0)[:, -time:]
        x = self.tokens(input_ids) + self.places(places)
        after = []
        for layer, cache in zip(self.layers, caches, strict=True):
            mixed, kept = layer(x, mask, cache.kept)
            x = x + mixed
            after.append(Cache(kept))
        return {"logits": self.head(x), "past_key_values": after}


class Hybrid(nn.Module):
    """A short convolution and a decaying state; the bug drops the mask, so that both read the padding before a prompt."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.conv = nn.Embedding(VOCAB, WIDTH), nn.Conv1d(WIDTH, WIDTH, 3)
        self.decay, self.head = nn.Parameter(torch.rand(WIDTH)), nn.Linear(WIDTH, VOCAB)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, object]:
        batch, time = input_ids.shape
        x = self.tokens(input_ids)
        real = x.new_ones(batch, time, 1)
        if attention_mask is not None and not self.wrong:
            real = attention_mask[:, -time:, None].to(x.dtype)
        tail, state = cache if cache is not None else (x.new_zeros(batch, 2, WIDTH), x.new_zeros(batch, WIDTH))
        window = torch.cat([tail, x * real], 1)
        mixed = nn.functional.silu(self.conv(window.transpose(1, 2))).transpose(1, 2) * real
        states = []
        for step in range(time):
            state = state * self.decay.sigmoid() + mixed[:, step]
            states.append(state)
        return {"logits": self.head(torch.stack(states, 1)), "cache": (window[:, -2:], state)}


class Writer(nn.Module):
    """A decoder that masks padding where it is called; the bug leaves the mask out where it writes a text."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.attention, self.head = Attention(), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        time = input_ids.shape[1]
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = self.tokens(input_ids) + self.places((real.long().cumsum(1) - 1).clamp(min=0))
        causal = torch.ones(time, time, dtype=torch.bool, device=x.device).tril()
        own = torch.eye(time, dtype=torch.bool, device=x.device)
        return self.head(x + self.attention(x, (causal & real.bool()[:, None]).logical_or(own)[:, None])[0])

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, max_new_tokens: int = 4) -> Tensor:
        real = torch.ones_like(input_ids) if attention_mask is None or self.wrong else attention_mask
        for _ in range(max_new_tokens):
            chosen = self(input_ids, real)[:, -1].argmax(-1, keepdim=True)
            input_ids, real = torch.cat([input_ids, chosen], 1), torch.cat([real, torch.ones_like(chosen)], 1)
        return input_ids


class StepByStep(nn.Module):
    """A forecast that feeds on itself; the bug reads the history without its last value, and forecasts that one first."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder, self.value = nn.GRU(1, WIDTH, batch_first=True), nn.Linear(WIDTH, 1)

    def forward(self, history: Tensor) -> Tensor:
        known = history[:, :-1] if self.wrong else history
        states, state = self.encoder(known[..., None])
        values = [self.value(states[:, -1:])]
        while len(values) < HORIZON:
            states, state = self.encoder(values[-1], state)
            values.append(self.value(states))
        return torch.cat(values, 1).squeeze(2)


def change_by_a_later_token(model: nn.Module) -> float:
    """How much the last token changes the scores before it."""
    tokens = torch.randint(VOCAB, (1, 8))
    other = torch.cat([tokens[:, :-1], (tokens[:, -1:] + 1) % VOCAB], 1)
    with torch.no_grad():
        return float((model(tokens) - model(other))[:, :-1].abs().max())


def change_by_padding(model: nn.Module) -> float:
    """How much four places of padding before a prompt change its scores."""
    ids, padding = torch.randint(1, VOCAB, (1, 7)), torch.zeros(1, 4, dtype=torch.long)
    ones = torch.ones_like(ids)
    with torch.no_grad():
        alone = model(ids, ones)["logits"]
        padded = model(torch.cat([padding, ids], 1), torch.cat([padding, ones], 1))["logits"]
    return float((padded[:, 4:] - alone).abs().max())


def other_texts(model: nn.Module) -> float:
    """The share of prompts that go on in another way behind padding than alone."""
    ids, padding = torch.randint(1, VOCAB, (32, 5)), torch.zeros(32, 4, dtype=torch.long)
    ones = torch.ones_like(ids)
    alone = model.generate(ids, ones)[:, 5:]
    padded = model.generate(torch.cat([padding, ids], 1), torch.cat([padding, ones], 1))[:, 9:]
    return float((alone != padded).any(1).float().mean())


def ignored_last_value(model: nn.Module) -> float:
    """1 where the last known value changes nothing of the forecast."""
    history = torch.randn(2, HISTORY, requires_grad=True)
    model(history).square().sum().backward()
    return float(bool((history.grad[:, -1] == 0).all()))


class PromptDecoder(nn.Module):
    """One layer of attention over learnt positions; the bug counts the padding on the left as places of the text."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.attention, self.head = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        time = input_ids.shape[1]
        places = torch.arange(time, device=input_ids.device).expand_as(input_ids)
        if not self.wrong:
            places = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        x = self.tokens(input_ids) + self.places(places)
        ahead = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
        hidden = ahead | (attention_mask[:, None, :] == 0)
        hidden = (hidden & ~torch.eye(time, dtype=torch.bool, device=x.device)).repeat_interleave(2, 0)
        return self.head(x + self.attention(x, x, x, attn_mask=hidden, need_weights=False)[0])


def change_by_left_padding(model: nn.Module) -> float:
    """How much four places of padding before a prompt change its scores."""
    ids, padding = torch.randint(1, VOCAB, (1, 7)), torch.zeros(1, 4, dtype=torch.long)
    ones = torch.ones_like(ids)
    with torch.no_grad():
        alone = model(ids, ones)
        padded = model(torch.cat([padding, ids], 1), torch.cat([padding, ones], 1))
    return float((padded[:, 4:] - alone).abs().max())


wild(
    "positions_count_left_padding",
    title="Positions count the padding on the left, so that short prompts of a batch are read at the wrong places",
    report="unslothai/unsloth#3699",
    area="decoding",
    field="text",
    test="padding_ignored",
    setup=partial(Model, PROMPTS),
    buggy=partial(PromptDecoder, True),
    sound=PromptDecoder,
    wrong=change_by_left_padding,
)


_drawn = partial(wild, area="decoding", draw=2)
_drawn(
    "mask_made_with_the_caches",
    title="The causal mask is made where caches are set up, so that a call without caches sees every later token",
    report="meta-pytorch/torchtune#959",
    field="text",
    test="causal",
    or_tests=("decoding[cache]",),
    setup=partial(Model, TEXT),
    buggy=partial(PreparedDecoder, True),
    sound=PreparedDecoder,
    wrong=change_by_a_later_token,
    module="attention",
    first_run=FirstRun("d13d60a", found=True, named=True, said="causal fails in attention"),
)
_drawn(
    "mask_of_a_list_of_caches",
    title="The mask is asked of the list of caches instead of one of them, and leaves out the padding on the left",
    report="ml-explore/mlx-lm#1906",
    field="text",
    test="decoding[left_padding]",
    or_tests=("padding_ignored",),
    setup=partial(Model, PROMPTS),
    buggy=partial(LayeredDecoder, True),
    sound=LayeredDecoder,
    wrong=change_by_padding,
    module="layers.0",
    first_run=FirstRun(
        "d13d60a",
        found=True,
        named=False,
        said="padding_ignored fails without a module; decoding[left_padding] warns, in layers.0",
    ),
)
_drawn(
    "convolution_over_left_padding",
    title="The mask reaches the embeddings only, so that a convolution and a recurrent state read padding on the left",
    report="Blaizzy/mlx-vlm#1946",
    field="text",
    test="decoding[left_padding]",
    or_tests=("padding_ignored",),
    setup=partial(Model, PROMPTS),
    buggy=partial(Hybrid, True),
    sound=Hybrid,
    wrong=change_by_padding,
    module="conv",
    first_run=FirstRun(
        "d13d60a", found=True, named=False, said="padding_ignored fails without a module; decoding[left_padding] warns, in conv"
    ),
)
_drawn(
    "generate_without_a_mask",
    title="generate does not mask the padding of a batch, so that short prompts go on in another way than alone",
    report="TransformerLensOrg/TransformerLens#1005",
    field="text",
    test="decoding[generate]",
    setup=partial(Model, PROMPTS),
    buggy=partial(Writer, True),
    sound=Writer,
    wrong=other_texts,
    first_run=FirstRun("d13d60a", found=True, named=False, said="decoding[generate] fails, no line of generate is named"),
)
_drawn(
    "forecast_without_the_last_value",
    title="A recurrent forecast begins one step early and never reads the last known value",
    report="Nixtla/neuralforecast#1285",
    field="forecasting",
    test="input_dependence[inputs]",
    setup=partial(Model, SERIES),
    buggy=partial(StepByStep, True),
    sound=StepByStep,
    wrong=ignored_last_value,
    module="(model)",
    first_run=FirstRun("d13d60a", found=True, named=False, said="input_dependence names the place of the input, and no module"),
)
