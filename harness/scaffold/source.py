"""The model's file as a module, and how a config names it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from harness.errors import ConfigError, ModelSourceError
from harness.user_code import import_file


@dataclass(frozen=True)
class Source:
    """A model's file, imported.

    Attributes:
        file: The file, resolved.
        module: What it became.
        folder: Where a config of it lies: beside the file, or beside the package that it can only be imported as part of.
        dotted: The name by which it is imported as part of a package; empty for a file that stands alone.
    """

    file: Path
    module: ModuleType
    folder: Path
    dotted: str = ""

    @property
    def importable(self) -> str:
        """The name by which another file in ``folder`` imports it.

        Raises:
            ModelSourceError: There is none.
        """
        if self.dotted:
            return self.dotted
        stem = self.file.stem
        spec = importlib.util.find_spec(stem) if stem.isidentifier() else None
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != self.file:
            raise ModelSourceError(
                f"{self.file.name} needs a second file that imports it, which its name does not allow: it is no identifier, or hides "
                "behind an installed module. Rename it, or write a build_model() into it"
            )
        return stem


def import_model(file: Path) -> Source:
    """Imports a model's file: by itself, or, where its imports need it, as part of its package.

    Args:
        file: The ``.py`` file.

    Raises:
        ModelSourceError: It does not import.
    """
    file = file.resolve()
    module = import_file(file, file.name)
    is_part = module.__name__.endswith(f".{file.stem}")
    dotted = module.__name__ if is_part else ""
    return Source(file, module, file.parents[dotted.count(".")], dotted)


def refuse_elsewhere(source: Source, config: Path) -> None:
    """Refuses a config that could not import the package that its model is part of.

    Raises:
        ConfigError: It lies in another folder.
    """
    if source.dotted and config.resolve().parent != source.folder:
        raise ConfigError(
            f"{source.file.name} is part of the package {source.dotted.partition('.')[0]}, and its config lies beside that package: "
            f"--output {source.folder / config.name}"
        )
