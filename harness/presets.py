"""Named tasks with sizes that run in milliseconds, for a first look and for tests."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "lm_tiny": {"task_type": "causal_lm", "modality": "text", "vocab_size": 128, "max_seq_len": 32, "pad_token_id": 0},
    "cls_tiny": {
        "task_type": "sequence_classification",
        "modality": "text",
        "vocab_size": 128,
        "max_seq_len": 32,
        "pad_token_id": 0,
        "num_classes": 4,
    },
    "seq2seq_tiny": {"task_type": "seq2seq_lm", "modality": "text", "vocab_size": 128, "max_seq_len": 24, "pad_token_id": 0},
    "vision_tiny": {"task_type": "image_classification", "modality": "vision", "image_size": [3, 32, 32], "num_classes": 4},
}
"""Defaults that a ``task_name`` or a ``preset`` brings; a key in the config wins."""

DATASETS = ("lm_tiny_v1", "cls_tiny_v1", "seq2seq_tiny_v1", "vision_tiny_v1")
"""Identifiers of the built-in datasets."""
