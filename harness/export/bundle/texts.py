"""The texts of a bundle: README, requirements, and ``inference.py``."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.export.bundle.folder import Draft
from harness.export.formats.exporter import exporter_class
from harness.export.store.identity import versions
from harness.formats import formats as known_formats
from harness.health.markdown import verdict
from harness.health.report import ExportHealthReport


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
            "runs_with": " and ".join(exporter_class(format).requirements()),
        }
        for format, artifact in draft.artifacts.items()
    ]
    return render(
        "README.md.j2",
        **{"outputs": [draft.signature["output"]], "multiples": {}, **draft.signature},
        tool=draft.tool,
        created=draft.created,
        folder=shlex.quote(draft.name),
        formats=formats,
        runnable=runnable(draft.artifacts),
        code=[format for format in draft.artifacts if exporter_class(format).holds_code],
        weights=[format for format in draft.artifacts if exporter_class(format).kind == "weights"],
        health="The health checks were not run." if report is None else f"{verdict(report)}; see `health_report.md`.",
        failures=[" ".join(f"{check.check_name}: {check.message}".split()) for check in failed],
        layouts=[{"path": f"{name}/", "what": what} for name, what in layouts.items()],
    )


def inference_script(formats: Iterable[str]) -> str:
    """``inference.py``: the same in every bundle of this version, but for formats that other packages add.

    The functions that load files are those of the exporters, as they stand in their source.
    """
    text = resources.files("harness.export.bundle").joinpath("templates", "inference.py.txt").read_text(encoding="utf-8")
    own = [name for name, format in known_formats().items() if format.is_built_in()]
    exporters = [exporter_class(name) for name in dict.fromkeys([*own, *formats]) if name in known_formats()]
    loaders = {exporter.runtime(): exporter.standalone for exporter in exporters if exporter.standalone}
    functions = dict.fromkeys(function for standalone in loaders.values() for function in standalone)
    runtimes = "".join(f"    {runtime!r}: {standalone[-1].__name__},\n" for runtime, standalone in loaders.items())
    weights = [exporter.name for exporter in exporters if exporter.kind == "weights"]
    parts = {
        "# FUNCTIONS\n": "\n\n".join(inspect.getsource(function) for function in functions),
        "RUNTIMES: dict[str, Load] = {}\n": f"RUNTIMES: dict[str, Load] = {{\n{runtimes}}}\n",
        "WEIGHTS: tuple[str, ...] = ()\n": f"WEIGHTS: tuple[str, ...] = {tuple(weights)!r}\n",
    }
    for place, content in parts.items():
        text = text.replace(place, content)
    return text


def requirements(formats: Iterable[str]) -> str:
    """A ``requirements.txt`` of what runs the formats, pinned to the versions found here."""
    lines = ["# What inference.py needs; beside NumPy, the packages of the formats in use are enough.", pinned("numpy")]
    for format in formats:
        needed = [pinned(package) for package in exporter_class(format).requirements()]
        new = [line for line in needed if line not in lines]
        lines += [f"# {format}" + ("" if new else f": {', '.join(needed)}, as above"), *new]
    return "\n".join(lines) + "\n"


def runnable(formats: Iterable[str]) -> list[str]:
    """The formats that ``inference.py`` runs, the one that needs least first."""
    order = list(known_formats())
    found = [format for format in formats if format in order and exporter_class(format).standalone]
    return sorted(found, key=lambda format: ("torch" in exporter_class(format).requirements(), order.index(format)))


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
