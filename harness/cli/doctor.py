"""``modeltiers plan``: what judging a model takes here. ``modeltiers doctor``: what is installed, and what each missing package costs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from harness.cli.arguments import add_config_file, add_json
from harness.formats import formats
from harness.wording import counted


def add_doctor(commands: Any) -> None:
    """Adds ``doctor``."""
    doctor = commands.add_parser(
        "doctor", help="say what is installed, which devices there are, and what each missing package costs"
    )
    add_json(doctor)
    doctor.set_defaults(run=_doctor)


def add_plan(commands: Any) -> None:
    """Adds ``plan``."""
    plan = commands.add_parser(
        "plan",
        help="say what tiers 1 and 2 take on this machine: memory, calls, seconds, and what would be left out; nothing is loaded",
    )
    add_config_file(plan)
    add_json(plan)
    plan.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    """Builds the model without data, and plans its tests; 1 where it cannot be judged here."""
    from harness.adapters import make_adapter
    from harness.config import load_config
    from harness.models.loading import model_source
    from harness.models.structure import on_meta
    from harness.properties.plan import machine_of, names_of_tests, plan_of
    from harness.properties.subject import floating_dtype

    config = load_config(arguments.config)
    task = config.task_spec()
    model = on_meta(model_source(config), config.seed)
    adapter = make_adapter(task, config.adapter, config.path.parent)
    found = plan_of(model, adapter, task, machine_of(config.device, floating_dtype(model)), names_of_tests(task, config.tiers))
    print(json.dumps(found.to_json()) if arguments.json else found.text())
    return int(not found.is_possible)


def _doctor(arguments: argparse.Namespace) -> int:
    found = diagnose()
    print(json.dumps(found.to_json()) if arguments.json else found.text())
    return int(bool(found.broken))


DISTRIBUTION = "pytest-modeltiers"

COSTS = {
    "xdist": "`-n 2`: the tests of a run in several processes",
    "json": "`--json-report`",
    "lightning": "training on Lightning (the plain loop takes its place), models that are a LightningModule",
    "huggingface": "models from transformers",
    "data": "Parquet, image folders, tokenizers of more than a few thousand words",
    "yaml": "configs in YAML",
    "postgresql": "an experiment database that several machines share",
    "mlflow": "runs exported to MLflow, and `log_to: [mlflow]`",
    "wandb": "`log_to: [wandb]`",
    "tensorboard": "`log_to: [tensorboard]`",
    "ray": "sweeps on a Ray cluster",
    **{format.extra: f'the export format "{name}"' for name, format in formats().items() if format.extra},
    "gist": "models from GitHub gists",
}
"""What cannot be done without the packages of an extra."""


@dataclass(frozen=True)
class Package:
    """A package that the project uses.

    Attributes:
        name: Its name on the index.
        asked: The versions that are wanted, such as ``>=2.6``.
        installed: The version that is here; empty where it is missing.
        extra: The extra that brings it; empty for one that is always needed.
        status: ``ok``, ``missing`` or ``too old``.
    """

    name: str
    asked: str
    installed: str
    extra: str
    status: str


@dataclass(frozen=True)
class Diagnosis:
    """What there is.

    Attributes:
        version: Of this project.
        python: Its version and where it is.
        machine: Operating system, processors.
        devices: What torch can compute on, with what is known of each.
        packages: Those that are needed, then those that an extra brings.
    """

    version: str
    python: str
    machine: str
    devices: tuple[str, ...]
    packages: tuple[Package, ...]

    @property
    def broken(self) -> list[Package]:
        """Needed packages that are missing or too old, and optional ones that are too old."""
        return [package for package in self.packages if package.status == "too old" or (package.installed == "" == package.extra)]

    @property
    def missing_extras(self) -> dict[str, list[str]]:
        """The packages that are missing, by extra."""
        found: dict[str, list[str]] = {}
        for package in self.packages:
            if package.extra and package.status == "missing":
                found.setdefault(package.extra, []).append(package.name)
        return found

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as JSON-ready values."""
        costs = {extra: {"missing": names, "costs": COSTS[extra]} for extra, names in self.missing_extras.items()}
        return {**asdict(self), "status": "fail" if self.broken else "ok", "missing_extras": costs}

    def text(self) -> str:
        """The diagnosis for people."""
        return "\n".join(line.rstrip() for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{DISTRIBUTION} {self.version}, Python {self.python}, {self.machine}"
        yield f"devices: {', '.join(self.devices)}"
        yield ""
        for package in self.packages:
            if package.installed:
                note = f"  {package.status}: {package.asked} is needed" if package.status != "ok" else ""
                yield f"  {package.name:<20} {package.installed:<12}{note}"
        for package in self.broken:
            if not package.installed:
                yield f"  {package.name:<20} MISSING       {package.asked} is needed: pip install {package.name!r}"
        if self.missing_extras:
            yield ""
            yield "not installed, and not needed unless you want:"
            for extra, names in self.missing_extras.items():
                yield f"  {', '.join(names):<32} {COSTS[extra]}: pip install '{DISTRIBUTION}[{extra}]'"


def diagnose() -> Diagnosis:
    """Looks at what is installed, without importing more of it than torch."""
    return Diagnosis(
        metadata.version(DISTRIBUTION),
        f"{platform.python_version()} ({sys.prefix})",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        _devices(),
        tuple(_packages()),
    )


def _packages() -> Iterator[Package]:
    requirements = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    for extra in ("", *COSTS):
        environment = {"extra": extra}
        for asked in requirements:
            wanted = asked.marker is None or asked.marker.evaluate(environment)
            if asked.name != DISTRIBUTION and wanted and _belongs(asked, extra):
                yield _package(asked, extra)


def _belongs(asked: Requirement, extra: str) -> bool:
    """Whether a requirement is the extra's own; those that are always needed hold for every extra as well."""
    return ("extra ==" in str(asked.marker or "")) is bool(extra)


def _package(asked: Requirement, extra: str) -> Package:
    try:
        installed = metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        return Package(asked.name, str(asked.specifier), "", extra, "missing")
    fits = asked.specifier.contains(Version(installed), prereleases=True)
    return Package(asked.name, str(asked.specifier), installed, extra, "ok" if fits else "too old")


def _devices() -> tuple[str, ...]:
    import torch

    found = [f"cpu ({counted(torch.get_num_threads(), 'thread')})"]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            found.append(f"cuda:{number} ({facts.name}, {facts.total_memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    return tuple(found)
