"""LightningModules."""

from __future__ import annotations

import importlib

from torch import nn

from .pairs import PYTORCH, TABLE, Pair, register


def _build(name: str) -> nn.Module:
    models = importlib.import_module(".lightning_models", __package__)
    return getattr(models, name)()


def lightning_classifier() -> nn.Module:
    """The sound twin."""
    return _build("LightningClassifier")


def outputs_collected() -> nn.Module:
    """Keeps the logits of every call, as hooks at the end of an epoch invite to."""
    return _build("OutputsCollected")


def net_in_a_box() -> nn.Module:
    """Hides its network in a list."""
    return _build("NetInABox")


register(
    Pair(
        "LightningOutputsCollected",
        TABLE,
        outputs_collected,
        lightning_classifier,
        "memory_footprint",
        "outputs",
        f"{PYTORCH} FAQ: don't accumulate history across your loop",
    )
)
register(
    Pair(
        "LightningNetInABox",
        TABLE,
        net_in_a_box,
        lightning_classifier,
        "registration",
        "nets[0]",
        f"{PYTORCH}: modules in a Python list are not registered",
    )
)
