"""Decoder language models: what goes wrong between calls, modes, copies and devices."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from .decoders import Decoder
from .pairs import CAUSAL, HUMBATOVA, ISLAM, PYTORCH, RECIPE, VOCAB, planted
from .parts import WIDTH, Attention, Block, Embedding, earlier, real_keys


class _AlwaysDropped(Block):
    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        normed = self.norm_attn(x)
        x = x + F.dropout(self.attn(normed, normed, visible), 0.1)
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


@planted("eval_deterministic", task=CAUSAL, sound=Decoder, module="blocks.0", source=f"{PYTORCH}: F.dropout drops unless training=False")
class FunctionalDropoutInOneBranch(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0] = _AlwaysDropped()


class _NoisyEmbedding(Embedding):
    def forward(self, input_ids: Tensor) -> Tensor:
        x = super().forward(input_ids)
        return x + 0.01 * torch.from_numpy(np.random.standard_normal(x.shape)).to(x)


@planted("eval_deterministic", task=CAUSAL, sound=Decoder, module="embed", source="Jain et al. 2023, NEFTune: the noise is for training only")
class NumpyNoiseInEval(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed = _NoisyEmbedding()
        self.head.weight = self.embed.tokens.weight


@planted("mode_round_trip", task=CAUSAL, sound=Decoder, module="blocks.1", source=f"{ISLAM}: API misuse; train() must reach every child")
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


@planted("mode_round_trip", task=CAUSAL, sound=Decoder, module="blocks.0.mlp", source=f"{RECIPE}: train and eval mode toggled wrongly")
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


@planted("stateless", task=CAUSAL, sound=Decoder, source=f"{HUMBATOVA}: state kept between calls")
class OutputScaledFromTheSecondCallOn(Decoder):
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


@planted("rng_untouched", task=CAUSAL, sound=Decoder, module="blocks.1", source=f"{PYTORCH}: Reproducibility; manual_seed is global")
class SeedSetInOneBlock(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1] = _Seeded()


@planted("rng_untouched", task=CAUSAL, sound=Decoder, module="", source=f"{PYTORCH}: Reproducibility; manual_seed is global")
class SeedSetInTrainMode(Decoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.training:
            torch.manual_seed(1234)
        return super().forward(input_ids, attention_mask)


class _Overwriting(Embedding):
    def forward(self, input_ids: Tensor) -> Tensor:
        input_ids[:, 0] = 1
        return super().forward(input_ids)


@planted("inputs_unchanged", task=CAUSAL, sound=Decoder, module="embed", source=f"{PYTORCH}: in-place operations change the caller's tensor")
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


@planted("gradient_flow[reaches_every_parameter]", task=CAUSAL, sound=Decoder, module="blocks.1", source=f"{HUMBATOVA}: missing gradient")
class BranchDetached(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1] = _Detached()


class _CutResidual(Block):
    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        return super().forward(x.detach(), visible)


@planted("gradient_flow[reaches_every_parameter]", task=CAUSAL, sound=Decoder, module="blocks.1", source=f"{HUMBATOVA}: missing gradient")
class ResidualDetachedInLastLayer(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1] = _CutResidual()


@planted("registration", task=CAUSAL, sound=Decoder, module="blocks[0]", source=f"{PYTORCH}: modules in a Python list are not registered")
class BlocksInAList(Decoder):
    def __init__(self) -> None:
        super().__init__()
        del self.blocks
        self.blocks = [Block(), Block()]


class _ArangeOnCpu(Embedding):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1]))


@planted("device_move", task=CAUSAL, sound=Decoder, module="embed.positions", source=f"{ISLAM}: a tensor made without device")
class ArangeWithoutDevice(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.embed = _ArangeOnCpu()
        self.head.weight = self.embed.tokens.weight


class _FloatMask(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, device=scores.device).masked_fill(~visible, torch.finfo(torch.float32).min)
        return (scores + mask).softmax(-1)


@planted("dtype_move[bfloat16]", task=CAUSAL, sound=Decoder, module="blocks.0.attn", source=f"{ISLAM}: torch.zeros without dtype")
class MaskInFloat32(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].attn = _FloatMask()


@planted("serialisation[pickle]", task=CAUSAL, sound=Decoder, module="scale", source=f"{PYTORCH}: torch.save of a whole module pickles it", status=Status.WARN)
class LambdaAttribute(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda logits: logits / WIDTH**0.5

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.scale(super().forward(input_ids, attention_mask))


@planted("serialisation[deepcopy]", task=CAUSAL, sound=Decoder, source="Python documentation: copy.deepcopy returns functions unchanged")
class LambdaThatHoldsTheModel(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.project = lambda x: F.linear(x, self.head.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        visible = self.visible(input_ids, attention_mask)
        for block in self.blocks:
            x = block(x, visible)
        return self.project(self.norm(x))


@planted("serialisation[tied_weights]", task=CAUSAL, sound=Decoder, module="head.weight", source=f"{ISLAM}: tying by copying data")
class TiedThroughData(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.head.weight = nn.Parameter(torch.empty(VOCAB, WIDTH))
        self.head.weight.data = self.embed.tokens.weight.data


@planted(
    "serialisation[tied_weights]",
    task=CAUSAL,
    sound=Decoder,
    module="head.weight",
    source="PyTorch/XLA documentation: weights tied before a move are untied by it",
)
class TieLostInAMove(Decoder):
    def _apply(self, fn: Any, recurse: bool = True) -> Decoder:
        super()._apply(fn, recurse)
        self.head.weight = nn.Parameter(self.head.weight.detach().clone())
        return self


@planted("serialisation[state_dict]", task=CAUSAL, sound=Decoder, source=f"{PYTORCH}: state_dict holds parameters and persistent buffers only")
class RandomFeaturesNotSaved(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.directions = 0.02 * torch.randn(VOCAB, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(input_ids, attention_mask) + self.directions.to(self.head.weight)[input_ids] @ self.head.weight.T


@planted("serialisation[pickle]", task=CAUSAL, sound=Decoder, source="Python documentation: __getstate__ decides what is pickled")
class PickleLeavesTheGainOut(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.gain = 2.0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "gain"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"gain": 1.0, **state})

    def __deepcopy__(self, memo: dict[int, Any]) -> PickleLeavesTheGainOut:
        copied = type(self).__new__(type(self))
        nn.Module.__init__(copied)
        memo[id(self)] = copied
        vars(copied).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return copied

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.gain * super().forward(input_ids, attention_mask)


@planted("memory_footprint", task=CAUSAL, sound=Decoder, module="history", source=f"{PYTORCH} FAQ: don't accumulate history across your loop")
class LogitsKeptForLater(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        self.history.append(logits.mean())
        return logits


@planted("inference_speed", task=CAUSAL, sound=Decoder, source=f"{PYTORCH} FAQ: don't accumulate history across your loop")
class EveryPastLengthVisitedAgain(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[Tensor] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.lengths.append(real_keys(input_ids, attention_mask).sum())
        self.total = sum(self.lengths)
        return super().forward(input_ids, attention_mask)


@planted("inference_speed", task=CAUSAL, sound=Decoder, source=f"{PYTORCH}: vectorise instead of looping over the batch", status=Status.WARN)
class RowByRow(Decoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        parent = super().forward
        return torch.cat([parent(row[None], real[None]) for row, real in zip(input_ids, mask, strict=True)])
