"""Encoder-decoder models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..register import HUMBATOVA, ISLAM, RECIPE, planted
from ..tasks import SEQ2SEQ, VOCAB
from .parts import WIDTH, Attention, Block, Embedding, earlier, real_keys


class Reader(Block):
    """A block that also reads the source."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_cross = nn.LayerNorm(WIDTH)
        self.cross = Attention()

    def forward(self, x: Tensor, visible: Tensor, source: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]
        normed = self.norm_attn(x)
        x = x + self.dropout(self.attn(normed, normed, visible))
        x = x + self.dropout(self.cross(self.norm_cross(x), source, real))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class Translator(nn.Module):
    """One encoder block and two decoder blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = Embedding()
        self.encoder = Block()
        self.norm_source = nn.LayerNorm(WIDTH)
        self.decoder = nn.ModuleList(Reader() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, decoder_input_ids: Tensor) -> Tensor:
        real = real_keys(input_ids, attention_mask)
        source = self.norm_source(self.encoder(self.embed(input_ids), real))
        x = self.embed(decoder_input_ids)
        visible = self.visible(decoder_input_ids)
        for block in self.decoder:
            x = block(x, visible, source, real)
        return self.head(self.norm(x))

    def visible(self, ids: Tensor) -> Tensor:
        return earlier(ids.shape[1], ids.device)[None, None]


class _ReadsItself(Reader):
    def forward(self, x: Tensor, visible: Tensor, source: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, visible, x, visible)


@planted(
    "input_dependence[source]",
    task=SEQ2SEQ,
    sound=Translator,
    source="Vaswani et al. 2017, section 3.2.3: keys and values from the encoder",
)
class CrossAttentionReadsTheDecoder(Translator):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.ModuleList(_ReadsItself() for _ in range(2))


class _ReadsTheFirst(Reader):
    def forward(self, x: Tensor, visible: Tensor, source: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(
            x, visible, source[:, :-1] if source.shape[1] > 1 else source, real[..., : max(1, source.shape[1] - 1)]
        )


class _PerToken(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return super().weights(scores, visible & torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device))


@planted("input_dependence[source]", task=SEQ2SEQ, sound=Translator, source=f"{ISLAM}: off by one")
class LastSourceTokenDropped(Translator):
    def __init__(self) -> None:
        super().__init__()
        self.encoder.attn = _PerToken()
        self.decoder = nn.ModuleList(_ReadsTheFirst() for _ in range(2))


@planted(
    "causal", task=SEQ2SEQ, sound=Translator, module="decoder.0.attn", source=f"{RECIPE}: use backprop to chart dependencies"
)
class DecoderSeesTheWholeTarget(Translator):
    def visible(self, ids: Tensor) -> Tensor:
        return torch.ones_like(super().visible(ids))


class _IgnoresPadding(Reader):
    def forward(self, x: Tensor, visible: Tensor, source: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, visible, source, torch.ones_like(real))


@planted("padding_ignored", task=SEQ2SEQ, sound=Translator, module="decoder.1.cross", source=f"{HUMBATOVA}: wrong masking")
class PaddingReadInOneCrossAttention(Translator):
    def __init__(self) -> None:
        super().__init__()
        self.decoder[1] = _IgnoresPadding()


@planted(
    "full_length", task=SEQ2SEQ, sound=Translator, module="embed.positions", source=f"{HUMBATOVA}: wrong size of an embedding"
)
class PositionsWithRoomForTheStartToken(Translator):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, decoder_input_ids: Tensor) -> Tensor:
        started = torch.cat((torch.ones_like(decoder_input_ids[:, :1]), decoder_input_ids), 1)
        return super().forward(input_ids, attention_mask, decoder_input_ids=started)[:, 1:]


@planted(
    "gradient_flow[reaches_every_parameter]",
    task=SEQ2SEQ,
    sound=Translator,
    module="norm_source",
    source=f"{HUMBATOVA}: missing gradient",
)
class EncoderDetached(Translator):
    def __init__(self) -> None:
        super().__init__()
        self.norm_source = _Detaching(WIDTH)


class _Detaching(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class _LogOfWeights(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        weights = super().weights(scores, visible)
        return weights * (1 + 0.01 * weights.log())


@planted("finite_output[typical]", task=SEQ2SEQ, sound=Translator, module="decoder.0.attn", source=f"{ISLAM}: log of zero")
class EntropyOfMaskedWeights(Translator):
    def __init__(self) -> None:
        super().__init__()
        self.decoder[0].attn = _LogOfWeights()


class Searching(Translator):
    """Writes the likeliest of a few texts that it keeps at each step, without a source's end."""

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, max_new_tokens: int = 6, num_beams: int = 1
    ) -> Tensor:
        rows, mask = len(input_ids), torch.ones_like(input_ids) if attention_mask is None else attention_mask
        sources, first = self.sources(rows, num_beams), num_beams * torch.arange(rows)[:, None]
        ids, told = input_ids.new_ones(rows * num_beams, 1), torch.zeros(rows, num_beams)
        told[:, 1:] = -torch.inf
        for _ in range(max_new_tokens):
            scores = self(input_ids[sources], mask[sources], decoder_input_ids=ids).log_softmax(-1)
            told, best = (told.view(-1, 1) + self.next_scores(scores)).view(rows, -1).topk(num_beams)
            ids = torch.cat([ids[(first + best // VOCAB).flatten()], (best % VOCAB).view(-1, 1)], 1)
        return ids[::num_beams]

    def sources(self, rows: int, beams: int) -> Tensor:
        return torch.arange(rows).repeat_interleave(beams)

    def next_scores(self, scores: Tensor) -> Tensor:
        return scores[:, -1]


@planted(
    "decoding[generate]", task=SEQ2SEQ, sound=Searching, code="search_differs", source=f"{ISLAM}: repeat for repeat_interleave"
)
class SourcesOfOtherRows(Searching):
    def sources(self, rows: int, beams: int) -> Tensor:
        return torch.arange(rows).repeat(beams)


@planted("decoding[generate]", task=SEQ2SEQ, sound=Searching, code="not_the_likeliest", source=f"{ISLAM}: off by one")
class WritesByThePlaceBefore(Searching):
    def next_scores(self, scores: Tensor) -> Tensor:
        return scores[:, max(0, scores.shape[1] - 2)]
