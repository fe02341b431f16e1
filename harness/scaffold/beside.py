"""The files beside a config that a run was recorded into: Python that builds and calls the model, and the tensors it needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import ConfigError
from harness.files import write_whole
from harness.recording import Command, Recording, SeenModel
from harness.recording.written import RESTORED, SAVED
from harness.scaffold.bridge import BRIDGE

EXAMPLE = "example_inputs"
"""The function that gives the arguments of a call."""

_EXAMPLE, _TENSORS, _WEIGHTS = "modeltiers_example.pt", "modeltiers_tensors.pt", "modeltiers_weights.pt"
_WIDEST = 110
_HEAD = '''"""How {name} is built and called, as `{command}` did. Written by `{by}`; yours to change."""

{imports}

HERE = Path(__file__).parent
'''
_LOADED = f'{SAVED} = torch.load(HERE / "{_TENSORS}", weights_only=True)\n'
_BUILD = '''

def build_model():
    """The model, as {place} made it."""
    model = {text}
{edits}    return model
'''
_GIVEN = f'''

def {EXAMPLE}():
    """The arguments of {{method}}, as {{place}} gave them."""
    return torch.load(HERE / "{_EXAMPLE}", weights_only=True)
'''


@dataclass
class FilesBeside:
    """The files beside a config.

    Attributes:
        found: What the run showed.
        model: The model in it.
        command: What was run.
        folder: Where they go.
        builds: Whether the Python builds the model, which a config cannot name by itself.
        files: Those that are written.
    """

    found: Recording
    model: SeenModel
    command: Command
    folder: Path
    builds: bool
    files: list[Path] = field(default_factory=list)

    @property
    def python(self) -> Path:
        """The Python file."""
        return self.folder / BRIDGE

    @property
    def paths(self) -> tuple[Path, ...]:
        """Those that are written with it."""
        return self.python, self.folder / _EXAMPLE

    @property
    def is_written(self) -> bool:
        """Whether the Python file is there."""
        return self.python in self.files

    def write(self) -> None:
        """Writes the Python file."""
        write_whole(self.python, self._text())
        self.files.append(self.python)
        if self.builds and self.found.tensors:
            self._save(dict(self.found.tensors), _TENSORS)

    def save_example(self, arguments: Mapping[str, Any]) -> None:
        """Writes the arguments that the Python file gives."""
        self._save(dict(arguments), _EXAMPLE)

    def save_weights(self, weights: Mapping[str, Tensor]) -> str:
        """Writes the weights; returns the name of their file."""
        return self._save(dict(weights), _WEIGHTS)

    def _save(self, tensors: dict[str, Any], name: str) -> str:
        torch.save(tensors, self.folder / name)
        self.files.append(self.folder / name)
        return name

    def _text(self) -> str:
        model = self.model
        texts = [model.expression, *model.edits.values()] if self.builds else []
        away = [each for each in model.folders if Path(each) != self.folder] if self.builds else []
        first = [*(["import sys"] if away else []), "from pathlib import Path", "", "import torch"]
        paths = ["", *(f"sys.path.insert(0, {each!r})" for each in away), ""] if away else []
        lines = [*first, *paths, *(line for line in (model.imports if self.builds else ()) if line not in first)]
        text = _HEAD.format(name=model.name, command=self.command.shown, by=self.command.written_by, imports="\n".join(lines))
        text += _LOADED if any(f"{SAVED}[" in each for each in texts) else ""
        if self.builds:
            text += RESTORED if any("restored(" in each for each in texts) else ""
            edits = "".join(f"    model.set_submodule({name!r}, {each})\n" for name, each in model.edits.items())
            text += _BUILD.format(place=model.made_at, text=_wrapped(model.expression), edits=edits)
        return text + _GIVEN.format(method=model.method or "forward", place=model.called_at)


def refuse_existing(paths: Collection[Path], overwrite: bool) -> None:
    """Refuses to replace files.

    Raises:
        ConfigError: One is there, and may not be replaced.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} exists already; --force replaces it, --output writes the config elsewhere")


def _wrapped(text: str) -> str:
    """A call with each argument on its line, where it is long."""
    if len(text) <= _WIDEST:
        return text
    parts, depth, quoted = [""], 0, ""
    for sign in text:
        quoted = ("" if sign == quoted else quoted) if quoted else sign if sign in "'\"" else ""
        depth += 0 if quoted else (sign in "([{") - (sign in ")]}")
        parts[-1] += sign
        if not quoted and ((sign in "([{" and depth == 1) or (sign == "," and depth == 1)):
            parts.append("")
    *lines, last = [part.strip() for part in parts]
    return "\n        ".join([*lines, f"{last[:-1]},"]) + f"\n    {last[-1]}"
