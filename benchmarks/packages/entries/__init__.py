"""The entries of the board, a file a family of packages or of tasks."""

from __future__ import annotations

from dataclasses import replace

from packages.entries import (
    graphs,
    image_models,
    image_to_image,
    language_models,
    several_inputs,
    sound_and_series,
    table_models,
    transformers_models,
    waiting,
)
from packages.entry import Entry

_EMBEDDINGS = (
    "LinearEmbeddings",
    "LinearReLUEmbeddings",
    "PeriodicEmbeddings",
    "PiecewiseLinearEncoding",
    "PiecewiseLinearEmbeddings",
)

_HELP_LINES = {
    "vit-pytorch-twins_svt.TwinsSVT": "task",
    "transformers-XLNetForSequenceClassification": "task",  # padded on the left
    "reformer-pytorch-ReformerLM": "task",
    "g-mlp-pytorch-gMLP": "task",
    "open-clip-torch-TextTransformer": "task",
    "rtdl-revisiting-models-FTTransformer": "task",
    **{f"rtdl-num-embeddings-{name}": "task" for name in _EMBEDDINGS},
    "pytorch-tabnet-TabNetNoEmbeddings": "task",
    "torch-geometric-LightGCN": "--input edge_label_index=2,pairs:ids=12",
    "pytorch-forecasting-NBeats": "task",
    "torchaudio-Wav2Vec2Model": "task",  # of one frame attention has no gradient
    "torchaudio-Wav2Letter": "task",  # the signal of few samples vanishes
    "torchaudio-DeepSpeech": "--input x=batch,1,time,8",
    "stable-baselines3-ActorCriticPolicy_of_PPO,_evaluate_actions": "task",  # forward samples
    "sentence-transformers-Pooling,_Dense_and_Normalize": "task",
}
"""By key: `Entry.help_line`."""

_ENTRIES: tuple[Entry, ...] = (
    *image_models.ENTRIES,
    *transformers_models.ENTRIES,
    *language_models.ENTRIES,
    *table_models.ENTRIES,
    *image_to_image.ENTRIES,
    *graphs.ENTRIES,
    *sound_and_series.ENTRIES,
    *several_inputs.ENTRIES,
    *waiting.ENTRIES,
)

ENTRIES = tuple(replace(entry, help_line=_HELP_LINES.get(entry.key, "")) for entry in _ENTRIES)
"""All entries."""
