"""What a file of code would do that a model has no need to do, found by reading it.

A list of names is no proof: whoever wants to can write code that does harm and shows none of them. The scan is there to make the
ordinary attempt visible before anything runs; ``harness.isolation`` is for the others.
"""

from __future__ import annotations

from harness.scan.refusal import dangerous_calls, scan_files, training_calls
from harness.scan.rules import RULES, Finding, ScanWarning
from harness.scan.source import scan_source

__all__ = ["RULES", "Finding", "ScanWarning", "dangerous_calls", "scan_files", "scan_source", "training_calls"]
