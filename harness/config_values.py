"""What the keys of a config may hold: the kinds of numbers and names, the presets, and the base of every group of keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError

from harness.formats import valid_formats
from harness.tasks import FACTS

PRESETS: dict[str, dict[str, Any]] = {
    "lm_tiny": {"task_type": "causal_lm", "modality": "text", "vocab_size": 128, "max_seq_len": 32, "pad_token_id": 0},
    "cls_tiny": {
        "task_type": "sequence_classification",
        "modality": "text",
        "vocab_size": 128,
        "max_seq_len": 32,
        "pad_token_id": 0,
        "num_classes": 4,
    },
    "seq2seq_tiny": {"task_type": "seq2seq_lm", "modality": "text", "vocab_size": 128, "max_seq_len": 24, "pad_token_id": 0},
    "vision_tiny": {"task_type": "image_classification", "modality": "vision", "image_size": [3, 32, 32], "num_classes": 4},
}
"""Defaults that a ``task_name`` or a ``preset`` brings; a key in the config wins."""

DATASETS = tuple(dict.fromkeys(name for facts in FACTS.values() for name in facts.datasets))
"""Identifiers of the built-in datasets."""

_LARGEST = 2**32 - 1
"""The largest seed that NumPy takes. No size, count or id comes near it; far beyond lie numbers that neither torch nor a database can hold."""


def _is_countable(number: int) -> int:
    if number > _LARGEST:
        raise PydanticCustomError("countable", "less than or equal to {largest}", {"largest": _LARGEST})
    return number


COUNTABLE = AfterValidator(_is_countable)
"""A number of something, or one of many."""

Positive = Annotated[int, Field(ge=1), COUNTABLE]
NonNegative = Annotated[int, Field(ge=0), COUNTABLE]
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

PYTHON_NAME = r"^(.+\.py|\w+(\.\w+)*)?:\w+(\.\w+)*$"
"""``file.py:name``, ``pkg.mod:name``, or ``:name`` of the model's file."""

DATA_SOURCES = ("dataset_id", "path", "dataset", "datamodule")
"""Keys of `train` and `eval` that say where the data is; one of them at a time."""

AxisLimits = Annotated[list[Positive], Field(min_length=2, max_length=2)]
"""Smallest and largest size of an axis."""

TIERS: tuple[TierName, ...] = ("1", "2", "3", "4", "5")


class Keys(BaseModel):
    """A group of keys: nothing unknown, nothing coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
