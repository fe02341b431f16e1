"""Reported bugs of decoders that are called with prompts of several lengths."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import task_of, wild

VOCAB, WIDTH, LENGTH = 31, 16, 16
PROMPTS = task_of(
    inputs={
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB, "pad": 0}},
        "attention_mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"logits": {"axes": ["batch", "time", VOCAB], "kind": "token_scores"}},
    axes={"time": {"max": LENGTH, "order": "causal", "padding": "left"}},
)


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
