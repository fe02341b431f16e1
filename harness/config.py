"""The config file: its keys, how it is read, and what is said when it is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harness.catalogue import CATALOGUE
from harness.config_file import read_keys
from harness.config_mistakes import explain, why_no_path
from harness.errors import ConfigError, did_you_mean
from harness.files import text_hash
from harness.formats import default_formats, quantisable_formats, quantised_formats, valid_formats
from harness.presets import DATASETS, PRESETS
from harness.tasks import FACTS, MODALITIES, TaskSpec, TaskType
from harness.tasks.declared import SignatureError, SignatureKeys, keys_in, read_signature

_LARGEST = 2**32 - 1
"""The largest seed that NumPy takes. No size, count or id comes near it; far beyond lie numbers that neither torch nor a database can hold."""


def _is_countable(number: int) -> int:
    if number > _LARGEST:
        raise PydanticCustomError("countable", "less than or equal to {largest}", {"largest": _LARGEST})
    return number


_COUNTABLE = AfterValidator(_is_countable)
Positive = Annotated[int, Field(ge=1), _COUNTABLE]
NonNegative = Annotated[int, Field(ge=0), _COUNTABLE]
Rate = Annotated[float, Field(ge=0)]
TierName = Literal["1", "2", "3", "4", "5"]


def _known_format(name: Any) -> Any:
    if name not in valid_formats():
        quoted = [f"'{valid}'" for valid in valid_formats()]
        expected = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return name


class _FormatNames:
    """The names of the formats in the JSON Schema, read from the table of exporters when the schema is asked for."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": valid_formats()}


ExportFormat = Annotated[str, BeforeValidator(_known_format), _FormatNames()]
"""Name of a format in the table of exporters."""

Name = Annotated[str, Field(min_length=1)]

AxisLimits = Annotated[list[Positive], Field(min_length=2, max_length=2)]
"""Smallest and largest size of an axis."""

_TIERS: tuple[TierName, ...] = ("1", "2", "3", "4", "5")


class _Keys(BaseModel):
    """A group of keys: nothing unknown, nothing coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class TaskKeys(_Keys):
    """What the model is for, and its sizes."""

    task_name: Name | None = Field(
        None, description="A preset (lm_tiny, cls_tiny, seq2seq_tiny, vision_tiny) or a name of your own."
    )
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
    num_classes: Annotated[int, Field(ge=2), _COUNTABLE] | None = Field(
        None, description="Number of classes, and of scores; two for yes or no."
    )
    num_features: Positive | None = Field(None, description="Number of tabular features.")
    metrics: list[str] = Field(default_factory=list, description="Metrics to evaluate.")
    properties: dict[str, bool] = Field(default_factory=dict, description='Switch a property off: {"causal": false}.')
    tolerances: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Bounds by property name, instead of the ones derived from the model's noise floor."
    )


class ModelKeys(_Keys):
    """Where the model comes from."""

    model_file: Name | None = Field(None, description="A .py file with a model factory.")
    model_import: str | None = Field(None, description="pkg.mod:callable.", pattern=r"^\w+(\.\w+)*(:\w+(\.\w+)*)?$")
    gist_id: Name | None = Field(None, description="A GitHub gist that holds the model.")
    gist_revision: Name | None = Field(None, description="The gist's revision.")
    gist_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="What `modeltiers gist ID` shows; a gist with other files is refused."
    )
    preset: Name | None = Field(None, description="The embedded stub of a preset.")
    model_factory: str = Field("build_model", description="Callable in model_file that returns the model.")
    model_kwargs: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the factory.")
    trust_model: bool = Field(
        False, description="Whether model_file may start programs and use the network when it is imported or its model is built."
    )
    weights: Name | None = Field(None, description=".safetensors, a state dict, or a Lightning .ckpt.")
    adapter: Name | None = Field(
        None, description="A built-in adapter's name (length_first: token ids as [length, batch]), or file.py:Class."
    )


class RunKeys(_Keys):
    """How the suite runs."""

    tier: TierName | Annotated[list[TierName], Field(min_length=1)] | None = Field(
        None, description="Tiers to generate; all that apply by default."
    )
    seed: NonNegative = Field(0, description="Seed of everything that is drawn.")
    isolation: Literal["process"] | None = Field(
        None,
        description='"process": the model is built and tested in a process that may neither write files nor use the network.',
    )
    device: str = Field("cpu", description="cpu, cuda, cuda:0, mps …")
    time_budget: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        120.0, description="Processor seconds that the config's tests may use; a model that hangs is stopped."
    )


class TrainingConfig(_Keys):
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


class EvalConfig(_Keys):
    """A dataset and how it is read."""

    dataset_id: Literal[DATASETS] | None = None  # type: ignore[valid-type]
    path: Name | None = None
    split: str | None = None
    max_eval_examples: Positive | None = None
    batch_size: Positive | None = None
    num_workers: NonNegative = 0

    @model_validator(mode="after")
    def _one_source(self) -> EvalConfig:
        if self.dataset_id and self.path:
            raise ValueError("give `dataset_id` or `path`, not both")
        return self


class DataKeys(_Keys):
    """The datasets."""

    train: EvalConfig | None = None
    eval: EvalConfig | None = None


class ExportConfig(_Keys):
    """What is exported, and where to."""

    formats: Annotated[list[ExportFormat], Field(min_length=1)] = Field(
        default_factory=default_formats, json_schema_extra=lambda schema: schema.update(default=[*default_formats()])
    )
    quantization: Literal["dynamic", "static"] | None = None
    export_dir: Name | None = None
    opset_version: Positive | None = None
    dynamic_shapes: bool | dict[Literal["batch", "seq", "target_seq"], bool | AxisLimits] = Field(
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
            raise ValueError(f"`quantization` {self.quantization!r} needs {needed} among the `formats`")
        if isinstance(self.dynamic_shapes, dict):
            for axis, limits in self.dynamic_shapes.items():
                if not isinstance(limits, bool) and limits[0] > limits[1]:
                    raise ValueError(f"`dynamic_shapes`: {axis} from {limits[0]} to {limits[1]} holds no size")
        return self

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The formats asked for, each once, and the quantised one."""
        return tuple(dict.fromkeys([*self.formats, *(quantised_formats(self.formats) if self.quantization else [])]))


class ExportKeys(_Keys):
    """Export."""

    export: ExportConfig | None = None


class DriftFloors(_Keys):
    """The least effects that count as drift, whatever the number of rows."""

    ks: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="Kolmogorov-Smirnov distance D of numbers.")
    cramers_v: Annotated[float, Field(ge=0, le=1)] = Field(0.15, description="Bias-corrected Cramér's V of categories.")


class MonitoringKeys(_Keys):
    """Baselines and profiles."""

    baseline_run_id: Annotated[int, _COUNTABLE] | str | None = Field(
        None, description="The run that scores are compared with, by id or name."
    )
    reference_profile_id: Annotated[int, _COUNTABLE] | str | None = Field(
        None, description="The run whose profile data is compared with, by id or name."
    )
    db_path: str = Field("experiments.db", description="The experiment database: a file, or a PostgreSQL URL.")
    thresholds: dict[str, float] = Field(
        default_factory=dict, description='The worst value of a metric that is put up with: {"accuracy": 0.9, "loss": 0.4}.'
    )
    margins: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description='How much worse than the baseline is put up with, by score: {"correct": 0.005}; "harm" for drifted data.',
    )
    drift_floors: DriftFloors | None = Field(None, description="The least effects that count as drift.")
    expected_comparisons: Positive = Field(1, description="About how many candidates will be held against one baseline.")


class LoggingKeys(_Keys):
    """What is remembered."""

    log_to_db: bool = False
    run_name: str | None = None


class SuiteConfig(LoggingKeys, MonitoringKeys, ExportKeys, DataKeys, TrainingConfig, RunKeys, ModelKeys, SignatureKeys, TaskKeys):
    """A model and everything the suite does with it: the config file."""

    model_config = ConfigDict(title="pytest-modeltiers config")

    _path: Path = PrivateAttr(default=Path("config"))

    @field_validator("properties", "tolerances")
    @classmethod
    def _known_properties(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        valid = [p.name for p in CATALOGUE.values() if info.field_name == "properties" or p.tolerance]
        for name in value:
            if name not in valid:
                raise ValueError(f"no property {name!r} to set here.{did_you_mean(name, valid)} Valid: {', '.join(valid)}")
        return value

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str | None) -> str | None:
        if value is not None and value not in PRESETS:
            raise ValueError(f"no preset {value!r}.{did_you_mean(value, PRESETS)} Valid: {', '.join(PRESETS)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _preset_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        named = {key: data[key] for key in ("task_name", "preset") if isinstance(data.get(key), str) and data[key] in PRESETS}
        implied = {key: PRESETS[name]["task_type"] for key, name in named.items()}
        if isinstance(data.get("task_type"), str):
            implied["task_type"] = data["task_type"]
        if len(set(implied.values())) > 1:
            said = [f"`{key}` {data[key]!r}" + (f" implies {task!r}" if key in named else "") for key, task in implied.items()]
            raise ValueError(f"{' but '.join(said)}: these are different task types")
        defaults = PRESETS[next(iter(named.values()))] if named else {}
        return {**defaults, **{key: value for key, value in data.items() if value is not None}}

    @model_validator(mode="after")
    def _possible(self) -> SuiteConfig:
        sources = [key for key in ("model_file", "model_import", "gist_id", "preset") if getattr(self, key)]
        if len(sources) > 1:
            raise ValueError(f"give one of {', '.join(f'`{s}`' for s in sources)}, not {len(sources)}")
        for key in ("gist_revision", "gist_sha256"):
            if getattr(self, key) and not self.gist_id:
                raise ValueError(f"`{key}` needs `gist_id`")
        if self.is_declared:
            return self._possible_as_declared()
        if self.task_type is None:
            hint = did_you_mean(self.task_name, PRESETS) if self.task_name else ""
            raise ValueError(
                f"no `task_type`, and `task_name` is no preset ({', '.join(PRESETS)}).{hint} "
                f"Give `task_type`: one of {', '.join(t.value for t in FACTS)}"
            )
        facts = FACTS[TaskType(self.task_type)]
        missing = [key for key in facts.requires if getattr(self, key) is None]
        if missing:
            raise ValueError(f"`task_type` {self.task_type!r} needs {', '.join(f'`{key}`' for key in missing)}")
        if self.modality and self.modality != facts.modality:
            raise ValueError(f"`task_type` {self.task_type!r} has `modality` {facts.modality!r}, not {self.modality!r}")
        self._check_sizes(facts.modality == "text")
        return self

    def _possible_as_declared(self) -> SuiteConfig:
        """Refuses what a declared signature leaves no place for."""
        given = [key for key in TaskKeys.model_fields if key in self.model_fields_set and getattr(self, key) is not None]
        besides = [key for key in given if key not in ("task_name", "properties", "tolerances", "metrics")]
        if besides:
            raise ValueError(
                f"{', '.join(f'`{key}`' for key in besides)}: a task is declared by `inputs` and `outputs`, or by these, not both"
            )
        if not any(getattr(self, key) for key in ("model_file", "model_import", "gist_id")):
            raise ValueError("a declared task needs a model: give `model_file`, `model_import` or `gist_id`")
        if any(tier > 1 for tier in self.tiers):
            raise ValueError("`tier`: a declared task has tier 1; tiers 2 to 5 still need a `task_type`")
        return self

    def _check_sizes(self, is_text: bool) -> None:
        """Refuses sizes that contradict each other or the task."""
        if self.vocab_size and self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise ValueError(f"`pad_token_id` {self.pad_token_id} is outside the vocabulary of {self.vocab_size} tokens")
        if self.target_vocab_size and self.task_type != TaskType.SEQ2SEQ_LM.value:
            raise ValueError(f"`target_vocab_size` is for seq2seq_lm; {self.task_type!r} has one vocabulary, `vocab_size`")
        if self.target_vocab_size and self.pad_token_id is not None and self.pad_token_id >= self.target_vocab_size:
            raise ValueError(f"`pad_token_id` {self.pad_token_id} is outside `target_vocab_size` {self.target_vocab_size}")
        if self.min_seq_len and not is_text:
            raise ValueError(f"`min_seq_len` is for text; {self.task_type!r} has no sequences")
        if self.min_seq_len and self.max_seq_len and self.min_seq_len > self.max_seq_len:
            raise ValueError(f"`min_seq_len` {self.min_seq_len} is above `max_seq_len` {self.max_seq_len}")

    @property
    def path(self) -> Path:
        """The file this config was read from."""
        return self._path

    @property
    def name(self) -> str:
        """Name of the config in reports: the file's stem."""
        return self._path.stem

    @property
    def tiers(self) -> tuple[int, ...]:
        """The tiers asked for, in order; by default all that the task has."""
        asked = (
            (_TIERS[:1] if self.is_declared else _TIERS)
            if self.tier is None
            else ((self.tier,) if isinstance(self.tier, str) else self.tier)
        )
        return tuple(sorted({int(tier) for tier in asked}))

    @property
    def is_declared(self) -> bool:
        """Whether the task is declared by a signature rather than named by its type."""
        return bool(self.inputs or self.outputs)

    @property
    def is_monitored(self) -> bool:
        """Whether there is anything for tier 5: it is asked for, or data or a run to compare with is named."""
        named = (self.eval, self.baseline_run_id, self.reference_profile_id, self.thresholds or None)
        return 5 in self.tiers and (self.tier is not None or any(value is not None for value in named))

    @property
    def export_options(self) -> ExportConfig:
        """What is exported; the defaults when the config says nothing."""
        return self.export or ExportConfig.model_validate({})

    @property
    def database(self) -> str | Path:
        """The experiment database: a URL as it stands, a file relative to the config's."""
        return self.db_path if "://" in self.db_path else self.resolve(self.db_path)

    @property
    def fingerprint(self) -> str:
        """A short hash of the config's content."""
        return text_hash(self.model_dump_json())[:12]

    def resolve(self, path: str) -> Path:
        """A path of the config, relative to its file, made absolute."""
        return (self._path.parent / Path(path).expanduser()).resolve()

    def named_paths(self) -> Iterator[tuple[str, str]]:
        """Every path the config gives, by its key; an adapter's is without its class."""
        groups = {"train.path": self.train, "eval.path": self.eval}
        yield from ((key, group.path) for key, group in groups.items() if group and group.path)
        if self.export and self.export.export_dir:
            yield "export.export_dir", self.export.export_dir
        for key in ("model_file", "weights", "resume_from_checkpoint", "checkpoint_dir"):
            if getattr(self, key):
                yield key, getattr(self, key)
        if self.adapter and ".py:" in self.adapter:
            yield "adapter", self.adapter.rpartition(":")[0]
        if "://" not in self.db_path:
            yield "db_path", self.db_path

    def task_spec(self) -> TaskSpec:
        """The task and its sizes.

        Raises:
            SignatureError: The declared signature contradicts itself.
        """
        if self.is_declared:
            return TaskSpec(
                TaskType.DECLARED,
                self.task_name or self.name,
                TaskType.DECLARED.value,
                metrics=tuple(self.metrics),
                properties=dict(self.properties),
                tolerances=dict(self.tolerances),
                declared=read_signature(
                    SignatureKeys(**{key: getattr(self, key) for key in SignatureKeys.model_fields}), self._path.parent
                ),
            )
        task_type = TaskType(self.task_type)
        return TaskSpec(
            task_type=task_type,
            task_name=self.task_name or task_type.value,
            modality=FACTS[task_type].modality,
            vocab_size=self.vocab_size,
            max_seq_len=self.max_seq_len,
            pad_token_id=self.pad_token_id,
            image_size=tuple(self.image_size) if self.image_size else None,  # type: ignore[arg-type]
            num_classes=self.num_classes,
            num_features=self.num_features,
            min_seq_len=self.min_seq_len or 1,
            target_vocab_size=self.target_vocab_size,
            metrics=tuple(self.metrics),
            properties=dict(self.properties),
            tolerances=dict(self.tolerances),
        )

    def resuming(self, checkpoint: str) -> SuiteConfig:
        """The config, going on from a checkpoint: ``last``, or a path relative to the current folder."""
        path = checkpoint if checkpoint == "last" else str(Path(checkpoint).expanduser().resolve())
        return self.model_copy(update={"resume_from_checkpoint": path})

    def training_config(self) -> TrainingConfig:
        """The training group on its own."""
        return TrainingConfig(**{key: getattr(self, key) for key in TrainingConfig.model_fields if key in self.model_fields_set})

    def eval_config(self) -> EvalConfig:
        """The evaluation data; an empty one when the config names none."""
        return self.eval or EvalConfig()


def load_config(path: str | Path) -> SuiteConfig:
    """Reads and validates a config file.

    Args:
        path: A ``.json``, ``.toml`` or ``.yaml`` file, or a ``pyproject.toml`` with a table ``[tool.modeltiers]``.

    Raises:
        ConfigError: The file is missing, cannot be parsed, its content is refused, or a key holds what no path can be; one line a
            mistake.
    """
    file = Path(path)
    raw = read_keys(file)
    try:
        config = SuiteConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{file}: {line}" for line in explain(error, _keys_at))) from None
    config._path = file.resolve()
    try:
        config.task_spec()
    except SignatureError as error:
        raise ConfigError("\n".join(f"{file}: {mistake}" for mistake in error.mistakes)) from None
    mistakes = [
        f"{file}: `{key}`: {reason}" for key, path in config.named_paths() if (reason := why_no_path(path, config.resolve))
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return config


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the config file, for editors that complete and check it."""
    schema = SuiteConfig.model_json_schema()
    schema["properties"]["$schema"] = {"type": "string", "description": "Where this schema lies, for editors."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _keys_at(path: list[str]) -> list[str]:
    """The keys that are valid inside a group of the config."""
    groups: dict[str, type[BaseModel]] = {
        "train": EvalConfig,
        "eval": EvalConfig,
        "export": ExportConfig,
        "drift_floors": DriftFloors,
    }
    of_signature = keys_in(path)
    return (
        list((groups.get(path[0], SuiteConfig) if path else SuiteConfig).model_fields) if of_signature is None else of_signature
    )
