"""A user's own checks, which join the suite and the report of every model config.

In a ``conftest.py``::

    from pytest_modeltiers.checks import model_check

    @model_check(tier=1, statement="Logits stay below 50")
    def logits_are_modest(subject):
        assert subject.logits(subject.batch()).abs().max() < 50

The function may ask for any fixture by name. It fails by an assertion, or returns ``Evidence`` (harness.evidence), whose status,
message and blame the report then shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REGISTERED: dict[str, ModelCheck] = {}
"""Checks made by the decorator, by name."""


@dataclass(frozen=True)
class ModelCheck:
    """A check of the user's own.

    Attributes:
        function: Takes fixtures by name.
        tier: Tier whose class it joins.
        statement: What must hold, for the report.
    """

    function: Callable[..., Any]
    tier: int = 1
    statement: str = ""

    @property
    def name(self) -> str:
        """Name of the check; its test is ``test_<name>``."""
        return self.function.__name__.removeprefix("test_")


def model_check(tier: int = 1, statement: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as a check of every model config.

    Args:
        tier: 1 to 5.
        statement: What must hold; by default the first line of the docstring.

    Raises:
        ValueError: The tier does not exist.
    """
    if tier not in range(1, 6):
        raise ValueError(f"tier must be 1 to 5, got {tier}")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        text = statement or (function.__doc__ or "").strip().split("\n")[0].rstrip(".")
        check = ModelCheck(function, tier, text)
        REGISTERED[check.name] = check
        return function

    return register
