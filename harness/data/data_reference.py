"""Where a run's data is: enough to open it again, and to tell whether it is still the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import EvalConfig


@dataclass(frozen=True)
class DataReference:
    """The data keys of a run, and the folder that their paths are relative to.

    Attributes:
        train: What the model learnt from; ``None`` where nothing was named.
        eval: What it was evaluated on; ``None`` where nothing was named.
        folder: What relative paths are relative to.
    """

    train: EvalConfig | None
    eval: EvalConfig | None
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """The reference as JSON values."""
        return {
            "train": self.train and self.train.model_dump(mode="json", exclude_defaults=True),
            "eval": self.eval and self.eval.model_dump(mode="json", exclude_defaults=True),
            "folder": str(self.folder.resolve()),
        }

    @classmethod
    def from_json(cls, stored: Any) -> DataReference | None:
        """The inverse of ``to_json``; ``None`` where something else is stored."""
        if not isinstance(stored, Mapping) or not isinstance(stored.get("folder"), str):
            return None
        try:
            train, evaluation = (_config(stored.get(key)) for key in ("train", "eval"))
        except ValidationError:
            return None
        return cls(train, evaluation, Path(stored["folder"]))

    @classmethod
    def of_run(cls, facts: Mapping[str, Any], configs: Mapping[str, Any]) -> DataReference | None:
        """The data of a recorded run; ``None`` where the run does not say.

        Args:
            facts: The run's facts; ``data`` is a reference, ``config_path`` the file of its config.
            configs: Its configs by kind.
        """
        known = cls.from_json(facts.get("data"))
        if known is not None:
            return known
        suite, path = configs.get("suite"), facts.get("config_path")
        folder = str(Path(path).parent) if isinstance(path, str) else "."
        if isinstance(suite, Mapping):
            return cls.from_json({"train": suite.get("train"), "eval": suite.get("eval"), "folder": folder})
        return cls.from_json({"eval": configs["eval"], "folder": folder}) if "eval" in configs else None


def _config(stored: Any) -> EvalConfig | None:
    return None if stored is None else EvalConfig.model_validate(stored)
