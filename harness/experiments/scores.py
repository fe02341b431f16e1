"""Per-sample scores, compressed: a right-or-wrong score takes about three bits a sample."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from harness.experiments.errors import ExperimentError
from harness.experiments.records import Scores
from harness.experiments.tables import scores
from harness.experiments.upsert import put

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVEL = 1  # zlib: higher levels take several times as long for a few percent


def write(connection: Connection, run_id: int, metric: str, values: Any, dataset: str) -> None:
    """Writes a run's scores of a metric, in place of earlier ones.

    Raises:
        ExperimentError: The values are no list of numbers.
    """
    array = _array(metric, values)
    row = {"dtype": array.dtype.str, "count": array.size, "content": zlib.compress(array.tobytes(), _LEVEL)}
    put(connection, scores, run_id=run_id, metric=metric, dataset=dataset, **row)


def read(connection: Connection, run_id: int, metric: str) -> Scores:
    """A run's scores of a metric.

    Raises:
        ExperimentError: The run has none.
    """
    import numpy as np

    row = connection.execute(select(scores).where(scores.c.run_id == run_id, scores.c.metric == metric)).first()
    if row is None:
        there = ", ".join(read_metrics(connection, run_id)) or "none at all"
        raise ExperimentError(f"run {run_id} has no per-sample scores of {metric!r}; it has: {there}")
    return Scores(metric, np.frombuffer(zlib.decompress(row.content), row.dtype).copy(), row.dataset)


def read_metrics(connection: Connection, run_id: int) -> list[str]:
    """The metrics a run has scores of."""
    return list(connection.execute(select(scores.c.metric).where(scores.c.run_id == run_id).order_by(scores.c.metric)).scalars())


def read_datasets(connection: Connection, run_id: int) -> dict[str, str]:
    """What each of a run's scores was measured on, by metric."""
    found = connection.execute(
        select(scores.c.metric, scores.c.dataset).where(scores.c.run_id == run_id).order_by(scores.c.metric)
    )
    return {row.metric: row.dataset for row in found}


def _array(metric: str, values: Any) -> NDArray[Any]:
    import numpy as np

    if hasattr(values, "detach"):  # a tensor; numpy has no bfloat16
        values = values.detach().cpu()
        values = (values.float() if values.dtype.itemsize < 4 and values.is_floating_point() else values).numpy()
    try:
        array = np.asarray(values)
        small = array.dtype in (np.float32, np.float16, np.bool_)
        array = array.astype("<f4" if small else "<f8")
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"scores of {metric!r}: expected a list of numbers: {error}") from None
    if array.ndim != 1:
        raise ExperimentError(f"scores of {metric!r}: expected one number a sample, got shape {list(array.shape)}")
    return array
