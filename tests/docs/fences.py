"""The code in the README and the pages of ``docs/``: what each fence is, and what is to be done with it.

A fence with ``title="name"`` is a file of that name. Any other ``python`` or ``sh`` fence is run. A comment in the line above says what is
different: ``<!-- exits: 1 -->`` the status its last command ends with, ``<!-- output -->`` that its lines are part of what the
command before printed (``…`` stands for anything), ``<!-- part of: path -->`` that they stand in that file of the repository, and
``<!-- not run: reason -->``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
KINDS = [page for page in sorted(DOCS.glob("kinds/*.md")) if page.stem != "index"]
"""A page for each kind of model."""

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *KINDS]

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Fence:
    """A piece of code on a page.

    Attributes:
        language: The word after the backticks.
        text: Its content, ending in a newline.
        line: The line of the page it begins at.
        title: The file that it is, if any.
        mark: What the comment above it says.
    """

    language: str
    text: str
    line: int
    title: str | None = None
    mark: str = ""

    def marked(self, word: str) -> str | None:
        """What stands behind a word in the mark; ``None`` where the mark is another one."""
        key, _, value = self.mark.partition(":")
        return value.strip() if key.strip() == word else None


def fences(page: str) -> list[Fence]:
    """The fences of a page, in order."""
    return [
        Fence(m["language"], m["text"], page.count("\n", 0, m.start("text")) + 1, m["title"], m["mark"] or "")
        for m in _FENCE.finditer(page)
    ]
