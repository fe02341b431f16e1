"""Pickles inside files of weights, looked over by picklescan: a tripwire in front of ``weights_only=True``, not in its place."""

from __future__ import annotations

import logging
from typing import IO

from harness.scan.findings import Finding

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
"""Endings of files that may hold a pickle."""

_STATE = (".pt", ".pth", ".bin", ".ckpt")
"""Endings of files in which there is always one, that names at least how tensors are rebuilt."""

logging.getLogger("picklescan").addHandler(logging.NullHandler())  # it reports to us, not to the user's terminal


def scan_weights(content: IO[bytes], file: str) -> list[Finding]:
    """What a file of weights would run if it were unpickled.

    Without picklescan (the extra ``gist``), or where it finds nothing to scan, the file as a whole is a finding: what was not looked at
    is not sound.

    Args:
        content: The file, opened.
        file: Its name.
    """
    try:
        from picklescan.scanner import SafetyLevel, scan_bytes
    except ImportError:
        return [Finding("unpickling", file, 0, "a pickle", detail="not looked into: picklescan is not installed")]
    try:
        result = scan_bytes(content, file, file_ext=f".{file.rpartition('.')[2]}")
    except Exception as error:  # whatever a broken file does to a scanner
        return [Finding("unpickling", file, 0, "a pickle", detail=f"picklescan: {type(error).__name__}")]
    named = {f"{found.module}.{found.name}" for found in result.globals if found.safety is not SafetyLevel.Innocuous}
    if result.scan_err or not result.scanned_files or (file.endswith(_STATE) and not result.globals):
        return [Finding("unpickling", file, 0, "a pickle", detail="picklescan could not read it")]
    return [Finding("unpickling", file, 0, name) for name in sorted(named)]


def dangerous_names(content: IO[bytes], file: str) -> list[str]:
    """Names in a file of weights that picklescan knows to be dangerous; none where it is not installed or cannot read the file.

    Args:
        content: The file, opened.
        file: Its name.
    """
    try:
        from picklescan.scanner import SafetyLevel, scan_bytes

        result = scan_bytes(content, file, file_ext=f".{file.rpartition('.')[2]}")
    except Exception:  # not installed, or a file that torch will have a word for
        return []
    return sorted({f"{found.module}.{found.name}" for found in result.globals if found.safety is SafetyLevel.Dangerous})
