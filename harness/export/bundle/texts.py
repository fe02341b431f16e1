"""The texts of a bundle: README, requirements, and ``inference.py``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.export.bundle.draft import Draft
from harness.export.bundle.signature import runtime_of
from harness.export.formats.table import FORMATS
from harness.export.store.identity import versions
from harness.health.markdown import verdict
from harness.health.report import ExportHealthReport

_RUNTIMES = ("onnx", "openvino", "torchscript", "torch_export")
"""What ``inference.py`` knows, the one that needs least first."""

_PACKAGES = {
    "onnx": ("onnxruntime",),
    "torchscript": ("torch",),
    "torch_export": ("torch",),
    "pytorch": ("torch",),
    "safetensors": ("torch", "safetensors"),
}
"""What reads each format, besides NumPy."""


def readme(draft: Draft, report: ExportHealthReport | None, layouts: Mapping[str, str]) -> str:
    """The bundle's README.

    Args:
        draft: The bundle.
        report: Its health report.
        layouts: What each of its folders for servers is, by name.
    """
    failed = [] if report is None else report.get_failed_checks()
    formats = [
        {
            "name": format,
            "file": artifact["file"],
            "size": f"{draft.size_of(format) / 2**20:.2f} MiB",
            "runs_with": " and ".join(packages_of(format)),
        }
        for format, artifact in draft.artifacts.items()
    ]
    return render(
        "README.md.j2",
        **draft.signature,
        tool=draft.tool,
        created=draft.created,
        folder=shlex.quote(draft.name),
        formats=formats,
        runnable=runnable(draft.artifacts),
        code=[format for format in draft.artifacts if FORMATS[format].holds_code],
        weights=[format for format in draft.artifacts if FORMATS[format].weights_only],
        health="The health checks were not run." if report is None else f"{verdict(report)}; see `health_report.md`.",
        failures=[" ".join(f"{check.check_name}: {check.message}".split()) for check in failed],
        layouts=[{"path": f"{name}/", "what": what} for name, what in layouts.items()],
    )


def inference_script() -> str:
    """``inference.py``, which is the same in every bundle of this version."""
    return resources.files("harness.export.bundle").joinpath("templates", "inference.py.txt").read_text(encoding="utf-8")


def requirements(formats: Iterable[str]) -> str:
    """A ``requirements.txt`` of what runs the formats, pinned to the versions found here."""
    lines = ["# What inference.py needs; beside NumPy, the packages of the formats in use are enough.", pinned("numpy")]
    for format in formats:
        needed = [pinned(package) for package in packages_of(format)]
        new = [line for line in needed if line not in lines]
        lines += [f"# {format}" + ("" if new else f": {', '.join(needed)}, as above"), *new]
    return "\n".join(lines) + "\n"


def runnable(formats: Iterable[str]) -> list[str]:
    """The formats that ``inference.py`` runs, the one that needs least first."""
    runtimes = {format: runtime_of(format) for format in formats if format in FORMATS}
    return sorted((f for f, runtime in runtimes.items() if runtime in _RUNTIMES), key=lambda f: (_RUNTIMES.index(runtimes[f]), f))


def packages_of(format: str) -> tuple[str, ...]:
    """The packages that read a format, besides NumPy."""
    return _PACKAGES.get(runtime_of(format), FORMATS[format].packages)


def pinned(package: str) -> str:
    """A package as requirements name it, with the version found here."""
    found = versions().get(package)
    # What follows a plus names a build, such as +cpu, that no index has.
    return f"{package}=={found.partition('+')[0]}" if found else package


def render(template: str, **values: Any) -> str:
    """A template filled in."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("harness.export.bundle"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
