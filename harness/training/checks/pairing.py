"""Whether one of two models is better, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_DRAWS = 9_999


def chance_of_lower(differences: Sequence[float]) -> float:
    """How likely a mean this low is, if each difference could as well have the other sign.

    A one-sided sign-flip test (Fisher 1935, The Design of Experiments, section 21), which asks for no distribution. With N rows nothing is
    less likely than 2^-N.

    Args:
        differences: Of the two models' losses, a number a row.

    Returns:
        The probability; 1 where there are no rows.
    """
    if not differences:
        return 1.0
    values = torch.tensor(differences, dtype=torch.float64)
    signs = torch.randint(0, 2, (_DRAWS, len(values)), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    means = (signs.double() * 2 - 1) @ values
    as_low = int((means <= values.sum() + 1e-12 * float(values.abs().sum())).sum())
    return max((as_low + 1) / (_DRAWS + 1), 0.5 ** len(values))
