"""The exports of one model: made once, found again by later tests, processes and runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from harness.batches import Batch, to_device
from harness.config import ExportConfig
from harness.errors import UserError
from harness.export import one_line
from harness.export.formats import Exported, Exporter, ExportError, Inspection, make_exporter, outputs_by_name
from harness.export.program import Outputs, Program, as_exported, program_of, returned_tensors
from harness.export.shape_grid import Point, branch_candidates, choose_branch_inputs, make_point, path_of_batch, shape_grid
from harness.export.store import Artifact, Cache, describe, find_artifact, publish
from harness.export.store.identity import code_of, identity_of, versions
from harness.files import file_hash, json_hash
from harness.models.wrapped import without_fast_path
from harness.processes import without_collector
from harness.properties.calling import blaming
from harness.properties.noise import NoiseFloor, measure_floors
from harness.properties.subject import Subject, floating_dtype
from harness.runtime import raise_lost_end, seeded

T = TypeVar("T")
Run = Callable[[Batch], Outputs]
"""A file that was loaded: from a batch to its outputs by name."""

_CALIBRATION = 16
"""Batches that static quantisation is calibrated with."""


@dataclass
class Exports:
    """The exports of one model.

    Attributes:
        subject: The model.
        options: What is exported, and how.
        folder: Where the files go; ``None`` leaves them in the cache.
        cache: Where exports, noise floors and timings are kept.
        config: The config file that the model can be rebuilt from.
        run: A name for this run, where several processes take part in it.
    """

    subject: Subject
    options: ExportConfig = field(default_factory=lambda: ExportConfig())
    folder: Path | None = None
    cache: Cache = field(default_factory=Cache)
    config: Path | None = None
    run: str = ""

    def __post_init__(self) -> None:
        self._artifacts: dict[str, Artifact | UserError] = {}
        self._runners: dict[str, Run | UserError] = {}
        self._example_outputs: dict[str, Outputs | UserError] = {}
        self._inspections: dict[str, Inspection | UserError] = {}
        self._expected: dict[Point, Outputs] = {}
        self._identity = ""

    @cached_property
    def program(self) -> Program:
        """The model as exporters take it: a copy that was never called, on the CPU."""
        program = program_of(self.subject, self.options.dynamic_shapes)
        if self.options.quantization == "static":
            made = (as_exported(self.subject.adapter, self.subject.batch(program.sizes, seed)) for seed in range(_CALIBRATION))
            program = replace(program, samples=tuple({name: b[name].cpu() for name in program.fields} for b in made))
        # Now, as nothing has called the model yet: what calls and exporters leave on it is no part of what it is.
        self._identity = identity_of(program, json_hash(self.run, str(self.config)) if self.run and self.config else "")
        return program

    @property
    def identity(self) -> str:
        """A hash of everything the exports depend on."""
        _ = self.program
        return self._identity

    @cached_property
    def floor(self) -> NoiseFloor:
        """The rounding noise of the model's logits, remembered between runs."""
        if self.subject.shared.floor is None:
            found = self.cache.values(json_hash("noise floor", self.identity), lambda: asdict(self.subject.floor), read=_floor)
            self.subject.shared.floor = _floor(found)
        return self.subject.shared.floor

    @cached_property
    def floors(self) -> dict[str, NoiseFloor]:
        """The rounding noise of each output."""
        if len(self.program.outputs) == 1:
            return {self.program.outputs[0]: self.floor}
        found = self.cache.values(json_hash("noise floors", self.identity), self._measured_floors, read=_floors_of)
        return _floors_of(found)

    def _measured_floors(self) -> dict[str, dict[str, float | None]]:
        adapter = self.subject.adapter
        floors = measure_floors(self.subject, lambda model, batch: self.call(model, as_exported(adapter, batch)))
        return {name: asdict(floor) for name, floor in floors.items()}

    @property
    def failures(self) -> Path | None:
        """Where the smallest files that show a failure go; ``None`` where nothing is to be written."""
        return None if self.folder is None else self.folder / "failures"

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats asked for, each once, and the quantised one."""
        return self.options.artifacts

    def exporter(self, name: str) -> Exporter:
        """The exporter of a format, whose packages are there.

        Raises:
            ExportError: There is no such format.
            MissingPackageError: It needs a package that is not installed.
        """
        exporter = make_exporter(name, self.options)
        exporter.check_available()
        return exporter

    def artifact(self, name: str) -> Artifact:
        """The file of a format: the one in the folder where it is there, a new one otherwise.

        A file in the folder that an older version of the model gave is replaced. One that is not this project's, or was changed since,
        is left as it is and judged as it stands.

        Raises:
            ExportError: The model cannot be exported to the format.
            MissingPackageError: The format needs a package that is not installed.
        """
        return _once(self._artifacts, name, lambda: self._find_or_export(name))

    def inspection(self, name: str) -> Inspection:
        """What can be read from the file of a format.

        Raises:
            ExportError: It is damaged.
        """
        return _once(self._inspections, name, lambda: self.exporter(name).inspect(self.artifact(name).path, self.program))

    def runner(self, name: str) -> Run:
        """The file of a format, loaded.

        Raises:
            ExportError: It is damaged, or is not this project's and could run code.
        """
        return _once(self._runners, name, lambda: self._load(name))

    def example_outputs(self, name: str) -> Outputs:
        """What the file of a format gives for the batch that it was made from.

        Raises:
            ExportError: It cannot be loaded, or does not run.
        """
        return _once(self._example_outputs, name, lambda: self._run_example(name))

    def _run_example(self, name: str) -> Outputs:
        run = self.runner(name)
        try:
            return run(self.program.example)
        except UserError:
            raise
        except Exception as error:  # of whatever a runtime raises
            raise ExportError(f"forward raises {one_line(error)}") from error

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The shapes and contents at which artifacts are judged."""
        return shape_grid(self.program)

    def points_for(self, name: str) -> tuple[Point, ...]:
        """The points at which one artifact is judged: with branch_points where it may have frozen a decision that depends on values."""
        manifest = self.artifact(name).manifest
        frozen = manifest is None or self.artifact(name).changed or bool(manifest.notes.get("frozen"))
        return (*self.points, *self.branch_points) if frozen and self.exporter(name).kind == "computation" else self.points

    @cached_property
    def branch_points(self) -> tuple[Point, ...]:
        """Points at which the model takes another path through its code than at the example."""
        known = path_of_batch(self.program, self.program.example)
        candidates = ((point, path_of_batch(self.program, self.batch(point))) for point in branch_candidates(self.program))
        return choose_branch_inputs(known, candidates)

    def batch(self, point: Point) -> Batch:
        """The batch of a point."""
        return make_point(self.subject, self.program, point)

    def expected(self, point: Point) -> Outputs:
        """The model's own outputs at a point."""
        if point not in self._expected:
            self._expected[point] = self.eager(self.batch(point))
        return self._expected[point]

    def eager(self, batch: Batch) -> Outputs:
        """The model's own outputs, from a copy that no exporter touched; by the path that is exported, see ``Program.eager_outputs``.

        Raises:
            ModelRaisedError: The model's code raised.
        """
        with without_fast_path():
            return self.plainly(batch)

    def plainly(self, batch: Batch) -> Outputs:
        """The model's own outputs as it is called in PyTorch, by whatever path is fast."""
        if not self.subject.prerequisite_failure.random:
            return self.call(self.reference, batch)
        with seeded(0):
            return self.call(self.reference, batch)

    @torch.no_grad()
    def call(self, model: nn.Module, batch: Batch) -> Outputs:
        """Calls a copy of the model, in its own dtype, with copies of a batch's tensors."""
        given = {name: batch[name].clone() for name in self.program.fields}
        with blaming(model):
            found = returned_tensors(self.subject.adapter, model, to_device(given, None, floating_dtype(model)))
            return {name: found[name] for name in self.program.outputs}

    @cached_property
    def reference(self) -> nn.Module:
        """A copy of the model that no exporter touched, on the CPU."""
        return self.subject.fresh().cpu()

    def _find_or_export(self, name: str) -> Artifact:
        exporter = self.exporter(name)
        if self.folder is not None:
            found = find_artifact(self.folder / exporter.filename)
            if found is not None and (not found.ours or (found.manifest and found.manifest.identity == self._identity_of(name))):
                return found
        started = time.perf_counter()
        made, path = self._kept(name)
        if self.folder is not None:
            path = publish(path, self.folder)
        artifact = find_artifact(path)
        assert artifact is not None
        seconds = time.perf_counter() - started if made else 0.0
        return Artifact(artifact.path, artifact.manifest, artifact.changed, seconds)

    def kept(self, name: str) -> Path:
        """The file of a format in the cache, to the byte what its exporter wrote.

        Raises:
            ExportError: The model cannot be exported to the format.
        """
        return self._kept(name)[1]

    def _kept(self, name: str) -> tuple[bool, Path]:
        """Whether a file had to be made, and where it is in the cache."""
        exporter = self.exporter(name)
        made: list[bool] = []

        def make(folder: Path) -> None:
            made.append(True)
            path = folder / exporter.filename
            exported = self._export(exporter, path)
            raise_lost_end()  # a way that seems to have failed was cut short: the file of the next one is not to be kept
            describe(exported, path, name, self._identity_of(name), self.program.fields, versions())

        folder = self.cache.files(self._identity_of(name), make, lambda kept: is_sound(kept / exporter.filename))
        return bool(made), folder / exporter.filename

    def _export(self, exporter: Exporter, path: Path) -> Exported:
        try:
            # Exporters make a million objects, through which the collector would look again and again.
            with nullcontext() if self.subject.is_large else without_collector():
                return exporter.export(self.program, path)
        except (UserError, KeyboardInterrupt):
            raise
        except OSError as error:
            raise ExportError(
                f"cannot write {path.name} into the cache {self.cache.folder}: {error.strerror or error}"
            ) from error
        except Exception as error:  # exporters raise whatever their innards raise
            raise ExportError(f"the {exporter.name} exporter raised {one_line(error)}") from error

    def _identity_of(self, name: str) -> str:
        exporter = make_exporter(name, self.options)
        return json_hash(self.identity, name, exporter.settings, code_of(type(exporter)))

    def _load(self, name: str) -> Run:
        artifact, exporter = self.artifact(name), self.exporter(name)
        risk = "" if artifact.ours else exporter.risk(artifact.path)
        if risk and file_hash(artifact.path) not in self.options.trust:
            raise ExportError(
                f"{artifact.path} was not written by this project, or changed since, and {risk}; delete it to export it again, "
                f'or consent to it: "trust": ["{file_hash(artifact.path)}"]'
            )
        run, names = exporter.load(artifact.path, self.program), self.program.outputs
        return lambda batch: outputs_by_name(names, run(batch))


def _floor(found: Mapping[str, float | None]) -> NoiseFloor:
    return NoiseFloor(**{name: None if value is None else float(value) for name, value in found.items()})  # type: ignore[arg-type]


def _floors_of(found: Mapping[str, Mapping[str, float | None]]) -> dict[str, NoiseFloor]:
    return {name: _floor(floor) for name, floor in found.items()}


def is_sound(path: Path) -> bool:
    """Whether a file is there and is the one that its manifest speaks of."""
    found = find_artifact(path)
    return found is not None and found.ours


def _once(results: dict[str, T | UserError], name: str, compute: Callable[[], T]) -> T:
    """A result, or the mistake that kept it from being, found out once."""
    if name not in results:
        try:
            results[name] = compute()
        except UserError as error:
            raise_lost_end()
            results[name] = error
    found = results[name]
    if isinstance(found, UserError):
        raise found
    return found
