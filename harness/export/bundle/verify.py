"""Whether a bundle is whole, and computes what its model computed: hashes first, then every artifact in a process of its own.

Nothing is loaded or run before every hash is right. Hashes that are right say that a bundle is whole, not who made it, so formats that can
run code are loaded only where the bundle was made on this machine, or is trusted.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

from harness.evidence import Evidence, Status
from harness.export.bundle.golden import read_golden
from harness.export.bundle.manifest import MANIFEST, mistakes_in, parse_manifest, read_manifest
from harness.export.bundle.origin import made_here
from harness.export.bundle.replays import Replays
from harness.export.bundle.report import BundleReport
from harness.files import file_hash
from harness.wording import counted

_SHOWN = 20


def verify_bundle(folder: str | Path, trust: bool = False, timeout: float = 120.0) -> BundleReport:
    """Holds a bundle's files to their hashes, and then every artifact to the golden logits.

    Args:
        folder: The bundle.
        trust: Whether formats that can run code are loaded even where the bundle was not made on this machine.
        timeout: Seconds until a process is stopped.

    Raises:
        ExportError: The folder is no bundle.
    """
    folder = Path(folder).expanduser().resolve()
    manifest = read_manifest(folder)
    sha256 = file_hash(folder / MANIFEST)
    try:
        listed, formats = parse_manifest(manifest)
        wrong = list(mistakes_in(folder, listed))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        listed, formats, wrong = {}, {}, [f"{MANIFEST} cannot be understood: {type(error).__name__}: {error}"]
    if wrong:
        findings = [Evidence("files", Status.FAIL, mistake) for mistake in wrong[:_SHOWN]]
        findings += [Evidence("files", Status.FAIL, f"and {len(wrong) - _SHOWN} more")] if len(wrong) > _SHOWN else []
        findings += [
            Evidence(format, Status.SKIPPED, "not loaded, since the files are not those of the manifest") for format in formats
        ]
        return BundleReport(folder, sha256, tuple(findings))
    whole = Evidence("files", Status.OK, f"{counted(len(listed), 'file')}, each with the sha256 that the manifest gives")
    try:
        golden = read_golden(folder, listed, formats)
    except (LookupError, TypeError, ValueError, AttributeError, OSError, BadZipFile) as error:
        message = f"cannot be understood, so nothing was loaded: {type(error).__name__}: {error}"
        return BundleReport(folder, sha256, (whole, Evidence("golden", Status.FAIL, message)))
    replays = Replays(folder, formats, golden, made_here(folder), trust, timeout)
    return BundleReport(folder, sha256, (whole, *replays.findings()))
