"""The config file as a whole: read, checked, and what follows from its keys."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator, model_validator

from harness.catalogue import CATALOGUE
from harness.config_file import read_keys, refused
from harness.config_keys import (
    DataKeys,
    DriftFloors,
    EvalConfig,
    ExportConfig,
    ExportKeys,
    LoggingKeys,
    ModelKeys,
    MonitoringKeys,
    ReferenceWindows,
    RunKeys,
    TaskKeys,
    TrainingConfig,
)
from harness.config_mistakes import explain, refusal, why_no_path
from harness.config_values import PRESETS, TIERS
from harness.errors import Mistake, did_you_mean, nearest
from harness.files import text_hash
from harness.model_file import brings_data, with_task
from harness.tasks import FACTS, TaskSpec, TaskType
from harness.tasks.declared import SignatureError, read_signature
from harness.tasks.keys import SignatureKeys, keys_in

if TYPE_CHECKING:
    from harness.scaffold.example import ReadExample

_EXAMPLE_READER = "harness.scaffold.example"
"""The module that reads an example, which calls models: imported when a config has one."""

__all__ = ["EvalConfig", "ExportConfig", "SuiteConfig", "TrainingConfig", "json_schema", "load_config"]


class SuiteConfig(LoggingKeys, MonitoringKeys, ExportKeys, DataKeys, TrainingConfig, RunKeys, ModelKeys, SignatureKeys, TaskKeys):
    """A model and everything the suite does with it: the config file."""

    model_config = ConfigDict(title="pytest-modeltiers config")

    _path: Path = PrivateAttr(default=Path("config"))
    _read: Any = PrivateAttr(default=None)
    _has_own_data: bool = PrivateAttr(default=False)

    @field_validator("properties", "tolerances")
    @classmethod
    def _known_properties(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        valid = [p.name for p in CATALOGUE.values() if info.field_name == "properties" or p.tolerance]
        for name in value:
            if name not in valid:
                message = f"no property {name!r} to set here.{did_you_mean(name, valid)} Valid: {', '.join(valid)}"
                raise refusal("unknown_property", message, name, nearest(name, valid))
        return value

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str | None) -> str | None:
        if value is not None and value not in PRESETS:
            message = f"no preset {value!r}.{did_you_mean(value, PRESETS)} Valid: {', '.join(PRESETS)}"
            raise refusal("unknown_preset", message, suggestion=nearest(value, PRESETS))
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
            raise refusal("different_task_types", f"{' but '.join(said)}: these are different task types", [*implied][-1])
        defaults = PRESETS[next(iter(named.values()))] if named else {}
        return {**defaults, **{key: value for key, value in data.items() if value is not None or key not in cls.model_fields}}

    @model_validator(mode="after")
    def _possible(self) -> SuiteConfig:
        checkpoint = (self.model or "").endswith(".ckpt")
        whole = ("model",) if not checkpoint else ()
        sources = [key for key in (*whole, "model_file", "model_import", "gist_id", "preset") if getattr(self, key)]
        if len(sources) > 1:
            raise refusal(
                "several_models", f"give one of {', '.join(f'`{s}`' for s in sources)}, not {len(sources)}", sources[-1]
            )
        if checkpoint and not (self.model_file or self.model_import):
            message = "`model`: a .ckpt of Lightning needs its class: give `model_file` with `model_factory`, or `model_import`"
            raise refusal("missing_key", message, "model_file")
        if checkpoint and self.weights:
            raise refusal("several_models", "`weights` and a `model` that is a .ckpt: give one of them", "weights")
        for key in ("gist_revision", "gist_sha256"):
            if getattr(self, key) and not self.gist_id:
                raise refusal("missing_key", f"`{key}` needs `gist_id`", "gist_id")
        axes = [axis for each in self.inputs.values() for axis in each.axes if isinstance(axis, str)]
        self.export_options.check_axes(axes if self.is_declared else ("batch", "seq", "target_seq"))
        if self.is_declared:
            return self._possible_as_declared()
        if self.task_type is None:
            hint = did_you_mean(self.task_name, PRESETS) if self.task_name else ""
            raise refusal(
                "missing_key",
                f"no `task_type`, and `task_name` is not a preset ({', '.join(PRESETS)}).{hint} "
                f"Give `task_type`: one of {', '.join(t.value for t in FACTS)}",
                "task_type",
                nearest(self.task_name, PRESETS) if self.task_name else "",
            )
        facts = FACTS[TaskType(self.task_type)]
        missing = [key for key in facts.requires if getattr(self, key) is None]
        if missing:
            needed = ", ".join(f"`{key}`" for key in missing)
            raise refusal("missing_key", f"`task_type` {self.task_type!r} needs {needed}", missing[0])
        if self.modality and self.modality != facts.modality:
            message = f"`task_type` {self.task_type!r} has `modality` {facts.modality!r}, not {self.modality!r}"
            raise refusal("wrong_modality", message, "modality", facts.modality)
        self._check_sizes(facts.modality == "text")
        return self

    @model_validator(mode="after")
    def _data_of_model_file(self) -> SuiteConfig:
        """Puts the model's file into names of Python that leave it out."""
        file, _, name = (self.model_import or "").partition(":")
        file, name = (self.model_file, "") if self.model_file else (file, name)
        for key, data in {"train": self.train, "eval": self.eval}.items():
            if data is None or not (data.datamodule == "model" or (data.dataset or "").startswith(":")):
                continue
            if not file:
                given = data.dataset or data.datamodule
                message = f"`{key}`: {given!r} means the model's file: give `model_file` or `model_import`, or name the file"
                raise refusal("missing_key", message, key)
            if data.dataset:
                named: dict[str, Any] = {"dataset": f"{file}{data.dataset}"}
            else:
                factory, arguments = name or self.model_factory, data.arguments or self.model_kwargs
                named = {"datamodule": f"{file}:{factory}", "arguments": arguments}
            setattr(self, key, data.model_copy(update=named))
        return self

    def _take_own_data(self) -> None:
        """Names the dataloaders of the model as its data, where the config names no data and the model has them."""
        if self.model_file is None or self.train is not None or self.eval is not None:
            return
        if brings_data(self.resolve(self.model_file), self.model_factory):
            self.train = EvalConfig(datamodule=f"{self.model_file}:{self.model_factory}", arguments=self.model_kwargs)
            self._has_own_data = True

    def _possible_as_declared(self) -> SuiteConfig:
        """Refuses keys that cannot stand beside a declared signature."""
        given = [key for key in TaskKeys.model_fields if key in self.model_fields_set and getattr(self, key) is not None]
        besides = [key for key in given if key not in ("task_name", "properties", "tolerances", "metrics")]
        if besides:
            raise refusal(
                "two_declarations",
                f"{', '.join(f'`{key}`' for key in besides)}: a task is declared by `inputs` and `outputs`, or by these, not both",
                besides[0],
            )
        if not self._has_model:
            raise refusal(
                "missing_key",
                "a declared task needs a model: give `model_file`, `model_import`, `model` or `gist_id`",
                "model_file",
            )
        return self

    def _check_sizes(self, is_text: bool) -> None:
        """Refuses sizes that contradict each other or the task."""
        if self.vocab_size and self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            message = f"`pad_token_id` {self.pad_token_id} is outside the vocabulary of {self.vocab_size} tokens"
            raise refusal("outside_vocabulary", message, "pad_token_id")
        if self.target_vocab_size and self.task_type != TaskType.SEQ2SEQ_LM.value:
            message = f"`target_vocab_size` is for seq2seq_lm; {self.task_type!r} has one vocabulary, `vocab_size`"
            raise refusal("key_of_another_task", message, "target_vocab_size")
        if self.target_vocab_size and self.pad_token_id is not None and self.pad_token_id >= self.target_vocab_size:
            message = f"`pad_token_id` {self.pad_token_id} is outside `target_vocab_size` {self.target_vocab_size}"
            raise refusal("outside_vocabulary", message, "pad_token_id")
        if self.min_seq_len and not is_text:
            raise refusal("key_of_another_task", f"`min_seq_len` is for text; {self.task_type!r} has no sequences", "min_seq_len")
        if self.min_seq_len and self.max_seq_len and self.min_seq_len > self.max_seq_len:
            message = f"`min_seq_len` {self.min_seq_len} is above `max_seq_len` {self.max_seq_len}"
            raise refusal("contradictory_sizes", message, "min_seq_len")

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
        """The tiers asked for, in order; by default all."""
        return tuple(sorted({int(tier) for tier in ((self.tier,) if isinstance(self.tier, str) else self.tier or TIERS)}))

    @property
    def is_declared(self) -> bool:
        """Whether the task is declared by a signature, or by an example of one, rather than named by its type."""
        return bool(self.inputs or self.outputs or self.example) or (self.task_type is None and self._has_model)

    @property
    def needs_example(self) -> bool:
        """Whether what the model takes must be read from an example."""
        return self.is_declared and not self.inputs

    @property
    def _has_model(self) -> bool:
        return any(getattr(self, key) for key in ("model", "model_file", "model_import", "gist_id"))

    @property
    def has_own_data(self) -> bool:
        """Whether the data comes from the model's own dataloaders, which the config does not name."""
        return self._has_own_data

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
        named = {
            key: getattr(self, key) for key in ("model", "model_file", "weights", "resume_from_checkpoint", "checkpoint_dir")
        }
        in_python = {key: getattr(self, key) for key in ("adapter", "example")}
        for group, data in {"train": self.train, "eval": self.eval}.items():
            named[f"{group}.path"] = data and data.path
            in_python |= {f"{group}.{key}": getattr(data, key, None) for key in ("dataset", "datamodule")}
        named["export.export_dir"] = self.export and self.export.export_dir
        named["db_path"] = None if "://" in self.db_path else self.db_path
        yield from ((key, path) for key, path in named.items() if path)
        for key, place in [*in_python.items(), *(("metrics", name) for name in self.metrics)]:
            file = (place or "").rpartition(":")[0]
            if file.endswith(".py"):
                yield key, file

    def task_spec(self) -> TaskSpec:
        """The task and its sizes.

        Raises:
            SignatureError: The declared signature contradicts itself.
            ExampleError: What is not declared cannot be read from an example.
        """
        said: dict[str, Any] = {
            "metrics": self._metrics(),
            "properties": dict(self.properties),
            "tolerances": dict(self.tolerances),
        }
        if self.is_declared:
            signature = read_signature(self.signature_keys(), self._path.parent, self.model_file)
            return TaskSpec.of_signature(signature, self.task_name or self.name, **said)
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
            **said,
        )

    def declared_keys(self) -> SignatureKeys:
        """The keys that declare the signature, as far as the config has them."""
        return SignatureKeys(**{key: getattr(self, key) for key in SignatureKeys.model_fields})

    def signature_keys(self) -> SignatureKeys:
        """The keys that declare the signature; what an example shows is filled in."""
        read = self.read_example()
        return self.declared_keys() if read is None else SignatureKeys.model_validate(read.keys)

    def read_example(self) -> ReadExample | None:
        """What was read from the example, once; ``None`` for a config that has none."""
        if self._read is None and self.is_declared and (self.example or self.needs_example):
            self._read = import_module(_EXAMPLE_READER).read_example(self)
        return self._read  # type: ignore[no-any-return]

    def _metrics(self) -> tuple[str, ...]:
        """The metrics, the files of functions made absolute; a function without a file is in the model file."""
        found = []
        for name in self.metrics:
            file, separator, function = name.rpartition(":")
            file = file or ((self.model_file or "") if separator else "")
            found.append(f"{self.resolve(file)}:{function}" if file.endswith(".py") else name)
        return tuple(found)

    def resuming(self, checkpoint: str) -> SuiteConfig:
        """The config, resuming from a checkpoint: ``last``, or a path relative to the current folder."""
        path = checkpoint if checkpoint == "last" else str(Path(checkpoint).expanduser().resolve())
        return self.model_copy(update={"resume_from_checkpoint": path})

    def training_config(self) -> TrainingConfig:
        """The keys of the training group."""
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
    raw = with_task(read_keys(file), file.parent)
    try:
        config = SuiteConfig.model_validate(raw)
    except ValidationError as error:
        raise refused(file, explain(error, _keys_at)) from None
    config._path = file.resolve()
    try:
        if config.inputs:
            read_signature(config.declared_keys(), config.path.parent, config.model_file)
        elif not config.needs_example:  # an example is read when its signature is asked for
            config.task_spec()
    except SignatureError as error:
        raise refused(file, error.mistakes) from None
    mistakes = [
        Mistake("no_path", key, f"`{key}`: {reason}")
        for key, path in config.named_paths()
        if (reason := why_no_path(path, config.resolve))
    ]
    if mistakes:
        raise refused(file, mistakes)
    config._take_own_data()
    return config


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the config file, for editors that complete and check it."""
    schema = SuiteConfig.model_json_schema()
    schema["properties"]["$schema"] = {"type": "string", "description": "Where this schema lies, for editors."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _keys_at(path: list[str]) -> list[str]:
    """The keys that are valid inside a group of the config."""
    groups: dict[str, type[BaseModel]] = {
        **dict.fromkeys(("train", "eval"), EvalConfig),
        "export": ExportConfig,
        "drift_floors": DriftFloors,
        "reference_windows": ReferenceWindows,
    }
    of_signature = keys_in(path)
    return (
        list((groups.get(path[0], SuiteConfig) if path else SuiteConfig).model_fields) if of_signature is None else of_signature
    )
