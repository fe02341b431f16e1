"""What of a bundle would be run, and whether its config stays within the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from harness.repro.bundle import Bundle
from harness.repro.config_paths import OUTPUTS, files_named, is_inside, text_at
from harness.repro.errors import ReproError
from harness.repro.manifest import CONFIG
from harness.repro.run_config import mistake_in

_CODE = (".py", ".pyc", ".pyd", ".so", ".dylib", ".dll", ".pth")


@dataclass(frozen=True)
class Code:
    """Something that a rerun would run.

    Attributes:
        name: A file of the bundle, or what the config asks for.
        sha256: Of the file; empty for what is no file.
    """

    name: str
    sha256: str = ""

    def to_json(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)


def code_in(bundle: Bundle, config: Mapping[str, Any]) -> tuple[Code, ...]:
    """Everything of a bundle that a rerun would run; empty for an embedded model on data alone."""
    files = bundle.manifest.files
    named = {name for key, name in files_named(config).items() if key in ("model_file", "adapter")}
    found = [Code(name, files[name].sha256) for name in sorted(files) if name in named or _is_code(name)]
    if text_at(config, "model_import"):
        found.append(Code(f"`model_import` {config['model_import']}, which calls whatever of that name is installed"))
    if text_at(config, "gist_id"):
        found.append(Code(f"`gist_id` {config['gist_id']}, which is downloaded"))
    if text_at(config, "resume_from_checkpoint"):
        found.append(Code(f"`resume_from_checkpoint` {config['resume_from_checkpoint']}, whose state is restored"))
    export = config.get("export")
    if isinstance(export, Mapping) and export.get("trust"):
        found.append(Code("`export.trust`, which allows files that can run code"))
    return tuple(found)


def check_config(bundle: Bundle) -> dict[str, Any]:
    """The config of a bundle, which reads nothing but the bundle's files and writes nowhere but beside them.

    Raises:
        ReproError: It is none, or names another place.
    """
    config = bundle.read_json(CONFIG)
    if not isinstance(config, dict):
        raise ReproError(f"{bundle.path}: {CONFIG} holds no config")
    mistake = mistake_in(config)
    if mistake:
        raise ReproError(f"{bundle.path}: {CONFIG} is refused: {mistake}")
    listed = (*bundle.manifest.files, *bundle.manifest.external)
    for key, name in files_named(config).items():
        if not is_inside(name) or not any(file == name or file.startswith(f"{name}/") for file in listed):
            raise ReproError(f"{bundle.path}: {CONFIG}: `{key}` names {name!r}, which is not in the bundle")
    for key in OUTPUTS:
        place = text_at(config, key)
        if place is not None and not is_inside(place):
            raise ReproError(f"{bundle.path}: {CONFIG}: `{key}` names {place!r}, a place outside the bundle")
    run_name = text_at(config, "run_name")
    if run_name is not None and text_at(config, "checkpoint_dir") is None and _leads_away(run_name):
        raise ReproError(f"{bundle.path}: {CONFIG}: checkpoints of a `run_name` {run_name!r} would lie outside the bundle")
    return config


def _leads_away(name: str) -> bool:
    """Whether a folder of this name may lie elsewhere, on any system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return any(path.is_absolute() or path.anchor or ".." in path.parts for path in paths)


def _is_code(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _CODE or "__pycache__" in PurePosixPath(name).parts
