"""Encoders: masked language models, taggers and classifiers of text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.evidence import Status

from ..register import HUMBATOVA, ISLAM, PYTORCH, RECIPE, ZHANG, planted
from ..tasks import CLASSES, MASKED, TAGGING, TEXT, VOCAB
from .parts import DEPTH, WIDTH, Attention, Block, Embedding, earlier, real_keys


class Encoder(nn.Module):
    """A bidirectional encoder with scores for every position."""

    def __init__(self, outputs: int = VOCAB) -> None:
        super().__init__()
        self.embed = Embedding()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, outputs)

    def encode(self, input_ids: Tensor, visible: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x, visible)
        return self.norm(x)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.encode(input_ids, real_keys(input_ids, attention_mask)))


class Tagger(Encoder):
    """An encoder with scores of classes for every token."""

    def __init__(self) -> None:
        super().__init__(CLASSES)


class TextClassifier(Encoder):
    """An encoder with mean pooling over the real tokens."""

    def __init__(self) -> None:
        super().__init__(CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        visible = real_keys(input_ids, attention_mask)
        return self.head(self.pool(self.encode(input_ids, visible), visible[:, 0, 0]))

    def pool(self, x: Tensor, real: Tensor) -> Tensor:
        weights = real[..., None].to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


@planted("input_dependence[context]", task=MASKED, sound=Encoder, source="Devlin et al. 2019, BERT: a masked LM reads both sides")
class CausalMaskLeftIn(Encoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        visible = real_keys(input_ids, attention_mask) & earlier(input_ids.shape[1], input_ids.device)
        return self.head(self.encode(input_ids, visible))


class _NoPositions(Embedding):
    def forward(self, input_ids: Tensor) -> Tensor:
        self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        return self.tokens(input_ids)


@planted(
    "input_dependence[order]",
    task=MASKED,
    sound=Encoder,
    source="Vaswani et al. 2017, Attention Is All You Need, section 3.5: attention alone knows no order",
    status=Status.WARN,
)
class PositionsNeverAdded(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed = _NoPositions()


@planted(
    "gradient_flow[reaches_every_parameter]",
    task=MASKED,
    sound=Encoder,
    module="embed",
    source=f"{HUMBATOVA}: unused layer",
)
class PositionsLookedUpAndDropped(PositionsNeverAdded):
    pass


class _InvertedMask(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return super().weights(scores, ~visible)


@planted(
    "padding_ignored",
    task=MASKED,
    sound=Encoder,
    module="blocks.1.attn",
    source=f"{PYTORCH}: key_padding_mask is true at padding",
)
class MaskInvertedInOneLayer(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].attn = _InvertedMask()


class _AddedMask(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return (scores - (~visible).to(scores.dtype)).softmax(-1)


@planted(
    "padding_ignored",
    task=MASKED,
    sound=Encoder,
    module="blocks.0.attn",
    source=f"{ISLAM}: a mask of 0 and 1 added to the scores",
)
class MaskAddedAsMinusOne(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].attn = _AddedMask()


class _LateMask(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return scores.softmax(-1) * visible


@planted("padding_ignored", task=MASKED, sound=Encoder, module="blocks.1.attn", source=f"{HUMBATOVA}: wrong masking")
class MaskAfterSoftmax(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].attn = _LateMask()


class _OwnSelfAlone(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return super().weights(scores, visible & torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device))


@planted(
    "input_dependence[context]",
    task=TAGGING,
    sound=Tagger,
    source=f"{RECIPE}: look at what the network reads",
    also=("input_dependence[order]",),
)
class EveryTokenTaggedAlone(Tagger):
    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.attn = _OwnSelfAlone()


class _OverThePositions(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (
            x.var(1, keepdim=True, unbiased=False) + self.eps
        ).sqrt() * self.weight + self.bias


@planted("padding_ignored", task=TAGGING, sound=Tagger, module="norm", source=f"{ISLAM}: API misuse, norm over the wrong axis")
class NormOverPositions(Tagger):
    def __init__(self) -> None:
        super().__init__()
        self.norm = _OverThePositions(WIDTH)


class _OverTheBatch(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean((0, 2), keepdim=True)) / (x.var((0, 2), keepdim=True, unbiased=False) + self.eps).sqrt() * self.weight


@planted(
    "batch_independence[forward]",
    task=TAGGING,
    sound=Tagger,
    module="norm",
    source=f"{ISLAM}: API misuse, norm over the wrong axis",
    also=("batch_independence[gradient]",),
)
class NormOverTheBatch(Tagger):
    def __init__(self) -> None:
        super().__init__()
        self.norm = _OverTheBatch(WIDTH)


class _Centred(Block):
    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        x = super().forward(x, visible)
        centre = x.mean(0, keepdim=True)
        return x + (centre - centre.detach())


@planted(
    "batch_independence[gradient]",
    task=TAGGING,
    sound=Tagger,
    module="blocks.0",
    source=f"{RECIPE}: use backprop to chart dependencies",
)
class GradientThroughTheBatchMean(Tagger):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0] = _Centred()


@planted("input_dependence[tokens]", task=TAGGING, sound=Tagger, source=f"{ISLAM}: data bug, shifted by one")
class LastTokenRolledAway(Tagger):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        visible = real_keys(input_ids, attention_mask)
        x = self.encode(torch.cat((input_ids[:, :1], input_ids[:, :-1]), 1), visible)
        return self.head(x)


@planted("padding_ignored", task=TEXT, sound=TextClassifier, module="(model)", source=f"{HUMBATOVA}: wrong masking")
class MeanOverPadding(TextClassifier):
    def pool(self, x: Tensor, real: Tensor) -> Tensor:
        return x.mean(1)


@planted(
    "padding_ignored",
    task=TEXT,
    sound=TextClassifier,
    module="(model)",
    source=f"{ISLAM}: the last position read instead of the last token",
)
class LastPositionPooled(TextClassifier):
    def pool(self, x: Tensor, real: Tensor) -> Tensor:
        return x[:, -1]


@planted(
    "finite_output[fully_padded_row]", task=TEXT, sound=TextClassifier, module="(model)", source=f"{ZHANG}: division by zero"
)
class MeanWithoutClamp(TextClassifier):
    def pool(self, x: Tensor, real: Tensor) -> Tensor:
        weights = real[..., None].to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1)


@planted("shape_contract", task=TEXT, sound=TextClassifier, source=f"{ISLAM}: squeeze() takes the batch axis of one row too")
class SqueezeWithoutDim(TextClassifier):
    def pool(self, x: Tensor, real: Tensor) -> Tensor:
        return super().pool(x, real).squeeze()


@planted("finite_output[typical]", task=TEXT, sound=TextClassifier, source=f"{PYTORCH}: Tensor.std of one value is NaN")
class DeviationOfOneToken(TextClassifier):
    def pool(self, x: Tensor, real: Tensor) -> Tensor:
        return super().pool(x, real) + x.std(1)


@planted(
    "input_dependence[tokens]",
    task=TEXT,
    sound=TextClassifier,
    source="Devlin et al. 2019, BERT: the first token must read the rest",
)
class FirstTokenPooledUnderACausalMask(TextClassifier):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        visible = real_keys(input_ids, attention_mask) & earlier(input_ids.shape[1], input_ids.device)
        return self.head(self.encode(input_ids, visible)[:, 0])


@planted(
    "gradient_flow[finite]",
    task=TEXT,
    sound=TextClassifier,
    module="(model)",
    source=f"{PYTORCH}: the gradient of sqrt at zero is infinite",
)
class RootMeanSquareWithoutEps(TextClassifier):
    def pool(self, x: Tensor, real: Tensor) -> Tensor:
        centred = x - super().pool(x, real)[:, None]
        return super().pool(x, real) + super().pool(centred.square(), real).sqrt()


class _FrozenTable(Embedding):
    def forward(self, input_ids: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(input_ids)


@planted(
    "gradient_flow[reaches_every_parameter]",
    task=TEXT,
    sound=TextClassifier,
    module="embed",
    source=f"{ISLAM}: no_grad around a trained layer",
)
class EmbeddingUnderNoGrad(TextClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.embed = _FrozenTable()


@planted(
    "memory_layout",
    task=TEXT,
    sound=TextClassifier,
    status=Status.WARN,
    code="raises_on_layout",
    source=f"{PYTORCH}: view needs contiguous memory",
)
class ViewOfTheIds(TextClassifier):
    def encode(self, input_ids: Tensor, visible: Tensor) -> Tensor:
        return super().encode(input_ids.view(-1).view(input_ids.shape), visible)
