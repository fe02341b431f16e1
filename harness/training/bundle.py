"""The bundle of a trained model, where its config asks for one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from harness.adapters import Adapter
from harness.config import ExportConfig, SuiteConfig, TrainingConfig
from harness.properties.subject import mode
from harness.tasks import TaskSpec


def bundle_trained(
    model: nn.Module,
    adapter: Adapter,
    training_cfg: TrainingConfig,
    task_spec: TaskSpec,
    *,
    name: str,
    folder: Path,
    suite: Any = None,
) -> Path:
    """Exports a trained model, checks it, and writes the bundle.

    Args:
        model: The model; its device and mode are afterwards what they were.
        adapter: How it is called.
        training_cfg: ``export_formats`` says what is exported; by default what ``ExportConfig`` exports.
        task_spec: What it is for.
        name: The run's name; the bundle is ``<name>-bundle``.
        folder: Where the bundle goes.
        suite: The whole ``SuiteConfig``, where there is one; its ``export`` keys count, and the bundle goes beside its file.

    Returns:
        The bundle's folder. A bundle that was there is replaced.

    Raises:
        UserError: A format cannot be exported, or the folder cannot be written.
    """
    from harness.export.bundle.write import create_export_bundle

    is_suite = isinstance(suite, SuiteConfig)
    options = suite.export_options if is_suite else ExportConfig()
    options = options.model_copy(update={"formats": training_cfg.export_formats or options.formats})
    with _at_rest(model):
        if is_suite:
            return create_export_bundle(model, suite.model_copy(update={"export": options}), task_spec)
        target = folder / f"{file_name(name)}-bundle"
        return create_export_bundle(model, options, task_spec, training_cfg, output_dir=target, adapter=adapter)


def file_name(name: str) -> str:
    """A run's name as the name of a file, whatever characters it has."""
    return re.sub(r"[^\w=,.+-]+", "_", name).lstrip(".") or "training"


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """The model on the CPU and in eval mode."""
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)
    with mode(model, train=False):
        model.cpu()
        try:
            yield
        finally:
            if device is not None:
                model.to(device)
