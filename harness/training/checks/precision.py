"""The coarsest dtype that a training step computes in, which decides on its rounding noise whatever dtype goes in and comes out."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from harness.properties.noise import coarsest_epsilon
from harness.training.trial import Trial

_found: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()


def epsilon_of_step(trial: Trial) -> float:
    """The largest machine epsilon of any tensor on the way from the weights to the loss.

    A model in float64 that returns float32 logits has the noise of float32, and so has one in float32 around a part in bfloat16 that of
    bfloat16.
    """
    model = trial.subject.model
    if model not in _found:
        batches = [trial.subject.batch()] * max(1, trial.batches_per_step)
        dtype = trial.subject.dtype
        _found[model] = coarsest_epsilon(lambda: trial.train(batches, limit=1, clip=False), dtype, of_gradients=True)
    return _found[model]
