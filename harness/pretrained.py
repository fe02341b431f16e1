"""A folder of ``save_pretrained``, as far as its ``config.json`` tells: the class, and the task with its sizes. Nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SETTINGS = "config.json"

_LONGEST = 128
"""Tokens of the longest sequence that the suite draws where the config does not say ``max_seq_len``."""

_TASKS = {
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForImageClassification": "image_classification",
    "ForConditionalGeneration": "seq2seq_lm",
    "MTModel": "seq2seq_lm",
}
"""The task types by the ends of the names of classes."""

_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx")

_OTHER_INPUTS = ("vision_config", "audio_config", "num_mel_bins")
"""Settings of models that read more than tokens."""


def settings_of(folder: Path) -> dict[str, Any] | None:
    """What ``config.json`` says; ``None`` where there is none, or something else."""
    try:
        found = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def architecture_of(settings: Mapping[str, Any]) -> str:
    """The name of the model's class; empty where the folder does not say it."""
    names = settings.get("architectures")
    name = names[0] if isinstance(names, list) and names else ""
    return name if isinstance(name, str) and name.isidentifier() else ""


def with_task(keys: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of a config whose ``model`` is a folder of ``save_pretrained``, with the task type and the sizes that it does not say.

    Args:
        keys: The config as it was read.
        folder: The config's.
    """
    model = keys.get("model")
    if not isinstance(model, str) or any(key in keys for key in ("task_type", "inputs", "outputs", "example")):
        return dict(keys)
    try:
        settings = settings_of(folder / Path(model).expanduser())
    except RuntimeError:  # the home of nobody: the check of paths says so
        return dict(keys)
    return {**(task_of(settings) if settings else {}), **keys}


def task_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the task that a model's settings stand for; empty where it is none of the task types."""
    name = architecture_of(settings)
    task = next((task for end, task in _TASKS.items() if name.endswith(end)), "")
    if not task or any(key in settings for key in _OTHER_INPUTS):
        return {}
    classes = len(settings.get("id2label") or {}) or settings.get("num_labels", 2)
    if task == "image_classification":
        side = settings.get("image_size", 224)
        height, width = side if isinstance(side, list) else (side, side)
        return {"task_type": task, "image_size": [settings.get("num_channels", 3), height, width], "num_classes": classes}
    longest = min([_LONGEST, *(settings[key] for key in _LENGTHS if type(settings.get(key)) is int and settings[key] > 0)])
    keys = {"task_type": task, "vocab_size": settings.get("vocab_size"), "max_seq_len": longest}
    if type(settings.get("pad_token_id")) is int and 0 <= settings["pad_token_id"] < (settings.get("vocab_size") or 0):
        keys["pad_token_id"] = settings["pad_token_id"]
    if task in ("sequence_classification", "token_classification"):
        if classes == 1:  # a number to predict
            return {}
        keys["num_classes"] = classes
    return keys if keys["vocab_size"] else {}
