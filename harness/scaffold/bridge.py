"""A Python file between a config and a model that a config alone cannot build or call."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from harness.adapters import ADAPTERS
from harness.errors import ModelSourceError
from harness.models.factories import Factory
from harness.models.inspection import Guess

BRIDGE = "modeltiers_model.py"
"""The file's name, beside the model."""

_BUILD = '''

def build_model({parameters}):
    """The model under test."""
    return {call}
'''

_ADAPTER = '''

class ModelAdapter({base}):
    """Calls {signature} with {called}."""

    def plan(self, model):
        """The fields of a batch, in the order in which forward takes them."""
        return CallPlan(positional={positional!r})
'''


def needs_bridge(factory: Factory, guess: Guess) -> bool:
    """Whether the model is built from a settings object, or called otherwise than its signature says."""
    return factory.settings is not None or guess.plan is not None


def bridge_text(model_file: Path, factory: Factory, guess: Guess, signature: str) -> str:
    """The file's content.

    Raises:
        ModelSourceError: The model's file has a name that cannot be imported.
    """
    parts = [f'"""How the model in {model_file.name} is built and called. Written by `modeltiers init`; yours to change."""\n']
    if guess.plan is not None:
        base = ADAPTERS[guess.task.task_type.value].__name__
        parts.append(f"from harness.adapters import {', '.join(sorted((base, 'CallPlan')))}\n")
    if factory.settings is not None:
        _refuse_hidden(model_file.resolve())
        names = sorted({factory.name.partition(".")[0], factory.settings.name})
        parts.append(f"from {model_file.stem} import {', '.join(names)}\n")
    text = "\n".join(parts)
    if factory.settings is not None:
        passed = ", ".join(
            [f"{factory.settings.argument}={factory.settings.name}()", *(f"{name}={name}" for name in factory.kwargs)]
        )
        parameters = ", ".join(f"{name}={value!r}" for name, value in factory.kwargs.items())
        text += _BUILD.format(parameters=parameters, call=f"{factory.name}({passed})")
    if guess.plan is not None:
        text += _ADAPTER.format(base=base, signature=signature, called=guess.called, positional=guess.plan.positional)
    return text


def _refuse_hidden(model_file: Path) -> None:
    """Refuses a file that another one can import only under a name that means something else, or nothing."""
    spec = importlib.util.find_spec(model_file.stem) if model_file.stem.isidentifier() else None
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != model_file:
        raise ModelSourceError(
            f"{model_file.name} needs a second file that imports it, which its name does not allow: it is no identifier, or hides behind "
            "an installed module. Rename it, or write a build_model() into it"
        )
