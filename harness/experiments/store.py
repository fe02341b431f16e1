"""A database: where it is, connections, transactions, the lock under which its tables are made, and what its own errors mean."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError, StatementError

from harness.errors import DatabaseAwayError, ExperimentError, MissingPackageError, UserError

BUSY_SECONDS = 60.0
"""How long a writer waits for the others."""

_MEANINGS = (
    ("file is not a database", "is not an SQLite database; give another path, or move the file away"),
    ("readonly database", "cannot be written: the file or its folder is read-only"),
    ("unable to open database file", "cannot be opened: the path must be a file in a writable folder"),
    ("disk is full", "could not be written: the disk is full"),
    ("no space left", "could not be written: the server's disk is full"),
    ("disk i/o error", "could not be read or written (disk I/O error): a full disk, or a network drive, which SQLite cannot use"),
    ("database is locked", f"was locked by another program for {BUSY_SECONDS:.0f} s"),
    ("malformed", "is damaged; `sqlite3 FILE .recover` prints what can still be read"),
    ("no such table", "is missing tables; was it changed by another program?"),
)


def explain(error: SQLAlchemyError, place: str) -> UserError:
    """An error of the database as one of the user's."""
    cause = error.orig if isinstance(error, StatementError) else None
    if isinstance(cause, UserError):  # raised while a value was made ready, and wrapped on the way
        return cause
    text = str(cause or error).strip()
    # Both backends raise these for a database that is not there, full or locked; a missing table is another matter.
    is_away = isinstance(error, (OperationalError, InterfaceError)) and "no such table" not in text.lower()
    kind = DatabaseAwayError if is_away else ExperimentError
    for words, meaning in _MEANINGS:
        if words in text.lower():
            return kind(f"{place}: {meaning}")
    first = text.splitlines()[0] if text else type(error).__name__
    return kind(f"{place}: {first}")


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
        raise ExperimentError(
            f"{text.split('@')[-1]}: not a database URL; expected postgresql://user@host:5432/database"
        ) from None
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
        raise ExperimentError(f"{path or 'an empty path'}: a database is shared between processes, so it must be a file")
    return URL.create("sqlite", database=str(Path(path).expanduser().absolute()))


_SMALLEST = 512
"""Bytes of a SQLite file, at least."""

_CONNECT_SECONDS = 10
_ADVISORY_KEY = 0x6D6F64656C  # "model"; any number that every process of this project shares


class Store:
    """A database and its transactions.

    Args:
        url: Its address.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self.place = place_of(url)
        self.file = file_of(url)
        self._engine = _sqlite_engine(url) if self.file else _postgresql_engine(url)
        _stores.add(self)

    @property
    def address(self) -> str:
        """What opens it again, in another process too: the file's path, or the URL with its password."""
        if self.file:
            return str(self.file)
        return self.url.set(drivername=self.url.get_backend_name()).render_as_string(hide_password=False)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads.

        Raises:
            ExperimentError: The database cannot be read.
        """
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is written whole, or not at all where the block raises.

        Raises:
            ExperimentError: The database cannot be written.
        """
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[Connection]:
        """A writing transaction that overlaps no other exclusive one, of this or another process.

        Raises:
            ExperimentError: The database cannot be written.
        """
        with self._file_lock(), self.writing() as connection:
            if not self.file:
                connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_KEY)))
            yield connection

    def make_file(self) -> None:
        """Makes the folder and the file of a SQLite database, in WAL mode, where they are not there yet.

        Raises:
            ExperimentError: They cannot be made.
        """
        if self.file is None or self._holds_a_database(self.file):
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExperimentError(f"{self.place}: its folder cannot be made: {error.strerror}") from None
        # SQLite changes to WAL only while nobody else reads, and does not wait for that; hence the lock.
        with self._file_lock():
            if not self._holds_a_database(self.file):
                with self._explained():
                    connection = self._engine.raw_connection()
                    try:
                        connection.cursor().execute("PRAGMA journal_mode=WAL")
                    finally:
                        connection.close()

    def _holds_a_database(self, file: Path) -> bool:
        """Whether there is more than an empty file.

        The file is not opened for this: closing it would drop every lock that this process holds on it (POSIX), and with another process
        that leaves meanwhile, SQLite then deletes the log under a connection that is in use.
        """
        try:
            size = file.stat().st_size
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ExperimentError(f"{self.place}: cannot be opened: {error.strerror}") from None
        if 0 < size < _SMALLEST:  # SQLite itself would write over it
            raise ExperimentError(f"{self.place}: is not an SQLite database; give another path, or move the file away")
        return size > 0

    def close(self) -> None:
        """Closes the connections; the next transaction opens one again."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, writes: bool) -> Iterator[Connection]:
        with self._explained(), self._engine.connect() as connection:
            connection.execution_options(modeltiers_writes=writes)
            with connection.begin():
                yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise explain(error, self.place) from error
        except UnicodeEncodeError as error:
            raise ExperimentError(f"{self.place}: cannot store a text: {error}") from None

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        lock: AbstractContextManager[Any] = nullcontext()
        if self.file:
            lock = FileLock(self.file.with_name(f".{self.file.name}.lock"), timeout=BUSY_SECONDS)
        try:
            lock.__enter__()
        except Timeout:
            raise ExperimentError(f"{self.place}: another process has been creating it for {BUSY_SECONDS:.0f} s") from None
        except OSError as error:
            raise ExperimentError(f"{self.place}: cannot be written: {error.strerror or error}") from None
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _leave_to_parent(self) -> None:
        """In a forked child: new connections. Those of the parent stay open, as closing them here would disturb its files."""
        _of_the_parent.append(self._engine.pool)
        self._engine.dispose(close=False)


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver itself begins no transactions
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and then asks to write is refused, not queued, when another wrote in between.
        writes = connection.get_execution_options().get("modeltiers_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql_engine(url: URL) -> Engine:
    query = {"connect_timeout": str(_CONNECT_SECONDS), "application_name": "modeltiers", **url.query}
    return create_engine(url.set(query=query), pool_pre_ping=True)


_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_of_the_parent: list[Any] = []


def _after_fork() -> None:
    for store in list(_stores):
        store._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
