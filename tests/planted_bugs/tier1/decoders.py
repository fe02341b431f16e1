"""Decoder language models: what a forward pass gets wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.evidence import Status

from ..register import HUGGING_FACE, HUMBATOVA, ISLAM, PYTORCH, RECIPE, ZHANG, planted
from ..tasks import CAUSAL, LENGTH, VOCAB
from .parts import DEPTH, WIDTH, Attention, Block, Embedding, earlier, real_keys


class Decoder(nn.Module):
    """A decoder with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = Embedding()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.embed.tokens.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        visible = self.visible(input_ids, attention_mask)
        for block in self.blocks:
            x = block(x, visible)
        return self.head(self.norm(x))

    def visible(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return real_keys(input_ids, attention_mask) & earlier(input_ids.shape[1], input_ids.device)


class _OffByOne(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return super().weights(scores, torch.ones_like(visible).tril(1))


@planted("causal", task=CAUSAL, sound=Decoder, module="blocks.1.attn", source=f"{RECIPE}: use backprop to chart dependencies")
class OffByOneMaskInLastLayer(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[-1].attn = _OffByOne()


class _OneOpenHead(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return torch.cat((super().weights(scores[:, :1], visible), scores[:, 1:].softmax(-1)), 1)


@planted("causal", task=CAUSAL, sound=Decoder, module="blocks.0.attn", source=f"{RECIPE}: use backprop to chart dependencies")
class OneHeadWithoutMask(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].attn = _OneOpenHead()


class _WrongAxis(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        right = super().weights(scores[:, :1], visible)
        hidden = scores[:, 1:].masked_fill(~visible, torch.finfo(scores.dtype).min)
        return torch.cat((right, hidden.softmax(-2)), 1)


@planted("causal", task=CAUSAL, sound=Decoder, module="blocks.1.attn", source=f"{ISLAM}: API misuse, wrong axis")
class SoftmaxOverQueriesInOneHead(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].attn = _WrongAxis()


@planted(
    "causal", task=CAUSAL, sound=Decoder, module="blocks.0.attn", source=f"{HUMBATOVA}: faults that show at one input size only"
)
class MaskSkippedAtFullLength(Decoder):
    def visible(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        if input_ids.shape[1] == LENGTH:
            return real_keys(input_ids, attention_mask)
        return super().visible(input_ids, attention_mask)


@planted("causal", task=CAUSAL, sound=Decoder, module="(model)", source=f"{RECIPE}: use backprop to chart dependencies")
class MeanOfTheSequenceAdded(Decoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        visible = self.visible(input_ids, attention_mask)
        for block in self.blocks:
            x = block(x, visible)
        return self.head(self.norm(x + 0.1 * x.mean(1, keepdim=True)))


@planted(
    "input_dependence[context]",
    task=CAUSAL,
    sound=Decoder,
    source=f"{RECIPE}: overfit one batch, then look at what it reads",
    also=("input_dependence[order]",),
)
class EveryPositionSeesItselfAlone(Decoder):
    def visible(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return super().visible(input_ids, attention_mask) & earlier(input_ids.shape[1], input_ids.device).mT


@planted("input_dependence[tokens]", task=CAUSAL, sound=Decoder, code="shifted_input", source=HUGGING_FACE)
class ShiftedInForwardToo(Decoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(torch.cat((torch.ones_like(input_ids[:, :1]), input_ids[:, :-1]), 1), attention_mask)


@planted("full_length", task=CAUSAL, sound=Decoder, module="embed.positions", source=f"{ZHANG}: unaligned tensor, off by one")
class PositionTableOneShort(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed.positions = nn.Embedding(LENGTH - 1, WIDTH)


@planted("full_vocabulary", task=CAUSAL, sound=Decoder, module="embed.tokens", source=f"{HUMBATOVA}: wrong size of an embedding")
class EmbeddingOneRowShort(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed.tokens = nn.Embedding(VOCAB - 1, WIDTH)


class _FourRows(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:4]


@planted("shape_contract", task=CAUSAL, sound=Decoder, module="blocks.0.mlp.0", source=f"{ISLAM}: the batch axis lost or fixed")
class FourRowsInOneLayer(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].mlp[0] = _FourRows(WIDTH, 2 * WIDTH)


class _Wrapped(Embedding):
    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids % (VOCAB - 1))


@planted("full_vocabulary", task=CAUSAL, sound=Decoder, module="embed", source=f"{HUMBATOVA}: wrong preprocessing of ids")
class IdsWrapped(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed = _Wrapped()
        self.head.weight = self.embed.tokens.weight


class _Fractions(Embedding):
    def forward(self, input_ids: Tensor) -> Tensor:
        steps = torch.arange(input_ids.shape[1], device=input_ids.device)
        place = (steps / (input_ids.shape[1] - 1) * (LENGTH - 1)).long() if input_ids.shape[1] > 2 else steps
        scale = (steps / (input_ids.shape[1] - 1)).to(self.tokens.weight.dtype)
        return self.tokens(input_ids) + self.positions(place) * (1 + scale[:, None])


@planted("finite_output[typical]", task=CAUSAL, sound=Decoder, module="embed", source=f"{ISLAM}: data bug, division by zero")
class PositionsAsFractionsOfTheLength(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed = _Fractions()
        self.head.weight = self.embed.tokens.weight


class _Infinite(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return scores.masked_fill(~visible, float("-inf")).softmax(-1)


@planted(
    "finite_output[fully_padded_row]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.1.attn",
    source=f"{PYTORCH}: softmax and scaled_dot_product_attention give NaN for a row of -inf",
)
class InfiniteMaskInOneLayer(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].attn = _Infinite()


class _HiddenDivision(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        raised = (scores - scores.amax(-1, keepdim=True)).exp() * visible
        total = raised.sum(-1, keepdim=True)
        return torch.where(total > 0, raised / total, torch.zeros_like(raised))


@planted(
    "finite_output[fully_padded_row]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.0.attn",
    source=f"{PYTORCH}: torch.where lets the gradient of the branch that was not chosen through",
)
class DivisionHiddenByWhere(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].attn = _HiddenDivision()


class _SplitBatch(Attention):
    def merge(self, heads: Tensor) -> Tensor:
        rows, _, length, _ = heads.shape
        return heads.permute(2, 1, 0, 3).reshape(rows, length, -1)


@planted(
    "batch_independence[forward]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.1.attn",
    source=f"{RECIPE}: view used where transpose or permute was meant mixes the batch",
    also=("batch_independence[gradient]",),
)
class HeadsMergedAcrossTheBatch(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].attn = _SplitBatch()


@planted("padding_ignored", task=CAUSAL, sound=Decoder, module="(model)", source=f"{HUMBATOVA}: wrong masking")
class LogitsDividedByPaddedLength(Decoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(input_ids, attention_mask) / input_ids.shape[1] ** 0.5


@planted(
    "initialisation[loss]",
    task=CAUSAL,
    sound=Decoder,
    source=f"{RECIPE}: verify loss at init; nn.Embedding starts at a standard deviation of 1",
)
class UnitEmbeddingTiedToTheHead(Decoder):
    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.embed.tokens.weight)


@planted(
    "initialisation[symmetry]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.1.mlp",
    source="Chen et al. 2015, Net2Net: units copied to widen a layer need noise to part",
)
class WidenedByCopyingUnits(Decoder):
    def __init__(self) -> None:
        super().__init__()
        up, _, down = self.blocks[1].mlp
        with torch.no_grad():
            up.weight[WIDTH:], up.bias[WIDTH:] = up.weight[:WIDTH], up.bias[:WIDTH]
            down.weight[:, WIDTH:] = down.weight[:, :WIDTH]


@planted(
    "initialisation[symmetry]", task=CAUSAL, sound=Decoder, module="blocks.1.mlp", source=f"{HUMBATOVA}: wrong initialisation"
)
class ZeroHiddenLayer(Decoder):
    def __init__(self) -> None:
        super().__init__()
        for parameter in self.blocks[1].mlp.parameters():
            nn.init.zeros_(parameter)


@planted(
    "initialisation[scale]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.1",
    source="Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks",
    status=Status.WARN,
)
class ResidualStreamExplodes(Decoder):
    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.blocks[1].mlp[0].weight, std=200.0)
        nn.init.normal_(self.blocks[1].mlp[2].weight, std=200.0)
