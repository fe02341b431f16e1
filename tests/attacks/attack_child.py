"""Runs attempts, one after another, and says how each ended. Run in isolation, and as a program without it, to show that they work."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attack_calls

NAMES = {
    "os": os,
    "sys": sys,
    "glob": glob,
    "shutil": shutil,
    "tempfile": tempfile,
    "Path": Path,
    "subprocess": subprocess,
    "call": attack_calls.call,
    "reached": attack_calls.reached,
    "memory": attack_calls.memory,
}


def run_all(job: dict[str, Any]) -> dict[str, str]:
    """Runs attempts.

    Args:
        job: ``attempts``, their code by name; ``names`` for all of them; ``each``, names that each has its own values of; ``file`` as
            whose code they run.

    Returns:
        ``through``, ``locked`` (the test looks whether it is), or the kind of error and what it said.
    """
    for name in ("own", "own2", "own3"):
        Path(name).write_text("x" * 8)
    if any(needs_torch(code) for code in job["attempts"].values()):
        import numpy as np
        import torch

        NAMES.update(np=np, torch=torch)
    kept: list[Any] = []
    return {name: _end_of(name, code, job, kept) for name, code in job["attempts"].items()}


def needs_torch(code: str) -> bool:
    """Whether an attempt uses torch or NumPy."""
    return "torch" in code or "np." in code


def _end_of(name: str, code: str, job: dict[str, Any], kept: list[Any]) -> str:
    known = {key: os.fsencode(value) if key == "unix_address" else value for key, value in job["names"].items()}
    mine = job["each"][name]
    canary = mine["canary"]
    before = _facts(canary)
    helpers = {
        "changed": lambda: _facts(canary) != before,
        "readable": _readable,
        "content_of": _content_of,
        "native": lambda path, folder=-100: os.read(attack_calls.call("openat", folder, path, 0), 99999).decode(),
        "memory_of": lambda pid, native=False: _memory_of(pid, known["secret"], native),
    }
    names: dict[str, Any] = {**NAMES, **known, **mine, **helpers, "name": name.partition("::")[2], "kept": kept}
    here = os.getcwd()
    try:
        exec(compile(code, job["file"], "exec"), names)
    except BaseException as error:
        number = getattr(error, "errno", None)
        return f"{type(error).__name__} {number}: {' '.join(str(error).split())[:200]}"
    finally:
        if os.getcwd() != here:
            os.chdir(here)
    if "got" in names and "through" not in names:
        return "through" if known["secret"] in names["got"] else "empty: it was not there"
    through = names.get("through", True)
    return str(through) if isinstance(through, str) else "through" if through else "nothing: the call did nothing"


def _facts(path: str) -> Any:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mode, found.st_uid, found.st_ctime_ns, found.st_mtime)


def _readable(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 2**16).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _content_of(descriptor: int) -> str:
    """What can be read of a descriptor that was open already; pipes are left alone, as the job comes through one."""
    try:
        return os.pread(descriptor, 999, 0).decode(errors="replace")
    except OSError:
        return ""


def _memory_of(pid: int, secret: str, native: bool) -> str:
    """What is in the writable memory of a process, as far as it may be read; looks for the secret only."""
    with open(f"/proc/{pid}/maps") as file:
        places = [line.split()[0].split("-") for line in file if "[stack]" in line or "[heap]" in line]
    for start, end in ((int(a, 16), int(b, 16)) for a, b in places):
        if native:
            content = attack_calls.read_memory_of(pid, start, end - start)
        else:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
                mem.seek(start)
                content = mem.read(end - start) or b""
        if secret.encode() in content:
            return secret
    return ""


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    os.chdir(job["folder"])
    found = run_all(job)
    Path(sys.argv[2]).write_text(json.dumps(found))
    os._exit(0)
