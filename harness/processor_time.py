"""Processor time, which a busy machine does not change."""

from __future__ import annotations

import time


def processor_seconds() -> float:
    """Processor time that this process has used, and the child processes that have ended."""
    try:
        import resource
    except ImportError:  # Windows
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
