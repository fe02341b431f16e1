"""The machinery behind pytest-modeltiers. It knows nothing of pytest.

The public names can be imported from here: ``from harness import run_training, TaskSpec``. Importing this package pulls in neither torch nor
Lightning; a name brings what it needs when it is first asked for.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# From 1.32 on, ONNX Runtime sends events to Microsoft unless this was set before it is imported. Who sets it to 0 keeps that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    "harness.adapters": "Adapter CallPlan CausalLMAdapter RegressionAdapter make_adapter",
    "harness.batches": "Sizes make_batch",
    "harness.config": "EvalConfig ExportConfig SuiteConfig TrainingConfig json_schema load_config",
    "harness.errors": "ConfigError DataError FactoryError ForwardError MissingPackageError ModelSourceError OutputError TimeBudgetError "
    "UserError WeightsError",
    "harness.evidence": "Evidence Status",
    "harness.experiments": "ExperimentDB log_profile_to_db",
    "harness.export.bundle": "create_export_bundle",
    "harness.export.formats.onnx": "ONNXExporter",
    "harness.export.health": "ExportHealthChecker",
    "harness.export.export_model": "export_model run_tier4_export_validation",
    "harness.models.loading": "load_gist_model",
    "harness.health": "CheckResult ExportHealthReport",
    "harness.monitoring.drift": "compare_profiles",
    "harness.monitoring.profiles": "compute_dataset_profile profile_columns",
    "harness.monitoring.run": "run_tier5_monitoring",
    "harness.repro": "create_repro_bundle",
    "harness.sweeps": "run_grid_sweep",
    "harness.tasks": "TaskSpec TaskType",
    "harness.training.run": "build_configs_for_mode run_training",
}
"""Where each public name lives."""

_PLACES = {name: (module, name) for module, names in _MODULES.items() for name in names.split()} | {
    "DecoderOnlyLMAdapter": ("harness.adapters", "CausalLMAdapter"),
    "VisionClassificationAdapter": ("harness.adapters", "Adapter"),
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
