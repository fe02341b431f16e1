"""Models of transformers, and adapters of peft on them."""

from __future__ import annotations

from packages.entry import Entry, Keys, causal, declared, image, masked, seq2seq, sequence, tokens

TEXT = (
    "vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=16"
)
DECODER = f"{TEXT}, num_key_value_heads=1, bos_token_id=1, eos_token_id=2, pad_token_id=0"
PADDED = {"pad_token_id": 0}
GPT2 = (
    "GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2))"
)

PROMPTED = declared(
    {"input_ids": {"axes": ["batch", "tokens"], "values": {"ids": 40}}},
    {"logits": {"axes": ["batch", "places", 40], "kind": "class_scores", "fits": False}},
    {"tokens": {"min": 1, "max": 16, "order": "causal"}, "places": {"from": "tokens + 4"}},
)
"""A prompt of four learned places is put before the tokens, and forward returns the logits of all of them."""

LEFT_PADDED = declared(
    {
        "input_ids": {"axes": ["batch", "tokens"], "values": {"ids": 40, "pad": 5}},
        "attention_mask": {"axes": ["batch", "tokens"], "values": {"mask_of": "tokens"}},
    },
    {"logits": {"axes": ["batch", 3], "kind": "class_scores"}},
    {"tokens": {"min": 1, "max": 16, "padding": "left"}},
)
"""XLNet reads its answer from the last place, and is padded on the left."""


def model(name: str, config: str, arguments: str, task: Keys) -> Entry:
    """A class of transformers."""
    return Entry("transformers", name, f"from transformers import {config}, {name}", f"{name}({config}({arguments}))", task)


def adapter(name: str, config: str, arguments: str, task: Keys | None = None) -> Entry:
    """A GPT-2 with an adapter of peft."""
    imports = f"from peft import {config}, get_peft_model\nfrom transformers import GPT2Config, GPT2LMHeadModel"
    build = f"get_peft_model({GPT2.replace('16', '20')}, {config}({arguments}))"
    return Entry("peft", f"{name} on a GPT-2", imports, build, task or causal())


ENTRIES: tuple[Entry, ...] = (
    model("BertForSequenceClassification", "BertConfig", f"{TEXT}, num_labels=3", sequence(**PADDED)),
    model("BertForMaskedLM", "BertConfig", TEXT, masked(**PADDED)),
    model(
        "RobertaForTokenClassification", "RobertaConfig", f"{TEXT.replace('=16', '=18')}, num_labels=3", tokens(pad_token_id=1)
    ),
    model(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        "vocab_size=40, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=16, num_labels=3",
        sequence(**PADDED),
    ),
    model("AlbertForMaskedLM", "AlbertConfig", f"{TEXT}, embedding_size=16", masked(**PADDED)),
    model("ElectraForTokenClassification", "ElectraConfig", f"{TEXT}, embedding_size=16, num_labels=3", tokens(**PADDED)),
    model("DebertaV2ForSequenceClassification", "DebertaV2Config", f"{TEXT}, num_labels=3", sequence(**PADDED)),
    model(
        "FNetForMaskedLM",
        "FNetConfig",
        "vocab_size=40, hidden_size=32, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=16",
        masked(pad_token_id=3),
    ),
    model(
        "MobileBertForSequenceClassification",
        "MobileBertConfig",
        f"{TEXT}, embedding_size=16, true_hidden_size=16, intra_bottleneck_size=16, num_labels=3",
        sequence(**PADDED),
    ),
    model("ConvBertForTokenClassification", "ConvBertConfig", f"{TEXT}, embedding_size=32, num_labels=3", tokens(**PADDED)),
    model(
        "GPT2LMHeadModel",
        "GPT2Config",
        "vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2",
        causal(),
    ),
    model("LlamaForCausalLM", "LlamaConfig", DECODER, causal(**PADDED)),
    model("MistralForCausalLM", "MistralConfig", DECODER, causal(**PADDED)),
    model("Qwen2ForCausalLM", "Qwen2Config", DECODER, causal(**PADDED)),
    model("GemmaForCausalLM", "GemmaConfig", f"{DECODER}, head_dim=16", causal(**PADDED)),
    model(
        "OPTForCausalLM",
        "OPTConfig",
        "vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, max_position_embeddings=16, "
        "word_embed_proj_dim=32",
        causal(pad_token_id=1),
    ),
    model("BloomForCausalLM", "BloomConfig", "vocab_size=40, hidden_size=32, n_layer=2, n_head=2", causal(pad_token_id=3)),
    model("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT, causal()),
    model(
        "MambaForCausalLM", "MambaConfig", "vocab_size=40, hidden_size=32, num_hidden_layers=2, state_size=4", causal(**PADDED)
    ),
    model("RwkvForCausalLM", "RwkvConfig", "vocab_size=40, hidden_size=32, num_hidden_layers=2, context_length=16", causal()),
    model(
        "XLNetForSequenceClassification",
        "XLNetConfig",
        "vocab_size=40, d_model=32, n_layer=2, n_head=2, d_inner=64, num_labels=3",
        LEFT_PADDED,
    ),
    model(
        "T5ForConditionalGeneration",
        "T5Config",
        "vocab_size=40, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0",
        seq2seq(**PADDED),
    ),
    model(
        "BartForConditionalGeneration",
        "BartConfig",
        "vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, "
        "encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=16, bos_token_id=0, eos_token_id=2, forced_eos_token_id=2",
        seq2seq(pad_token_id=1),
    ),
    model(
        "ViTForImageClassification",
        "ViTConfig",
        "hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8, num_labels=5",
        image(),
    ),
    model(
        "SwinForImageClassification",
        "SwinConfig",
        "image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=5",
        image(),
    ),
    model(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        "hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_labels=5",
        image(64),
    ),
    model(
        "ResNetForImageClassification",
        "ResNetConfig",
        "embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic', num_labels=5",
        image(),
    ),
    model(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", "image_size=64, depth_multiplier=0.25, num_labels=5", image(64)
    ),
    model(
        "PvtForImageClassification",
        "PvtConfig",
        "image_size=64, num_encoder_blocks=4, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 2, 2], num_labels=5",
        image(64),
    ),
    adapter("LoRA", "LoraConfig", "r=4, target_modules=['c_attn'], fan_in_fan_out=True"),
    adapter("DoRA", "LoraConfig", "r=4, target_modules=['c_attn'], fan_in_fan_out=True, use_dora=True"),
    adapter("IA3", "IA3Config", "target_modules=['c_attn', 'c_proj'], feedforward_modules=['c_proj'], fan_in_fan_out=True"),
    adapter("LoHa", "LoHaConfig", "r=4, target_modules=['lm_head']"),
    adapter("LoKr", "LoKrConfig", "r=4, target_modules=['lm_head']"),
    adapter("prompt tuning", "PromptTuningConfig", "task_type='CAUSAL_LM', num_virtual_tokens=4", PROMPTED),
    adapter("VeRA", "VeraConfig", "r=4, target_modules=['c_attn'], fan_in_fan_out=True"),
)
