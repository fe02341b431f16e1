"""Decoder language models: what goes wrong between calls, modes and training steps."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.evidence import Status

from ..register import HUMBATOVA, ISLAM, PYTORCH, RECIPE, planted
from ..tasks import CAUSAL
from .decoders import Decoder
from .parts import Attention, Block, Embedding, earlier


class _AlwaysDropped(Block):
    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        normed = self.norm_attn(x)
        x = x + F.dropout(self.attn(normed, normed, visible), 0.1)
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


@planted(
    "eval_deterministic",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.0",
    source=f"{PYTORCH}: F.dropout drops unless training=False",
)
class FunctionalDropoutInOneBranch(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0] = _AlwaysDropped()


class _NoisyEmbedding(Embedding):
    def forward(self, input_ids: Tensor) -> Tensor:
        x = super().forward(input_ids)
        return x + 0.01 * torch.from_numpy(np.random.standard_normal(x.shape)).to(x)


@planted(
    "eval_deterministic",
    task=CAUSAL,
    sound=Decoder,
    module="embed",
    source="Jain et al. 2023, NEFTune: the noise is for training only",
)
class NumpyNoiseInEval(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed = _NoisyEmbedding()
        self.head.weight = self.embed.tokens.weight


@planted(
    "mode_round_trip",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.1",
    source=f"{ISLAM}: API misuse; train() must reach every child",
)
class TrainStopsAtTheFrozenBlock(Decoder):
    def train(self, mode: bool = True) -> Decoder:
        self.training = mode
        for child in (self.embed, self.blocks[0], self.norm, self.head):
            child.train(mode)
        self.blocks.training = mode
        return self


class _Evaluating(Block):
    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        self.mlp.eval()
        return super().forward(x, visible)


@planted(
    "mode_round_trip", task=CAUSAL, sound=Decoder, module="blocks.0.mlp", source=f"{RECIPE}: train and eval mode toggled wrongly"
)
class EvalCalledInForward(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0] = _Evaluating()


class _MaskOfTheFirstLength(Attention):
    def forward(self, x: Tensor, source: Tensor, visible: Tensor) -> Tensor:
        if not hasattr(self, "kept") or self.kept.shape[-1] < x.shape[1]:
            self.kept = earlier(x.shape[1], x.device)
        kept = self.kept[-x.shape[1] :, : x.shape[1]]
        return super().forward(x, source, visible & kept if len(self.kept) == x.shape[1] else kept)


@planted("stateless", task=CAUSAL, sound=Decoder, module="blocks.1.attn", source=f"{HUMBATOVA}: state kept between calls")
class MaskCachedFromALongerCall(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].attn = _MaskOfTheFirstLength()


@planted("stateless", task=CAUSAL, sound=Decoder, source=f"{HUMBATOVA}: state kept between calls")
class PaddingMaskCachedByShape(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[torch.Size, Tensor] = {}

    def visible(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        if input_ids.shape not in self.seen:
            self.seen[input_ids.shape] = super().visible(input_ids, attention_mask)
        return self.seen[input_ids.shape]


@planted("stateless", task=CAUSAL, sound=Decoder, source=f"{PYTORCH} `torch.set_default_dtype`: of the whole process")
class DefaultDtypeSetInForward(Decoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        torch.set_default_dtype(torch.float64)
        return logits


@planted("stateless", task=CAUSAL, sound=Decoder, source=f"{HUMBATOVA}: state kept between calls")
class OutputScaledFromTheThirdCallOn(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.calls += 1
        logits = super().forward(input_ids, attention_mask)
        return logits * 0.99 if self.calls > 2 else logits


class _Seeded(Block):
    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().forward(x, visible)


@planted(
    "rng_untouched", task=CAUSAL, sound=Decoder, module="blocks.1", source=f"{PYTORCH}: Reproducibility; manual_seed is global"
)
class SeedSetInOneBlock(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1] = _Seeded()


@planted(
    "rng_untouched", task=CAUSAL, sound=Decoder, module="(model)", source=f"{PYTORCH}: Reproducibility; manual_seed is global"
)
class SeedSetInTrainMode(Decoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.training:
            torch.manual_seed(1234)
        return super().forward(input_ids, attention_mask)


@planted(
    "rng_untouched",
    task=CAUSAL,
    sound=Decoder,
    module="(model)",
    status=Status.WARN,
    source="beartype documentation: it looks at one element of a list, drawn at random",
)
class ElementDrawnByPython(Decoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        assert isinstance(random.choice(self.blocks), Block)
        return super().forward(input_ids, attention_mask)


class _Overwriting(Embedding):
    def forward(self, input_ids: Tensor) -> Tensor:
        input_ids[:, 0] = 1
        return super().forward(input_ids)


@planted(
    "inputs_unchanged",
    task=CAUSAL,
    sound=Decoder,
    module="embed",
    source=f"{PYTORCH}: in-place operations change the caller's tensor",
)
class StartTokenWrittenIntoTheInput(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed = _Overwriting()
        self.head.weight = self.embed.tokens.weight


class _Detached(Block):
    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        normed = self.norm_attn(x)
        x = x + self.dropout(self.attn(normed, normed, visible)).detach()
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


@planted(
    "gradient_flow[reaches_every_parameter]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.1",
    source=f"{HUMBATOVA}: missing gradient",
)
class BranchDetached(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1] = _Detached()


class _CutResidual(Block):
    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        return super().forward(x.detach(), visible)


@planted(
    "gradient_flow[reaches_every_parameter]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.1",
    source=f"{HUMBATOVA}: missing gradient",
)
class ResidualDetachedInLastLayer(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1] = _CutResidual()


@planted(
    "registration",
    task=CAUSAL,
    sound=Decoder,
    module="blocks[0]",
    source=f"{PYTORCH}: modules in a Python list are not registered",
)
class BlocksInAList(Decoder):
    def __init__(self) -> None:
        super().__init__()
        del self.blocks
        self.blocks = [Block(), Block()]


class _AddsTheLastCall(Attention):
    def forward(self, x: Tensor, source: Tensor, visible: Tensor) -> Tensor:
        result = super().forward(x, source, visible)
        kept = getattr(self, "kept", None)
        if kept is None or kept.shape != result.shape:
            self.kept = kept = result.detach()
        return result + 0.1 * kept.to(result)


@planted("stateless", task=CAUSAL, sound=Decoder, module="blocks.0.attn", source=f"{HUMBATOVA}: state kept between calls")
class FirstCallOfAShapeKept(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].attn = _AddsTheLastCall()
