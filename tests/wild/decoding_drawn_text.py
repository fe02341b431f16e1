"""Reported bugs of decoders that were drawn when the checks of decoding were finished: positions with a cache, and loops that write."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .decoding_caches import TEXT, VOCAB, WIDTH, Decoder, Layer, Past, change_token_by_token
from .register import wild


class Counted(Layer):
    """Rotary attention that asks a shared count how many tokens are in the cache."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    def placed(self, heads: Tensor, begun: int) -> Tensor:
        return rotated(heads, self.begun)


def rotated(heads: Tensor, begun: int) -> Tensor:
    """Queries or keys, rotated by their places."""
    length, half = heads.shape[2], heads.shape[3] // 2
    speeds = 10.0 ** -torch.arange(half, device=heads.device, dtype=heads.dtype)
    angle = torch.arange(begun, begun + length, device=heads.device, dtype=heads.dtype)[:, None] * speeds
    left, right = heads.chunk(2, -1)
    return torch.cat([left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()], -1)


class CountingDecoder(nn.Module):
    """Layers that read one count of the tokens seen; the bug raises it in the first layer, before the others have read it."""

    def __init__(self, early: bool = False) -> None:
        super().__init__()
        self.early = early
        self.tokens, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.layers = nn.ModuleList([Counted(), Counted(), Counted()])

    def forward(self, input_ids: Tensor, past_key_values: Past | None = None) -> tuple[Tensor, Past]:
        seen = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        x, new = self.tokens(input_ids), Past()
        for number, layer in enumerate(self.layers):
            layer.begun = seen
            found, past = layer(x, None if past_key_values is None else past_key_values[number])
            x, new = x + found, [*new, past]
            if self.early and number == 0 and past_key_values is not None:
                seen += input_ids.shape[1]
        return self.head(x), new


class RelativeKeys(Layer):
    """An embedding of the distance is added to each key; the bug counts the distances of the new tokens from 0."""

    from_zero = False

    def __init__(self) -> None:
        super().__init__()
        self.distances = nn.Embedding(63, WIDTH // 2)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        query, key, value = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.read(x).chunk(3, -1))
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        new, total = query.shape[2], key.shape[2]
        places = torch.arange(total, device=x.device)
        own = places[:new] if self.from_zero else places[total - new :]
        apart = self.distances(own[:, None] - places + 31)
        scores = query @ key.transpose(2, 3) + torch.einsum("bhqd,qkd->bhqk", query, apart)
        scores = (scores / math.sqrt(WIDTH / 2)).masked_fill(self.hidden(new, total, x), -torch.inf)
        return self.write((scores.softmax(-1) @ value).transpose(1, 2).flatten(2)), (key, value)


class RelativeKeysFromZero(RelativeKeys):
    from_zero = True


_pair = partial(
    wild,
    area="decoding",
    field="text",
    test="decoding[cache]",
    setup=partial(Model, TEXT),
    wrong=change_token_by_token,
    draw=1,
)
_pair(
    "tokens_seen_are_counted_too_early",
    title="The first layer counts the new token as seen, so that the layers above rotate it by one place too many",
    report="fla-org/flash-linear-attention#766",
    buggy=partial(CountingDecoder, True),
    sound=CountingDecoder,
)
_pair(
    "distances_of_new_tokens_from_zero",
    title="With a cache the distances of relative keys are counted from the new tokens only",
    report="huggingface/transformers#20203",
    buggy=partial(Decoder, RelativeKeysFromZero, learnt=False),
    sound=partial(Decoder, RelativeKeys, learnt=False),
    module="layers",
)


class WholeTextDecoder(nn.Module):
    """A decoder that is given the whole text beside a cache and cuts it itself; the bug rotates what is left from place 0."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.head, self.layer = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB), Counted()

    def forward(
        self, input_ids: Tensor, cache: tuple[Tensor, Tensor] | None = None, return_cache: bool = False
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        begun = 0 if cache is None else cache[0].shape[2]
        x = self.tokens(input_ids)[:, begun:]
        self.layer.begun = 0 if self.wrong else begun
        found, cache = self.layer(x, cache)
        logits = self.head(x + found)
        return (logits, cache) if return_cache else logits


def change_by_whole_texts(model: nn.Module) -> float:
    """How much the scores change when the text so far is given with the cache of the call before."""
    ids, cache, read = torch.randint(VOCAB, (2, 8)), None, []
    with torch.no_grad():
        whole = model(ids)
        for end in range(1, 9):
            scores, cache = model(ids[:, :end], cache=cache, return_cache=True)
            read.append(scores[:, -1:])
    return float((torch.cat(read, 1) - whole).abs().max())


_pair(
    "cut_text_rotated_from_zero",
    title="A decoder that cuts the text by its cache rotates what is left as if it stood at the beginning",
    report="lucidrains/x-transformers#311",
    buggy=partial(WholeTextDecoder, True),
    sound=WholeTextDecoder,
    wrong=change_by_whole_texts,
    module="layer",
)


class Generator(Decoder):
    """A decoder with a loop that writes on; the bugs count places wrongly, or read a part of the prompt twice."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, start_pos: int = 0, past_key_values: Past | None = None
    ) -> tuple[Tensor, Past]:
        x = self.embedded(input_ids, start_pos)
        new: Past = []
        for number, layer in enumerate(self.layers):
            found, past = layer(x, None if past_key_values is None else past_key_values[number])
            x, new = x + found, [*new, past]
        return self.head(x), new

    def embedded(self, ids: Tensor, begun: int) -> Tensor:
        places = torch.arange(begun, begun + ids.shape[1], device=ids.device).clamp(max=15)
        return self.tokens(ids) + self.places(places)  # type: ignore[misc]

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int = 8, temperature: float = 1.0) -> Tensor:
        logits, past = self(input_ids)
        offset = input_ids.shape[1]
        if self.wrong == "prompt read twice" and offset > 1:
            logits, past = self(input_ids[:, 1:], offset, past)
        if self.wrong == "offset doubled":
            offset += input_ids.shape[1]
        for number in range(max_new_tokens):
            best = logits[:, -1].argmax(-1, keepdim=True)
            if temperature > 0:
                best = torch.multinomial((logits[:, -1] / temperature).softmax(-1), 1)
            input_ids = torch.cat([input_ids, best], 1)
            if number < max_new_tokens - 1:
                logits, past = self(best, offset, past)
                offset += 1
        return input_ids


def unlikely_tokens(model: nn.Module) -> float:
    """The share of written tokens that are not the likeliest by one call with what stands before them."""
    with torch.no_grad():
        ids = model.generate(torch.randint(VOCAB, (8, 5)), max_new_tokens=6, temperature=0.0)  # type: ignore[operator]
        likeliest = model(ids)[0].argmax(-1)
    return float((ids[:, 5:] != likeliest[:, 4:-1]).double().mean())


_pair(
    "offset_counts_the_prompt_twice",
    title="The loop adds the length of the prompt to the offset once more after the first call",
    report="skyzh/tiny-llm#46",
    test="decoding[generate]",
    buggy=partial(Generator, "offset doubled"),
    sound=Generator,
    wrong=unlikely_tokens,
)
_pair(
    "rest_of_the_prompt_read_twice",
    title="What is left of the prompt after a saved part is read twice into the cache",
    report="ml-explore/mlx-lm#1039",
    test="decoding[generate]",
    buggy=partial(Generator, "prompt read twice"),
    sound=Generator,
    wrong=unlikely_tokens,
)
