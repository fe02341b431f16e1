"""Reading a config file before its keys are checked: find it, parse it, and refuse values that nothing could take.

JSON may have comments and trailing commas. YAML has the values of JSON, no key twice and no aliases.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.config_mistakes import placed, repeated_key
from harness.errors import ConfigError, MissingPackageError, Mistake, did_you_mean, nearest
from harness.files import NO_FILE

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

_ENDINGS = (".json", ".toml", ".yaml", ".yml")

_PYPROJECT = "pyproject.toml"

_DEEPEST = 64
"""Levels that a value may be nested: far more than any setting, far fewer than a recursion gives up at."""


def read_keys(file: Path) -> dict[str, Any]:
    """The keys of a config file as they stand there, without the ``$schema`` of editors.

    TOML, YAML and JSON (with comments and trailing commas) are told apart by the file's ending; ``pyproject.toml`` has the keys in its table
    ``[tool.modeltiers]``.

    Raises:
        ConfigError: The file is missing, cannot be parsed, is no object, or holds a value that is nested too deeply or half a character.
        MissingPackageError: It is YAML, and PyYAML is not installed.
    """
    _refuse_kind(file)
    raw = _parsed(file, _text(file))
    if file.name == _PYPROJECT:
        tools = raw.get("tool")
        raw = tools.get("modeltiers") if isinstance(tools, dict) else None
        if raw is None:
            raise _refused(file, "no_table", "no table [tool.modeltiers]; the config's keys go there, or into a separate file")
    if not isinstance(raw, dict):
        raise _refused(file, "wrong_type", f"expected an object of keys, got {type(raw).__name__}")
    raw.pop("$schema", None)
    for key, value in raw.items():
        mistake = _mistake_in({key: value})
        if mistake:
            shown = key.encode("unicode_escape").decode()
            raise refused(file, [Mistake("impossible_value", shown, f"`{shown}`: {mistake}")])
    return raw


def refused(file: Path, mistakes: Sequence[Mistake]) -> ConfigError:
    """The error of a file that parses, with the line and column of each mistake."""
    kind = _kind(file)
    with suppress(OSError, ValueError):
        text = file.read_text(encoding="utf-8-sig")
        text = without_comments(text) if kind == "JSON" else text
        mistakes = placed(mistakes, text, kind, "tool.modeltiers" if file.name == _PYPROJECT else "")
    return ConfigError.of(file, mistakes)


def with_place(file: Path, message: str) -> str:
    """A message about a key of a config, with the key's line and column in front; other messages stay as they are."""
    said = re.match(r"(?P<file>[^`:]*: )?(?P<told>`(?P<key>[\w.]+)`.*)", message, re.DOTALL)
    if said is None or (said["file"] and Path(said["file"].removesuffix(": ")).name != file.name):
        return message
    return str(refused(file, [Mistake("", said["key"], said["told"])]))


def _kind(file: Path) -> str:
    return {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}.get(file.suffix, "JSON")


def _refused(place: object, code: str, text: str, key: str = "", suggestion: str = "") -> ConfigError:
    return ConfigError.of(place, [Mistake(code, key, text, suggestion)])


def _text(file: Path) -> str:
    try:
        if not file.is_file():
            if file.exists():
                raise _refused(file, "unreadable", f"is {NO_FILE}, expected a config file")
            beside = file.parent.glob("*") if file.parent.is_dir() else ()
            near = [other.name for other in beside if other.suffix in _ENDINGS and other.is_file()]
            raise _refused(
                file, "no_file", f"no such config file.{did_you_mean(file.name, near)}", suggestion=nearest(file.name, near)
            )
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        text = f"cannot be read: byte {error.start} is not UTF-8; save the file in that encoding"
        raise _refused(file, "unreadable", text) from None
    except OSError as error:
        raise _refused(file, "unreadable", f"cannot be read: {error}") from None


def _refuse_kind(file: Path) -> None:
    """Refuses files that are not configs, and says what to do with them."""
    if file.suffix == ".py":
        raise _refused(
            file, "no_config", f"a Python file is not a config; `modeltiers init {file}` writes one for the model in it"
        )
    if file.is_dir():
        config = next((file / f"modeltiers{ending}" for ending in _ENDINGS if (file / f"modeltiers{ending}").is_file()), None)
        hint = f"; did you mean {config}?" if config else ""
        raise _refused(file, "no_config", f"is a folder, expected a config file{hint}", suggestion=str(config or ""))


def _parsed(file: Path, text: str) -> Any:
    kind = _kind(file)
    try:
        if kind == "TOML":
            return tomllib.loads(text)
        if kind == "YAML":
            return read_yaml(text, str(file))
        return json.loads(without_comments(text), object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        told, at = _json_mistake(error)
        raise _misread(file, f"not JSON: {told}", *_line_and_column(error.doc, at)) from None
    except tomllib.TOMLDecodeError as error:
        told = re.sub(r"(.*) \(at line (\d+), column (\d+)\)$", r"\2:\3: \1", str(error))
        raise _misread(file, f"not TOML: {told}") from None
    except (RecursionError, ValueError) as error:
        told = str(error).splitlines()[0]
        line, column = (repeated_key(without_comments(text)) if kind == "JSON" else None) or (0, 0)
        raise _misread(file, f"not {kind} that can be read: {told}", line, column) from None


def _misread(file: Path, told: str, line: int = 0, column: int = 0) -> ConfigError:
    """The error of a file that cannot be parsed; the message may already hold line and column."""
    at = re.search(r" (\d+):(\d+):", told)
    if at and not line:
        line, column, told = int(at[1]), int(at[2]), told[: at.start()] + told[at.end() :]
    return ConfigError.of(file, [Mistake("syntax", "", told, line=line, column=column)])


def _json_mistake(error: json.JSONDecodeError) -> tuple[str, int]:
    """What is wrong with a text, and where: of what is not closed, where it opens."""
    opened = list[int]()
    for part in re.finditer(r'"(?:\\.|[^"\\\n])*"?|[\[\]{}]', error.doc, re.DOTALL):
        text = part.group()
        if text in ("[", "{"):
            opened.append(part.start())
        elif text in ("]", "}"):
            opened[-1:] = []
        elif (len(text) == 1 or not text.endswith('"')) and part.end() >= error.pos:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            return f'the text {shown} is not closed: its second " is missing', part.start()
        if part.end() > error.pos:
            break
    if opened and not error.doc[error.pos :].strip():
        return f"{error.doc[opened[-1]]} is not closed", opened[-1]
    control = "a tab, or another control character, in a text: write \\t for a tab"
    return control if error.msg.startswith("Invalid control character") else error.msg, error.pos


def _line_and_column(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"the key {twice!r} is given twice")
    return dict(pairs)


def _mistake_in(value: Any, depth: int = 0) -> str:
    """Why a value cannot be used further; empty where it can."""
    if depth > _DEEPEST:
        return f"nested more than {_DEEPEST} levels deep"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return f"{json.dumps(value)} holds half of a surrogate pair, which is not a character"
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, (_mistake_in(each, depth + 1) for each in inner)), "")


_SHOWN = 40
"""Characters that are shown of a text that is not closed."""

_PARTS = re.compile(r'"(?:\\.|[^"\\\n])*"?|//[^\n]*|/\*.*?\*/|/\*', re.DOTALL)
_COMMA = re.compile(r'"(?:\\.|[^"\\\n])*"?|,(?=\s*[}\]])', re.DOTALL)


def without_comments(text: str) -> str:
    """A text with its ``//`` and ``/* */`` comments and its trailing commas blanked; strings are left alone.

    Args:
        text: JSON, or something that is to be.

    Raises:
        JSONDecodeError: A comment does not end.
    """
    return _COMMA.sub(_without_comma, _PARTS.sub(_blanked, text))


def _blanked(match: re.Match[str]) -> str:
    part = match.group()
    if part.startswith('"'):
        return part
    if part == "/*":
        raise json.JSONDecodeError("a comment begins here and does not end", match.string, match.start())
    return re.sub(r"[^\n]", " ", part)


def _without_comma(match: re.Match[str]) -> str:
    """A blank for a comma after a value; one after nothing stays, and is a mistake."""
    if match.group() != ",":
        return match.group()
    before = match.string[: match.start()].rstrip()[-1:]
    return "," if before in ("", "[", "{", ",", ":") else " "


def read_yaml(text: str, file: str) -> Any:
    """The content of a YAML text.

    ``yes``, ``on`` and dates are text, as in YAML 1.2, and ``5e-4`` is a number.

    Args:
        text: The text.
        file: The file's name, for messages.

    Raises:
        ValueError: It is not YAML, or uses what a config does not take; the message has line and column.
        MissingPackageError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingPackageError(
            f"{file}: reading YAML needs PyYAML: pip install 'pytest-modeltiers[yaml]'. Or write the config as JSON or TOML"
        ) from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """The values of JSON."""

        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

        def compose_node(self, parent: Any, index: Any) -> Any:
            """Refuses aliases, with which a small file could expand to a huge config."""
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise yaml.MarkedYAMLError(problem="a config takes no aliases; repeat the value", problem_mark=event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """A table whose keys are text, each given once."""
            keys: set[str] = set()
            for key, _ in node.value:
                if key.tag != "tag:yaml.org,2002:str":
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is not text", problem_mark=key.start_mark)
                if key.value in keys:
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark)
                keys.add(key.value)
            return super().construct_mapping(node, deep)

    for name, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", r"[-+]?[0-9]+", "-+0123456789"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+0123456789."),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{pattern})$"), list(first))
    Loader.add_constructor("tag:yaml.org,2002:int", lambda _loader, node: int(node.value))
    try:
        return yaml.load(text, Loader)  # a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark, told = error.problem_mark or error.context_mark, error.problem or error.context
        if _is_unclosed(text, error.context_mark, error.problem_mark):
            mark = error.context_mark
            told = f"{text.splitlines()[mark.line][mark.column]} is opened here and not closed"
        place = f"{mark.line + 1}:{mark.column + 1}: " if mark is not None else ""
        raise ValueError(f"{place}{told}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None


def _is_unclosed(text: str, opened: Any, noticed: Any) -> bool:
    """Whether YAML noticed on a later line that a bracket or a quote was not closed: at the end, or where the next key stands."""
    if opened is None or noticed is None or noticed.line <= opened.line:
        return False
    lines = [*text.splitlines(), ""]
    first, later = lines[opened.line], lines[min(noticed.line, len(lines) - 1)]
    if first[opened.column : opened.column + 1] not in tuple("[{\"'"):
        return False
    return not later.strip() or _indentation(later) <= _indentation(first)


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())
