"""What the scan found, and the rules it goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SHOWN = 100


@dataclass(frozen=True)
class Rule:
    """A kind of thing that a model has no need to do.

    Attributes:
        reason: What it does, as the end of a sentence that begins with the code.
        grave: Whether it is worth a warning even in a file of the user's own.
    """

    reason: str
    grave: bool = False


RULES = {
    "process": Rule("starts or stops a process", grave=True),
    "network": Rule("reaches the network", grave=True),
    "deletion": Rule("deletes files", grave=True),
    "writing": Rule("writes files or changes them"),
    "native_code": Rule("loads native code", grave=True),
    "unpickling": Rule("unpickles, which runs whatever the data says"),
    "dynamic_code": Rule("makes code from data and runs it"),
    "dynamic_import": Rule("imports what cannot be seen here"),
    "hidden_data": Rule("unpacks data that cannot be read here"),
    "tampering": Rule("changes the interpreter or looks into its frames", grave=True),
    "obfuscation": Rule("reaches a dangerous name in a roundabout way", grave=True),
    "shadowing": Rule("takes the name of an installed module", grave=True),
    "unreadable": Rule("cannot be read as Python"),
    "training": Rule("trains a model"),
    "foreign_file": Rule("is a file that could run code when it is loaded"),
}
"""The rules by name; the same names stand in findings."""


class ScanWarning(UserWarning):
    """A file of the user's own does what no model needs to; it runs all the same."""


@dataclass(frozen=True)
class Finding:
    """Something that a model has no need to do.

    Attributes:
        rule: Name of the rule.
        file: The file.
        line: Line in it, from 1; 0 for the file as a whole.
        subject: The name or construct that was found, such as ``os.system``.
        code: The line of code.
        detail: What more there is to say.
    """

    rule: str
    file: str
    line: int
    subject: str
    code: str = ""
    detail: str = ""

    @property
    def reason(self) -> str:
        """What it does."""
        return RULES[self.rule].reason + (f" ({self.detail})" if self.detail else "")

    @property
    def grave(self) -> bool:
        """Whether it is worth a warning even in a file of the user's own."""
        return RULES[self.rule].grave

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        code = f": {self.code[:_SHOWN]}" if self.code else ""
        return f"{place}: {self.subject} {self.reason} [{self.rule}]{code}"

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON-ready values."""
        return {
            "rule": self.rule,
            "file": self.file,
            "line": self.line,
            "subject": self.subject,
            "reason": self.reason,
            "code": self.code[:_SHOWN],
        }
