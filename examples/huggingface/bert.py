"""A small BERT classifier with fresh weights; nothing is downloaded."""

from torch import nn
from transformers import BertConfig, BertForSequenceClassification


def build_model() -> nn.Module:
    config = BertConfig(
        vocab_size=307,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=40,
        num_labels=5,
        pad_token_id=0,
    )
    return BertForSequenceClassification(config)
