"""JSON as people write it: with comments and trailing commas, which become blanks, so that every line and column stays where it was."""

from __future__ import annotations

import json
import re

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
