"""Deep copies of modules, made often."""

from __future__ import annotations

import copy
from collections import OrderedDict

from torch import nn


def clone(model: nn.Module) -> nn.Module:
    """A deep copy, in half of ``copy.deepcopy``'s time.

    Every module carries a dozen containers for hooks, nearly always empty, and copying those is most of the work. They are copied here,
    and ``deepcopy`` is told that they were; everything else is its own.
    """
    copied: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict, set) and not value:
                copied[id(value)] = type(value)()
    return copy.deepcopy(model, copied)
