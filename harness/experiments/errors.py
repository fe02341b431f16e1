"""What can go wrong with an experiment database, each in one line, and what a database's own errors mean."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError, StatementError

from harness.errors import UserError


class ExperimentError(UserError, RuntimeError):
    """The experiment database cannot be opened, read or written, or was asked for something impossible."""

    code = "experiments"


class UnknownRunError(ExperimentError, LookupError):
    """No run has that id or name."""

    code = "unknown_run"


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
    for words, meaning in _MEANINGS:
        if words in text.lower():
            return ExperimentError(f"{place}: {meaning}")
    first = text.splitlines()[0] if text else type(error).__name__
    return ExperimentError(f"{place}: {first}")
