"""The exported files that go into a bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.errors import UserError
from harness.export.exports import Exports
from harness.export.formats.exporter import ExportError
from harness.export.store.artifact import Artifact, find_artifact, manifest_path


def all_artifacts(exports: Exports) -> dict[str, Artifact]:
    """The file of every format.

    Raises:
        ExportError: There is one that cannot be had; the message has the reason, and the formats that can.
    """
    found: dict[str, Artifact] = {}
    failed: dict[str, str] = {}
    for format in exports.formats:
        try:
            artifact = exports.artifact(format)
            exports.runner(format)
        except UserError as error:
            failed[format] = str(error)
            continue
        if artifact.ours:
            found[format] = artifact
        else:
            failed[format] = f"{artifact.path} is not what this project exported; delete it to have it exported anew"
    if failed:
        reasons = "; ".join(f"{format}: {reason}" for format, reason in failed.items())
        rest = f"; {', '.join(found)} can be bundled: name these alone in `formats`" if found else ""
        raise ExportError(f"no bundle was written, for lack of {reasons}{rest}")
    return found


def copy_artifact(artifact: Artifact, folder: Path) -> None:
    """Copies an artifact with its manifest.

    Raises:
        ExportError: It is not what it was a moment ago.
    """
    assert artifact.manifest is not None
    folder.mkdir(exist_ok=True)
    for name in (*artifact.manifest.files, manifest_path(artifact.path).name):
        shutil.copyfile(artifact.path.with_name(name), folder / name)
    copied = find_artifact(folder / artifact.path.name)
    if copied is None or not copied.ours:
        raise ExportError(f"{artifact.path} was changed while it was copied; make the bundle again")
