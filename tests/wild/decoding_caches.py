"""Reported bugs of caches of keys and values: decoders that write token by token give other scores than in one call."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import task_of, wild

VOCAB, WIDTH, LENGTH = 31, 16, 16
TEXT = task_of(task_type="causal_lm", vocab_size=VOCAB, max_seq_len=LENGTH)
Past = list[tuple[Tensor, Tensor]]


class Layer(nn.Module):
    """Attention of two heads over what was read before and what is new; subclasses have positions and bugs of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        query, key, value = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.read(x).chunk(3, -1))
        begun = 0 if past is None else past[0].shape[2]
        query, key = self.placed(query, begun), self.placed(key, begun)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        scores = query @ key.transpose(2, 3) / math.sqrt(WIDTH / 2) + self.bias(query.shape[2], key.shape[2], x)
        scores = scores.masked_fill(self.hidden(query.shape[2], key.shape[2], x), -torch.inf)
        return self.write((scores.softmax(-1) @ value).transpose(1, 2).flatten(2)), self.kept(key, value)

    def placed(self, heads: Tensor, begun: int) -> Tensor:
        return heads

    def bias(self, new: int, total: int, like: Tensor) -> Tensor:
        return torch.zeros((), device=like.device, dtype=like.dtype)

    def hidden(self, new: int, total: int, like: Tensor) -> Tensor:
        return torch.ones(new, total, dtype=torch.bool, device=like.device).triu(total - new + 1)

    def kept(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return key, value


class Decoder(nn.Module):
    """Two layers with learnt positions and a cache that is passed from call to call."""

    def __init__(self, layer: type[Layer] = Layer, learnt: bool = True) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH) if learnt else None
        self.layers, self.head = nn.ModuleList([layer(), layer()]), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, past_key_values: Past | None = None) -> tuple[Tensor, Past]:
        begun = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        x = self.embedded(input_ids, begun)
        new: Past = []
        for number, layer in enumerate(self.layers):
            found, past = layer(x, None if past_key_values is None else past_key_values[number])
            x, new = x + found, [*new, past]
        return self.head(x), new

    def embedded(self, ids: Tensor, begun: int) -> Tensor:
        x = self.tokens(ids)
        return x if self.places is None else x + self.places(torch.arange(begun, begun + ids.shape[1], device=ids.device))


def change_token_by_token(model: nn.Module, pieces: tuple[int, ...] = (5, 1, 1, 1, 1, 1)) -> float:
    """How much the scores of a text change when it is read in pieces, each with the cache of the last."""
    ids = torch.randint(VOCAB, (2, sum(pieces)))
    model.eval()
    with torch.no_grad():
        whole, past, read = model(ids)[0], None, []
        for piece in ids.split(list(pieces), 1):
            scores, past = model(piece, past)
            read.append(scores)
    return float((torch.cat(read, 1) - whole).abs().max())


_pair = partial(
    wild, area="decoding", field="text", test="decoding[cache]", setup=partial(Model, TEXT), wrong=change_token_by_token
)


class NoPlaceForOne(Decoder):
    def embedded(self, ids: Tensor, begun: int) -> Tensor:
        return super().embedded(ids, begun) if ids.shape[1] > 1 else self.tokens(ids)


_pair(
    "single_tokens_without_positions",
    title="Position embeddings are added only where more than one token is read, so that decoding has none",
    report="ml-explore/mlx-lm#93",
    buggy=NoPlaceForOne,
    sound=Decoder,
    module="(model)",
)


class Alibi(Layer):
    """A penalty that grows with the distance, worked out from the positions of queries and keys."""

    def bias(self, new: int, total: int, like: Tensor) -> Tensor:
        places = torch.arange(total, device=like.device, dtype=like.dtype)
        slopes = torch.tensor([0.5, 0.25], device=like.device, dtype=like.dtype)
        return slopes[:, None, None] * (places - places[total - new :, None])


class AlibiOfTheNew(Alibi):
    def bias(self, new: int, total: int, like: Tensor) -> Tensor:
        places = torch.arange(new, device=like.device, dtype=like.dtype)
        slopes = torch.tensor([0.5, 0.25], device=like.device, dtype=like.dtype)
        found = slopes[:, None, None] * places
        return found if new == 1 else nn.functional.pad(found, (total - new, 0))


_pair(
    "alibi_of_the_query_only",
    title="The ALiBi bias is made for the new tokens only and is zero for a single one",
    report="keras-team/keras-hub#2861",
    buggy=partial(Decoder, AlibiOfTheNew, learnt=False),
    sound=partial(Decoder, Alibi, learnt=False),
    module="layers",
)


class Rotary(Layer):
    """Keys and queries are rotated by their positions; the angles are kept by length and offset."""

    def __init__(self) -> None:
        super().__init__()
        self.angles: dict[tuple[int, int], Tensor] = {}

    def key(self, length: int, begun: int) -> tuple[int, int]:
        return length, begun

    def placed(self, heads: Tensor, begun: int) -> Tensor:
        length, half = heads.shape[2], heads.shape[3] // 2
        key = self.key(length, begun)
        if key not in self.angles:
            speeds = 10.0 ** -torch.arange(half, dtype=torch.float64)
            self.angles[key] = torch.arange(begun, begun + length, dtype=torch.float64)[:, None] * speeds
        angle = self.angles[key].to(heads.device)
        cos, sin = angle.cos().to(heads.dtype), angle.sin().to(heads.dtype)
        left, right = heads.chunk(2, -1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


class RotaryByLength(Rotary):
    def key(self, length: int, begun: int) -> tuple[int, int]:
        return length, 0


_pair(
    "angles_kept_without_their_offset",
    title="Rotary angles are kept by length alone, so that every single token gets the angle of the first one",
    report="lucidrains/rotary-embedding-torch#11",
    buggy=partial(Decoder, RotaryByLength, learnt=False),
    sound=partial(Decoder, Rotary, learnt=False),
    module="layers",
)


class UnmaskedAfterTheFirst(Layer):
    def hidden(self, new: int, total: int, like: Tensor) -> Tensor:
        return super().hidden(new, total, like) & (total == new)


_pair(
    "no_causal_mask_beside_a_cache",
    title="No causal mask is applied where a cache is given, so that several new tokens see each other",
    report="Mikyx-1/TinyLLM#17",
    buggy=partial(Decoder, UnmaskedAfterTheFirst),
    sound=Decoder,
    wrong=partial(change_token_by_token, pieces=(4, 4)),
    status=Status.WARN,
    module="layers",
)

WINDOW = 5


class Windowed(Layer):
    """Attention to the last places only; what no later token sees is dropped from the cache."""

    short = 0

    def placed(self, heads: Tensor, begun: int) -> Tensor:
        return heads

    def hidden(self, new: int, total: int, like: Tensor) -> Tensor:
        ones = torch.ones(new, total, dtype=torch.bool, device=like.device)
        return ones.triu(total - new + 1) | ones.tril(total - new - WINDOW)

    def kept(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        size = WINDOW - 1 - self.short
        return key[:, :, -size:], value[:, :, -size:]


class WindowCutShort(Windowed):
    short = 1


_pair(
    "rolling_cache_one_short",
    title="The rolling cache of a sliding window begins one place off once the window is full",
    report="huggingface/transformers#47708",
    buggy=partial(Decoder, WindowCutShort, learnt=False),
    sound=partial(Decoder, Windowed, learnt=False),
    module="layers",
)
