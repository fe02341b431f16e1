"""Ten real architectures from ``transformers``, as tiny configs with fresh weights; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from harness.tasks import TaskSpec, TaskType

VOCAB, LENGTH, CLASSES = 99, 24, 5


@dataclass(frozen=True)
class Architecture:
    task: TaskSpec
    factory: Callable[[], nn.Module]


def _text(kind: TaskType, pad: int = 0, classes: int | None = None) -> TaskSpec:
    return TaskSpec(kind, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=pad, num_classes=classes)


_IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 32, 32), num_classes=CLASSES)


def architectures() -> dict[str, Architecture]:
    """The architectures by name."""
    import transformers as hf

    hf.logging.set_verbosity_error()
    attention = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    stages = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_labels": CLASSES}
    lm, seq2seq = _text(TaskType.CAUSAL_LM), _text(TaskType.SEQ2SEQ_LM)
    return {
        "GPT-2": Architecture(
            lm,
            lambda: hf.GPT2LMHeadModel(
                hf.GPT2Config(
                    vocab_size=VOCAB,
                    n_positions=LENGTH,
                    n_embd=32,
                    n_layer=2,
                    n_head=4,
                    bos_token_id=1,
                    eos_token_id=2,
                    pad_token_id=0,
                )
            ),
        ),
        "Llama": Architecture(
            lm,
            lambda: hf.LlamaForCausalLM(
                hf.LlamaConfig(
                    **attention, vocab_size=VOCAB, num_key_value_heads=2, max_position_embeddings=LENGTH, pad_token_id=0
                )
            ),
        ),
        "Mamba": Architecture(
            lm,
            lambda: hf.MambaForCausalLM(
                hf.MambaConfig(vocab_size=VOCAB, hidden_size=32, state_size=8, num_hidden_layers=2, pad_token_id=0)
            ),
        ),
        "BERT": Architecture(
            _text(TaskType.SEQUENCE_CLASSIFICATION, classes=CLASSES),
            lambda: hf.BertForSequenceClassification(
                hf.BertConfig(**attention, vocab_size=VOCAB, max_position_embeddings=LENGTH, num_labels=CLASSES)
            ),
        ),
        "T5": Architecture(
            seq2seq,
            lambda: hf.T5ForConditionalGeneration(
                hf.T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
            ),
        ),
        "BART": Architecture(
            _text(TaskType.SEQ2SEQ_LM, pad=1),
            lambda: hf.BartForConditionalGeneration(
                hf.BartConfig(
                    vocab_size=VOCAB,
                    d_model=32,
                    encoder_layers=2,
                    decoder_layers=2,
                    encoder_attention_heads=4,
                    decoder_attention_heads=4,
                    encoder_ffn_dim=64,
                    decoder_ffn_dim=64,
                    max_position_embeddings=LENGTH,
                )
            ),
        ),
        "ViT": Architecture(
            _IMAGES,
            lambda: hf.ViTForImageClassification(hf.ViTConfig(**attention, image_size=32, patch_size=8, num_labels=CLASSES)),
        ),
        "Swin": Architecture(
            _IMAGES,
            lambda: hf.SwinForImageClassification(
                hf.SwinConfig(
                    image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4, num_labels=CLASSES
                )
            ),
        ),
        "ResNet": Architecture(
            _IMAGES, lambda: hf.ResNetForImageClassification(hf.ResNetConfig(**stages, embedding_size=16, layer_type="basic"))
        ),
        "ConvNeXt": Architecture(_IMAGES, lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig(**stages, num_stages=2))),
    }
