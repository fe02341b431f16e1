"""Columns of Arrow data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from harness.monitoring.profiles.columns import Column

ROWS_AT_ONCE = 1 << 16


def is_arrow(data: Any) -> bool:
    """Whether something is a table, a batch, a reader or a dataset of Arrow."""
    return type(data).__module__.partition(".")[0] == "pyarrow"


def arrow_batches(data: Any) -> Iterator[dict[str, Column]]:
    """The columns of Arrow data, some rows at a time.

    Args:
        data: A ``RecordBatch``, a ``Table``, a ``RecordBatchReader`` (which can be read once) or a ``pyarrow.dataset.Dataset``.
    """
    from harness.data.readers.arrow import arrow_columns

    for batch in _batches(data):
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield arrow_columns(batch.slice(start, ROWS_AT_ONCE))


def _batches(data: Any) -> Iterable[Any]:
    if hasattr(data, "to_batches"):
        return data.to_batches()
    return data if hasattr(data, "read_next_batch") else [data]
