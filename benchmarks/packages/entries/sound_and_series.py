"""Sound and series of real vectors: recognition, separation, voices, forecasts; with lengths and masks."""

from __future__ import annotations

from typing import Any

from packages.entries.image_to_image import hugging_face
from packages.entry import Entry, Keys, declared


def mask(axis: str) -> Keys:
    """An optional boolean mask of real elements."""
    return {"axes": ["batch", axis], "dtype": "bool", "values": {"mask_of": axis}, "optional": True}


def series(width: int, most: int = 16, least: int = 2, **more: Any) -> Keys:
    """A series of real vectors in, one out, with a mask."""
    return declared(
        {"x": {"axes": ["batch", "time", width]}, "mask": mask("time")},
        {"out": {"axes": ["batch", "time", width]}},
        {"time": {"min": least, "max": most, "padding": "right", **more}},
    )


def torchaudio(name: str, arguments: str, task: Keys) -> Entry:
    """A model of torchaudio."""
    return Entry("torchaudio", name, f"from torchaudio.models import {name}", f"{name}({arguments})", task)


def speechbrain(name: str, arguments: str, task: Keys, module: str = "") -> Entry:
    """A model of speechbrain."""
    return Entry(
        "speechbrain", name, f"from speechbrain.lobes.models.{module or name} import {name}", f"{name}({arguments})", task
    )


def voice(least: int) -> Keys:
    """A spectrum in, the vector of a voice out."""
    return declared(
        {"x": {"axes": ["batch", "time", 8]}},
        {"voice": {"axes": ["batch", 1, 8], "kind": "embedding"}},
        {"time": {"min": least, "max": 40}},
    )


FRAMES: Keys = {"input": {"axes": ["batch", "time", 16]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}}}
WAVES = "hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32"
WAV2VEC = (
    f"{WAVES}, conv_dim=(8, 8), conv_stride=(4, 2), conv_kernel=(8, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=8, "
    "num_conv_pos_embedding_groups=2, vocab_size=7, mask_time_prob=0.0, {more}"
)
PATCHES = (
    "context_length=16, patch_length=4, patch_stride=4, num_input_channels=3, d_model=16, num_hidden_layers=1, num_layers=1, "
    "prediction_length=4"
)
FORECAST: Keys = declared({"past_values": {"axes": ["batch", 16, 3]}}, {"prediction_outputs": {"axes": ["batch", 4, 3]}})

ENTRIES: tuple[Entry, ...] = (
    Entry(
        "conformer",
        "Conformer",
        "from conformer import Conformer",
        "Conformer(dim=16, depth=1, dim_head=8, heads=2)",
        declared({"x": {"axes": ["batch", "time", 16]}}, {"out": {"axes": ["batch", "time", 16]}}, {"time": {"max": 16}}),
    ),
    Entry(
        "conformer",
        "ConformerBlock",
        "from conformer import ConformerBlock",
        "ConformerBlock(dim=16, dim_head=8, heads=2)",
        series(16),
    ),
    Entry(
        "nystrom-attention",
        "Nystromformer",
        "from nystrom_attention import Nystromformer",
        "Nystromformer(dim=16, dim_head=8, heads=2, depth=1, num_landmarks=4)",
        series(16),
    ),
    Entry(
        "x-transformers",
        "ContinuousTransformerWrapper, Encoder",
        "from x_transformers import ContinuousTransformerWrapper, Encoder",
        "ContinuousTransformerWrapper(dim_in=6, dim_out=6, max_seq_len=16, attn_layers=Encoder(dim=32, depth=2, heads=2, attn_dim_head=16))",
        series(6),
    ),
    Entry(
        "x-transformers",
        "ContinuousTransformerWrapper, Decoder",
        "from x_transformers import ContinuousTransformerWrapper, Decoder",
        "ContinuousTransformerWrapper(dim_in=6, dim_out=6, max_seq_len=16, attn_layers=Decoder(dim=32, depth=2, heads=2, attn_dim_head=16))",
        series(6, order="causal"),
    ),
    Entry(
        "itransformer",
        "iTransformer",
        "from iTransformer import iTransformer",
        "iTransformer(num_variates=3, lookback_len=8, dim=16, depth=1, heads=2, dim_head=8, pred_length=4)",
        declared({"x": {"axes": ["batch", 8, 3]}}, {"forecast": {"axes": ["batch", 4, 3]}}),
    ),
    hugging_face("PatchTSTForPrediction", "PatchTSTConfig", f"{PATCHES}, num_attention_heads=2, ffn_dim=32", FORECAST),
    hugging_face("PatchTSMixerForPrediction", "PatchTSMixerConfig", PATCHES, FORECAST),
    Entry(
        "pytorch-forecasting",
        "NBeats",
        "from pytorch_forecasting import MAE, NBeats\nfrom pytorch_forecasting.data import TorchNormalizer",
        "NBeats(stack_types=['trend', 'seasonality'], num_blocks=[1, 1], num_block_layers=[1, 1], widths=[8, 8], sharing=[False, False], "
        "expansion_coefficient_lengths=[3, 3], prediction_length=4, "
        "context_length=8, dropout=0.0, loss=MAE(), output_transformer=TorchNormalizer())",
        declared(
            {"x.encoder_cont": {"axes": ["batch", 8, 1]}, "x.target_scale": {"axes": ["batch", 2]}},
            {"prediction": {"axes": ["batch", 4, 1]}},
        ),
    ),
    torchaudio(
        "Wav2Letter",
        "num_classes=5, input_type='waveform', num_features=1",
        declared(
            {"x": {"axes": ["batch", 1, "time"]}},
            {"log_probs": {"axes": ["batch", 5, "frames"], "kind": "class_scores", "classes": 1}},
            {"time": {"min": 8000, "max": 12000}, "frames": {"from": "measured"}},
        ),
    ),
    torchaudio(
        "DeepSpeech",
        "n_feature=8, n_hidden=16, n_class=5",
        declared(
            {"x": {"axes": ["batch", 1, "time", 8]}},
            {"symbols": {"axes": ["batch", "time", 5], "kind": "ctc_scores"}},
            {"time": {"max": 20}},
        ),
    ),
    torchaudio(
        "ConvTasNet",
        "num_sources=2, enc_num_feats=16, msk_num_feats=8, msk_num_hidden_feats=16, msk_num_layers=2, msk_num_stacks=1",
        declared(
            {"input": {"axes": ["batch", 1, "time"]}},
            {"sources": {"axes": ["batch", 2, "time"]}},
            {"time": {"min": 32, "max": 120}},
        ),
    ),
    torchaudio(
        "Conformer",
        "16, 2, 32, 1, 3",
        declared(
            FRAMES,
            {"out": {"axes": ["batch", "time", 16]}, "lengths": {"axes": ["batch"], "kind": "lengths", "of": "time"}},
            {"time": {"max": 16, "padding": "right"}},
        ),
    ),
    torchaudio(
        "Emformer",
        "16, 2, 32, 1, 4, right_context_length=0",
        declared(
            FRAMES,
            {"out": {"axes": ["batch", "time", 16]}, "lengths": {"axes": ["batch"], "kind": "lengths", "of": "time"}},
            {"time": {"min": 4, "max": 16, "multiple_of": 4, "padding": "right"}},
        ),
    ),
    Entry(
        "torchaudio",
        "Wav2Vec2Model",
        "from torchaudio.models import wav2vec2_model",
        "wav2vec2_model('layer_norm', [(8, 8, 4), (8, 3, 2)], True, 16, 0.0, 8, 2, 1, 2, 0.0, 32, 0.0, 0.0, True, 0.0, 7)",
        declared(
            {
                "waveforms": {"axes": ["batch", "time"]},
                "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}, "optional": True},
            },
            {"symbols": {"axes": ["batch", "frames", 7], "kind": "ctc_scores"}},
            {"time": {"min": 40, "max": 120, "padding": "right"}, "frames": {"from": "((time - 8) // 4 + 1 - 3) // 2 + 1"}},
        ),
    ),
    hugging_face(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        WAV2VEC.format(more="feat_extract_norm='layer', do_stable_layer_norm=True, pad_token_id=0"),
        declared(
            {
                "input_values": {"axes": ["batch", "time"]},
                "attention_mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}, "optional": True},
            },
            {"logits": {"axes": ["batch", "frames", 7], "kind": "ctc_scores"}},
            {"time": {"min": 40, "max": 120, "padding": "right"}, "frames": {"from": "((time - 8) // 4 + 1 - 3) // 2 + 1"}},
        ),
    ),
    hugging_face(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        "vocab_size=40, num_mel_bins=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, "
        "encoder_ffn_dim=32, decoder_ffn_dim=32, d_model=16, max_source_positions=12, max_target_positions=10, pad_token_id=0, "
        "bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, begin_suppress_tokens=None",
        declared(
            {
                "input_features": {"axes": ["batch", 8, 24]},
                "decoder_input_ids": {"axes": ["batch", "words"], "values": {"ids": 40}},
            },
            {"logits": {"axes": ["batch", "words", 40], "kind": "token_scores"}},
            {"words": {"min": 2, "max": 10, "order": "causal"}},
        ),
    ),
    hugging_face(
        "ASTForAudioClassification",
        "ASTConfig",
        f"{WAVES}, patch_size=4, frequency_stride=4, time_stride=4, max_length=16, num_mel_bins=8, num_labels=3",
        declared({"input_values": {"axes": ["batch", 16, 8]}}, {"logits": {"axes": ["batch", 3], "kind": "class_scores"}}),
    ),
    speechbrain(
        "Xvector",
        "device='cpu', tdnn_blocks=2, tdnn_channels=[8, 16], tdnn_kernel_sizes=[3, 1], tdnn_dilations=[1, 1], lin_neurons=8, in_channels=8",
        voice(4),
    ),
    speechbrain(
        "ECAPA_TDNN",
        "8, lin_neurons=8, channels=[16, 16, 16, 16, 48], attention_channels=8, res2net_scale=2, se_channels=8",
        voice(10),
    ),
    speechbrain(
        "CRDNN",
        "input_size=8, cnn_channels=[4, 4], rnn_layers=1, rnn_neurons=8, dnn_blocks=1, dnn_neurons=8, time_pooling=False",
        declared({"x": {"axes": ["batch", "time", 8]}}, {"out": {"axes": ["batch", "time", 8]}}, {"time": {"min": 2, "max": 20}}),
    ),
)
