"""Texts made to fit a page: long names cut or broken at their joints, long messages given a headline."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

from harness.health.markdown import CODE_SPAN

_MAX_LABEL = 34
_LONGEST_LEAD = 120
_CODE_OR_BREAK = re.compile(r"`[^`\n]+`|; ")
_SHORT_NAME = 16
_PATH = re.compile(r"[\w.]+")
_JOINTS_OF_ID = re.compile(r"(?<=[:/])(?![:/])|(?=\[)")
_JOINTS_OF_PATH = re.compile(r"(?<=\.)(?=[^\d.])|(?=\[)")


def shorten(name: str, limit: int = _MAX_LABEL) -> str:
    """A name that fits: ``encoder.layers.17.attention.weight`` as ``e.l.17.attention.weight``; any other loses its middle.

    The modules of a path are cut to their initials from the left until it fits. Their numbers stay, as layers differ in little else.
    """
    parts = name.split(".") if _PATH.fullmatch(name) else [name]
    for place, part in enumerate(parts[:-1]):
        if len(".".join(parts)) > limit and not part.isdigit():
            parts[place] = part[:1]
    name = ".".join(parts)
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}…{name[len(name) - (limit - 1 - head) :]}"


def lead_and_rest(message: str) -> tuple[str, str]:
    """A message's headline, and what goes below it: further lines or, of a long one, what follows the first semicolon outside code."""
    lead, _, rest = message.strip().partition("\n")
    if rest or len(lead) <= _LONGEST_LEAD:
        return lead, "\n".join(line for line in rest.splitlines() if line.strip())
    places = (found.start() for found in _CODE_OR_BREAK.finditer(lead) if found[0] == "; ")
    end = next(places, len(lead))
    return lead[:end], lead[end + 2 :]


def breakable(name: str) -> Markup:
    """An escaped test id, file or module path that a narrow column breaks at its joints rather than within a word."""
    if len(name) <= _SHORT_NAME:
        return escape(name)
    joints = _JOINTS_OF_ID if set(":/") & set(name) else _JOINTS_OF_PATH
    return Markup("<wbr>").join(joints.split(name))


def prose(text: Any) -> Markup:
    """Escaped text in which spans in backticks become code."""
    parts = CODE_SPAN.split(str(text))
    spans = (Markup("<code>{}</code>").format(breakable(part)) if index % 2 else part for index, part in enumerate(parts))
    return Markup("").join(spans)
