"""A small project to run the plugin in.

Runs are in this process unless what they show needs its own process: a subprocess spends seconds on importing torch.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_models import GOOD

from harness.catalogue import CATALOGUE, modules_of


def load_tiers(*tiers: int) -> None:
    """Imports what the tests of some tiers run: an in-process run forgets what it imports itself."""
    for tier in tiers:
        for module in modules_of(tier):
            importlib.import_module(module)


LIBRARIES = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def library_modules() -> dict[str, ModuleType]:
    """The loaded modules of installed packages; some have native code or registers, and fail when a process imports them again."""
    return {name: module for name, module in sys.modules.items() if place_of(module).startswith(LIBRARIES)}


def place_of(module: ModuleType) -> str:
    """The file of a module, or the first folder of a package without one."""
    known = vars(module)
    return str(known.get("__file__") or next(iter(known.get("__path__") or ()), ""))


class KeepsLibraries:
    """A plugin of an in-process run: remembers the modules of libraries, which the run forgets at its end."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}

    def pytest_unconfigure(self) -> None:
        self.modules = library_modules()


_WITHOUT_HINTS = ("--model-hints", "0")


class Project:
    """A folder with configs, models and tests."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path

    def config(
        self, name: str = "cfg.json", only: tuple[str, ...] | None = ("causal",), model: str | None = GOOD, **keys: Any
    ) -> Path:
        """Writes a config of a small language model, and beside it the model's file.

        Args:
            name: The config's file name.
            only: Properties that stay on; ``None`` for all.
            model: Content of the model's file; ``None`` for the embedded stub.
            keys: Further keys of the config.
        """
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {"task_name": "lm_tiny", "tier": "1", "vocab_size": 32, "max_seq_len": 16}
        if only is not None:
            content["properties"] = {name: False for name in CATALOGUE if name not in only}
        if model is not None:
            content["model_file"] = f"{file.stem}_model.py"
            (file.parent / content["model_file"]).write_text(model)
        file.write_text(json.dumps(content | keys))
        return file

    def write(self, name: str, text: str) -> Path:
        """Writes a file."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def run(self, *args: Any) -> pytest.RunResult:
        """Runs pytest in this process, without looking for hints unless it is told to."""
        # The plugin is imported already, so pytest cannot rewrite its assertions once more; it has none.
        kept = KeepsLibraries()
        result = self.pytester.runpytest_inprocess(
            *_WITHOUT_HINTS, *args, "-W", "ignore::pytest.PytestAssertRewriteWarning", plugins=[kept]
        )
        sys.modules.update(kept.modules)
        return result

    def run_apart(self, *args: Any) -> pytest.RunResult:
        """Runs pytest in its own process; one that hangs is ended, and on a busy machine others take long too."""
        return self.pytester.runpytest_subprocess(*_WITHOUT_HINTS, *args, timeout=300)

    def ids(self, *args: Any) -> list[str]:
        """Node ids that a run would have, in order."""
        result = self.run("--collect-only", "-q", *args)
        return [line for line in result.outlines if "::" in line]

    def tree(self, name: str) -> ElementTree.ElementTree:
        """An XML file."""
        return ElementTree.parse(self.path / name)

    def json(self, name: str) -> Any:
        """A JSON file."""
        return json.loads((self.path / name).read_text())
