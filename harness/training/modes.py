"""Ready-made configs, from a look that takes seconds to a sweep's base."""

from __future__ import annotations

from typing import Any, Literal, get_args

from harness.config import EvalConfig, SuiteConfig, TrainingConfig
from harness.errors import ConfigError, did_you_mean
from harness.tasks import TaskSpec

Mode = Literal["FAST_DEV", "STANDARD_EXPERIMENT", "ABLATION_SWEEP"]

_TRAINING: dict[str, dict[str, Any]] = {
    "FAST_DEV": {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3},
    "STANDARD_EXPERIMENT": {"epochs": 10, "batch_size": 32, "learning_rate": 2e-3, "early_stopping_patience": 3},
    "ABLATION_SWEEP": {"epochs": 3, "batch_size": 32, "learning_rate": 2e-3, "deterministic": True},
}
_EVALUATION: dict[str, dict[str, Any]] = {
    "FAST_DEV": {"max_eval_examples": 32, "batch_size": 32},
    "STANDARD_EXPERIMENT": {"batch_size": 64},
    "ABLATION_SWEEP": {"batch_size": 64},
}


def build_configs_for_mode(mode: Mode, task_name: str = "lm_tiny") -> tuple[TrainingConfig, TaskSpec, EvalConfig]:
    """The configs of a mode, for ``run_training``.

    Args:
        mode: ``FAST_DEV`` for a first look, ``STANDARD_EXPERIMENT`` for a run that counts, ``ABLATION_SWEEP`` for the many of a sweep, which
            must be comparable.
        task_name: A preset.

    Raises:
        ConfigError: There is no such mode or preset.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"no mode {mode!r}.{did_you_mean(mode, get_args(Mode))} Modes: {', '.join(get_args(Mode))}")
    try:
        task = SuiteConfig.model_validate({"task_name": task_name}).task_spec()
    except ValueError as error:
        raise ConfigError(f"no preset {task_name!r}; presets are lm_tiny, cls_tiny, seq2seq_tiny, vision_tiny") from error
    return TrainingConfig(**_TRAINING[mode]), task, EvalConfig(**_EVALUATION[mode])
