"""Fresh weights moved a little, as training would: what starts at zero, such as a gated branch, is told from what stays there."""

from __future__ import annotations

import torch
from torch import nn

from harness.properties.quantised import is_packed
from harness.properties.subject import Subject
from harness.randomness import seeded

_MOVED = 0.05
"""Standard deviation by which weights are moved; small beside those of usual layers, large beside zero."""


@torch.no_grad()
def moved(subject: Subject, variant: nn.Module | None = None) -> nn.Module:
    """A copy of the model with fresh weights moved at random; loaded weights stay as they are.

    Args:
        subject: The model.
        variant: A copy of it with other values, such as the model in float64.
    """
    model = subject.fresh() if variant is None else subject.copies.of(variant).eval()
    with seeded(0):
        for parameter in model.parameters() if subject.fresh_weights else ():
            if parameter.is_floating_point() and not is_packed(parameter):
                parameter.add_(torch.randn_like(parameter), alpha=_MOVED)
    return model
