"""Verification of a bundle."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from harness.config import ExportConfig
from harness.errors import MissingPackageError
from harness.evidence import Evidence, Status
from harness.export.bundle.contract import Golden, load_arrays, read_golden
from harness.export.bundle.folder import INFERENCE, MANIFEST, made_here, mistakes_in, parse_manifest, read_manifest
from harness.export.bundle.texts import inference_script, runnable
from harness.export.clean_process import ExportedFile
from harness.export.formats import ExportError, exporter_class, make_exporter
from harness.export.program import LOGITS, Outputs
from harness.files import file_hash
from harness.formats import formats
from harness.properties.noise import difference
from harness.wording import counted


@dataclass(frozen=True)
class BundleReport:
    """The result of verifying a bundle.

    Attributes:
        folder: The bundle.
        sha256: Of its manifest, which names those of all other files.
        findings: First the files, then each format and ``inference.py``, by these names.
    """

    folder: Path
    sha256: str
    findings: tuple[Evidence, ...]

    @property
    def status(self) -> Status:
        """The worst finding."""
        return max((finding.status for finding in self.findings), key=lambda status: status.severity)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.status is not Status.FAIL

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "status": self.status.value,
            "ok": self.ok,
            "bundle": str(self.folder),
            "sha256": self.sha256,
            "findings": [finding.to_json() for finding in self.findings],
        }

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = [f"bundle {self.folder}", f"sha256 of {MANIFEST}: {self.sha256}"]
        for finding in self.findings:
            figures = f" ({finding.comparison})" if finding.comparison else ""
            lines.append(f"{finding.status.value:7}  {finding.name:{width}}  {finding.message}{figures}")
        return "\n".join(lines)


_RUN_SCRIPT = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""Runs a script without its folder on the path, where a bundle may have put anything."""


@dataclass(frozen=True)
class Replays:
    """The replays of a bundle whose files are those of its manifest.

    Attributes:
        folder: The bundle.
        files: The file of each format.
        golden: What they are held to.
        origin: What this machine remembers of making it; empty where it was made elsewhere.
        trust: Whether formats that can run code are loaded all the same.
        timeout: Seconds until a process is stopped.
    """

    folder: Path
    files: dict[str, str]
    golden: Golden
    origin: dict[str, Any]
    trust: bool
    timeout: float

    def findings(self) -> Iterator[Evidence]:
        """Evidence of where the bundle comes from, of each format, and of its script."""
        yield self._made()
        replayed = {format: self._replay(format) for format in self.files}
        yield from replayed.values()
        yield self._script(runnable(format for format, found in replayed.items() if found.status is Status.OK))

    def _made(self) -> Evidence:
        if self.origin:
            return Evidence.ok("origin", "made on this machine")
        if self.trust:
            return Evidence.ok("origin", "made elsewhere, and trusted as you said")
        message = f"made elsewhere: hashes do not say by whom, so compare the sha256 of {MANIFEST} with the one its maker gives"
        return Evidence.skipped("origin", message)

    def _replay(self, format: str) -> Evidence:
        if format not in formats():
            return Evidence.warned(format, "not replayed: this version does not know the format")
        exporter, path = make_exporter(format, ExportConfig()), self.folder / self.files[format]
        try:
            exporter.check_available()
        except MissingPackageError as error:
            return Evidence.warned(format, f"not replayed: {error}")
        if exporter.holds_code and not (self.origin or self.trust):
            message = "not replayed: loading it can run code, and the bundle was not made on this machine (`--trust`)"
            return Evidence.warned(format, message)
        if exporter.kind == "weights":
            return self._weights(format, path)
        try:
            exporter.check_contained(path)
        except ExportError as error:
            return Evidence.failed(format, str(error))
        return self._run(format, path)

    def _file(self, format: str, path: Path) -> ExportedFile:
        fields, outputs = tuple(self.golden.inputs[0]), tuple(self.golden.outputs[0])
        return ExportedFile(exporter_class(format), path, fields, outputs, self.timeout, torch.get_num_threads())

    def _run(self, format: str, path: Path, config: Path | None = None) -> Evidence:
        """Runs an artifact in its own process on every golden batch it takes."""
        taken = self.golden.taken(format)
        batches = [self.golden.inputs[number] for number in taken]
        run = self._file(format, path).run(batches, config=config)
        if run.error:
            return Evidence.failed(format, f"in a clean process: {run.error}")
        return self._judge(format, dict(zip(taken, run.outputs, strict=True)))

    def _judge(self, name: str, outputs: Mapping[int, Outputs], format: str = "") -> Evidence:
        """Compares outputs with the golden ones of their batches."""
        held: list[tuple[str, float, float]] = []
        for number, found in outputs.items():
            tolerances = self.golden.tolerances[format or name][number] or {}
            held += [
                (each, _gap(found[each], golden), tolerances.get(each, 0.0))
                for each, golden in self.golden.outputs[number].items()
            ]
        output, measured, bound = max(held, key=lambda each: each[1] / each[2] if each[2] else each[1])
        if math.isinf(measured):
            what = "its logits have another shape than the golden ones, or are not finite"
            if output != LOGITS:
                what = f"output `{output}` has another shape than the golden one, or is not finite"
            return Evidence.failed(name, what)
        if measured > bound:
            cause = "the file holds other weights, or another version of the runtime computes differently"
            what = (
                "its logits differ from the golden ones" if output == LOGITS else f"output `{output}` differs from the golden one"
            )
            return Evidence.failed(name, what, (measured, bound, ""), cause=cause)
        what = "logits" if output == LOGITS else "outputs"
        return Evidence.ok(name, f"gives the golden {what} of {counted(len(outputs), 'batch')}", (measured, bound, ""))

    def _weights(self, format: str, path: Path) -> Evidence:
        """Fills the model that a config of this machine builds; where there is none, compares the weights with what is recorded of them."""
        config, why = Path(self.origin.get("config") or ""), ""
        if config.is_file():
            found = self._run(format, path, config)
            if found.status is Status.OK:
                return Evidence.ok(
                    format, f"{found.message} in the model that {config.name} builds", (found.measured, found.bound, "")
                )
            why = found.message
        run = self._file(format, path).run((), expected=self.golden.state)
        if run.error:
            return Evidence.failed(format, f"in a clean process: {run.error}")
        if why:
            message = f"holds the weights it had, but not for the model that {config} builds now: {why}"
            return Evidence.warned(format, message, cause="the code or the config was changed since the bundle was made")
        held = counted(len(self.golden.state), "tensor")
        message = f"{held} of the recorded name, shape, dtype and sha256; running them takes the model's code"
        return Evidence.ok(format, message)

    def _script(self, formats: Sequence[str]) -> Evidence:
        """Runs ``inference.py`` on a golden batch, where it is the script that this version writes."""
        script = self.folder / INFERENCE
        if script.read_bytes() != inference_script(self.files).encode():
            return Evidence.skipped(INFERENCE, "not run: it is not the script that this version writes")
        if not formats:
            return Evidence.skipped(INFERENCE, "not run: none of its formats was replayed")
        format = formats[0]
        number = self.golden.taken(format)[0]
        with tempfile.TemporaryDirectory(prefix="modeltiers-bundle-", ignore_cleanup_errors=True) as scratch:
            outputs = Path(scratch) / "outputs.npz"
            inputs = self.folder / "golden" / self.golden.names[number]
            arguments = [str(script), "--format", format, "--inputs", str(inputs), "--outputs", str(outputs)]
            error = _run_script(arguments, Path(scratch), self.timeout)
            if error:
                return Evidence.failed(INFERENCE, error)
            arrays = load_arrays(outputs)
        found = self._judge(INFERENCE, {number: {name: torch.from_numpy(array) for name, array in arrays.items()}}, format)
        return replace(found, message=f"with {format}, {found.message}")


def _gap(found: Tensor, expected: Tensor) -> float:
    """Largest difference of the finite values; infinite where others are finite, or none."""
    finite = expected.isfinite()
    if found.shape != expected.shape or not torch.equal(found.isfinite(), finite):
        return float("inf")
    return difference(found[finite], expected[finite]) if expected.numel() else 0.0


def _run_script(arguments: Sequence[str], folder: Path, timeout: float) -> str:
    """Runs a script in its own process, in an empty folder; returns what went wrong."""
    command = [sys.executable, "-B", "-c", _RUN_SCRIPT, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"not done after {timeout:g} s, so it was stopped"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return f"ended with status {done.returncode}" + (f": {said[-1].strip()}" if said else "")


_SHOWN = 20


def verify_bundle(folder: str | Path, trust: bool = False, timeout: float = 120.0) -> BundleReport:
    """Compares a bundle's files with their hashes, and then the outputs of every artifact with the golden ones.

    Args:
        folder: The bundle.
        trust: Whether formats that can run code are loaded even where the bundle was not made on this machine.
        timeout: Seconds until a process is stopped.

    Raises:
        ExportError: The folder is no bundle.
    """
    folder = Path(folder).expanduser().resolve()
    manifest = read_manifest(folder)
    sha256 = file_hash(folder / MANIFEST)
    try:
        listed, formats = parse_manifest(manifest)
        wrong = list(mistakes_in(folder, listed))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        listed, formats, wrong = {}, {}, [f"{MANIFEST} cannot be understood: {type(error).__name__}: {error}"]
    if wrong:
        findings = [Evidence.failed("files", mistake) for mistake in wrong[:_SHOWN]]
        findings += [Evidence.failed("files", f"and {len(wrong) - _SHOWN} more")] if len(wrong) > _SHOWN else []
        findings += [Evidence.skipped(format, "not loaded, since the files are not those of the manifest") for format in formats]
        return BundleReport(folder, sha256, tuple(findings))
    whole = Evidence.ok("files", f"{counted(len(listed), 'file')}, each with the sha256 that the manifest gives")
    try:
        golden = read_golden(folder, listed, formats)
    except (LookupError, TypeError, ValueError, AttributeError, OSError, BadZipFile) as error:
        message = f"cannot be understood, so nothing was loaded: {type(error).__name__}: {error}"
        return BundleReport(folder, sha256, (whole, Evidence.failed("golden", message)))
    replays = Replays(folder, formats, golden, made_here(folder), trust, timeout)
    return BundleReport(folder, sha256, (whole, *replays.findings()))
