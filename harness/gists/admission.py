"""Whether a gist's code may run."""

from __future__ import annotations

from harness.gists.consent import is_trusted
from harness.gists.errors import GistError, UntrustedCodeError
from harness.gists.gist import Gist
from harness.gists.settings import GistSettings
from harness.scan import Finding, scan_files

_SHOWN = 3


def admit(gist: Gist, sha256: str | None = None, settings: GistSettings | None = None) -> list[Finding]:
    """Lets a gist pass, or refuses it; returns what the scan found.

    Args:
        gist: The gist.
        sha256: The hash it must have.
        settings: Where consent is kept.

    Raises:
        GistError: It has another hash.
        UntrustedCodeError: The scan found something, and the user does not trust these files.
    """
    if sha256 and sha256 != gist.sha256:
        raise GistError(
            f"gist {gist.id}: its files are not those that were pinned: sha256 {gist.sha256} (revision {gist.revision}), "
            f"`gist_sha256` is {sha256}"
        )
    findings = scan_files(gist.files)
    settings = settings or GistSettings.from_environment()
    if findings and not is_trusted(gist.sha256, settings.consent):
        shown = "; ".join(map(str, findings[:_SHOWN]))
        more = f"; and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
        raise UntrustedCodeError(
            f"gist {gist.id}: not run, as the scan found what a model has no need to do: {shown}{more}. Look at it; if you trust these "
            f"very files (sha256 {gist.sha256}): modeltiers gist {gist.id} --revision {gist.revision} --trust"
        )
    return findings
