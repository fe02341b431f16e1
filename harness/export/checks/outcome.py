"""What comes of running a model or an artifact: logits, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from harness.errors import UserError
from harness.export.reason import one_line, shortened


def outcome(compute: Callable[[], Tensor]) -> tuple[Tensor | None, str]:
    """The logits, or ``None`` and the reason in one line."""
    try:
        return compute(), ""
    except UserError as error:
        return None, shortened(str(error).splitlines()[0])
    except Exception as error:
        return None, one_line(error)
