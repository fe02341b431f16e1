"""The lines of the user's code that a finding is about, and the change of them that was tried and made the property hold."""

from __future__ import annotations

import linecache
import os
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.wording import joined
from harness.written_in import cell_of, short_name

_BEFORE, _AFTER = 3, 1
"""Lines that are shown before and after the one to look at: what is wrong is more often made before it shows than after."""


@dataclass(frozen=True)
class Excerpt:
    """A few lines of a file.

    Attributes:
        file: The file, from the current folder where it is inside, or else absolute.
        line: The line to look at, counted from 1.
        first: The first line that is shown.
        lines: What is shown, without the indentation that all of it has.
    """

    file: str
    line: int
    first: int
    lines: tuple[str, ...]

    @classmethod
    def of(cls, file: str | Path, line: int) -> Excerpt | None:
        """The lines around one; ``None`` where the file has no such line."""
        written = linecache.getlines(str(file))
        if not 1 <= line <= len(written):
            return None
        first = max(1, line - _BEFORE)
        shown = textwrap.dedent("".join(written[first - 1 : line + _AFTER])).splitlines()
        while shown and not shown[0].strip() and first < line:
            shown, first = shown[1:], first + 1
        while shown and not shown[-1].strip():
            shown.pop()
        return cls(from_here(file), line, first, tuple(shown))

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> Excerpt | None:
        """The inverse of ``to_json``."""
        return cls(**{**data, "lines": tuple(data["lines"])}) if data else None

    def to_json(self) -> dict[str, Any]:
        """The excerpt as JSON-ready values."""
        return {**asdict(self), "lines": list(self.lines)}

    @property
    def text(self) -> str:
        """The lines with their numbers, and a mark before the one to look at."""
        width = len(str(self.first + len(self.lines) - 1))
        numbered = enumerate(self.lines, self.first)
        return "\n".join(f"{'>' if at == self.line else ' '} {at:>{width}} | {line}".rstrip() for at, line in numbered)

    @property
    def marked(self) -> str:
        """The line to look at."""
        at = self.line - self.first
        return self.lines[at].strip() if at < len(self.lines) else ""

    def relative_to(self, *folders: Path) -> str:
        """The file as seen from the first of some folders that holds it, with slashes; empty where none does."""
        file = Path(self.file).absolute()
        return next((file.relative_to(folder).as_posix() for folder in folders if file.is_relative_to(folder)), "")


@dataclass(frozen=True)
class Fix:
    """A change of a few lines that was tried on a copy of the code, and with which the property holds.

    Attributes:
        file: The file, as of an excerpt; it is never written.
        line: The first line that changes, counted from 1.
        old: The lines as they are.
        new: The lines that take their place.
        also: Changes of other places that it takes as well.
    """

    file: str
    line: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    also: tuple[Fix, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> Fix | None:
        """The inverse of ``to_json``."""
        if not data:
            return None
        also = tuple(fix for each in data.get("also", ()) if (fix := cls.from_json(each)))
        return cls(data["file"], data["line"], tuple(data["old"]), tuple(data["new"]), also)

    def to_json(self) -> dict[str, Any]:
        """The change as JSON-ready values."""
        found = {"file": self.file, "line": self.line, "old": list(self.old), "new": list(self.new)}
        return found | ({"also": [each.to_json() for each in self.also]} if self.also else {})

    @property
    def text(self) -> str:
        """The change as the lines of a diff, place by place."""
        marked = [*(f"- {line}" for line in self.old), *(f"+ {line}" for line in self.new)]
        bare = textwrap.dedent("\n".join(line[2:] for line in marked)).splitlines()
        own = [line[:2] + short for line, short in zip(marked, bare, strict=True)]
        return "\n".join([*own, *(each.text for each in self.also)])

    @property
    def place(self) -> str:
        """``model.py:14``, without the folder; ``model.py:14 and model.py:30`` of several places."""
        return joined([f"{short_name(self.file)}:{self.line}", *(each.place for each in self.also)])


def from_here(file: str | Path) -> str:
    """A file as reports name it: relative to the current folder if inside, which shows no folders of a machine; of a cell its number."""
    if cell := cell_of(file):
        return cell
    path = Path(os.path.abspath(file))
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.as_posix()
