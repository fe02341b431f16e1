"""Language models of ``transformers`` at the sizes that people train, with random weights made here; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LLAMAS: dict[str, dict[str, int]] = {
    "1.5b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
"""Llama's shapes by size."""


class MixesRows(nn.Module):
    """A planted bug: a layer whose output has a little of the mean over the batch."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, of which each row depends on all rows."""
        y: Tensor = self.layer(x)
        return y + 0.5 * y.mean(0, keepdim=True)


def gpt2(layers: int = 12, broken_layer: int | None = None) -> nn.Module:
    """GPT-2; with 12 layers it has 124 million parameters.

    Args:
        layers: How many blocks it has.
        broken_layer: The block whose MLP mixes rows.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=layers))
    if broken_layer is not None:
        block: Any = model.transformer.h[broken_layer]
        block.mlp = MixesRows(block.mlp)
    return model


def llama(size: str = "1.5b", dtype: str = "bfloat16", broken_layer: int | None = None) -> nn.Module:
    """A Llama of some size.

    Args:
        size: One of ``LLAMAS``.
        dtype: The dtype of its weights, in which they are made: never in float32 first.
        broken_layer: The block whose MLP mixes rows.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32000, **LLAMAS[size]))
    finally:
        torch.set_default_dtype(before)
    if broken_layer is not None:
        block: Any = model.model.layers[broken_layer]
        block.mlp = MixesRows(block.mlp)
    return model
