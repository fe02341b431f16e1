"""``pytest --model``: a model without a config, on what ``modeltiers init`` would write.

Every pytest start imports this module, so it imports only the standard library and pytest, and one file as light as it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_modeltiers.hooks import SHOWN_AS
from pytest_modeltiers.progress import StartLine

OPTION = "--model"

_FOUND = "MODELTIERS_MODEL_CONFIGS"
"""The environment variable by which the workers of pytest-xdist are told what the main process wrote."""

_COMMENT = " # "
_SHORTEST_COMMENT = 24
"""Columns that a comment gets however narrow the terminal is."""

_LIMITED = re.compile(r"(\w+) = .* # sizes from .*, (in steps of \d+)(?: \((.*)\))?;")
"""A line of a config about an axis that cannot have every size."""

_TURNED = (
    "called with token ids as [length, batch], the order that its layers read; if you pass [batch, length], its rows mix: "
    "give the layers batch_first=True"
)

_SAID = pytest.StashKey[list[str]]()
"""What the header says of the configs that were written."""


def models_in(args: Sequence[str]) -> list[str]:
    """The models that a command line names: Python files, other paths, and ``pkg.mod:Class``.

    A plain word is left to a ``--model`` of the user's own, which many a ``conftest.py`` has.
    """
    return [value for value in _values(args) if value.endswith(".py") or ":" in value or Path(value).expanduser().exists()]


def add_option(parser: pytest.Parser, args: Sequence[str]) -> None:
    """Adds the option where the command line uses it: an option that is always there would break a user's own of that name."""
    if models_in(args):
        parser.getgroup("modeltiers").addoption(
            OPTION,
            action="append",
            default=[],
            dest="modeltiers_models",
            metavar="MODEL",
            help="a .py file, a folder of save_pretrained, or pkg.mod:Class: run without a config, on what `modeltiers init` would write",
        )


def written_configs(config: pytest.Config, line: StartLine) -> list[Path]:
    """The configs of the models that the command line names; the workers of pytest-xdist take those of the main process.

    Args:
        config: pytest's.
        line: Where to show what is being done.
    """
    models = config.getoption("modeltiers_models", default=[])
    config.stash[SHOWN_AS] = {}
    if not models:
        return []
    if hasattr(config, "workerinput"):
        # A worker's own path is that of the main process when it started.
        sys.path[:0] = [folder for folder in os.environ["PYTHONPATH"].split(os.pathsep) if folder not in sys.path]
        return _noted(config, json.loads(os.environ[_FOUND]))
    line.say("importing PyTorch")
    from harness.errors import UserError
    from harness.models.attempts import Patience
    from harness.scaffold.apart import config_apart

    found = []
    for model in models:
        patience = Patience(say=line.say, stage=line.say)
        try:
            found.append(config_apart(model, trust=config.getoption("trust_model"), patience=patience))
        except UserError as error:
            line.close()
            pytest.exit(str(error), returncode=2)
    shown = [_from_root(config, model) for model in models]
    _set(config, _FOUND, json.dumps([[str(each.config), name] for each, name in zip(found, shown, strict=True)]))
    _put_on_path(config, [str(each.on_path) for each in found])
    config.stash[_SAID] = [
        line
        for model, each in zip(models, found, strict=True)
        for line in (
            f"{model}, as found (to keep it and edit it: {each.keep}):",
            *(f"  {line}" for line in each.text.splitlines()),
        )
    ]
    return _noted(config, json.loads(os.environ[_FOUND]))


def _noted(config: pytest.Config, found: list[list[str]]) -> list[Path]:
    """Notes what each config is called, and has ids that are typed as they are shown find it."""
    config.stash[SHOWN_AS] = names = {Path(path): name for path, name in found}
    for place, argument in enumerate(config.args):
        typed, colons, test = argument.partition("::Test")
        path = next((path for path, name in names.items() if colons and name in (typed, _from_root(config, typed))), None)
        if path is not None:
            config.args[place] = f"{path}{colons}{test}"
    return list(names)


def _from_root(config: pytest.Config, model: str) -> str:
    """A model's file or folder from the root of the tests, from where pytest shows paths; a module and its class as they are."""
    path = Path(model).expanduser()
    if not path.exists():
        return model
    try:
        return Path(os.path.relpath(path, config.rootpath)).as_posix()
    except ValueError:  # another drive
        return path.as_posix()


def said(config: pytest.Config) -> list[str]:
    """What was written, for the header, within the width of the terminal."""
    width = config.get_terminal_writer().fullwidth
    return [part for line in config.stash.get(_SAID, []) for part in _wrapped(line, width)]


def limits_found(config: pytest.Config, path: Path) -> list[str]:
    """What was read off a model that has no config, and would be a bug if it were not meant: sizes of axes, and the order of two.

    Args:
        config: pytest's.
        path: The config that was written for the model.
    """
    if path not in config.stash[SHOWN_AS]:
        return []
    found: dict[tuple[str, str], list[str]] = {}
    text = path.read_text(encoding="utf-8")
    for name, step, raises in _LIMITED.findall(text):
        found.setdefault((step, raises), []).append(name)
    sizes = [f"{' and '.join(names)} judged only {step}{f': {why}' if why else ''}" for (step, why), names in found.items()]
    return [*sizes, *([_TURNED] if 'adapter = "length_first"' in text else [])]


def _wrapped(line: str, width: int) -> list[str]:
    """A line of a config, its comment over as many lines as it needs."""
    key, mark, comment = line.rpartition(_COMMENT)
    room = max(width - len(key + mark), _SHORTEST_COMMENT)
    parts = textwrap.wrap(comment, room, break_long_words=False, break_on_hyphens=False) if mark else []
    return [f"{key if not number else ' ' * len(key)}{mark}{part}" for number, part in enumerate(parts)] or [line]


def _values(args: Sequence[str]) -> Iterator[str]:
    for place, argument in enumerate(args):
        if argument == OPTION and place + 1 < len(args):
            yield args[place + 1]
        elif argument.startswith(f"{OPTION}="):
            yield argument.partition("=")[2]


def _put_on_path(config: pytest.Config, folders: list[str]) -> None:
    """Lets this process and its children import the models' modules."""
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    _set(config, "PYTHONPATH", os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])]))


def _set(config: pytest.Config, name: str, value: str) -> None:
    """Sets an environment variable until the run has ended."""
    before = os.environ.get(name)

    def restore() -> None:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before

    os.environ[name] = value
    config.add_cleanup(restore)
