"""Files of lines: JSONL, CSV and plain text, read a line at a time."""

from __future__ import annotations

import csv
import json
from codecs import getincrementaldecoder
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from harness.data import Columns, Reader, Record
from harness.data.readers.arrow import CsvParts
from harness.errors import DataError
from harness.tasks import TaskSpec

_PART = 1 << 16


class _LineFile(Reader):
    def _lines(self, longest: int = -1) -> Iterator[tuple[int, str]]:
        """Lines with their number, counted from 1, and their line end; longer ones than ``longest`` bytes in parts."""
        number = 1
        decoder = getincrementaldecoder("utf-8-sig")()
        try:
            with self.path.open("rb") as stream:
                while line := stream.readline(longest):
                    yield number, decoder.decode(line, final=longest < 0)
                    number += line.endswith(b"\n")
                decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DataError(f"{self.name}:{number}: not UTF-8: byte 0x{byte:02x}; {_as_utf8(byte, number, self.name)}") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None


def _as_utf8(byte: int, line: int, name: str) -> str:
    """How a file in another encoding is converted: UTF-16 begins with a mark of two bytes that UTF-8 never has."""
    encoding, why = ("UTF-16", "") if line == 1 and byte in (0xFE, 0xFF) else ("WINDOWS-1252", ", if that is what it is")
    return f"convert it{why}: iconv -f {encoding} -t UTF-8 {name}"


class JsonLines(_LineFile):
    """JSON Lines; blank lines do not count."""

    kind = "JSON Lines"
    suffixes = (".jsonl", ".ndjson")
    layout = "a JSON object on each line"

    def __iter__(self) -> Iterator[Record]:
        """The objects.

        Raises:
            DataError: A line is no JSON object.
        """
        for number, line in self._lines():
            if line.strip():
                yield Record(f"{self.name}:{number}", self._object(number, line))

    def count(self) -> int:
        """How many there are, without looking into them."""
        return sum(1 for _, line in self._lines() if line.strip())

    def _object(self, number: int, line: str) -> dict[str, object]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = "too deep" if isinstance(error, RecursionError) else str(error).replace("line 1 column", "column")
            hint = " (a JSON array over several lines? write one object a line)" if number == 1 and line.startswith("[") else ""
            raise DataError(f"{self.name}:{number}: not JSON: {what}{hint}") from None
        if not isinstance(found, dict):
            raise DataError(f"{self.name}:{number}: expected a JSON object with a key for each field, got {type(found).__name__}")
        return found


class PlainText(_LineFile):
    """Plain text for a language model: a record for each line, with its line end; very long lines are read in parts."""

    kind = "plain text"
    suffixes = (".txt", ".text")
    layout = "text, for language models only"
    is_continuous = True

    @classmethod
    def open(cls, path: Path, task: TaskSpec, *, lenient: bool = False) -> PlainText:
        """The text.

        Raises:
            DataError: The task needs labels.
        """
        if task.facts.rows != "text":
            raise DataError(f"`path`: {path.name}: plain text has no labels for {task.title}; give JSONL, CSV or Parquet")
        return cls(path)

    def columns(self, rows: int) -> Iterator[Columns]:
        """Refuses.

        Raises:
            DataError: Always: a text is no table.
        """
        raise DataError(f"{self.name}: plain text has no columns; give a task to read it as examples")

    def __iter__(self) -> Iterator[Record]:
        """The lines."""
        return (Record(f"{self.name}:{number}", {"text": line}) for number, line in self._lines(_PART))


class CsvTable(_LineFile):
    """CSV with a header; values are texts. Tabs or semicolons separate the cells where the header has those instead of commas."""

    kind = "CSV"
    suffixes = (".csv", ".tsv")
    layout = "a header, then a row on each line, separated by commas, semicolons or tabs"
    are_texts = True

    def __iter__(self) -> Iterator[Record]:
        """The rows after the header.

        Raises:
            DataError: A row has another number of cells than the header, or the quoting is broken.
        """
        lines = _Counted(self._lines())
        separator, header = self._header(next(lines, ""))
        if not header:
            return
        reader = csv.reader(lines, delimiter=separator, strict=True)
        while True:
            start = lines.number + 1
            cells = _cells(reader, self.name, start)
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(f"{self.name}:{start}: {len(cells)} cells, the header has {len(header)}")
            yield Record(f"{self.name}:{start}", dict(zip(header, cells, strict=True)))

    def columns(self, rows: int) -> Iterator[Columns]:
        """As of any file, by Arrow where that is installed: ten times as fast. What it cannot read is read, or refused, row by row."""
        separator, header = self._header(next((line for _, line in self._lines()), ""))
        if not header:
            return
        if find_spec("pyarrow") is None:
            yield from super().columns(rows)
            return
        parts = CsvParts(self.path, header, separator)
        yield from parts
        if not parts.is_whole:
            yield from self._tables(islice(iter(self), parts.rows, None), rows)

    def _header(self, first: str) -> tuple[str, list[str]]:
        """What separates the cells, and the names of the columns; none of an empty file."""
        separator = max(",;\t", key=first.count)
        names = _cells(csv.reader([first], delimiter=separator), self.name, 1) if first.strip() else []
        header = [name.strip() for name in names or ()]
        self._check(header)
        return separator, header

    def _check(self, header: list[str]) -> None:
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{self.name}:1: the column {twice!r} appears twice")


class _Counted:
    """Lines, and the number of the last one that was taken."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self._lines = lines
        self.number = 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        return line


def _cells(reader: Iterator[list[str]], name: str, number: int) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise DataError(f"{name}:{number}: not CSV: {error}") from None
