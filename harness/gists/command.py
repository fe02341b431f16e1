"""What ``modeltiers gist`` answers."""

from __future__ import annotations

from harness.gists.cache import describe, open_gist
from harness.gists.gist import GistSettings, is_trusted
from harness.gists.gist import trust as remember_trust
from harness.scan import scan_files
from harness.wording import Answer


def look_at(gist_id: str, revision: str | None = None, trust: bool = False) -> Answer:
    """Fetches a gist and scans it; nothing of it is run.

    Args:
        gist_id: Its id.
        revision: The commit; the latest by default.
        trust: Whether its files are to be trusted from now on.

    Raises:
        GistError: It cannot be had.
        MissingPackageError: ``httpx`` is not installed.
    """
    settings = GistSettings.from_environment()
    gist = open_gist(gist_id, revision, settings)
    if trust:
        remember_trust(gist, settings.consent)
    findings, trusted = scan_files(gist.files), is_trusted(gist.sha256, settings.consent)
    status = "ok" if trusted or not findings else "fail"
    data = {"status": status, **gist.to_json(), "trusted": trusted, "findings": [finding.to_json() for finding in findings]}
    lines = [describe(gist), *(f"  {finding}" for finding in findings)]
    if trusted:
        lines.append(f"trusted: its code will be run (remembered in {settings.consent})")
    elif findings:
        lines.append("not trusted: its code will not be run; if you trust these files, add --trust")
    else:
        lines.append('the scan found nothing, which proves nothing: read the files, or set `isolation` to "process"')
    lines.append(f'pin it: "gist_id": "{gist.id}", "gist_revision": "{gist.revision}", "gist_sha256": "{gist.sha256}"')
    return Answer(data, "\n".join(lines))
