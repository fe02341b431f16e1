"""What is measured of a table's rows beside its columns: by a rule, such as whether an answer is a refusal, or by a function of the user's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ProfileError, UserError, did_you_mean
from harness.monitoring.features.kinds import Column
from harness.monitoring.features.values import is_missing
from harness.monitoring.profiles.tables import ChangedTable
from harness.wording import counted

_RULE = re.compile(r"(?P<name>[^=~:]+)=(?P<column>[^~]+)~(?P<pattern>.+)", re.DOTALL)
_OWN = re.compile(r".+\.py:[\w.]+")

Rows = Mapping[str, list[Any]]


@dataclass(frozen=True)
class Measure:
    """New columns of a table.

    Attributes:
        said: How it was asked for: ``refused=answer~(?i)^sorry`` or ``judge.py:scores``.
        of: From the rows, a list by column, to the new columns, a list or an array ``[N]`` or ``[N, D]`` each.
        is_rule: Whether it runs no code of the user's, so that what is stored may say it.
    """

    said: str
    of: Callable[[Rows], Mapping[str, Any]]
    is_rule: bool = False

    @classmethod
    def parse(cls, said: str, folder: Path = Path()) -> Measure:
        """A measure as the command line has it.

        Args:
            said: ``NAME=COLUMN~REGEX`` for a rule, ``FILE.py:FUNCTION`` for a function.
            folder: What the file is relative to.

        Raises:
            ProfileError: It is neither, or the regular expression is broken.
            ModelSourceError: There is no such file or function.
        """
        rule = _RULE.fullmatch(said)
        if rule is not None:
            try:
                pattern = re.compile(rule["pattern"])
            except re.error as error:
                raise ProfileError(f"--measure {said}: {rule['pattern']!r} is not a regular expression: {error}") from None
            return cls(said, _Matches(rule["name"], rule["column"], pattern), is_rule=True)
        if not _OWN.fullmatch(said):
            raise ProfileError(
                f"--measure {said}: expected NAME=COLUMN~REGEX, such as refused=answer~^Sorry, or FILE.py:FUNCTION, a function of the rows"
            )
        from harness.user_code import import_named  # and with it torch, which rules do not need

        return cls(said, import_named(said, folder, "--measure"))


@dataclass(frozen=True)
class _Matches:
    """Whether a text has what a regular expression looks for: ``yes``, ``no``, or nothing where there is no text."""

    name: str
    column: str
    pattern: re.Pattern[str]

    def __call__(self, rows: Rows) -> Mapping[str, Any]:
        if self.column not in rows:
            raise ProfileError(f"--measure {self.name}: no column {self.column!r}.{did_you_mean(self.column, rows)}")
        said = [None if is_missing(text) else ("no", "yes")[bool(self.pattern.search(str(text)))] for text in rows[self.column]]
        return {self.name: np.array(said, object)}


def measured_table(data: Any, measures: Sequence[Measure]) -> Any:
    """A table with the columns that measures add, which are computed as it is read; as it was where there are none."""
    return ChangedTable(data, lambda part: _with_measures(part, measures)) if measures else data


def _with_measures(part: Mapping[str, Column], measures: Sequence[Measure]) -> dict[str, Column]:
    found = dict(part)
    rows = {name: np.asarray(column).tolist() for name, column in part.items()}
    count = len(next(iter(rows.values()), []))
    for one in measures:
        try:
            given = one.of(rows)
        except UserError:
            raise
        except Exception as error:
            from harness.user_code import raised

            raise ProfileError(f"--measure {one.said}: it raised {raised(error)}") from error
        if not isinstance(given, Mapping):
            raise ProfileError(
                f"--measure {one.said}: gave a {type(given).__name__}, expected new columns by name, such as {{'score': [...]}}"
            )
        found.update({name: _column(one.said, name, values, count, part) for name, values in given.items()})
    return found


def _column(said: str, name: str, values: Any, count: int, part: Mapping[str, Column]) -> NDArray[Any]:
    if name in part:
        raise ProfileError(f"--measure {said}: the table has a column `{name}` already: give the new one another name")
    column = np.asarray(values)
    if not column.ndim or len(column) != count:
        raise ProfileError(
            f"--measure {said}: `{name}` has shape {list(column.shape)}, expected one value or one vector for each of "
            f"{counted(count, 'row')}"
        )
    return column
