"""The pytest plugin.

The public names can be imported from here: ``from pytest_modeltiers import model_check``. Every pytest start runs this file, so it
imports nothing; a name brings what it needs when it is first asked for.
"""

from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "ModelCheck": "pytest_modeltiers.checks",
    "Judgement": "pytest_modeltiers.live",
    "Watch": "pytest_modeltiers.callbacks",
    "judge": "pytest_modeltiers.live",
    "judge_model": "pytest_modeltiers.live",
    "lightning_callback": "pytest_modeltiers.callbacks",
    "task_of_example": "pytest_modeltiers.live",
    "model_check": "pytest_modeltiers.checks",
    "tests_for": "pytest_modeltiers.suite",
    "trainer_callback": "pytest_modeltiers.callbacks",
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
