"""The time by the database's own clock, so that writers and readers on several machines agree."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class Now(FunctionElement[float]):
    """Seconds since 1970, UTC, to a millisecond."""

    type = Double()
    inherit_cache = True


@compiles(Now, "sqlite")
def _sqlite(_element: Now, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "postgresql")
def _postgresql(_element: Now, _compiler: Any, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def moment(seconds: float) -> datetime:
    """A stored time as a date with its zone, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc)
