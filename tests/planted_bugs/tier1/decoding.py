"""Decoders that write token by token: with a cache that is passed or kept, prompts padded on the left, and a ``generate``."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Status

from ..register import PlantedBug, register
from ..setups import Model
from ..tasks import CAUSAL, LENGTH, VOCAB

WIDTH, HEADS = 16, 2
Cache = tuple[Tensor, Tensor]


class CachedAttention(nn.Module):
    """Causal attention over what is in the cache and what is new."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong
        self.read, self.write = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        rows, new, _ = x.shape
        query, key, value = (part.view(rows, new, HEADS, -1).transpose(1, 2) for part in self.read(x).chunk(3, -1))
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        total = mask.shape[1]
        places = torch.arange(total, device=x.device)
        ahead = places > places[total - new :, None]
        if self.wrong == "mask of the new tokens" and past is not None:
            ahead = places > places[:new, None]
        if self.wrong == "no mask with a cache" and past is not None:
            ahead = torch.zeros_like(ahead)
        if self.wrong == "mask as large as what is new" and past is not None:
            ahead = ahead[:, -new:]
        hidden = ahead | (mask[:, None, None, :] == 0)
        if self.wrong == "padding seen with a cache" and past is not None:
            hidden = ahead.expand(rows, 1, -1, -1)
        scores = (query @ key.transpose(2, 3) / 8**0.5).masked_fill(hidden, torch.finfo(x.dtype).min)
        return self.write((scores.softmax(-1) @ value).transpose(1, 2).flatten(2)), (key, value)


class Writer(nn.Module):
    """A decoder with a cache that is passed from call to call, positions of each token in its own text, and a ``generate``."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(2 * LENGTH, WIDTH)
        self.layers = nn.ModuleList(CachedAttention(wrong) for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: list[Cache] | None = None,
        use_cache: bool = False,
    ) -> dict[str, object]:
        begun = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        rows, new = input_ids.shape
        if attention_mask is None:
            attention_mask = input_ids.new_ones(rows, begun + new)
        if position_ids is None:
            position_ids = torch.arange(new, device=input_ids.device) + (0 if self.wrong == "positions restart" else begun)
            position_ids = position_ids.expand(rows, -1)
        if self.wrong == "positions of the batch":
            position_ids = (torch.arange(new, device=input_ids.device) + begun).expand(rows, -1)
        x, cache = self.tokens(input_ids) + self.places(position_ids), []
        for number, layer in enumerate(self.layers):
            found, past = layer(x, attention_mask, None if past_key_values is None else past_key_values[number])
            x, cache = x + found, [*cache, past]
        return {"logits": self.head(x), "past_key_values": cache if use_cache else None}

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int, attention_mask: Tensor | None = None, top_k: int = 0) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.wrong == "mask dropped by generate":
            mask = torch.ones_like(input_ids)
        past, new = None, input_ids
        for _ in range(max_new_tokens):
            places = (mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
            if self.wrong == "generate counts one off" and past is not None:
                places = places + 1
            returned = self(new, mask, places, past, use_cache=True)
            past, logits = returned["past_key_values"], returned["logits"][:, -1]
            best = logits.topk(top_k or VOCAB, -1)
            new = best.indices.gather(1, torch.multinomial(best.values.softmax(-1), 1))
            input_ids, mask = torch.cat([input_ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
        return input_ids


def _plant(name: str, test: str, source: str, module: str = "", **facts: object) -> None:
    bug = PlantedBug(
        name, test, Model(CAUSAL, partial(Writer, name)), Model(CAUSAL, Writer), module=module, source=source, **facts
    )
    register(bug)


_plant(
    "positions restart",
    "decoding[cache]",
    "ml-explore/mlx-lm #93, positions that ignore the cache",
    "(model)",
    code="depends_on_split",
    status=Status.WARN,
    also=("decoding[left_padding]",),
)
_plant(
    "mask of the new tokens",
    "decoding[cache]",
    "hyprstream/hyprstream #1521, a causal mask that ignores the cached length",
    "layers.0",
    code="depends_on_split",
    also=("decoding[left_padding]", "decoding[generate]"),
)
_plant(
    "no mask with a cache",
    "decoding[cache]",
    "Mikyx-1/TinyLLM #17, no causal mask where a cache is given",
    "layers.0",
    code="wrong_in_chunks",
    status=Status.WARN,
    also=("decoding[left_padding]", "decoding[generate]"),
)
_plant(
    "mask as large as what is new",
    "decoding[cache]",
    "rasbt/LLMs-from-scratch #697, several tokens beside a cache are refused",
    "layers.0",
    code="refuses_several_tokens",
    status=Status.WARN,
)
_plant(
    "positions of the batch",
    "decoding[left_padding]",
    "unslothai/unsloth #3699, positions that count padding",
    "(model)",
    code="reads_left_padding",
    also=("decoding[generate]",),
)
_plant(
    "padding seen with a cache",
    "decoding[left_padding]",
    "huggingface/transformers #47086, padding that is seen again by calls with a cache",
    code="reads_left_padding",
    also=("decoding[generate]",),
)
_plant(
    "mask dropped by generate",
    "decoding[generate]",
    "TransformerLensOrg/TransformerLens #1005, generate without the padding mask",
    code="not_the_likeliest",
)


class RightPadded(Writer):
    """Sound: prompts are padded on the right, so that each row is written on after its own last token."""

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int, attention_mask: Tensor | None = None, top_k: int = 0) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        lengths, past, new = mask.sum(1), None, input_ids
        for step in range(max_new_tokens):
            places = torch.arange(new.shape[1]).expand(len(new), -1) if past is None else (lengths + step - 1)[:, None]
            returned = self(new, mask, places, past, use_cache=True)
            last = lengths - 1 if past is None else torch.zeros_like(lengths)
            if self.wrong == "logits of the padding":
                last = torch.full_like(lengths, new.shape[1] - 1)
            past, logits = returned["past_key_values"], returned["logits"][torch.arange(len(new)), last]
            best = logits.topk(top_k or VOCAB, -1)
            new = best.indices.gather(1, torch.multinomial(best.values.softmax(-1), 1))
            input_ids, mask = torch.cat([input_ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
        return input_ids


class InParts(Writer):
    """Writes four rows at a time; the bug turns the rows of a last part that is not full, and does not turn them back."""

    def generate(self, input_ids: Tensor, max_new_tokens: int, attention_mask: Tensor | None = None, top_k: int = 0) -> Tensor:
        masks = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        parts = []
        for ids, mask in zip(input_ids.split(4), masks.split(4), strict=True):
            turned = self.wrong == "rows of the last part turned" and len(ids) == 3
            if turned:
                ids, mask = ids.flip(0), mask.flip(0)
            parts.append(super().generate(ids, max_new_tokens, mask, top_k)[:, input_ids.shape[1] :])
        return torch.cat([input_ids, torch.cat(parts)], 1)


for _name, _cls, _source in (
    ("logits of the padding", RightPadded, "huggingface/transformers #14521, the logits of padding behind a prompt"),
    ("rows of the last part turned", InParts, "InternLM/lmdeploy #2395, the order of a batch"),
):
    register(
        PlantedBug(
            _name,
            "decoding[generate]",
            Model(CAUSAL, partial(_cls, _name)),
            Model(CAUSAL, _cls),
            code="not_the_likeliest",
            source=_source,
        )
    )


class KeepsItsCache(Writer):
    """The same with a cache that the model keeps, and empties when it is told to; the bug does not."""

    generate = None  # type: ignore[assignment]

    def __init__(self, wrong: str = "") -> None:
        super().__init__("")
        self.kept: list[Cache] | None = None
        self.wrong_reset = wrong == "reset forgotten"

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:  # type: ignore[override]
        returned = super().forward(input_ids, past_key_values=self.kept if use_cache else None, use_cache=True)
        if use_cache:
            self.kept = returned["past_key_values"]
        return returned["logits"]

    def reset_cache(self) -> None:
        if not self.wrong_reset:
            self.kept = None


register(
    PlantedBug(
        "reset forgotten",
        "decoding[requests]",
        Model(CAUSAL, partial(KeepsItsCache, "reset forgotten")),
        Model(CAUSAL, KeepsItsCache),
        code="cache_of_another_request",
        source="ml-explore/mlx-lm #1039, a cache that reaches the next conversation",
    )
)
_plant(
    "generate counts one off",
    "decoding[generate]",
    "huggingface/transformers #25420, positions beside a cache",
    code="not_the_likeliest",
)
