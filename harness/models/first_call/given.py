"""What a user says of an argument: ``x=batch,3,64,64``, ``ids=batch,seq:ids=1000``, ``mask=batch,seq:mask_of=seq``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from harness.models.first_call.argument import BATCH, IMAGE_SIDE, Argument, Holds, default_sizes
from harness.tasks.keys import InputKeys

_VALUES = ("ids", "range", "mask_of", "lengths_of", "index_of", "one_of")
_EXPECTED = (
    "expected NAME=AXES or NAME=AXES:VALUES, such as x=batch,3,64,64 or ids=batch,seq:ids=1000 or mask=batch,seq:mask_of=seq"
)


@dataclass(frozen=True)
class GivenInput:
    """One argument as the user said it.

    Attributes:
        name: The parameter of forward, dotted for the entry of a dict, or of a list (``features.0``).
        keys: As the config declares it under ``inputs``.
    """

    name: str
    keys: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> GivenInput:
        """Reads the option.

        Raises:
            ValueError: It is written otherwise.
        """
        name, equals, rest = text.partition("=")
        parameter, *entries = name.split(".")
        if not equals or not parameter.isidentifier() or not all(part.isidentifier() or part.isdigit() for part in entries):
            raise ValueError(f"{_EXPECTED}; got {text!r}")
        shape, *more = rest.split(":")
        axes = [_axis(part.strip(), text) for part in shape.split(",") if part.strip()]
        keys: dict[str, Any] = {"axes": axes}
        values: dict[str, Any] = {}
        for part in more:
            key, _, value = part.partition("=")
            if key in _VALUES:
                values[key] = _listed(value) if key in ("range", "one_of") else _plain(value)
                if key == "ids" and "," in value:
                    values[key] = _listed(value)
            elif key in ("pad", "inverted"):
                values[key] = _plain(value) if value else True
            elif key in ("dtype", "optional"):
                keys[key] = _plain(value) if value else True
            else:
                raise ValueError(
                    f"no values {key!r} in {text!r}; there are {', '.join(_VALUES)}, pad, inverted, dtype and optional"
                )
        if values:
            keys["values"] = values
        try:
            InputKeys.model_validate(keys)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"`{first['loc'][-1]}` of {text!r}: {first['msg']}") from None
        return cls(name, keys)

    def argument(self) -> Argument:
        """The guess that follows, whose fixed sizes no search changes."""
        axes, values = self.keys["axes"], self.keys.get("values", {})
        usual = default_sizes(len(axes))
        sizes = tuple(axis if isinstance(axis, int) else _first_size(axis, usual[place]) for place, axis in enumerate(axes))
        names = tuple("" if isinstance(axis, int) else axis for axis in axes)
        holds: Holds = "numbers"
        count = 0
        if "ids" in values:
            holds, count = "ids", min(values["ids"]) if isinstance(values["ids"], list) else values["ids"]
        elif "index_of" in values:
            holds, count = "ids", 1
        elif "mask_of" in values:
            holds = "bools" if self.keys.get("dtype") == "bool" else "ones"
        elif "lengths_of" in values:
            holds, count = "lengths", _first_size(values["lengths_of"], default_sizes(3)[1])
        dtype = self.keys.get("dtype") or ("int64" if holds == "ones" else "float32")
        as_numbers = holds == "ids" and dtype == "float32" and "dtype" in self.keys
        return Argument(self.name, sizes, holds, count, dtype, "as given", names, fixed=True, as_numbers=as_numbers)


def _axis(text: str, whole: str) -> int | str:
    if text.isdigit():
        return int(text)
    if not text.isidentifier():
        raise ValueError(f"{text!r} is no axis: a number or a name; {_EXPECTED}; got {whole!r}")
    return text


def _first_size(name: str, usual: int) -> int:
    return {"batch": BATCH, "height": IMAGE_SIDE, "width": IMAGE_SIDE}.get(name, usual)


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _listed(text: str) -> list[Any]:
    return [_plain(part) for part in text.strip("[]").split(",")]
