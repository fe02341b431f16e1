"""Where each key of a config file stands: line and column, for what is said of it. Files are scanned again only when something is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from harness.errors import Mistake

_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_STRING = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'', re.DOTALL)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]*")


def placed(mistakes: Iterable[Mistake], text: str, kind: str, table: str = "") -> list[Mistake]:
    """Mistakes with their lines and columns, in the order of the file.

    Args:
        mistakes: What is wrong.
        text: The file's text, without comments where it is JSON.
        kind: ``JSON``, ``TOML`` or ``YAML``.
        table: The table that holds the keys, such as ``tool.modeltiers``.
    """
    places = places_in(text, kind)
    found = [_with_place(mistake, text, places, f"{table}." if table else "") for mistake in mistakes]
    return sorted(found, key=lambda mistake: (mistake.line, mistake.column))


def _with_place(mistake: Mistake, text: str, places: dict[str, int], table: str) -> Mistake:
    """The place of a mistake's key, or of the group that lacks it; without one where the file has neither."""
    key = mistake.key
    while key and f"{table}{key}" not in places:
        key = key.rpartition(".")[0]
    if not key:
        return mistake
    line, column = _line_and_column(text, places[f"{table}{key}"])
    return replace(mistake, line=line, column=column)


def places_in(text: str, kind: str) -> dict[str, int]:
    """The position of each key in a text that parses, by its path, such as ``train.dataset`` or ``tier.0``."""
    scanner = _Scanner(text)
    if kind == "YAML":
        return _places_in_yaml(text)
    with suppress(
        IndexError, AttributeError, RecursionError
    ):  # a form that this does not know: the keys up to it have their places
        scanner.statements() if kind == "TOML" else scanner.value(())
    return scanner.places


def repeated_key(text: str) -> tuple[int, int] | None:
    """Line and column of the first key of a JSON text that is given twice; ``None`` where there is none."""
    scanner = _Scanner(text)
    with suppress(IndexError, AttributeError, RecursionError):
        scanner.value(())
    return _line_and_column(text, scanner.repeated[0]) if scanner.repeated else None


def _line_and_column(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


class _Scanner:
    """Goes through JSON or TOML that is known to be correct."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.places: dict[str, int] = {}
        self.repeated: list[int] = []

    def statements(self) -> None:
        """TOML: tables and keys with values, one after the other."""
        table: tuple[str, ...] = ()
        numbers: dict[tuple[str, ...], int] = {}
        while self._space() < len(self.text):
            if self.text[self.at] != "[":
                self._pair(table)
                continue
            is_list = self.text.startswith("[[", self.at)
            self.at += 1 + is_list
            self._space()
            begin, table = self.at, self._key()
            if is_list:
                numbers[table] = numbers.get(table, -1) + 1
                table = (*table, str(numbers[table]))
            self._note(table, begin)
            self.at = self.text.index("]", self.at) + 1 + is_list

    def value(self, path: tuple[str, ...]) -> None:
        """A value, and the keys and items in it."""
        self._space()
        opening = self.text[self.at]
        if opening in "{[":
            self.at += 1
            number = 0
            while self.text[self._space()] not in "}]":
                if opening == "{":
                    self._pair(path)
                else:
                    self._note((*path, str(number)), self.at)
                    self.value((*path, str(number)))
                    number += 1
                if self.text[self._space()] == ",":
                    self.at += 1
            self.at += 1
        else:
            self._skip(_STRING if opening in "\"'" else _SCALAR)

    def _pair(self, path: tuple[str, ...]) -> None:
        begin = self.at
        key = (*path, *self._key())
        if ".".join(key) in self.places:
            self.repeated.append(begin)
        self._note(key, begin)
        self._space()
        self.at += 1  # = or :
        self.value(key)

    def _key(self) -> tuple[str, ...]:
        """A key, which TOML may write as several with dots."""
        parts = []
        while True:
            quoted = self.text[self._space()] in "\"'"
            part = self._skip(_STRING if quoted else _BARE_KEY)
            parts.append(part[1:-1] if quoted else part)
            if self.text[self._space()] != ".":
                return tuple(parts)
            self.at += 1

    def _note(self, path: tuple[str, ...], at: int) -> None:
        for length in range(1, len(path) + 1):
            self.places.setdefault(".".join(path[:length]), at)

    def _space(self) -> int:
        self._skip(_SPACE)
        return self.at

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match: Any = pattern.match(self.text, self.at)
        self.at = match.end()
        return str(match.group())


def _places_in_yaml(text: str) -> dict[str, int]:
    import yaml

    places: dict[str, int] = {}

    def walk(node: Any, path: tuple[str, ...]) -> None:
        inner = []
        if isinstance(node, yaml.MappingNode):
            inner = [(key.value, key.start_mark, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            inner = [(str(number), value.start_mark, value) for number, value in enumerate(node.value)]
        for name, mark, value in inner:
            places[".".join((*path, name))] = mark.index
            walk(value, (*path, name))

    walk(yaml.compose(text, yaml.SafeLoader), ())
    return places
