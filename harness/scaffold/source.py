"""The model's file as a module, and how a config names it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from harness.errors import ConfigError, ModelSourceError
from harness.user_code import import_dotted, import_file, package_of


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
    """Imports a model's file: by itself, or, where that fails and it is part of a package, as part of it.

    Args:
        file: The ``.py`` file.

    Raises:
        ModelSourceError: It does not import.
    """
    file = file.resolve()
    try:
        return Source(file, import_file(file, "MODEL.py"), file.parent)
    except ModelSourceError as error:
        package = package_of(file)
        if package is None or not _wants_package(error.__cause__, *package):
            raise
        folder, dotted = package
        return Source(file, import_dotted(dotted, folder, "MODEL.py"), folder, dotted)


def _wants_package(error: BaseException | None, folder: Path, dotted: str) -> bool:
    """Whether a file did not import because it is part of a package: by a relative import, or by the name of a package beside its own."""
    missing = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
    beside = bool(missing) and ((folder / missing).is_dir() or (folder / f"{missing}.py").is_file())
    return "no known parent package" in str(error) or missing == dotted.partition(".")[0] or beside


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
