"""Where a database lies: a file or a server, from what the user wrote."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from harness.errors import MissingPackageError
from harness.experiments.errors import ExperimentError


def address_of(db_path: str | Path) -> URL:
    """The address of a database.

    Args:
        db_path: A file, ``sqlite:///file``, or ``postgresql://user:password@host:port/database``.

    Raises:
        ExperimentError: It names no database this project writes to.
        MissingPackageError: The driver for PostgreSQL is not installed.
    """
    if not isinstance(db_path, (str, Path)):  # its text would be a file's name, and its repr the folder's
        raise ExperimentError(f"a database is given by its path or its URL, not by {type(db_path).__name__}")
    text = str(db_path)
    if "://" not in text:
        return _file(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # a port that is no number is a ValueError
        raise ExperimentError(f"{text.split('@')[-1]}: no database URL; expected postgresql://user@host:5432/database") from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        return _file(url.database or ":memory:")
    if backend not in ("postgresql", "postgres"):
        raise ExperimentError(f"{place_of(url)}: databases are SQLite files and PostgreSQL servers, not {backend}")
    if find_spec("psycopg") is None:
        raise MissingPackageError("PostgreSQL needs psycopg, not installed here: pip install 'pytest-modeltiers[postgresql]'")
    return url.set(drivername="postgresql+psycopg")


def place_of(url: URL) -> str:
    """The address for people, without a password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    bare = url.set(drivername=url.get_backend_name(), query={})
    return bare.render_as_string(hide_password=True)


def file_of(url: URL) -> Path | None:
    """The file of a SQLite database; ``None`` for a server."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _file(path: str) -> URL:
    if not path.strip() or path.startswith((":memory:", "file:")):
        raise ExperimentError(f"{path or 'an empty path'}: a database is shared between processes, so give it a file of its own")
    return URL.create("sqlite", database=str(Path(path).expanduser().absolute()))
