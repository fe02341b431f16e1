"""Messages for mistakes in a config file: the key, what was expected and found, the nearest valid name, and the line and column.

Files are scanned for the places of their keys only when something is wrong.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from harness.errors import Mistake, nearest

_SEVERAL_FORMS = {
    "tier": '"1" to "5", or a list of them',
    "devices": 'a number of devices from 1, "auto", or a list of device numbers from 0',
    "loss": "file.py:function, or {function: file.py:name, arguments: {PARAMETER: outputs.NAME}}",
    "baseline_run_id": "a run's number or name",
    "reference_profile_id": "a run's number or name",
    "export.dynamic_shapes": "true, false, or for axes by name each true, false or [smallest, largest]",
}
"""What is expected of keys that take values of several forms, for which the validation library reports every form by itself."""

_FORM = re.compile(r"constrained-|^(list|dict|literal)\[")
"""What the validation library calls one of several forms of a value, which it puts into a key's path."""

_TABLE = "LossKeys"
"""What it calls the table that a value may be in place of a text: the keys in it have mistakes of their own."""

_PLAIN = ("str", "int", "float", "bool")
"""What it calls the forms of a plain value."""

_CONTROL = ("Cc", "Zl", "Zp")
"""Unicode categories of characters that would break a message into lines, or reach the terminal as a command."""

_SHA256 = "64 hexadecimal digits in lower case"
_FUNCTION = "file.py:function; a built-in set is named by `dataset_id`"
_PATTERNS = {
    "call": "the name of a method",
    "example": "file.py:name, or :name of the model's file",
    "model_import": "pkg.mod:callable",
    "train.dataset": _FUNCTION,
    "eval.dataset": _FUNCTION,
    "train.datamodule": "file.py:Class, or model",
    "eval.datamodule": "file.py:Class, or model",
    "gist_sha256": _SHA256,
    "export.trust": _SHA256,
}


def refusal(code: str, message: str, key: str = "", suggestion: str = "") -> PydanticCustomError:
    """What a validator raises.

    Args:
        code: What kind of mistake it is.
        message: What is wrong and what to do.
        key: The key inside the group that is validated, where the mistake is that of one.
        suggestion: The nearest valid name.
    """
    return PydanticCustomError(code, "{message}", {"message": message, "key": key, "suggestion": suggestion, "is_ours": True})  # type: ignore[arg-type]


def explain(error: ValidationError, keys_at: Callable[[list[str]], list[str]]) -> list[Mistake]:
    """The mistakes that a validation found.

    Args:
        error: What the validation found.
        keys_at: The valid keys inside a group, by the group's path.
    """
    found: dict[str, Mistake] = {}
    # Of the forms a value may have, the one it came closest to is reported deepest.
    for item in sorted(error.errors(), key=lambda item: -len(item["loc"])):
        path, in_table = _path_of(item), _TABLE in item["loc"][:-1]
        form = next((key for key in (".".join(path[:1]), ".".join(path[:2])) if key in _SEVERAL_FORMS), None)
        if form is not None and not in_table and item["type"] != "extra_forbidden":
            if any(key.startswith(f"{form}.") for key in found):  # the table that it is has mistakes, and need be no text
                continue
            key, got = _bad_item(form, item)
            found.setdefault(form, Mistake("wrong_value", key, f"`{key}`: got {_shown(got)}, expected {_SEVERAL_FORMS[form]}"))
        else:
            mistake, whole = _explain_one(item, path, keys_at), ".".join(path)
            before = found.setdefault(whole, mistake)
            if before is not mistake and len(path) < len(item["loc"]):  # another form of the same value
                other = mistake.message.rpartition(", expected ")[2]
                found[whole] = replace(before, message=f"{before.message} or {other}")
    return list(found.values())


def _path_of(item: Mapping[str, Any]) -> list[str]:
    """The path of a key, without what the validation library calls the forms of its value."""
    parts = [str(part) for part in item["loc"] if part != _TABLE]
    if item["type"] == "extra_forbidden":
        return parts
    if len(parts) > 2 and parts[-1] in _PLAIN and item["type"] == f"{parts[-1].replace('str', 'string')}_type":
        del parts[-1]
    return [part for part in parts if not _FORM.search(part)]


def _bad_item(key: str, item: Mapping[str, Any]) -> tuple[str, Any]:
    """The key's path and the value that is wrong: an item of the list where one was given."""
    index = next((part for part in item["loc"][1:] if isinstance(part, int)), None) if "." not in key else None
    return (key if index is None else f"{key}.{index}"), item["input"]


def _explain_one(item: Mapping[str, Any], path: list[str], keys_at: Callable[[list[str]], list[str]]) -> Mistake:
    key = ".".join(path).encode("unicode_escape").decode()
    kind, got, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        if len(path) > 1 and path[-1] in keys_at([]):
            return Mistake(
                "unknown_key", key, f"unknown key `{key}`. `{path[-1]}` is a key of the top level, outside of any group"
            )
        near = nearest(path[-1], keys_at(path[:-1]))
        return Mistake("unknown_key", key, f"unknown key `{key}`.{_did_you_mean(near)}", near)
    if context.get("is_ours"):
        inner = ".".join(part for part in (key, context["key"]) if part)
        return Mistake(kind, inner, f"`{key}`: {context['message']}" if key else context["message"], context["suggestion"])
    if kind == "missing":
        return Mistake("missing_key", key, f"`{key}` is missing: `{'.'.join(path[:-1])}` needs it")
    if kind == "value_error":
        message = str(context["error"])
        return Mistake("impossible_value", key, f"`{key}`: {message}" if key else message)
    near = nearest(got, _choices(context["expected"])) if kind == "literal_error" and isinstance(got, str) else ""
    code = "unknown_choice" if kind == "literal_error" else "wrong_type" if kind.endswith("type") else "wrong_value"
    return Mistake(
        code, key, f"`{key}`: got {_shown(got)}, expected {_expected(item, path)}{near and f'.{_did_you_mean(near)}'}", near
    )


def _choices(expected: str) -> list[str]:
    return [name.strip("' ") for name in expected.replace(" or ", ", ").split(", ")]


def _did_you_mean(near: str) -> str:
    return f" Did you mean {near!r}?" if near else ""


def _expected(item: Mapping[str, Any], path: list[str]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind in ("too_short", "too_long"):
        return f"a list of {context.get('min_length', context.get('max_length'))} items"
    if kind == "string_too_short":
        return "a name, not an empty string"
    if kind == "string_pattern_mismatch":
        return next(form for key, form in _PATTERNS.items() if ".".join(path).startswith(key))
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "an object of keys"
    text = item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if text.split()[0] in ("greater", "less", "a", "an"):
        return str(text)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"


def why_no_path(text: str, resolve: Callable[[str], Path]) -> str:
    """Why a text cannot be a path here; empty where it can, whether or not there is a file."""
    if any(unicodedata.category(character) in _CONTROL for character in text):
        return f"got {_shown(text)}, expected a path without control characters"
    try:
        resolve(text).exists()
    except (OSError, RuntimeError) as error:
        # Too long a name, links in a circle, the home of nobody, a folder that may not be read.
        return f"got {_shown(text)}: {getattr(error, 'strerror', None) or error}"
    return ""


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
    """The place of a mistake's key, or of the group that lacks it: in the end that of all keys."""
    key = mistake.key
    while key and f"{table}{key}" not in places:
        key = key.rpartition(".")[0]
    start = places.get(table.removesuffix("."), len(text) - len(text.lstrip()))
    line, column = _line_and_column(text, places[f"{table}{key}"] if key else start)
    return replace(mistake, line=line, column=column)


def places_in(text: str, kind: str) -> dict[str, int]:
    """The position of each key in a text that parses, by its path, such as ``train.dataset`` or ``tier.0``."""
    scanner = _Scanner(text)
    if kind == "YAML":
        return _places_in_yaml(text)
    # A form that this does not know: the keys up to it have their places.
    with suppress(IndexError, AttributeError, RecursionError):
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
