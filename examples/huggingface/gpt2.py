"""A small GPT-2 with fresh weights; nothing is downloaded."""

from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel


def build_model(layers: int = 2) -> nn.Module:
    config = GPT2Config(
        vocab_size=211, n_positions=32, n_embd=48, n_layer=layers, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    return GPT2LMHeadModel(config)
