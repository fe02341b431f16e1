"""LightningModules."""

from __future__ import annotations

import importlib

from torch import nn

from ..register import LIGHTNING, PYTORCH, PlantedBug, register
from ..setups import Model
from ..tasks import TABLE


def _build(name: str, *settings: float) -> nn.Module:
    models = importlib.import_module(".lightning_models", __package__)
    return getattr(models, name)(*settings)


def lightning_classifier() -> nn.Module:
    """The sound twin."""
    return _build("LightningClassifier")


def outputs_collected() -> nn.Module:
    """Keeps the logits of every call, as hooks at the end of an epoch invite to."""
    return _build("OutputsCollected")


def net_in_a_box() -> nn.Module:
    """Hides its network in a list."""
    return _build("NetInABox")


def with_a_factor() -> nn.Module:
    """The sound twin of models with a setting."""
    return _build("WithAFactor", 3.0)


def factor_not_saved() -> nn.Module:
    """Forgets `save_hyperparameters`, so that a loaded model has the setting's default."""
    return _build("FactorNotSaved", 3.0)


register(
    PlantedBug(
        "LightningOutputsCollected",
        "memory_footprint",
        Model(TABLE, outputs_collected),
        Model(TABLE, lightning_classifier),
        module="outputs",
        source=f"{PYTORCH} FAQ: don't accumulate history across your loop",
    ),
    PlantedBug(
        "LightningNetInABox",
        "registration",
        Model(TABLE, net_in_a_box),
        Model(TABLE, lightning_classifier),
        module="nets[0]",
        source=f"{PYTORCH}: modules in a Python list are not registered",
    ),
    PlantedBug(
        "LightningFactorNotSaved",
        "serialisation[own_methods]",
        Model(TABLE, factor_not_saved),
        Model(TABLE, with_a_factor),
        code="state_dict_incomplete",
        source=f"{LIGHTNING}: save_hyperparameters keeps the arguments of __init__ in the checkpoint",
    ),
)
