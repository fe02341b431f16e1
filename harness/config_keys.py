"""The keys of a config, in the groups that belong together: what each takes, its default, and what it means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.config_mistakes import refusal
from harness.config_values import (
    COUNTABLE,
    DATA_SOURCES,
    DATASETS,
    PYTHON_NAME,
    AxisLimits,
    ExportFormat,
    Keys,
    Name,
    NonNegative,
    Positive,
    Rate,
    TierName,
)
from harness.errors import did_you_mean, nearest
from harness.formats import default_formats, quantisable_formats, quantised_formats
from harness.tasks import FACTS, MODALITIES


class TaskKeys(Keys):
    """What the model is for, and its sizes."""

    task_name: Name | None = Field(None, description="A preset (lm_tiny, cls_tiny, seq2seq_tiny, vision_tiny) or any other name.")
    task_type: Literal[tuple(t.value for t in FACTS)] | None = Field(None, description="What the logits mean.")  # type: ignore[valid-type]
    modality: Literal[MODALITIES] | None = Field(None, description="The kind of input.")  # type: ignore[valid-type]
    vocab_size: Positive | None = Field(None, description="Number of token ids.")
    target_vocab_size: Positive | None = Field(
        None, description="Number of token ids of a seq2seq model's target, where it is not `vocab_size`."
    )
    max_seq_len: Positive | None = Field(None, description="Longest sequence, in tokens.")
    min_seq_len: Positive | None = Field(None, description="Shortest sequence the model takes, in tokens; 1 by default.")
    pad_token_id: NonNegative | None = Field(None, description="Token that fills padded positions.")
    image_size: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = Field(
        None, description="[C, H, W] in pixels."
    )
    num_classes: Annotated[int, Field(ge=2), COUNTABLE] | None = Field(
        None, description="Number of classes, and of scores; two for yes or no."
    )
    num_features: Positive | None = Field(None, description="Number of tabular features.")
    metrics: list[str] = Field(
        default_factory=list,
        description="Metrics to evaluate: names, `OUTPUT.metric`, `file.py:function`, or classes of torchmetrics.",
    )
    properties: dict[str, bool] = Field(default_factory=dict, description='Switch a property off: {"causal": false}.')
    tolerances: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Bounds by property name, instead of the ones derived from the model's noise floor."
    )


_IMPORT = r"^\w+(\.\w+)*(:\w+(\.\w+)*)?$"
_FILE = re.compile(r"(.*\.py)(?::(\w+(?:\.\w+)*))?", re.DOTALL)


class ModelKeys(Keys):
    """Where the model comes from."""

    model_file: Name | None = Field(None, description="A .py file with a model factory.")
    model_import: str | None = Field(None, description="pkg.mod:callable.", pattern=_IMPORT)
    model: Name | None = Field(
        None,
        description="The model in one key: FILE.py, FILE.py:Class, pkg.mod:Class, a folder of save_pretrained, or a Lightning .ckpt "
        "of the class that model_file or model_import names.",
    )
    gist_id: Name | None = Field(None, description="A GitHub gist that holds the model.")
    gist_revision: Name | None = Field(None, description="The gist's revision.")
    gist_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="What `modeltiers gist ID` shows; a gist with other files is refused."
    )
    preset: Name | None = Field(None, description="The embedded stub of a preset.")
    model_factory: str = Field(
        "build_model",
        description="Callable in model_file that returns the model; where the file has no build_model, its only class of a whole model.",
    )
    model_kwargs: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the factory.")
    trust_model: bool = Field(
        False, description="Whether model_file may start programs and use the network when it is imported or its model is built."
    )
    call: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = Field(
        None, description="The model's method that is called in place of forward."
    )
    weights: Name | None = Field(None, description=".safetensors, a state dict, or a Lightning .ckpt.")
    adapter: Name | None = Field(
        None, description="A built-in adapter's name (length_first: token ids as [length, batch]), or file.py:Class."
    )

    @model_validator(mode="before")
    @classmethod
    def _named_model(cls, data: Any) -> Any:
        """``model`` as the longer keys, where it is a file or an import; as ``--model`` takes them too."""
        model = data.get("model") if isinstance(data, dict) else None
        if not isinstance(model, str) or data.get("model_file") or data.get("model_import"):
            return data
        rest = {key: value for key, value in data.items() if key != "model"}
        if file := _FILE.fullmatch(model):
            return {**rest, "model_file": file[1], **({"model_factory": file[2]} if file[2] else {})}
        return {**rest, "model_import": model} if ":" in model and re.match(_IMPORT, model) else data


class RunKeys(Keys):
    """How the suite runs."""

    tier: TierName | Annotated[list[TierName], Field(min_length=1)] | None = Field(
        None, description="Tiers to generate; all that apply by default."
    )
    seed: NonNegative = Field(0, description="Seed of everything that is drawn.")

    @field_validator("tier", mode="before")
    @classmethod
    def _by_number(cls, tier: Any) -> Any:
        """Tiers may be written as numbers, as one does in YAML."""
        if type(tier) is int:
            return str(tier)
        return [str(each) if type(each) is int else each for each in tier] if isinstance(tier, list) else tier

    isolation: Literal["process"] | None = Field(
        None,
        description='"process": the model is built and tested in a process that may neither write files nor use the network.',
    )
    device: str = Field("cpu", description="cpu, cuda, cuda:0, mps …")
    time_budget: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        120.0,
        description="Processor seconds that the config's tests may use; a model that hangs is stopped. A large model has more by default, where "
        "it is not isolated; making its weights is not counted.",
    )


class TrainingConfig(Keys):
    """How the model is trained."""

    epochs: Positive = 1
    batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Rate = 0.01
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_grad_norm: Rate = 1.0
    strategy: Literal["auto", "ddp", "fsdp_native"] = "auto"
    devices: Positive | Literal["auto"] | list[NonNegative] = "auto"
    num_nodes: Positive = 1
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "32", "16", "bf16", "64"] = (
        "32-true"
    )
    use_amp: bool = False
    accumulate_grad_batches: Positive = 1
    resume_from_checkpoint: Name | None = None
    checkpoint_dir: Name | None = None
    checkpoint_every_n_steps: Positive | None = None
    early_stopping_patience: Positive | None = None
    export_bundle: bool = False
    export_formats: list[ExportFormat] = Field(default_factory=list)
    deterministic: bool = False
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] | None = None
    use_gpu: bool | None = None


class EvalConfig(Keys):
    """A dataset and how it is read."""

    dataset_id: Literal[DATASETS] | None = None  # type: ignore[valid-type]
    path: Name | None = None
    dataset: str | None = Field(
        default=None,
        description="`file.py:function` that returns a dataset, a DataLoader, or rows; `:function` for the model's file.",
        pattern=PYTHON_NAME,
    )
    datamodule: str | None = Field(
        default=None,
        description="`file.py:Class`, a LightningDataModule; `model` for the model's own dataloaders.",
        pattern=f"{PYTHON_NAME}|^model$",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of `dataset` or `datamodule`.")
    split: str | None = None
    group: Name | None = Field(
        default=None,
        description="Column that says which rows belong together, such as those of a session, a user, a passage or a day.",
    )
    slices: list[Name] = Field(
        default_factory=list, description="Columns whose values tier 5 also judges one by one; `*` for all of the inputs."
    )
    windows: Name | None = Field(
        default=None, description="Column of dates or batches: how far sound windows of a reference differ."
    )
    without: list[Name] = Field(
        default_factory=list, description="Columns of a table that are no features, such as ids and dates."
    )
    also: list[Name] = Field(default_factory=list, description="Columns that the model does not read, and tier 5 compares.")
    max_eval_examples: Positive | None = None
    batch_size: Positive | None = None
    num_workers: NonNegative = 0

    @model_validator(mode="after")
    def _one_source(self) -> EvalConfig:
        named = [key for key in DATA_SOURCES if getattr(self, key)]
        if len(named) > 1:
            raise refusal("two_sources", f"give `{named[0]}` or `{named[1]}`, not both", named[1])
        if self.arguments and not (self.dataset or self.datamodule):
            raise refusal("missing_key", "`arguments` are those of `dataset` or `datamodule`; give one of them", "arguments")
        return self

    @property
    def is_named(self) -> bool:
        """Whether it says where the data is."""
        return any(getattr(self, key) for key in DATA_SOURCES)

    def source(self) -> EvalConfig:
        """Where the data is, without what is read of it."""
        kept = {*DATA_SOURCES, "arguments", "group", "slices", "windows", "without", "also"}
        return EvalConfig(**self.model_dump(include=kept, exclude_defaults=True))

    @property
    def columns_about_rows(self) -> tuple[str, ...]:
        """Columns that say something about a row beside its features."""
        windows = self.windows or ""  # a column, or `column:week`
        named = (self.group, windows, windows.rpartition(":")[0], *self.slices, *self.without, *self.also)
        return tuple(dict.fromkeys(filter(None, named)))

    def beside(self, other: EvalConfig | None) -> EvalConfig:
        """The same data, whose features are not the columns either that another part of the config says are none."""
        more = [name for name in (other.columns_about_rows if other else ()) if name not in self.without]
        return self.model_copy(update={"without": [*self.without, *more]}) if more else self


class DataKeys(Keys):
    """The datasets."""

    train: EvalConfig | None = None
    eval: EvalConfig | None = None


class ExportConfig(Keys):
    """What is exported, and where to."""

    formats: Annotated[list[ExportFormat], Field(min_length=1)] = Field(
        default_factory=default_formats, json_schema_extra=lambda schema: schema.update(default=[*default_formats()])
    )
    quantization: Literal["dynamic", "static"] | None = None
    export_dir: Name | None = None
    opset_version: Positive | None = None
    dynamic_shapes: bool | dict[Name, bool | AxisLimits] = Field(
        default=True, description='Axes that stay free: true, or by axis {"seq": false, "batch": [1, 64]}.'
    )
    trust: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        default_factory=list,
        description="sha256 of files in export_dir that this project did not write and that may be loaded nevertheless.",
    )

    @model_validator(mode="after")
    def _possible(self) -> ExportConfig:
        if self.quantization and not quantised_formats(self.formats):
            needed = " or ".join(f'"{name}"' for name in quantisable_formats())
            raise refusal(
                "missing_format", f"`quantization` {self.quantization!r} needs {needed} among the `formats`", "quantization"
            )
        if isinstance(self.dynamic_shapes, dict):
            for axis, limits in self.dynamic_shapes.items():
                if not isinstance(limits, bool) and limits[0] > limits[1]:
                    message = f"`dynamic_shapes`: {axis} from {limits[0]} to {limits[1]} holds no size"
                    raise refusal("contradictory_sizes", message, f"dynamic_shapes.{axis}")
        return self

    def check_axes(self, known: Iterable[str]) -> None:
        """Refuses axes of ``dynamic_shapes`` that no input has."""
        names = dict.fromkeys(known)
        for axis in self.dynamic_shapes if isinstance(self.dynamic_shapes, dict) else ():
            if axis not in names:
                message = f"`export.dynamic_shapes`: no axis {axis!r}.{did_you_mean(axis, names)} Valid: {', '.join(names)}"
                raise refusal("unknown_axis", message, f"export.dynamic_shapes.{axis}", nearest(axis, names))

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The formats asked for, each once, and the quantised one."""
        return tuple(dict.fromkeys([*self.formats, *(quantised_formats(self.formats) if self.quantization else [])]))


class ExportKeys(Keys):
    """Export."""

    export: ExportConfig | None = None


class DriftFloors(Keys):
    """The least effects that count as drift, whatever the number of rows."""

    ks: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="Kolmogorov-Smirnov distance D of numbers.")
    cramers_v: Annotated[float, Field(ge=0, le=1)] = Field(0.15, description="Bias-corrected Cramér's V of categories.")
    features: dict[str, dict[Literal["share", "deviations"], Annotated[float, Field(gt=0)]]] = Field(
        default_factory=dict, description='Floors of single features: {"age": {"deviations": 0.3}, "country": {"share": 0.05}}.'
    )


class ReferenceWindows(Keys):
    """Which earlier windows are compared with, in place of the reference's own profile."""

    last: Positive = Field(description="The most windows, the latest first; windows that failed are left out.")
    same: Literal["weekday", "hour", "weekday_and_hour"] | None = Field(
        None, description="What they have in common with the window's time, for data with a season."
    )


class MonitoringKeys(Keys):
    """Baselines and profiles."""

    baseline_run_id: Annotated[int, COUNTABLE] | str | None = Field(
        None, description="The run that scores are compared with, by id or name."
    )
    reference_profile_id: Annotated[int, COUNTABLE] | str | None = Field(
        None, description="The run whose profile data is compared with, by id or name."
    )
    reference_windows: ReferenceWindows | None = Field(
        None, description="Earlier windows that drift is judged against, once there are any: a moving reference."
    )
    db_path: str = Field("experiments.db", description="The experiment database: a file, or a PostgreSQL URL.")
    thresholds: dict[str, float] = Field(
        default_factory=dict,
        description='Limit of a metric, a minimum, or a maximum for losses and errors: {"accuracy": 0.9, "loss": 0.4}.',
    )
    margins: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description='How much worse than the baseline a score may be: {"correct": 0.005}; "harm" for drifted data.',
    )
    drift_floors: DriftFloors | None = Field(None, description="The least effects that count as drift.")
    min_power: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="The power to see what matters, below which tier 5 warns of too few rows; by default it only says so."
    )
    expected_windows: Positive | Literal["unlimited"] = Field(
        1, description="Windows of which any fails by mistake with a probability of at most 0.05: 365 a year, or `unlimited`."
    )
    expected_comparisons: Positive = Field(
        7, description="Comparisons with a baseline in a row, of which any fails by mistake with a probability of at most 0.05."
    )


class LoggingKeys(Keys):
    """What is remembered."""

    log_to_db: bool = False
    log_to: list[Literal["mlflow", "wandb", "tensorboard"]] = Field(
        default_factory=list,
        description="where the health report of a run is logged: mlflow, wandb (offline without a key), tensorboard",
    )
    run_name: str | None = None
