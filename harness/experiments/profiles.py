"""Profiles of data and of outputs, by the run that made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select

from harness.experiments.clock import Now
from harness.experiments.errors import ExperimentError
from harness.experiments.tables import profiles

if TYPE_CHECKING:
    from harness.experiments.database import ExperimentDB
    from harness.experiments.records import RunRef

REFERENCE = "reference"
"""The name of the profile that later data is compared with."""

_DOCUMENT_MARK = "pytest-modeltiers profile"
_BYTES_MARK = b"MTPROF"
"""What `harness.monitoring.profiles` writes into each profile. This package must not import it, so the marks are repeated here."""


def log_profile_to_db(db: ExperimentDB, run_id: RunRef, profile: Any, name: str = "reference", kind: str = "data") -> int:
    """Stores a run's reference profile.

    Args:
        db: The database.
        run_id: The run the profile belongs to.
        profile: A profile, its JSON or its bytes. Under another name than ``reference`` it may be any JSON-ready values or bytes.
        name: Tells several profiles of a run apart; a newer one of the same name takes the place of the older.
        kind: What it describes.

    Returns:
        The run's id: the ``reference_profile_id`` of a config.

    Raises:
        ExperimentError: There is no such run, or the profile cannot be stored, or it is no profile.
    """
    _check(profile, name)
    db.log_profile(run_id, profile, name, kind)
    return db.resolve(run_id)


def _check(profile: Any, name: str) -> None:
    """Refuses what no monitoring could read, before it is stored; only the reference of a run must be a profile.

    Args:
        profile: What is to be stored.
        name: The name it is to have.

    Raises:
        ExperimentError: It is no profile.
    """
    if name != REFERENCE:
        return
    content = profile.to_json() if hasattr(profile, "to_json") else profile
    if isinstance(content, (bytes, bytearray, memoryview)):
        is_profile = bytes(content[: len(_BYTES_MARK)]) == _BYTES_MARK
    else:
        is_profile = isinstance(content, Mapping) and content.get("kind") == _DOCUMENT_MARK
    if not is_profile:
        raise ExperimentError(
            f"expected a profile, as `modeltiers profile` or `harness.monitoring.profiles.profile_columns` makes one, got {_said(content)}; "
            "other values can be stored under a name of their own, such as name='means'"
        )


def _said(content: Any) -> str:
    """What somebody gave instead of a profile."""
    if isinstance(content, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, list(content)[:5]))}" if content else "an empty mapping"
    return (
        f"{len(content)} bytes of something else"
        if isinstance(content, (bytes, bytearray, memoryview))
        else type(content).__name__
    )


def get_profile(db: ExperimentDB, run_id: RunRef, name: str = "reference") -> Any:
    """The newest profile of a run by its name, as it was stored: JSON values, or bytes.

    Raises:
        ExperimentError: There is no such run, or it has no such profile.
    """
    return db.get_profile(run_id, name)


def write(connection: Connection, run_id: int, name: str, kind: str, profile: Any) -> None:
    """Writes a profile."""
    content = {"blob": bytes(profile)} if isinstance(profile, (bytes, bytearray, memoryview)) else {"document": profile}
    connection.execute(insert(profiles).values(run_id=run_id, name=name, kind=kind, created=Now(), **content))


def read(connection: Connection, run_id: int, name: str) -> Any:
    """The newest profile of that name.

    Raises:
        ExperimentError: The run has none.
    """
    query = select(profiles.c.document, profiles.c.blob).where(profiles.c.run_id == run_id, profiles.c.name == name)
    row = connection.execute(query.order_by(profiles.c.id.desc()).limit(1)).first()
    if row is None:
        there = ", ".join(read_names(connection, run_id)) or "none at all"
        raise ExperimentError(f"run {run_id} has no profile {name!r}; it has: {there}")
    return row.document if row.blob is None else bytes(row.blob)


def read_names(connection: Connection, run_id: int) -> list[str]:
    """The names of a run's profiles."""
    query = select(profiles.c.name).where(profiles.c.run_id == run_id).distinct().order_by(profiles.c.name)
    return list(connection.execute(query).scalars())
