"""Reported bugs of texts that are written, and of what they are written from: the eighth draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .decoding_caches import LENGTH, TEXT, VOCAB, WIDTH, Layer, Past
from .register import FirstRun, pair_of_one_class, task_of

SOUNDS, MOST = 6, 12
SPOKEN = task_of(
    inputs={
        "sound": {"axes": ["batch", "frames", SOUNDS]},
        "tokens": {"axes": ["batch", "time"], "values": {"ids": VOCAB}},
    },
    outputs={"scores": {"axes": ["batch", "time", VOCAB], "kind": "token_scores"}},
    axes={"time": {"min": 1, "max": MOST, "order": "causal"}, "frames": {"min": 1, "max": 2 * MOST}},
)
PICTURED = task_of(
    inputs={
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB, "pad": 0}},
        "attention_mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"scores": {"axes": ["batch", "time", VOCAB], "kind": "token_scores"}},
    axes={"time": {"min": 1, "max": LENGTH, "order": "causal", "padding": "right"}},
)


class Guessing(nn.Module):
    """Writes with guesses from its own text, several of which are checked in one call; the bug says that they stand one place later."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.head = wrong, nn.Linear(WIDTH, VOCAB)
        self.tokens, self.places, self.layer = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH), Layer()

    def forward(
        self, input_ids: Tensor, past_key_values: Past | None = None, cache_position: Tensor | None = None
    ) -> tuple[Tensor, Past]:
        past = None if past_key_values is None else past_key_values[0]
        if cache_position is None:
            begun = 0 if past is None else past[0].shape[2]
            cache_position = torch.arange(begun, begun + input_ids.shape[1], device=input_ids.device)
        x = self.tokens(input_ids) + self.places(cache_position.clamp(max=LENGTH - 1))
        found, kept = self.layer(x, past)
        return self.head(x + found), [kept]

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int = 6) -> Tensor:
        return torch.cat([self.written(row[None], max_new_tokens) for row in input_ids])

    def written(self, ids: Tensor, new: int) -> Tensor:
        longest = ids.shape[1] + new
        scores, past = self(ids)
        following = scores[:, -1:].argmax(-1)
        while ids.shape[1] < longest:
            guessed = torch.cat([following, self.guess(ids, following)], 1)
            begun = ids.shape[1] + 1 if self.wrong else ids.shape[1]
            places = torch.arange(begun, begun + guessed.shape[1], device=ids.device)
            scores, past = self(guessed, past, cache_position=places)
            chosen = scores.argmax(-1)
            right = int((guessed[:, 1:] == chosen[:, :-1]).long().cumprod(1).sum())
            ids = torch.cat([ids, guessed[:, : right + 1]], 1)
            past = [(key[:, :, : ids.shape[1]], value[:, :, : ids.shape[1]]) for key, value in past]
            following = chosen[:, right : right + 1]
        return ids[:, :longest]

    def guess(self, ids: Tensor, following: Tensor) -> Tensor:
        """What followed the last time that this token was written, two tokens at most."""
        seen = (ids[0] == following[0]).nonzero()[:, 0]
        return ids[:, :0] if not len(seen) else ids[:, int(seen[-1]) + 1 : int(seen[-1]) + 3]


@torch.no_grad()
def unlikely_tokens(model: Any) -> float:
    """The share of written tokens that are not the likeliest by one call with what stands before them."""
    ids = model.generate(torch.randint(VOCAB, (8, 5)))
    return float((ids[:, 5:] != model(ids)[0].argmax(-1)[:, 4:-1]).double().mean())


class Transcribing(nn.Module):
    """Reads a sound by keys that lie in a table; the bug makes the table as long as a text may be."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.most = MOST if wrong else 2 * MOST
        self.hear, self.tokens = nn.Linear(SOUNDS, WIDTH), nn.Embedding(VOCAB, WIDTH)
        self.net, self.head = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, VOCAB)

    def forward(self, sound: Tensor, tokens: Tensor) -> Tensor:
        heard, x = self.hear(sound).tanh(), self.net(self.tokens(tokens))[0]
        table = heard.new_zeros(len(heard), self.most, WIDTH)
        table[:, : heard.shape[1]] = heard
        places = torch.arange(self.most, device=heard.device)
        scores = (x @ table.transpose(1, 2)).masked_fill(places >= heard.shape[1], -torch.inf)
        return self.head(x + scores.softmax(-1) @ table)


@torch.no_grad()
def refuses_long_sounds(model: nn.Module) -> float:
    """Whether a sound longer than any text cannot be read."""
    try:
        model(torch.randn(1, MOST + 5, SOUNDS), torch.randint(VOCAB, (1, 3)))
    except RuntimeError:
        return 1.0
    return 0.0


class Describing(nn.Module):
    """Describes what it reads; the bug takes the last place of a row for its last token, where rows end with padding."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.head = wrong, nn.Linear(WIDTH, VOCAB)
        self.tokens, self.net = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.net(self.tokens(input_ids))[0])

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, max_new_tokens: int = 4) -> Tensor:
        longest = input_ids.shape[1]
        length = torch.full_like(input_ids[:, 0], longest)
        if attention_mask is not None and not self.wrong:
            length = attention_mask.long().sum(1)
        room = torch.cat([input_ids, input_ids.new_zeros(len(input_ids), max_new_tokens)], 1)
        rows, written = torch.arange(len(input_ids), device=input_ids.device), []
        for _ in range(max_new_tokens):
            written.append(self(room)[rows, length - 1].argmax(-1))
            room[rows, length] = written[-1]
            length = length + 1
        return torch.cat([input_ids, torch.stack(written, 1)], 1)


@torch.no_grad()
def other_after_padding(model: Any) -> float:
    """The share of tokens that a row gets otherwise, padded in a batch, than alone."""
    ids = torch.randint(1, VOCAB, (6, 4))
    padded, real = torch.cat([ids, torch.zeros_like(ids)], 1), torch.cat([torch.ones_like(ids), torch.zeros_like(ids)], 1)
    alone, together = model.generate(ids, torch.ones_like(ids)), model.generate(padded, real)
    return float((alone[:, 4:] != together[:, 8:]).double().mean())


add = partial(pair_of_one_class, judge=Model, area="decoding", draw=8, long=True)
add(
    "candidates_read_one_place_late",
    "Candidates of assisted decoding are checked at positions that are one too high",
    "huggingface/transformers#30413",
    "text",
    "decoding[generate]",
    Guessing,
    unlikely_tokens,
    TEXT,
    line="self.wrong else ids.shape[1]",
    first_run=FirstRun("26469ef1", found=True, named=False, said="decoding[generate] fails, with the first line of generate"),
    unnamed="names generate, and not the method that it calls",
)
add(
    "sources_longer_than_texts",
    "The table of keys of a sound is as long as a text may be, so that longer sounds do not fit",
    "NVIDIA/TensorRT-LLM#19514",
    "speech",
    "shape_contract",
    Transcribing,
    refuses_long_sounds,
    SPOKEN,
    line="table[:, : heard.shape[1]] = heard",
    first_run=FirstRun("26469ef1", found=True, named=True, said="shape_contract fails, with the line"),
)
add(
    "continued_after_padding",
    "Prompts are padded on the right, and the next token is read at the last place, which is padding",
    "LLaVA-VL/LLaVA-NeXT#398",
    "vision",
    "decoding[generate]",
    Describing,
    other_after_padding,
    PICTURED,
    line="[rows, length - 1]",
    first_run=FirstRun(
        "26469ef1",
        found=True,
        named=False,
        said="decoding[generate] fails, with the first line of generate, and says that the padding was on the left",
    ),
    unnamed="names generate, and not the place that it reads",
)
