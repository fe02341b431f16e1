"""Decoder language models: what goes wrong with copies, moves and resources."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from ..register import ISLAM, PYTORCH, planted
from ..tasks import CAUSAL, VOCAB
from .decoders import Decoder
from .parts import WIDTH, Attention, Embedding, real_keys


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


@planted(
    "dtype_move[bfloat16]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.0.attn",
    source=f"{ISLAM}: torch.zeros without dtype",
    also=("dtype_move[float16]",),
)
class MaskInFloat32(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].attn = _FloatMask()


class _Single(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


@planted(
    "dtype_move[bfloat16]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.1.norm_mlp",
    source=f"{ISLAM}: a hard-coded float()",
    also=(
        "dtype_move[float16]",
        "dtype_move[float64]",
    ),
)
class NormLeftInSinglePrecision(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].norm_mlp = _Single(WIDTH)


class _BillionMask(Attention):
    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return scores.masked_fill(~visible, -1e9).softmax(-1)


@planted(
    "dtype_move[float16]",
    task=CAUSAL,
    sound=Decoder,
    module="blocks.1.attn",
    source=f"{PYTORCH}: float16 ends at 65504, so -1e9 overflows",
)
class MaskBeyondHalfPrecision(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].attn = _BillionMask()


class _EpsilonInADenominator(nn.Module):
    """Divides by a number that is zero but for an epsilon, which float16 rounds to zero."""

    def forward(self, x: Tensor) -> Tensor:
        zero = x * 0
        return x + zero / (zero.abs() + 1e-8)


@planted(
    "dtype_move[float16]", task=CAUSAL, sound=Decoder, module="blocks.0.norm_mlp.1", source=f"{PYTORCH}: 1e-8 is zero in float16"
)
class EpsilonBelowHalfPrecision(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].norm_mlp = nn.Sequential(self.blocks[0].norm_mlp, _EpsilonInADenominator())


@planted(
    "serialisation[deepcopy]",
    task=CAUSAL,
    sound=Decoder,
    source="Python documentation: copy.deepcopy returns functions unchanged",
    also=("serialisation[pickle]",),
)
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


@planted(
    "serialisation[tied_weights]", task=CAUSAL, sound=Decoder, module="head.weight", source=f"{ISLAM}: tying by copying data"
)
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


@planted(
    "serialisation[state_dict]",
    task=CAUSAL,
    sound=Decoder,
    module="directions",
    source=f"{PYTORCH}: state_dict holds parameters and persistent buffers only",
)
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


@planted(
    "memory_footprint",
    task=CAUSAL,
    sound=Decoder,
    module="history",
    source=f"{PYTORCH} FAQ: don't accumulate history across your loop",
)
class LogitsKeptForLater(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        self.history.append(logits.mean())
        return logits


@planted(
    "inference_speed",
    task=CAUSAL,
    sound=Decoder,
    module="lengths",
    source=f"{PYTORCH} FAQ: don't accumulate history across your loop",
)
class EveryPastLengthVisitedAgain(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[Tensor] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.lengths.append(real_keys(input_ids, attention_mask).sum())
        self.total = sum(self.lengths)
        return super().forward(input_ids, attention_mask)


@planted(
    "inference_speed",
    task=CAUSAL,
    sound=Decoder,
    source=f"{PYTORCH}: vectorise instead of looping over the batch",
    status=Status.WARN,
)
class RowByRow(Decoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        parent = super().forward
        return torch.cat([parent(row[None], real[None]) for row, real in zip(input_ids, mask, strict=True)])
