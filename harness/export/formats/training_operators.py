"""ATen operators that behave as in training."""

from __future__ import annotations

from typing import Any

_FLAG_POSITIONS = {
    "dropout": 2,
    "dropout_": 2,
    "feature_dropout": 2,
    "alpha_dropout": 2,
    "feature_alpha_dropout": 2,
    "native_dropout": 2,
    "batch_norm": 5,
    "native_batch_norm": 5,
    "cudnn_batch_norm": 5,
    "rrelu": 3,
}
"""Where each operator's `train` flag stands among its arguments."""

_RANDOM = {"bernoulli", "bernoulli_", "rand_like", "rand", "randn_like", "randn", "normal", "multinomial"}


def trains(operator: str, arguments: list[Any]) -> bool:
    """Whether a call is one of training: a Dropout or norm whose flag is set, or a random number.

    Args:
        operator: Its name, such as ``aten.dropout.default`` or ``aten::dropout``.
        arguments: Its arguments, constants by their value.
    """
    name = operator.replace("::", ".").removeprefix("aten.").partition(".")[0]
    position = _FLAG_POSITIONS.get(name)
    if position is None:
        return name in _RANDOM
    active = len(arguments) > position and arguments[position] is True
    rate = arguments[1] if "dropout" in name and len(arguments) > 1 else 1.0
    return active and rate != 0.0
